"""Processes that make samples beside the training process, and end with it.

They are ended at once when their iterator is closed, and end by themselves when the training
process is killed.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import wait
from types import FrameType
from typing import NamedTuple, TypeVar

import cv2
import numpy as np

from paddleseg_segformer.data.datasets import SegmentationDataset
from paddleseg_segformer.errors import UserError

SIGTERM_GRACE_S = 5.0
END_TIMEOUT_S = 5.0

Key = tuple[int, int]  # (index in the data set, seed of the sample)
Sample = tuple[np.ndarray, np.ndarray, int]
Item = TypeVar("Item")
Result = TypeVar("Result")


class BadSample(NamedTuple):
    """A sample that cannot be read, and why."""

    key: Key
    error: UserError


def make_or_explain(dataset: SegmentationDataset, key: Key) -> Sample | BadSample:
    """Return the sample `key`, or what is wrong with it."""
    try:
        return dataset[key]
    except UserError as error:
        return BadSample(key, error)


def map_in_order(
    executor: Executor, function: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Yield the results of `function` over `items` in order, with at most `ahead` under way."""
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


def samples_in_processes(
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


def _end_processes(executor: ProcessPoolExecutor) -> None:
    """End the workers at once: what they still make is not wanted, and they hold nothing.

    Left to themselves they end after the sample under way, or after their start, which takes long
    under load.
    """
    workers = list((executor._processes or {}).values())  # None once all have ended
    executor.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.kill()
    deadline = time.monotonic() + END_TIMEOUT_S
    for worker in workers:
        wait([worker.sentinel], max(deadline - time.monotonic(), 0))


def _start_processes(dataset: SegmentationDataset, num_workers: int) -> ProcessPoolExecutor:
    """Return worker processes that hold the data set without its list of samples.

    They are not forked from this process: OpenCV's and Paddle's threads are not copied by a fork,
    and now and then a forked worker waits for them forever.
    """
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    modules = {type(part).__module__ for part in (dataset, *dataset.transforms)}
    context.set_forkserver_preload(["__main__", __name__, *sorted(modules)])
    worker_dataset = copy.copy(dataset)
    worker_dataset.samples = ()
    executor = ProcessPoolExecutor(
        num_workers, mp_context=context, initializer=_start_worker, initargs=(worker_dataset,)
    )
    try:
        with _without_sigterm():
            executor.submit(os.getpid)  # starts the fork server
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise UserError(
            f"the data set or its transforms cannot be sent to worker processes ({error}). Define "
            "them in a module, or set num_workers to 0."
        ) from error
    return executor


_worker_dataset: SegmentationDataset


def _start_worker(dataset: SegmentationDataset) -> None:
    """Prepare a worker process: signals are its parent's business, and it ends with its parent."""
    global _worker_dataset
    _worker_dataset = dataset
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_soon)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    cv2.setNumThreads(0)
    threading.Thread(target=_end_with_parent, daemon=True).start()


@contextmanager
def _without_sigterm() -> Iterator[None]:
    """Block SIGTERM, also in processes that are started inside."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _end_soon(number: int, frame: FrameType | None) -> None:
    """End a worker after a while: a SIGTERM to all processes lets the training step finish."""
    timer = threading.Timer(SIGTERM_GRACE_S, os._exit, [1])
    timer.daemon = True
    timer.start()


def _end_with_parent() -> None:
    """End this process once its parent is gone: a killed parent does not end its workers."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _make_sample(task: tuple[int, tuple[str, str | None], int]) -> Sample | BadSample:
    """Return one sample of the worker's data set, or what is wrong with it."""
    index, paths, seed = task
    try:
        return (*_worker_dataset.make_sample(*paths, seed), index)
    except UserError as error:
        return BadSample((index, seed), error)
