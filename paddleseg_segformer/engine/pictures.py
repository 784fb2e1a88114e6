"""Pictures of a run: results beside their labels, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from paddleseg_segformer.data.labels import LabelSet

CELL_PX, MARGIN_PX = 28, 120


def colorize(label: np.ndarray, label_set: LabelSet) -> np.ndarray:
    """Return class ids (H, W) as RGB uint8 (H, W, 3); ids without a colour are black."""
    palette = np.zeros((max(256, int(label.max()) + 1), 3), np.uint8)
    palette[: len(label_set.palette)] = label_set.palette
    return palette[label]


def side_by_side(
    image: np.ndarray, label: np.ndarray, prediction: np.ndarray, label_set: LabelSet
) -> np.ndarray:
    """Return image, label and prediction in a row, RGB uint8 (H, 3 W, 3)."""
    if image.shape[2] != 3:
        image = np.repeat(image[:, :, :1], 3, axis=2)
    panels = [image.astype(np.uint8), colorize(label, label_set), colorize(prediction, label_set)]
    return np.concatenate(panels, axis=1)


def draw_confusion(confusion: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Return a confusion matrix (K, K) as an RGB uint8 picture: rows labelled, columns predicted, shares of the row."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    cells = np.kron(np.rint(255 * shares).astype(np.uint8), np.ones((CELL_PX, CELL_PX), np.uint8))
    heat = cv2.cvtColor(cv2.applyColorMap(cells, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    canvas = np.full((heat.shape[0] + MARGIN_PX, heat.shape[1] + MARGIN_PX, 3), 255, np.uint8)
    canvas[: heat.shape[0], MARGIN_PX:] = heat
    for i, name in enumerate(classes):
        middle = i * CELL_PX + CELL_PX * 2 // 3
        _write(canvas, name, (4, middle))
    columns = np.full((len(classes) * CELL_PX, MARGIN_PX, 3), 255, np.uint8)
    for i, name in enumerate(classes):
        _write(columns, name, (4, i * CELL_PX + CELL_PX * 2 // 3))
    canvas[heat.shape[0] :, MARGIN_PX:] = columns.transpose(1, 0, 2)[:, :, :]
    return canvas


def _write(canvas: np.ndarray, text: str, at_xy: tuple[int, int]) -> None:
    cv2.putText(canvas, text[:16], at_xy, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
