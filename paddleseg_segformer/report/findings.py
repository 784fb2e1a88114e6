"""What a report needs of an evaluation, gathered image by image; no image or map is kept.

For each image some numbers of each class are held, and a share of the pixel sample: memory depends
on neither the number nor the size of the images, but for 16 K bytes and some numbers an image.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from paddleseg_segformer.evaluation import Metrics
from paddleseg_segformer.evaluation.bootstrap import Intervals, image_areas, iou_intervals
from paddleseg_segformer.evaluation.boundaries import boundary_counts
from paddleseg_segformer.evaluation.calibration import Calibration, PixelSample
from paddleseg_segformer.evaluation.error_kinds import KINDS, SIZE_NAMES, error_counts
from paddleseg_segformer.evaluation.evaluate import EvaluatedImage


@dataclass(frozen=True)
class ImageFigures:
    """One image's figures; shares are of its labelled pixels."""

    index: int  # in the data set
    path: str
    size_hw: tuple[int, int]
    miou: float  # over the classes that it labels or predicts; NaN without a labelled pixel
    accuracy: float
    error_kinds: np.ndarray  # share of each of `KINDS`, (4,)
    confidence: float  # mean over its sampled pixels, as the network gives it
    seconds: float


class Findings:
    """Takes an evaluation's images, as `evaluate(watch=...)` hands them over.

    Args:
        num_images: Images that will come.
        num_classes: K.
        ignore_index: Of the labels.
    """

    def __init__(self, num_images: int, num_classes: int, ignore_index: int) -> None:
        self.ignore_index = ignore_index
        self.images: list[ImageFigures] = []
        self._areas: list[np.ndarray] = []
        self._sample = PixelSample(num_images, num_classes)
        self._boundary = np.zeros((4, num_classes))
        self.error_kinds = np.zeros(len(KINDS), np.int64)
        self.objects = np.zeros((4, len(SIZE_NAMES)), np.int64)

    def __call__(self, image: EvaluatedImage) -> None:
        """Take one image."""
        label, prediction = image.sample.label, image.prediction
        assert label is not None  # or `evaluate` refuses the image
        rows, columns = self._sample.choose(label, self.ignore_index)
        scores = image.logits.log_probabilities(rows, columns)
        self._sample.add(scores, label[rows, columns])
        num_classes = len(image.counts)
        boundary = boundary_counts(label, prediction, num_classes, self.ignore_index)
        self._boundary += np.stack(boundary)
        errors = error_counts(label, prediction, self.ignore_index)
        self.error_kinds += errors.kinds
        self.objects += errors.objects
        self._areas.append(image_areas(image.counts))
        metrics = Metrics(image.counts, ("",) * num_classes, 1)
        self.images.append(
            ImageFigures(
                len(self.images),
                image.sample.image_path,
                (label.shape[0], label.shape[1]),
                metrics.miou,
                metrics.accuracy,
                errors.kinds / max(image.counts.sum(), 1),
                float(np.exp(scores.max(axis=1)).mean()) if len(scores) else float("nan"),
                image.seconds,
            )
        )

    @cached_property
    def areas(self) -> np.ndarray:
        """Return intersection and union of each image and class, (N, 2, K)."""
        return np.stack(self._areas)

    @cached_property
    def intervals(self) -> Intervals:
        """Return the confidence intervals of the IoU."""
        return iou_intervals(self.areas)

    @cached_property
    def calibration(self) -> Calibration | None:
        """Return the calibration; None where no pixel is labelled."""
        return self._sample.calibration()

    @property
    def boundary_iou(self) -> np.ndarray:
        """Return the boundary IoU of each class, (K,); NaN for one that does not occur."""
        return _quotient(self._boundary[0], self._boundary[1])

    @property
    def boundary_f(self) -> np.ndarray:
        """Return the boundary F-score of each class, mean over its images, (K,)."""
        return _quotient(self._boundary[2], self._boundary[3])

    @property
    def ranking(self) -> list[ImageFigures]:
        """Return the images with labelled pixels from the lowest to the highest mIoU."""
        scored = [image for image in self.images if not np.isnan(image.miou)]
        return sorted(scored, key=lambda image: (image.miou, image.index))

    @property
    def median_seconds(self) -> float:
        """Return the median time from image to class ids; the first image sets up memory."""
        times = [image.seconds for image in self.images]
        return statistics.median(times[1:] or times)


def peak_memory_mib() -> float:
    """Return the most memory that this process has held; NaN where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes, KiB


def _quotient(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.where(denominator > 0, numerator / np.maximum(denominator, 1), np.nan)
