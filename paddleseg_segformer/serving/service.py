"""A prediction from upload to answer: decoding in threads, the network, encoding."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import anyio
from starlette.requests import ClientDisconnect, Request

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.serving.answers import Answer, PredictQuery, encode
from paddleseg_segformer.serving.batcher import Batcher, Job, Outcome, Stopping
from paddleseg_segformer.serving.images import decode_upload, make_job
from paddleseg_segformer.serving.metrics import Metrics
from paddleseg_segformer.serving.settings import Refusal, ServingSettings
from paddleseg_segformer.serving.uploads import read_upload

logger = logging.getLogger(__name__)

MAX_RETRY_S = 60
T = TypeVar("T")


class Timings(dict[str, float]):
    """Seconds of the steps of a prediction."""

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        """Add the time that the block takes."""
        start = time.monotonic()
        yield
        self[step] = time.monotonic() - start


class Service:
    """Predicts what requests send.

    Args:
        load: Makes the predictor, in the thread that will use it.
        check: Raises if the predictor's answers are wrong; the service is ready after it.
        settings: Limits.
    """

    def __init__(
        self,
        load: Callable[[], Predictor],
        check: Callable[[Predictor], None] = lambda predictor: None,
        settings: ServingSettings | None = None,
    ) -> None:
        self.settings = settings or ServingSettings()
        self.batcher = Batcher(
            load,
            check,
            max_batch=self.settings.max_batch,
            max_wait_ms=self.settings.max_wait_ms,
            max_pixels=self.settings.max_pixels,
            on_batch=lambda size: self.metrics.batch_size.observe(size),
        )
        self.metrics = Metrics(lambda: self.batcher.num_waiting)
        self._pool = ThreadPoolExecutor(self.settings.decode_threads, "images")
        self._busy_since: dict[int, float] = {}  # of each thread that decodes or encodes
        self._num_under_way = 0
        self._is_stopping = False
        self._scopes: set[anyio.CancelScope] = set()  # of the requests in progress

    def start(self) -> Predictor:
        """Load the predictor and begin to check it; return it.

        Raises:
            UserError: it cannot be loaded.
        """
        self.predictor = self.batcher.start()
        return self.predictor

    @property
    def engine(self) -> str:
        """Return the backend's name, version and device."""
        network = self.predictor.pipeline.network
        return str(getattr(network, "description", type(network).__name__))

    def begin_stop(self) -> None:
        """Take no more requests; those in progress are finished."""
        self._is_stopping = True

    def cut(self) -> int:
        """Answer the requests in progress with 503, in the event loop; return their number."""
        for scope in self._scopes:
            scope.cancel()
        return len(self._scopes)

    def stop(self, timeout_s: float) -> bool:
        """Finish what waits and end the threads; return whether they ended in time."""
        self.begin_stop()
        self._pool.shutdown(wait=False, cancel_futures=True)
        return self.batcher.stop(timeout_s)

    @property
    def status(self) -> str:
        """Return starting, ready, stuck (every decoder is overdue), stopping or failed."""
        checked = self.batcher.checked
        if not self.batcher.is_alive or (checked.done() and checked.exception()):
            return "stopping" if self._is_stopping else "failed"
        if self._is_stopping:
            return "stopping"
        now, settings = time.monotonic(), self.settings
        overdue = [
            since for since in [*self._busy_since.values()] if now - since > settings.timeout_s
        ]
        if len(overdue) >= settings.decode_threads:
            return "stuck"
        return "ready" if checked.done() else "starting"

    @property
    def is_busy(self) -> bool:
        """Return whether an image is being decoded or encoded."""
        return bool(self._busy_since)

    async def predict(
        self, request: Request, query: PredictQuery, timings: Timings
    ) -> tuple[Answer, Outcome]:
        """Return the answer to a request; `timings` gets what each step took.

        Raises:
            Refusal: a bad upload, or more requests or time than the limits allow.
            ClientDisconnect: the client has gone.
        """
        with self._admitted(), anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                return await self._in_time(request, query, timings)
            finally:
                self._scopes.discard(scope)
        raise self._busy("the service is being stopped")

    async def _in_time(
        self, request: Request, query: PredictQuery, timings: Timings
    ) -> tuple[Answer, Outcome]:
        limits = self.settings
        with timings.of("upload"):
            content = await read_upload(request, limits.max_bytes, limits.upload_timeout_s)
        try:
            with anyio.fail_after(limits.timeout_s):
                return await self._predict(request, content, query, timings)
        except TimeoutError:
            raise self._busy(f"no answer within {limits.timeout_s:g} s") from None

    async def _predict(
        self, request: Request, content: bytes, query: PredictQuery, timings: Timings
    ) -> tuple[Answer, Outcome]:
        with timings.of("decode"):
            job = await self._in_pool(self._decode, content, query)
        try:
            outcome = await _unless_gone(request, self.batcher.submit(job))
        except Stopping:
            raise self._busy("the service is being stopped") from None
        except UserError as error:  # of this image: too small, other channels
            raise Refusal(422, str(error)) from None
        timings.update(queue=outcome.queue_s, network=outcome.network_s)
        label_set = self.predictor.label_set
        with timings.of("encode"):
            answer = await self._in_pool(
                encode, query, job.image, outcome.label, outcome.confidence, label_set
            )
        self.metrics.pixels.inc(outcome.label.size)
        return answer, outcome

    def _decode(self, content: bytes, query: PredictQuery) -> Job:
        limit, pipeline = self.settings.max_pixels, self.predictor.pipeline
        value_range = pipeline.preprocess.value_range
        image = decode_upload(content, self.predictor.img_channels, limit, value_range)
        return make_job(pipeline, image, limit, query.confidence)

    async def _in_pool(self, function: Callable[..., T], *arguments: Any) -> T:
        def noted() -> T:
            thread = threading.get_ident()
            self._busy_since[thread] = time.monotonic()
            try:
                return function(*arguments)
            finally:
                del self._busy_since[thread]

        return await asyncio.get_running_loop().run_in_executor(self._pool, noted)

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        """Count a request as in progress, if there is room for it."""
        if self.status != "ready":
            raise self._busy(f"the service is {self.status}")
        if self._num_under_way >= self.settings.max_queue:
            raise self._busy(f"{self._num_under_way} requests are in progress already")
        self._num_under_way += 1
        self.metrics.in_flight.inc()
        try:
            yield
        finally:
            self._num_under_way -= 1
            self.metrics.in_flight.dec()

    def _busy(self, reason: str) -> Refusal:
        """Return a 503 that says when there may be room again."""
        seconds = self._num_under_way * self.batcher.seconds_per_image
        retry_s = min(MAX_RETRY_S, max(1, math.ceil(seconds)))
        return Refusal(503, f"{reason}. Try again later.", {"Retry-After": str(retry_s)})


async def _unless_gone(request: Request, submitted: Future[Outcome]) -> Outcome:
    """Return the outcome; give it up if the client goes away or time is up.

    Raises:
        ClientDisconnect: the client has gone.
    """

    async def disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    future, gone = asyncio.wrap_future(submitted), asyncio.ensure_future(disconnect())
    either: set[asyncio.Future[Any]] = {future, gone}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            raise ClientDisconnect
        return future.result()
    finally:
        gone.cancel()
        future.cancel()
