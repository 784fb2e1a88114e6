"""Class-balanced sampling: a class is drawn first, then a sample that has it."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from tqdm import tqdm

from paddleseg_segformer.data.datasets import SegmentationDataset
from paddleseg_segformer.data.loader import map_in_order
from paddleseg_segformer.data.transforms import count_ids
from paddleseg_segformer.errors import UserError

logger = logging.getLogger(__name__)


class ClassSampler:
    """Draws samples in which every class is equally likely.

    Args:
        presence: (S, K) bool, which of S samples has which class.
        share: Of the samples, 0..1, that are drawn so; the others follow the shuffled order.

    Source: Kang et al., "Decoupling Representation and Classifier", 2020, section 4.1.
    """

    def __init__(self, presence: np.ndarray, share: float) -> None:
        having = [np.flatnonzero(column).astype(np.int32) for column in presence.T]
        self.having = [samples for samples in having if len(samples)]
        self.share = share

    def __call__(self, seed: int) -> int | None:
        """Return the index of a sample, a function of `seed`, or None to follow the order."""
        generator = np.random.default_rng([seed, 1])
        if not self.having or generator.random() >= self.share:
            return None
        return int(generator.choice(self.having[generator.integers(len(self.having))]))


def class_presence(
    dataset: SegmentationDataset, show_progress: bool = False, skip_bad: bool = False
) -> np.ndarray:
    """Return which sample has which class, (S, K) bool; reads every label once.

    Args:
        dataset: Samples with labels.
        show_progress: A bar on a terminal.
        skip_bad: A sample that cannot be read has no class; otherwise it is an error.

    Raises:
        UserError: a label is missing or damaged; it is named.
    """
    presence = np.zeros((len(dataset), dataset.num_classes), bool)
    num_threads = os.cpu_count() or 1
    with ThreadPoolExecutor(num_threads) as executor:
        found = map_in_order(
            executor, partial(_class_ids, dataset, skip_bad), range(len(dataset)), 4 * num_threads
        )
        disable = None if show_progress else True
        for index, ids in enumerate(
            tqdm(found, total=len(dataset), unit="label", desc="classes", disable=disable)
        ):
            presence[index, ids] = True
    absent = [dataset.label_set.classes[index] for index in np.flatnonzero(~presence.any(axis=0))]
    if absent:
        logger.warning("class-balanced sampling: no sample has the class %s", ", ".join(absent))
    return presence


def _class_ids(dataset: SegmentationDataset, skip_bad: bool, index: int) -> np.ndarray:
    """Return the ids of the classes in one sample."""
    try:
        own_reading = getattr(dataset, "read_label", None)  # a data set of the contract alone
        label = own_reading(index) if own_reading else dataset.read(index).label
        if label is None:
            raise UserError(
                f"{dataset.samples[index][0]}: has no label; a sample for training needs one."
            )
        ids = count_ids(label)[0]
    except UserError:
        if not skip_bad:
            raise
        return np.empty(0, np.int64)
    return ids[ids != dataset.ignore_index]
