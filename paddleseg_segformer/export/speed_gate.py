"""What a faster form of a network loses, measured on images, and how much it may lose."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from paddleseg_segformer.data.datasets import RawSample
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.evaluation.boundaries import boundary_areas
from paddleseg_segformer.evaluation.metrics import ConfusionMatrix, Metrics
from paddleseg_segformer.predictor import Predictor


class Scores(NamedTuple):
    """What a network reaches on the gate's images; shares in 0..1."""

    agreement: float  # labels equal to the exact network's
    iou: np.ndarray | None = None  # of each class (K,), NaN where it does not occur; if labelled
    boundary_iou: np.ndarray | None = None  # the same near the classes' outlines

    @property
    def figures(self) -> dict[str, float]:
        """Return the figures over all classes by name."""
        found = {"label_agreement": self.agreement}
        if self.iou is not None and self.boundary_iou is not None:
            found |= {"miou": _mean(self.iou), "boundary_iou": _mean(self.boundary_iou)}
        return {name: round(value, 6) for name, value in found.items()}

    def losses(self, exact: Scores) -> dict[str, float]:
        """Return what is lost against the exact network's scores, in points."""
        if self.iou is None or exact.iou is None:
            return {}
        assert self.boundary_iou is not None and exact.boundary_iou is not None
        drops = 100 * (exact.iou - self.iou)
        found = {
            "miou": 100 * (_mean(exact.iou) - _mean(self.iou)),
            "class_iou": float(np.nanmax(drops)),  # of the class that loses most
            "boundary_iou": 100 * (_mean(exact.boundary_iou) - _mean(self.boundary_iou)),
        }
        return {name: round(value, 4) for name, value in found.items()}


def _mean(iou: np.ndarray) -> float:
    return float(np.nanmean(iou))


@dataclass(frozen=True)
class Bound:
    """The most that may be lost: points of mIoU, of any class's IoU and of the boundary IoU.

    Without labelled images `agreement` alone counts: the least share of equal labels.
    """

    miou: float
    class_iou: float
    boundary_iou: float
    agreement: float

    def faults(self, scores: Scores, exact: Scores) -> list[str]:
        """Return which bounds are broken, in words."""
        found = [
            f"{name} loses {loss:.2f}, allowed are {getattr(self, name):g}"
            for name, loss in scores.losses(exact).items()
            if not loss <= getattr(self, name)
        ]
        if not scores.agreement >= self.agreement:
            found.append(f"{scores.agreement:.2%} equal labels, needed are {self.agreement:.1%}")
        return found


class SpeedGate:
    """Scores networks on the same images.

    Args:
        samples: Images, all of them labelled or none; read anew for each network.
        exact: The network that others are compared with.

    Raises:
        UserError: there is no image.
    """

    def __init__(self, samples: Iterable[RawSample], exact: Predictor) -> None:
        self._samples = samples
        self._labels: list[np.ndarray] = []  # the exact network's
        self.exact = self.score(exact)

    def score(self, predictor: Predictor) -> Scores:
        """Return the scores of a network, by way of the whole pipeline."""
        assert predictor.label_set is not None  # of every export
        num_classes, ignore = predictor.label_set.num_classes, predictor.label_set.ignore_index
        matrix = ConfusionMatrix(num_classes, ignore)
        boundary = np.zeros((2, num_classes), np.int64)
        is_first = not self._labels
        num_equal = num_pixels = 0
        for position, sample in enumerate(self._samples):
            label = predictor.predict_read([sample.image])[0].label
            if is_first:
                self._labels.append(label)
            num_equal += int((label == self._labels[position]).sum())
            num_pixels += label.size
            if sample.label is not None:
                matrix.add(sample.label, label, sample.label_path or sample.image_path)
                boundary += boundary_areas(sample.label, label, num_classes, ignore)
        if not num_pixels:
            raise UserError("speed: found no images to compare networks on. Name some with --data.")
        if not matrix.counts.any():
            return Scores(num_equal / num_pixels)
        iou = Metrics(matrix.counts, predictor.label_set.classes, len(self._labels)).iou
        with np.errstate(invalid="ignore"):
            return Scores(num_equal / num_pixels, iou, boundary[0] / boundary[1])

    def describe(self, scores: Scores) -> dict[str, Any]:
        """Return scores and losses as plain data."""
        return {"scores": scores.figures, "losses": scores.losses(self.exact)}
