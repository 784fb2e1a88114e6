"""The confusion matrix of a data set, and the metrics computed from it.

With rows i (labelled) and columns j (predicted), I = diagonal, L = row sums, P = column sums:
IoU = I / (L + P - I), F1 (= Dice) = 2 I / (L + P), precision = I / P, recall = I / L.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from paddleseg_segformer.errors import UserError

ABSENT_CLASS = {"nan": np.nan, "0": 0.0, "1": 1.0}


class ConfusionMatrix:
    """Pixel counts (K, K) int64: row = labelled class, column = predicted class.

    Args:
        num_classes: K.
        ignore_index: Labelled id of pixels that are left out.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.counts = np.zeros((num_classes, num_classes), np.int64)

    def add(self, label: np.ndarray, prediction: np.ndarray, name: str) -> np.ndarray:
        """Count one image and return its own counts (K, K).

        Args:
            label: Labelled ids (H, W).
            prediction: Predicted ids (H, W).
            name: The label's file, for messages.

        Raises:
            UserError: sizes differ, or an id is neither a class nor `ignore_index`.
        """
        if label.shape != prediction.shape:
            sizes = ["x".join(map(str, array.shape)) for array in (label, prediction)]
            raise UserError(
                f"{name}: the label is {sizes[0]} (height x width), but the image is {sizes[1]}. "
                "They must have the same size."
            )
        is_counted = label != self.ignore_index
        labelled = label[is_counted].astype(np.int64)
        is_wrong = (labelled < 0) | (labelled >= self.num_classes)
        if is_wrong.any():
            ids, pixels = np.unique(labelled[is_wrong], return_counts=True)
            raise UserError(
                f"{name}: found label id {ids[0]} ({pixels[0]} pixels), expected 0 to "
                f"{self.num_classes - 1}, or {self.ignore_index} for pixels to ignore. "
                "Check the label map and num_classes."
            )
        pairs = labelled * self.num_classes + prediction[is_counted]
        counts = np.bincount(pairs, minlength=self.num_classes**2)
        counts = counts.reshape(self.counts.shape)  # fails if a prediction is no class
        self.counts += counts
        return counts


