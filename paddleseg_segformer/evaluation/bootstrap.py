"""Confidence intervals of IoU over images: the bootstrap of Efron and Tibshirani, percentiles.

Images are drawn with replacement; a class that a drawn set neither labels nor predicts has no IoU
there and does not count. Images of one video are not independent: intervals are too narrow then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

NUM_DRAWS = 1000
LEVEL = 0.95


class Intervals(NamedTuple):
    """Lower and upper ends, of each class (K,) and of the mean over classes."""

    low: np.ndarray
    high: np.ndarray
    miou: tuple[float, float]


def image_areas(counts: np.ndarray) -> np.ndarray:
    """Return intersection and union of each class, (2, K), of a confusion matrix (K, K)."""
    intersection = np.diag(counts)
    return np.stack([intersection, counts.sum(axis=0) + counts.sum(axis=1) - intersection])


def iou_intervals(areas: np.ndarray, level: float = LEVEL, seed: int = 0) -> Intervals:
    """Return confidence intervals of the classes' IoU and of the mIoU.

    Args:
        areas: Intersection and union of each image, (N, 2, K).
        level: Share of the intervals that hold the true value.
        seed: Of the draws.
    """
    draws = np.concatenate(list(_drawn_ious(areas, seed)))  # (draws, K)
    mean = _mean(draws)
    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = _quantiles(draws, ends)
    (mean_low,), (mean_high,) = _quantiles(mean[:, None], ends)
    return Intervals(low, high, (float(mean_low), float(mean_high)))


class Difference(NamedTuple):
    """IoU of B less that of A, class by class and in the mean (last entry), (K + 1,) each."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray  # two-sided, of no difference


def paired_difference(
    first: np.ndarray, second: np.ndarray, level: float = LEVEL, seed: int = 0
) -> Difference:
    """Return how much two models' IoU differ on the same images, by a paired bootstrap.

    Both models are scored on the same drawn images. p is twice the smaller share of draws on
    either side of 0, at least 2 / (draws + 1).

    Args:
        first: Areas of model A, (N, 2, K).
        second: Of model B, the same images in the same order.
        level: As of `iou_intervals`.
        seed: Of the draws.
    """
    draws = [
        np.concatenate(list(_drawn_ious(areas, seed))) for areas in (first, second)
    ]  # the same images are drawn for both
    differences = np.column_stack([draws[1] - draws[0], _mean(draws[1]) - _mean(draws[0])])
    ious = [_iou(areas.sum(axis=0)[None])[0] for areas in (first, second)]
    value = np.append(ious[1] - ious[0], _mean(ious[1][None]) - _mean(ious[0][None]))
    low, high = _quantiles(differences, [(1 - level) / 2, (1 + level) / 2])
    present = np.sum(~np.isnan(differences), axis=0)
    sides = [np.sum(differences <= 0, axis=0), np.sum(differences >= 0, axis=0)]
    p = np.minimum(1.0, 2 * (np.minimum(*sides) + 1) / (present + 1))
    return Difference(value, low, high, np.where(present > 0, p, np.nan))


def _drawn_ious(areas: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yield the IoU of each class for draws of N images, (some draws, K)."""
    rng = np.random.default_rng(seed)
    num_images, _, num_classes = areas.shape
    values = areas.reshape(num_images, -1).astype(np.float64)
    for _ in range(NUM_DRAWS // 50):
        times = rng.multinomial(num_images, np.full(num_images, 1 / num_images), 50)
        yield _iou((times @ values).reshape(50, 2, num_classes))


def _iou(areas: np.ndarray) -> np.ndarray:
    """(..., 2, K) -> (..., K); NaN for a class without a pixel."""
    intersection, union = areas[..., 0, :], areas[..., 1, :]
    return np.where(union > 0, intersection / np.maximum(union, 1), np.nan)


def _mean(ious: np.ndarray) -> np.ndarray:
    """Return the mean over classes, (draws,); NaN where there is none."""
    present = ~np.isnan(ious)
    return np.where(present, ious, 0).sum(axis=1) / np.where(
        present.any(axis=1), present.sum(axis=1), np.nan
    )


def _quantiles(draws: np.ndarray, ends: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return two quantiles of each column, (K,) each; NaN for a column without a number."""
    low, high = np.full((2, draws.shape[1]), np.nan)
    has_values = ~np.isnan(draws).all(axis=0)
    if has_values.any():
        low[has_values], high[has_values] = np.nanquantile(draws[:, has_values], ends, axis=0)
    return low, high
