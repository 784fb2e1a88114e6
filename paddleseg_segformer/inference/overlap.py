"""The overlap of windows, chosen by the seams that they leave on a sample of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.pipeline import Pipeline
from paddleseg_segformer.inference.windows import stride_of

OVERLAPS = (0.0, 0.0625, 0.125, 0.25, 0.375, 0.5)
TOLERANCE = 0.001  # of the pixels: less overlap that loses no more against the best is taken


class Seams(NamedTuple):
    """What an overlap gives.

    Args:
        overlap: Share of a window.
        agreement: Share of the sample's pixels whose class is that of the whole sample at once.
        cost: Pixels that go through the network for each pixel of a large picture.
    """

    overlap: float
    agreement: float
    cost: float


def measure_seams(
    pipeline: Pipeline, samples: Sequence[np.ndarray], overlaps: Sequence[float] = OVERLAPS
) -> list[Seams]:
    """Compare windows of each overlap with the samples as wholes, which have no seams inside.

    Args:
        pipeline: With a sliding window; its stride is left alone.
        samples: Images (H, W, C), larger than a window.
        overlaps: Ascending.

    Raises:
        UserError: a sample does not go through the network as a whole.
    """
    settings, crop_hw = pipeline.settings, pipeline.settings.crop_size_hw
    assert settings.is_slide
    assert crop_hw
    agreeing = np.zeros(len(overlaps))
    try:
        for sample in samples:
            pipeline.settings = settings.replace({"is_slide": False})
            whole = pipeline(sample).labels()
            for index, overlap in enumerate(overlaps):
                stride_hw = stride_of(crop_hw, overlap)
                pipeline.settings = settings.replace({"stride_hw": stride_hw})
                agreeing[index] += np.mean(pipeline(sample).labels() == whole)
    except UserError as error:
        raise UserError(
            f"--overlap auto: a sample of {samples[0].shape[0]}x{samples[0].shape[1]} px does not "
            f"go through the network as a whole ({error}) Give the overlap, such as 0.25."
        ) from None
    finally:
        pipeline.settings = settings
    return [
        Seams(overlap, float(share), 1 / (1 - overlap) ** 2)
        for overlap, share in zip(overlaps, agreeing / len(samples), strict=True)
    ]


def least_overlap(measured: Sequence[Seams]) -> Seams:
    """Return the least overlap whose agreement is within `TOLERANCE` of the best one's."""
    best = max(item.agreement for item in measured)
    return next(item for item in measured if item.agreement >= best - TOLERANCE)


def sample_places(
    size_hw: tuple[int, int], sample_hw: tuple[int, int], count: int = 3
) -> list[tuple[slice, slice]]:
    """Return places of samples along the picture's diagonal, fewer where it is small.

    Args:
        size_hw: Of the picture.
        sample_hw: Of a sample; cut where the picture is smaller.
        count: How many at most.
    """
    sides = [min(side, length) for side, length in zip(sample_hw, size_hw, strict=True)]
    room = [length - side for side, length in zip(sides, size_hw, strict=True)]
    starts = {
        (int(share * room[0]), int(share * room[1])) for share in np.linspace(0, 1, count + 2)[1:-1]
    }
    return [
        (slice(top, top + sides[0]), slice(left, left + sides[1])) for top, left in sorted(starts)
    ]
