"""Pictures (RGB uint8): label maps in colours, overlays, comparisons, confusion matrices."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from paddleseg_segformer.data.labels import LabelSet
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import atomic_path

OVERLAY_ALPHA = 0.4  # PaddleSeg's: the image counts 0.6, the colours 0.4
_MAX_SIDE_PX = 1024
_MAX_NAMED_CLASSES = 40


def color_label(label: np.ndarray, label_set: LabelSet) -> np.ndarray:
    """Return the label map (H, W) in the colours of its classes; other ids are black."""
    table = np.zeros((max(256, label_set.num_classes, int(label.max(initial=0)) + 1), 3), np.uint8)
    table[: len(label_set.palette)] = label_set.palette
    return table[label]


def overlay(
    image: np.ndarray, label: np.ndarray, label_set: LabelSet, alpha: float = OVERLAY_ALPHA
) -> np.ndarray:
    """Return the image (H, W, C) with the colours of all its classes over it.

    Pixels without a class show the image alone.

    Args:
        alpha: Opacity of the colours, 0..1.
    """
    if not 0 <= alpha <= 1:
        raise UserError(
            f"overlay alpha: found {alpha}, expected 0 (image only) to 1 (colours only)."
        )
    shown = displayable(image)
    mixed = cv2.addWeighted(shown, 1 - alpha, color_label(label, label_set), alpha, 0)
    is_class = label < label_set.num_classes
    return mixed if is_class.all() else np.where(is_class[:, :, None], mixed, shown)


def legend(label_set: LabelSet, ids: Sequence[int] | None = None) -> np.ndarray:
    """Return the classes' names beside their colours, (h, w, 3) RGB uint8.

    Args:
        ids: of the classes to show; by default all.
    """
    row_px, width_px = 22, 260
    shown = range(label_set.num_classes) if ids is None else ids
    picture = np.full((row_px * len(shown), width_px, 3), 255, np.uint8)
    for row, index in enumerate(shown):
        top = row * row_px
        picture[top + 3 : top + row_px - 3, 4:34] = label_set.palette[index]
        cv2.putText(
            picture,
            label_set.classes[index].encode("ascii", "replace").decode()[:26],
            (42, top + 16),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.45,
            (0, 0, 0),
            1,
            cv2.LINE_AA,
        )
    return picture


def with_legend(picture: np.ndarray, label: np.ndarray, label_set: LabelSet) -> np.ndarray:
    """Return a picture with the legend of the label map's classes at its right side."""
    ids = np.unique(label)
    side = legend(label_set, ids[ids < label_set.num_classes].tolist())
    height = max(len(picture), len(side))
    panels = []
    for panel in (picture, side):
        whole = np.full((height, panel.shape[1], 3), 255, np.uint8)
        whole[: len(panel)] = panel
        panels.append(whole)
    return np.hstack(panels)


def displayable(image: np.ndarray) -> np.ndarray:
    """Return an image of any number of channels as RGB: grey, or the first three channels."""
    if image.dtype != np.uint8:
        image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    if image.shape[2] < 3:
        return np.repeat(image[:, :, :1], 3, axis=2)
    return np.ascontiguousarray(image[:, :, :3])


def side_by_side(
    image: np.ndarray, label: np.ndarray | None, prediction: np.ndarray, label_set: LabelSet
) -> np.ndarray:
    """Return image, label and prediction beside each other, at most 1024 px high and wide each.

    Pixels that the label ignores are black in both label and prediction.
    """
    panels = [displayable(image)]
    if label is not None:
        panels.append(color_label(label, label_set))
        prediction = np.where(label == label_set.ignore_index, label, prediction)
    panels.append(color_label(prediction, label_set))
    height, width = prediction.shape
    factor = min(1.0, _MAX_SIDE_PX / max(height, width))
    size_wh = max(1, round(width * factor)), max(1, round(height * factor))
    return np.hstack([cv2.resize(panel, size_wh, interpolation=cv2.INTER_AREA) for panel in panels])


def draw_confusion(confusion: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Return the confusion matrix as a picture: rows are labelled classes, each sums to 1.

    Args:
        confusion: Pixel counts (K, K).
        classes: K names; they are written beside the rows if there are no more than 40.
    """
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    cell = max(2, min(24, _MAX_SIDE_PX // len(classes)))
    heat = np.kron(np.rint(255 * share).astype(np.uint8), np.ones((cell, cell), np.uint8))
    matrix = cv2.cvtColor(cv2.applyColorMap(heat, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    if len(classes) > _MAX_NAMED_CLASSES:
        return matrix
    margin = np.full((len(matrix), 160, 3), 255, np.uint8)
    for index, name in enumerate(classes):
        origin = (4, index * cell + cell * 2 // 3)
        cv2.putText(
            margin, name[:22], origin, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA
        )
    return np.hstack([margin, matrix])


def write_image(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write an RGB image (H, W, 3) to `path` in its suffix's format, atomically."""
    try:
        _, content = cv2.imencode(Path(path).suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error:
        raise UserError(f"{path}: unknown image format; end the name in .png or .jpg.") from None
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.tobytes())
