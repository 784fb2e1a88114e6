"""The threads of the network: one loads the predictor, all predict queued images in batches."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.predictor import Predictor

logger = logging.getLogger(__name__)

SMOOTHING = 0.1  # weight of the newest batch in the mean time per image


class Stopping(Exception):
    """The service takes no more images."""


class Outcome(NamedTuple):
    """What was predicted for one image, and how long it took."""

    label: np.ndarray  # (H, W) class ids
    confidence: np.ndarray | None  # (H, W) float32, where it was asked for
    queue_s: float
    network_s: float  # of the whole batch, from images to label maps
    batch_size: int


@dataclass
class Job:
    """An image that waits.

    Args:
        image: (H, W, C).
        num_pixels: What it counts in a batch.
        kind: Only images of one kind share a batch: those whose windows are of one size, and so go
            through the network together.
        wants_confidence: Whether the confidence is to be computed too.
        future: Takes the outcome; a cancelled one is passed over.
        queued_at: `time.monotonic()`.
    """

    image: np.ndarray
    num_pixels: int
    kind: Hashable
    wants_confidence: bool
    future: Future[Outcome] = field(default_factory=Future)
    queued_at: float = field(default_factory=time.monotonic)


class Batcher:
    """Predicts images from any thread in threads of its own: the predictor's `num_callers`.

    Args:
        load: Makes the predictor; where that is 1, it is used in no other thread than the one that
            called this.
        check: Called once with the predictor, before the first image; raises if its answers are
            wrong.
        max_batch: The most images that are predicted together; by default the predictor's
            `window_batch`.
        max_wait_ms: How long a first image waits for others.
        max_pixels: Of a batch together; an image of more goes alone.
        on_batch: Called with the number of images of each batch.
    """

    def __init__(
        self,
        load: Callable[[], Predictor],
        check: Callable[[Predictor], None],
        *,
        max_batch: int | None,
        max_wait_ms: float,
        max_pixels: int,
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._load = load
        self._check = check
        self.max_batch = max_batch or 0  # known once the predictor is
        self.max_wait_s = max_wait_ms / 1000
        self.max_pixels = max_pixels
        self._on_batch = on_batch
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._is_stopping = False
        self.seconds_per_image = 0.0  # smoothed
        self.loaded: Future[Predictor] = Future()
        self.checked: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> Predictor:
        """Start the thread; return its predictor when it is loaded.

        Raises:
            UserError: it cannot be loaded.
        """
        self._thread.start()
        return self.loaded.result()

    @property
    def is_alive(self) -> bool:
        """Return whether the first thread runs, which waits for the others."""
        return self._thread.is_alive()

    @property
    def num_waiting(self) -> int:
        """Return the number of images that wait."""
        return len(self._jobs)

    def submit(self, job: Job) -> Future[Outcome]:
        """Put an image into the queue; return what will hold its outcome.

        Raises:
            Stopping: the service is being stopped.
        """
        with self._changed:
            if self._is_stopping or not self.is_alive:
                raise Stopping
            self._jobs.append(job)
            self._changed.notify_all()
        return job.future

    def stop(self, timeout_s: float) -> bool:
        """Finish what waits, then end the thread; return whether it ended in time."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            predictor = self._load()
        except BaseException as error:
            self.loaded.set_exception(error)
            return
        self.max_batch = self.max_batch or predictor.settings.window_batch or 1
        self.loaded.set_result(predictor)
        try:
            self._check(predictor)
        except BaseException as error:
            self.checked.set_exception(error)
            return
        others = [
            threading.Thread(target=self._serve, args=(predictor,), name="stream", daemon=True)
            for _ in range(predictor.num_callers - 1)
        ]
        for thread in others:
            thread.start()
        self.checked.set_result(None)
        self._serve(predictor)
        for thread in others:
            thread.join()

    def _serve(self, predictor: Predictor) -> None:
        """Predict what waits, until the service stops."""
        while batch := self._next_batch():
            self._compute(predictor, batch)

    def _next_batch(self) -> list[Job]:
        """Return images to predict together; none when the service stops."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._jobs or self._is_stopping)
                if not self._jobs:
                    return []
                until = time.monotonic() + self.max_wait_s
                while 0 < len(self._jobs) < self.max_batch and not self._is_stopping:
                    if not self._changed.wait(until - time.monotonic()):
                        break
                if self._jobs:  # no other thread took them meanwhile
                    return self._take_batch()

    def _take_batch(self) -> list[Job]:
        """Take the oldest image and others of its kind; the rest keep their order."""
        first = self._jobs.popleft()
        batch, others, num_pixels = [first], deque[Job](), first.num_pixels
        for job in self._jobs:
            fits = num_pixels + job.num_pixels <= self.max_pixels and len(batch) < self.max_batch
            if job.kind == first.kind and fits:
                batch.append(job)
                num_pixels += job.num_pixels
            else:
                others.append(job)
        self._jobs = others
        return batch

    def _compute(self, predictor: Predictor, batch: Sequence[Job]) -> None:
        """Predict a batch without the images whose requests were given up."""
        batch = [job for job in batch if job.future.set_running_or_notify_cancel()]
        if not batch:
            return
        for job, outcome in zip(batch, self._outcomes(predictor, batch), strict=True):
            if isinstance(outcome, Outcome):
                job.future.set_result(outcome)
            else:
                job.future.set_exception(outcome)

    def _outcomes(self, predictor: Predictor, batch: Sequence[Job]) -> list[Outcome | Exception]:
        """Return what came of each image; where a batch fails, each is tried alone."""
        start = time.monotonic()
        try:
            predictions = predictor.predict_read([job.image for job in batch])
            maps = [  # computed here, where their time is measured
                (prediction.label, prediction.confidence if job.wants_confidence else None)
                for job, prediction in zip(batch, predictions, strict=True)
            ]
        except Exception as error:
            if len(batch) > 1:
                return [item for job in batch for item in self._outcomes(predictor, [job])]
            if not isinstance(error, UserError):
                logger.exception("an image could not be predicted")
            return [error]
        seconds = time.monotonic() - start
        newest = seconds / len(batch) / predictor.num_callers
        before = self.seconds_per_image or newest
        self.seconds_per_image = before + SMOOTHING * (newest - before)
        self._on_batch(len(batch))
        return [
            Outcome(label, confidence, start - job.queued_at, seconds, len(batch))
            for job, (label, confidence) in zip(batch, maps, strict=True)
        ]
