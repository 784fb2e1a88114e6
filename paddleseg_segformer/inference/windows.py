"""Sliding windows: a grid of equal windows, the last ones pulled back inside the image.

Source: slide inference of NVlabs and mmsegmentation; PaddleSeg's is the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def windows_along(length: int, crop: int, stride: int) -> list[tuple[int, int]]:
    """Return (start, stop) of the windows along one axis.

    Windows start every `stride` samples; the last one is pulled back to end with the axis. An axis
    shorter than `crop` gets one window of its own length.
    """
    if length <= crop:
        return [(0, length)]
    num_windows = -(-(length - crop) // stride) + 1
    starts = [min(index * stride, length - crop) for index in range(num_windows)]
    return [(start, start + crop) for start in starts]


def window_counts(length: int, windows: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return how many windows cover each sample of the axis, (length,)."""
    counts = np.zeros(length, np.int64)
    for start, stop in windows:
        counts[start:stop] += 1
    return counts
