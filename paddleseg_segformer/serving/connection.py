"""Connections with time limits for headers and for reading answers, which uvicorn lacks."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_S = 10.0  # for a request's header, or the next one's
ANSWER_S = 60.0  # to take an answer
HEADER_BYTES = 16 << 10


class BoundedConnection(H11Protocol):
    """A connection that is closed when a client sends its header or reads its answer too slowly.

    No setting of uvicorn does this (tried in 0.54): `timeout_keep_alive` limits the time between
    requests only, and connections that send no header, half of one, or read no answer stay open.
    The application limits the time of the upload and of the prediction.
    """

    _timer: asyncio.TimerHandle | None = None
    _waited_s = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:  # a request's header is complete
            self._stop_waiting()

    def on_response_complete(self) -> None:
        # the next request's header may be here already: it then starts within this call
        self._wait_for_request()
        super().on_response_complete()

    def _wait_for_request(self) -> None:
        self._stop_waiting()
        self._waited_s = 0.0
        self._timer = self.loop.call_later(HEADER_S, self._expire)

    def _stop_waiting(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._waited_s += HEADER_S
        if self.transport.get_write_buffer_size() and self._waited_s < ANSWER_S:
            self._timer = self.loop.call_later(HEADER_S, self._expire)
        else:
            self.transport.abort()
