"""Sliding windows: a grid of equal windows, the last ones pulled back inside; how they are blended.

Source: slide inference of NVlabs and mmsegmentation; PaddleSeg's is the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BLENDS = ("none", "average", "cosine", "gaussian")


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


def stride_of(crop_hw: tuple[int, int], overlap: float) -> tuple[int, int]:
    """Return the steps between windows of a size that share `overlap` of it, 0..0.9."""
    height, width = (max(1, round(side * (1 - overlap))) for side in crop_hw)
    return height, width


def window_weights(windows: Sequence[tuple[int, int]], blend: str) -> list[np.ndarray]:
    """Return what each window, (start, stop) along an axis, weighs at each of its samples.

    Args:
        windows: As of `windows_along`.
        blend: "none": 1 where no other window has a nearer centre, else 0. "average": 1. "cosine":
            a Hann window. "gaussian": of an eighth of the window's length.

    Source of the Gaussian: Isensee et al., "nnU-Net", 2021.
    """
    weights = []
    for index, (start, stop) in enumerate(windows):
        at = np.arange(start, stop) + 0.5
        inside = (at - start) / (stop - start)  # 0..1
        if blend == "none":
            low = (windows[index - 1][1] + start) // 2 if index else start
            high = (stop + windows[index + 1][0]) // 2 if index + 1 < len(windows) else stop
            weights.append(((at > low) & (at < high)).astype(np.float64))
        elif blend == "cosine":
            weights.append(np.sin(np.pi * inside) ** 2)
        elif blend == "gaussian":
            weights.append(np.exp(-0.5 * ((inside - 0.5) * 8) ** 2))
        else:
            weights.append(np.ones(stop - start))
    return weights


def window_shares(
    length: int, windows: Sequence[tuple[int, int]], blend: str = "average"
) -> list[np.ndarray]:
    """Return the weights of windows as shares, whose sum is 1 at each sample of the axis."""
    weights = window_weights(windows, blend)
    total = np.zeros(length)
    for (start, stop), weight in zip(windows, weights, strict=True):
        total[start:stop] += weight
    return [
        weight / total[start:stop] for (start, stop), weight in zip(windows, weights, strict=True)
    ]
