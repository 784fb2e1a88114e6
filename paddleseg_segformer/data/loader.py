"""Batches for training and samples for evaluation, read ahead by processes or threads.

What a batch holds is a function of (seed, iteration, rank): it is the same for any number of
workers, and a run that starts at iteration t gets what an unbroken run gets there.
"""

from __future__ import annotations

import copy
import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from multiprocessing.connection import wait
from types import FrameType
from typing import NamedTuple, TypeVar

import cv2
import numpy as np

from paddleseg_segformer.data.cache import worker_context
from paddleseg_segformer.data.datasets import RawSample, SegmentationDataset
from paddleseg_segformer.errors import UserError

logger = logging.getLogger(__name__)

SIGTERM_GRACE_S = 5.0
END_TIMEOUT_S = 5.0

Key = tuple[int, int]  # (index in the data set, seed of the sample)
Sample = tuple[np.ndarray, np.ndarray, int]
Item = TypeVar("Item")
Result = TypeVar("Result")


class Batch(NamedTuple):
    """One batch.

    Args:
        img: (N, C, h, w), uint8 or float32.
        label: (N, h, w) class ids, uint8 or int32.
        indices: (N,) positions in the data set.
        num_replaced: bad samples that were replaced.
    """

    img: np.ndarray
    label: np.ndarray
    indices: np.ndarray
    num_replaced: int = 0


class BadSample(NamedTuple):
    """A sample that cannot be read, and its error."""

    key: Key
    error: UserError


