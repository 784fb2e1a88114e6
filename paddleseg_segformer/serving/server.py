"""The server process: opens the port, and stops at a signal."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.serving.app import make_app
from paddleseg_segformer.serving.connection import HEADER_BYTES, BoundedConnection
from paddleseg_segformer.serving.service import Service

logger = logging.getLogger(__name__)

BACKLOG = 128  # connections that wait to be accepted
CUT_S = 2.0  # for the answers to requests that are cut off
SIGNALS = (signal.SIGTERM, signal.SIGINT)
UPLOAD_READERS = ("python_multipart", "PIL", "tifffile")  # remark on each bad upload in the log


def serve(service: Service, host: str, port: int) -> None:
    """Answer requests until SIGTERM or SIGINT; then finish the requests in progress.

    Args:
        service: Loaded already, by its `start`.
        host: Name or address to listen on.
        port: 0 for any free one.

    Raises:
        UserError: the port cannot be opened, the backend's labels are wrong, or requests were not
            finished within the grace period.
    """
    for name in UPLOAD_READERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with listen(host, port) as sock:
        found = sock.getsockname()
        server = _Server(service)
        scheme = "https" if server.config.is_ssl else "http"
        logger.info("listening on %s://%s:%d", scheme, host, found[1])
        server.run(sockets=[sock])
    is_whole = service.stop(max(CUT_S, server.stop_by - time.monotonic()))
    if server.has_failed:
        service.batcher.checked.result()  # raises what the check found
        raise UserError("the thread of the network has ended; the messages above say why.")
    if server.num_cut or not is_whole:
        raise UserError(
            f"stopped with requests in progress, after --grace_s {service.settings.grace_s:g} s."
        )
    logger.info("stopped")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address.

    Raises:
        UserError: it is in use, not of this machine, or not allowed.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        sock.close()
        raise UserError(
            f"--host {host} --port {port}: cannot listen ({error}). Choose another port."
        ) from None
    return sock


class _Server(uvicorn.Server):
    """uvicorn's server; it does not raise its stopping signal again, and stops on failure."""

    def __init__(self, service: Service) -> None:
        limits = service.settings
        super().__init__(
            uvicorn.Config(
                make_app(service),
                http=BoundedConnection,
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=limits.max_connections,
                backlog=BACKLOG,
                h11_max_incomplete_event_size=HEADER_BYTES,
                timeout_graceful_shutdown=round(limits.grace_s + CUT_S),
                log_level="error",  # a warning for each bad request would fill the log
                ssl_certfile=limits.ssl_certfile,
                ssl_keyfile=limits.ssl_keyfile,
            )
        )
        self.service = service
        self.stop_by = 0.0  # `time.monotonic()`
        self.num_cut = 0  # requests that were in progress at the end of the grace period
        self.has_failed = False

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at a signal, and at once at the second one; uvicorn would raise it again."""

        def stop(number: int, frame: FrameType | None) -> None:
            self.force_exit = self.should_exit
            self.should_exit = True

        before = {number: signal.signal(number, stop) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def on_tick(self, counter: int) -> bool:
        """Stop where the thread of the network has failed."""
        self.has_failed = self.service.status == "failed"
        return self.has_failed or await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port, and finish the requests in progress."""
        logger.info("stopping: finishing the requests in progress")
        grace_s = self.service.settings.grace_s
        self.stop_by = time.monotonic() + grace_s
        self.service.begin_stop()
        timer = asyncio.get_running_loop().call_later(grace_s, self._cut)
        await super().shutdown(sockets)
        timer.cancel()

    def _cut(self) -> None:
        self.num_cut = self.service.cut()
