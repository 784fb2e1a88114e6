"""The confusion matrix: all that evaluation remembers of a data set."""

from __future__ import annotations

import numpy as np

from paddleseg_segformer.errors import UserError


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
            raise UserError(
                f"{name}: the label is {_by(label.shape)} (height x width), but the image is "
                f"{_by(prediction.shape)}. They must have the same size."
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


def _by(size_hw: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in size_hw)