class TrainSampler:
    """Endless lists of sample keys, one list for each iteration of one rank.

    The samples are shuffled in each epoch. All ranks share one order, so batches may be larger than
    the data set and no sample is left out at the end of an epoch.

    Args:
        num_samples: Size of the data set.
        batch_size: Samples of one rank in one iteration.
        seed: Of the order and of the samples' own seeds.
        start_iter: Iterations already done; the first list is that of the next one.
        rank: Of this process.
        world_size: Number of processes.
        draw: Returns the index of the sample of a seed, or None for the next one of the epoch.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int,
        *,
        start_iter: int = 0,
        rank: int = 0,
        world_size: int = 1,
        draw: Callable[[int], int | None] | None = None,
    ) -> None:
        if num_samples < 1:
            raise UserError("the data set is empty; training needs at least one sample.")
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; expected 1 or more.")
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.start_iter = start_iter
        self.rank = rank
        self.world_size = world_size
        self.draw = draw
        self._epoch = -1
        self._order = np.empty(0, np.int64)

    def __iter__(self) -> Iterator[list[Key]]:
        iteration = self.start_iter
        while True:
            first = (iteration * self.world_size + self.rank) * self.batch_size
            yield [self._key(position) for position in range(first, first + self.batch_size)]
            iteration += 1

    def _key(self, position: int) -> Key:
        """Return the key of the sample at a position in the endless common order."""
        epoch, offset = divmod(position, self.num_samples)
        if epoch != self._epoch:
            generator = np.random.default_rng([self.seed, epoch])
            self._order, self._epoch = generator.permutation(self.num_samples), epoch
        sample_seed = np.random.SeedSequence([self.seed, position]).generate_state(1)[0]
        drawn = self.draw(int(sample_seed)) if self.draw else None
        return int(self._order[offset]) if drawn is None else drawn, int(sample_seed)


def train_loader(
    dataset: SegmentationDataset,
    batch_size: int,
    num_workers: int,
    seed: int,
    *,
    start_iter: int = 0,
    rank: int = 0,
    world_size: int = 1,
    max_replaced: int = 0,
    draw: Callable[[int], int | None] | None = None,
) -> Generator[Batch, None, None]:
    """Return an endless iterator of batches; see `TrainSampler` for the arguments.

    With `num_workers` 0, samples are made in this process when they are asked for; else by that
    many worker processes, at most two batches ahead. Workers end with this process, and when the
    iterator is closed. As they are not forked, a script that calls this needs the guard
    `if __name__ == "__main__":`.

    A sample that cannot be read is an error if `max_replaced` is 0. Otherwise another sample
    replaces it, drawn from its own seed, and drawn again up to `max_replaced` times if bad too.

    Raises:
        UserError: a sample cannot be read, a worker was killed, or the images of a batch differ in
            size.
    """
    sampler = TrainSampler(
        len(dataset),
        batch_size,
        seed,
        start_iter=start_iter,
        rank=rank,
        world_size=world_size,
        draw=draw,
    )
    return _batches(dataset, sampler, num_workers, max_replaced)


def _batches(
    dataset: SegmentationDataset, sampler: TrainSampler, num_workers: int, max_replaced: int
) -> Generator[Batch, None, None]:
    """Yield the batches of `train_loader`, whose arguments are checked before the first one."""
    keys = (key for keys in sampler for key in keys)
    with ExitStack() as stack:
        if num_workers == 0:
            results: Iterator[Sample | BadSample] = (_sample(dataset, key) for key in keys)
        else:
            ahead = max(2 * sampler.batch_size, num_workers + 1)
            in_processes = _samples_of_workers(dataset, keys, num_workers, ahead)
            results = stack.enter_context(closing(in_processes))
        while True:
            samples, num_replaced = [], 0
            for result in islice(results, sampler.batch_size):
                sample, num_bad = _good(dataset, result, max_replaced)
                samples.append(sample)
                num_replaced += num_bad
            yield _collate(dataset, samples)._replace(num_replaced=num_replaced)


def _sample(dataset: SegmentationDataset, key: Key) -> Sample | BadSample:
    try:
        return dataset[key]
    except UserError as error:
        return BadSample(key, error)


def _good(
    dataset: SegmentationDataset, result: Sample | BadSample, max_replaced: int
) -> tuple[Sample, int]:
    """Return the sample or its replacement, and how many bad samples were replaced."""
    if not isinstance(result, BadSample):
        return result, 0
    if not max_replaced:
        raise result.error
    seed = result.key[1]
    generator = np.random.default_rng(seed)
    for num_bad in range(1, max_replaced + 1):
        key = int(generator.integers(len(dataset))), seed
        other = _sample(dataset, key)
        logger.warning("bad sample, replaced by another: %s", result.error)
        if not isinstance(other, BadSample):
            return other, num_bad
        result = other
    raise UserError(
        f"{max_replaced} bad samples in a row (--max_skipped), the last: {result.error}"
    )


def _collate(dataset: SegmentationDataset, samples: list[Sample]) -> Batch:
    """Return the batch of the samples, which have one size."""
    images, labels, indices = zip(*samples, strict=True)
    by_shape = {image.shape: index for image, index in zip(images, indices, strict=True)}
    if len(by_shape) > 1:
        found = ", ".join(
            f"{shape} ({dataset.samples[index][0]})" for shape, index in list(by_shape.items())[:3]
        )
        raise UserError(
            f"images of different shapes (channels, height, width) in one batch: {found}. End the "
            "transforms in a crop of fixed size, such as RandomPaddingCrop with crop_size."
        )
    return Batch(np.stack(images), np.stack(labels), np.asarray(indices))


def read_ahead(
    dataset: SegmentationDataset, indices: Iterable[int], num_threads: int
) -> Iterator[RawSample]:
    """Yield the samples at `indices` in order, as they are stored, read ahead by threads.

    With `num_threads` 0 each is read when it is asked for.
    """
    if num_threads == 0:
        yield from map(dataset.read, indices)
        return
    with ThreadPoolExecutor(num_threads) as executor:
        yield from map_in_order(executor, dataset.read, indices, 2 * num_threads)


def map_in_order(
    executor: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Yield the results of `function` over `items` in order, with at most `ahead` pending."""
    items = iter(items)
    pending: deque[Future[Result]] = deque(
        executor.submit(function, item) for item in islice(items, ahead)
    )
    try:
        while pending:
            result = pending.popleft().result()
            pending.extend(executor.submit(function, item) for item in islice(items, 1))
            yield result
    finally:
        for future in pending:
            future.cancel()


