"""What a recipe has to know of a data set: sizes, values, classes and objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from paddleseg_segformer.data.audit import AuditReport
from paddleseg_segformer.data.datasets import SegmentationDataset

MAX_SAMPLED = 200  # samples that are looked at, evenly over the list
MAX_OBJECT_PX = 1 << 20  # pixels of a label in which objects are measured; larger ones are thinned


@dataclass(frozen=True)
class Fingerprint:
    """A training set in numbers.

    Args:
        num_samples: All samples.
        num_looked_at: Those that `mean`, `std` and `object_px` were measured on.
        size_hw: Median height and width, in px.
        mean, std: Of each channel over pixels of 0..255, divided by 255.
        num_pixels: Labelled pixels of each class.
        num_images: Images in which each class occurs.
        object_px: Side of a typical object: the square root of the area of the largest connected
            region of a class in an image, its median over images, and over the classes.
    """

    num_samples: int
    num_looked_at: int
    size_hw: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_pixels: tuple[int, ...]
    num_images: tuple[int, ...]
    object_px: float

    @property
    def shares(self) -> np.ndarray:
        """Return each class's share of the labelled pixels, (K,)."""
        return np.asarray(self.num_pixels) / max(sum(self.num_pixels), 1)


def fingerprint(
    dataset: SegmentationDataset, report: AuditReport, background: int | None = None
) -> Fingerprint:
    """Return the fingerprint of a training set.

    Args:
        report: Of the data set's audit.
        background: Id of the class that is no object.
    """
    indices = np.unique(np.linspace(0, len(dataset) - 1, MAX_SAMPLED).astype(int))
    moments = np.zeros(1)  # (2, C): sums of x and x^2
    num_pixels = 0
    sides: dict[int, list[float]] = {}
    for index in indices:
        sample = dataset.read(int(index))
        mean, std = np.asarray([cv2.meanStdDev(x) for x in cv2.split(sample.image)])[:, :, 0, 0].T
        size = sample.image.shape[0] * sample.image.shape[1]
        moments = moments + size * np.stack([mean, std**2 + mean**2])
        num_pixels += size
        if sample.label is not None:
            for class_id, side in _object_sides(sample.label, dataset.num_classes).items():
                sides.setdefault(class_id, []).append(side)
    mean, square = moments / num_pixels
    std = np.sqrt(np.maximum(square - mean**2, 0))
    objects = [np.median(found) for class_id, found in sides.items() if class_id != background]
    return Fingerprint(
        len(dataset),
        len(indices),
        _median_size(report),
        _rounded(mean / 255),
        _rounded(np.maximum(std / 255, 1e-3)),  # a channel of one value is not divided by 0
        tuple(report.num_pixels),
        tuple(report.num_images),
        float(np.median(objects)) if objects else 0.0,
    )


def _object_sides(label: np.ndarray, num_classes: int) -> dict[int, float]:
    """Return the side in px of the largest connected region of each class in a label (H, W)."""
    step = int(np.ceil(np.sqrt(label.size / MAX_OBJECT_PX)))
    label = np.ascontiguousarray(label[::step, ::step])
    found = {}
    for class_id in np.unique(label):
        if 0 <= class_id < num_classes:
            mask = (label == class_id).astype(np.uint8)
            areas = cv2.connectedComponentsWithStats(mask)[2][1:, cv2.CC_STAT_AREA]
            found[int(class_id)] = step * float(np.sqrt(areas.max()))
    return found


def _median_size(report: AuditReport) -> tuple[int, int]:
    sizes = [list(map(int, text.split("x"))) for text in report.sizes_hw]
    heights, widths = np.repeat(sizes, list(report.sizes_hw.values()), axis=0).T
    return int(np.median(heights)), int(np.median(widths))


def _rounded(values: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)
