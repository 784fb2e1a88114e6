"""Batches for training and samples for evaluation.

What a batch holds follows from (seed, iteration, rank) alone: it is the same for any number of
workers, and a run that starts at iteration t gets what an unbroken run gets there.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import islice
from typing import NamedTuple

import numpy as np

from paddleseg_segformer.data.datasets import RawSample, SegmentationDataset
from paddleseg_segformer.data.workers import (
    BadSample,
    Key,
    Sample,
    make_or_explain,
    map_in_order,
    samples_in_processes,
)
from paddleseg_segformer.errors import UserError

logger = logging.getLogger(__name__)


class Batch(NamedTuple):
    """One batch.

    Args:
        img: (N, C, h, w), uint8 or float32.
        label: (N, h, w) class ids, uint8 or int32.
        indices: (N,) positions in the data set.
        num_replaced: bad samples that were passed over.
    """

    img: np.ndarray
    label: np.ndarray
    indices: np.ndarray
    num_replaced: int = 0


class TrainSampler:
    """Endless lists of sample keys, one list for each iteration of one rank.

    The samples are shuffled anew in each epoch. All ranks walk through one common order, so batches
    may be larger than the data set and no sample is left out at the end of an epoch.

    Args:
        num_samples: Size of the data set.
        batch_size: Samples of one rank in one iteration.
        seed: Of the order and of the samples' own seeds.
        start_iter: Iterations already done; the first list is that of the next one.
        rank: Of this process.
        world_size: Number of processes.
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
        return int(self._order[offset]), int(sample_seed)


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
) -> Generator[Batch, None, None]:
    """Return an endless iterator of batches; see `TrainSampler` for the arguments.

    With `num_workers` 0 samples are made in this process, at the moment they are asked for; else
    by that many processes, ahead of time, but for two batches at most. They end with this process,
    and when the iterator is closed. As they are not forked, a script that calls this needs the
    guard `if __name__ == "__main__":`.

    A sample that cannot be read is an error if `max_replaced` is 0; else another one takes its
    place, drawn from the sample's own seed, and drawn again up to so many times if it is bad too.

    Raises:
        UserError: a sample cannot be read, a worker was killed, or the images of a batch differ in
            size.
    """
    sampler = TrainSampler(
        len(dataset), batch_size, seed, start_iter=start_iter, rank=rank, world_size=world_size
    )
    return _batches(dataset, iter(sampler), batch_size, num_workers, max_replaced)


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


def _batches(
    dataset: SegmentationDataset,
    lists: Iterator[list[Key]],
    batch_size: int,
    num_workers: int,
    max_replaced: int,
) -> Generator[Batch, None, None]:
    """Yield batches of the samples in `lists`."""
    keys = (key for keys in lists for key in keys)
    with ExitStack() as stack:
        if num_workers == 0:
            results: Iterator[Sample | BadSample] = (make_or_explain(dataset, key) for key in keys)
        else:
            ahead = max(2 * batch_size, num_workers + 1)
            in_processes = samples_in_processes(dataset, keys, num_workers, ahead)
            results = stack.enter_context(closing(in_processes))
        while True:
            samples, num_replaced = [], 0
            for result in islice(results, batch_size):
                sample, num_bad = _good(dataset, result, max_replaced)
                samples.append(sample)
                num_replaced += num_bad
            yield _collate(dataset, samples)._replace(num_replaced=num_replaced)


def _good(
    dataset: SegmentationDataset, result: Sample | BadSample, max_replaced: int
) -> tuple[Sample, int]:
    """Return the sample, or one in its place, and how many bad ones were passed over."""
    if not isinstance(result, BadSample):
        return result, 0
    if not max_replaced:
        raise result.error
    seed = result.key[1]
    generator = np.random.default_rng(seed)
    for num_bad in range(1, max_replaced + 1):
        key = int(generator.integers(len(dataset))), seed
        other = make_or_explain(dataset, key)
        logger.warning("bad sample, replaced by another: %s", result.error)
        if not isinstance(other, BadSample):
            return other, num_bad
        result = other
    raise UserError(
        f"{max_replaced} bad samples in a row (--max_skipped), the last: {result.error}"
    )


def _collate(dataset: SegmentationDataset, samples: list[Sample]) -> Batch:
    """Return the batch of samples of one size."""
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