def _samples_of_workers(
    dataset: SegmentationDataset, keys: Iterator[Key], num_workers: int, ahead: int
) -> Generator[Sample | BadSample, None, None]:
    """Yield samples made by worker processes, in the order of their keys."""
    tasks = ((index, dataset.samples[index], seed) for index, seed in keys)
    executor = _start_processes(dataset, num_workers)
    try:
        yield from map_in_order(executor, _make_sample, tasks, ahead)
    except BrokenProcessPool:
        raise UserError(
            "a data worker process did not start (see above) or was killed, most often for lack of "
            "memory. Lower num_workers or batch_size."
        ) from None
    finally:
        _end_processes(executor)


def _start_processes(dataset: SegmentationDataset, num_workers: int) -> ProcessPoolExecutor:
    """Return worker processes that hold the data set, its list of samples only where needed.

    They are not forked from this process: a fork does not copy OpenCV's and Paddle's threads, and
    now and then a forked worker waits for them forever.
    """
    context = worker_context()
    modules = {type(part).__module__ for part in (dataset, *dataset.transforms)}
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(["__main__", __name__, *sorted(modules)])
    worker_dataset = copy.copy(dataset)
    if not any(getattr(item, "mixes_samples", False) for item in dataset.transforms):
        worker_dataset.samples = ()
    try:
        executor = ProcessPoolExecutor(
            num_workers, mp_context=context, initializer=_start_worker, initargs=(worker_dataset,)
        )
        with _without_sigterm():
            executor.submit(os.getpid)  # starts the fork server
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise UserError(
            f"the data set or its transforms cannot be sent to worker processes ({error}). Define "
            "them in a module, or set num_workers to 0."
        ) from error
    except OSError as error:
        raise UserError(
            f"no worker processes can be started ({error}): they need /dev/shm to be writable, and "
            "free processes, files and memory. Provide these, or set num_workers to 0."
        ) from error
    return executor


def _end_processes(executor: ProcessPoolExecutor) -> None:
    """Kill the workers, which hold nothing that is still needed.

    A normal shutdown waits for the current sample, or for their start, which takes long under load.
    """
    workers = list((executor._processes or {}).values())  # None once all have ended
    executor.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.kill()
    deadline = time.monotonic() + END_TIMEOUT_S
    for worker in workers:
        wait([worker.sentinel], max(deadline - time.monotonic(), 0))


_worker_dataset: SegmentationDataset


def _start_worker(dataset: SegmentationDataset) -> None:
    """Prepare a worker process of `train_loader`."""
    global _worker_dataset
    _worker_dataset = dataset
    prepare_worker()


def prepare_worker() -> None:
    """Prepare a worker process: it leaves signals to its parent, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_soon)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    cv2.setNumThreads(0)
    threading.Thread(target=_end_with_parent, daemon=True).start()


@contextmanager
def _without_sigterm() -> Iterator[None]:
    """Block SIGTERM, also in processes that are started within the block."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _end_soon(number: int, frame: FrameType | None) -> None:
    """End a worker after a grace period, in which the training step can finish."""
    timer = threading.Timer(SIGTERM_GRACE_S, os._exit, [1])
    timer.daemon = True
    timer.start()


def _end_with_parent() -> None:
    """End this process when its parent ends; a killed parent cannot end its workers."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _make_sample(task: tuple[int, tuple[str, str | None], int]) -> Sample | BadSample:
    """Return one sample of the worker's data set."""
    index, paths, seed = task
    try:
        return (*_worker_dataset.make_sample(*paths, seed), index)
    except UserError as error:
        return BadSample((index, seed), error)
