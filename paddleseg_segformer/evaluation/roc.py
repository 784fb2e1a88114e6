"""Area under the ROC curve of each class against all others, over all pixels of a data set.

The area is the share of pairs, of a pixel of the class and one of another class, in which the first
has the higher probability of the class; equal ones count half. Pixels are counted in bins of
probability, so that memory does not grow with the data set; the areas hold to about three digits.
"""

from __future__ import annotations

import numpy as np

NUM_BINS = 1 << 16  # values of a half-precision number
MAX_LOGIT = 60000.0  # in place of infinity, which stands for probabilities of 0 and 1


class RocCounts:
    """Numbers of pixels (K, 2, NUM_BINS) int64: by class, whether labelled so, and probability.

    Args:
        num_classes: K.
        ignore_index: Labelled id of pixels that are left out.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.ignore_index = ignore_index
        self.counts = np.zeros((num_classes, 2, NUM_BINS), np.int64)

    def add(self, label: np.ndarray, probabilities: np.ndarray) -> None:
        """Count the pixels of a part of an image.

        Args:
            label: Labelled ids (h, w).
            probabilities: Of each class, (h, K, w) float32.
        """
        is_counted = label != self.ignore_index
        labelled = label[is_counted]
        for index, counts in enumerate(self.counts):
            places = _bins(probabilities[:, index][is_counted])
            places += NUM_BINS * (labelled == index)
            counts += np.bincount(places, minlength=2 * NUM_BINS).reshape(2, NUM_BINS)


def areas_under_curves(counts: np.ndarray) -> np.ndarray:
    """Return the area of each class, (K,); NaN for a class that no pixel has, or that all have.

    Args:
        counts: (K, 2, NUM_BINS) of `RocCounts`.
    """
    others, own = counts[:, 0].astype(np.float64), counts[:, 1].astype(np.float64)
    lower = np.cumsum(others, axis=1) - 0.5 * others
    pairs = own.sum(axis=1) * others.sum(axis=1)
    areas: np.ndarray = np.where(
        pairs > 0, (own * lower).sum(axis=1) / np.maximum(pairs, 1), np.nan
    )
    return areas


def _bins(probabilities: np.ndarray) -> np.ndarray:
    """Return bins (N,) int64 in the order of the probabilities (N,)."""
    with np.errstate(divide="ignore"):
        logits = np.log(probabilities) - np.log1p(-probabilities)
    half = np.clip(logits, -MAX_LOGIT, MAX_LOGIT).astype(np.float16)
    bits = (
        (half + np.float16(0)).view(np.uint16).astype(np.int64)
    )  # adding 0 makes -0 the same as 0
    return np.where(bits < NUM_BINS // 2, bits + NUM_BINS // 2, NUM_BINS - 1 - bits)