@dataclass(frozen=True)
class Metrics:
    """Segmentation metrics over a data set; each is a fraction in 0..1.

    Args:
        confusion: Pixel counts (K, K), row = labelled class, column = predicted class.
        classes: K names.
        num_images: Images that were counted.
        absent_class: IoU and F1 of a class that is neither labelled nor predicted anywhere: "nan"
            leaves it out of the mean (NVlabs, mmsegmentation); else 1 (PaddleSeg's development
            version) or 0 (PaddleSeg 2.8.0).
        auc: Area under the ROC curve of each class (K,), where it was asked for.
    """

    confusion: np.ndarray
    classes: tuple[str, ...]
    num_images: int
    absent_class: str | int = "nan"
    auc: np.ndarray | None = None

    def __post_init__(self) -> None:
        if str(self.absent_class) not in ABSENT_CLASS:
            raise UserError(f"absent_class: found {self.absent_class!r}, expected nan, 0 or 1.")

    @property
    def intersection(self) -> np.ndarray:
        """Return the correctly predicted pixels of each class, (K,)."""
        return np.diag(self.confusion)

    @property
    def labelled(self) -> np.ndarray:
        """Return the labelled pixels of each class, (K,)."""
        return self.confusion.sum(axis=1)

    @property
    def predicted(self) -> np.ndarray:
        """Return the predicted pixels of each class, (K,)."""
        return self.confusion.sum(axis=0)

    @cached_property
    def iou(self) -> np.ndarray:
        """Return the intersection over union of each class, (K,)."""
        union = self.labelled + self.predicted - self.intersection
        return _divide(self.intersection, union, ABSENT_CLASS[str(self.absent_class)])

    @cached_property
    def f1(self) -> np.ndarray:
        """Return the F1 score (Dice) of each class, (K,)."""
        total = self.labelled + self.predicted
        return _divide(2 * self.intersection, total, ABSENT_CLASS[str(self.absent_class)])

    @cached_property
    def precision(self) -> np.ndarray:
        """Return the precision of each class, (K,); NaN for a class never predicted."""
        return _divide(self.intersection, self.predicted)

    @cached_property
    def recall(self) -> np.ndarray:
        """Return the recall (accuracy) of each class, (K,); NaN for a class never labelled."""
        return _divide(self.intersection, self.labelled)

    @property
    def miou(self) -> float:
        """Return the mean IoU over classes."""
        return _mean(self.iou)

    @property
    def mean_f1(self) -> float:
        """Return the mean F1 (Dice) over classes."""
        return _mean(self.f1)

    @property
    def class_accuracy(self) -> float:
        """Return the mean recall over the labelled classes."""
        return _mean(self.recall)

    @property
    def accuracy(self) -> float:
        """Return the fraction of labelled pixels that are predicted correctly."""
        return float(_divide(self.intersection.sum(), self.confusion.sum()))

    @property
    def kappa(self) -> float:
        """Return Cohen's kappa: the accuracy beyond chance."""
        total = self.confusion.sum()
        by_chance = (self.labelled / max(total, 1)) @ (self.predicted / max(total, 1))
        return float(_divide(self.accuracy - by_chance, 1.0 - by_chance))

    @property
    def summary(self) -> dict[str, float]:
        """Return the metrics over all classes by name."""
        figures = {
            "mIoU": self.miou,
            "accuracy": self.accuracy,
            "class_accuracy": self.class_accuracy,
            "F1": self.mean_f1,
            "kappa": self.kappa,
        }
        return figures if self.auc is None else {**figures, "AUC": _mean(self.auc)}

    def table(self) -> str:
        """Return a table for the terminal: a line per class, then the summary; in %."""
        columns = (self.iou, self.f1, self.precision, self.recall)
        share = self.labelled / max(self.labelled.sum(), 1)
        width = max(len("class"), *(len(name) for name in self.classes))
        lines = [f"{'class':<{width}}     IoU      F1   prec.  recall  labelled"]
        for index, name in enumerate(self.classes):
            cells = " ".join(f"{_percent(column[index]):>7}" for column in columns)
            lines.append(f"{name:<{width}} {cells} {_percent(share[index]):>9}")
        figures = "  ".join(f"{key} {_percent(value)}" for key, value in self.summary.items())
        lines.append(f"{self.num_images} images, in %: {figures}{self._absent_note()}")
        return "\n".join(lines)

    def _absent_note(self) -> str:
        num_absent = int((self.labelled + self.predicted == 0).sum())
        if not num_absent:
            return ""
        rule = {"nan": "left out", "0": "counted as 0", "1": "counted as 1"}
        return f"  ({num_absent} absent classes {rule[str(self.absent_class)]})"

    def to_dict(self) -> dict[str, Any]:
        """Return all metrics as plain data for JSON; NaN becomes None."""
        per_class = {
            name: {
                "iou": _plain(self.iou[index]),
                "f1": _plain(self.f1[index]),
                "precision": _plain(self.precision[index]),
                "recall": _plain(self.recall[index]),
                "labelled_px": int(self.labelled[index]),
                **({} if self.auc is None else {"auc": _plain(self.auc[index])}),
            }
            for index, name in enumerate(self.classes)
        }
        return {
            **{key: _plain(value) for key, value in self.summary.items()},
            "num_images": self.num_images,
            "absent_class": str(self.absent_class),
            "classes": per_class,
            "confusion": self.confusion.tolist(),
        }


def image_row(counts: np.ndarray) -> dict[str, float | None]:
    """Return one image's accuracy, mIoU over its classes, and IoU by class id.

    Args:
        counts: The image's confusion matrix (K, K).
    """
    names: Sequence[str] = [str(index) for index in range(len(counts))]
    metrics = Metrics(counts, tuple(names), 1)
    ious = dict(zip(names, map(_plain, metrics.iou), strict=True))
    return {"accuracy": _plain(metrics.accuracy), "mIoU": _plain(metrics.miou), **ious}


def _divide(numerator: Any, denominator: Any, if_zero: float = np.nan) -> np.ndarray:
    """Return the quotient in float64; `if_zero` where the denominator is 0."""
    numerator, denominator = np.asarray(numerator, float), np.asarray(denominator, float)
    safe = np.where(denominator == 0, 1.0, denominator)
    return np.where(denominator == 0, if_zero, numerator / safe)


def _mean(values: np.ndarray) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")


def _plain(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def _percent(value: Any) -> str:
    return "-" if np.isnan(value) else f"{100 * float(value):.2f}"
