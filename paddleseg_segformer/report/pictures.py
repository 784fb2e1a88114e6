"""Pictures of single images: input, label, prediction, errors and confidence beside each other."""

from __future__ import annotations

import cv2
import numpy as np

from paddleseg_segformer.data.labels import LabelSet
from paddleseg_segformer.inference.overlay import color_label, displayable

PANELS = ("input", "label", "prediction", "errors", "confidence")
FILE_SIDE_PX, PAGE_SIDE_PX = 1024, 320  # longest side of a panel, in files and on the page
COMPARED = ("input", "label", "A", "B", "blue: only A is right, orange: only B")
_WRONG = (230, 60, 40)
_ONLY_A, _ONLY_B = (57, 135, 229), (217, 115, 13)


def image_strip(
    image: np.ndarray,
    label: np.ndarray,
    prediction: np.ndarray,
    confidence: np.ndarray,
    label_set: LabelSet,
) -> np.ndarray:
    """Return the panels beside each other, (h, w, 3) RGB uint8.

    Pixels that the label ignores are black in all but input and confidence, wrong ones red.

    Args:
        image: (H, W, C), 0..255.
        label: Ids (H, W).
        prediction: Ids (H, W).
        confidence: (H, W), 0..1: dark is unsure.
        label_set: Colours.
    """
    is_ignored = (label == label_set.ignore_index)[..., None]
    shown = displayable(image)
    grey = cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY)[..., None] // 2 + 96
    is_wrong = (label != prediction)[..., None]
    errors = np.where(is_wrong, np.array(_WRONG, np.uint8), grey)
    levels = cv2.applyColorMap(np.rint(255 * confidence).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    panels = [
        shown,
        *(np.where(is_ignored, 0, color_label(ids, label_set)) for ids in (label, prediction)),
        np.where(is_ignored, 0, errors),
        cv2.cvtColor(levels, cv2.COLOR_BGR2RGB),
    ]
    return _beside(panels)


def comparison_strip(
    image: np.ndarray,
    label: np.ndarray,
    predictions: tuple[np.ndarray, np.ndarray],
    label_set: LabelSet,
) -> np.ndarray:
    """Return the panels `COMPARED` beside each other, (h, w, 3) RGB uint8.

    Args:
        image: (H, W, C), 0..255.
        label: Ids (H, W); ignored pixels are black.
        predictions: Ids (H, W) of the models A and B.
        label_set: Colours.
    """
    is_ignored = (label == label_set.ignore_index)[..., None]
    shown = displayable(image)
    right = cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY)[..., None] // 2 + 96
    right = np.repeat(right, 3, axis=2)
    is_right = [prediction == label for prediction in predictions]
    right[is_right[0] & ~is_right[1]] = _ONLY_A
    right[is_right[1] & ~is_right[0]] = _ONLY_B
    maps = (color_label(ids, label_set) for ids in (label, *predictions))
    return _beside([shown, *(np.where(is_ignored, 0, panel) for panel in (*maps, right))])


def _beside(panels: list[np.ndarray]) -> np.ndarray:
    """Return panels (H, W, 3) beside each other, none of more than `FILE_SIDE_PX`."""
    height, width, _ = panels[0].shape
    factor = min(1.0, FILE_SIDE_PX / max(height, width))
    size_wh = max(1, round(width * factor)), max(1, round(height * factor))
    small = [cv2.resize(np.uint8(panel), size_wh, interpolation=cv2.INTER_AREA) for panel in panels]
    return np.hstack(small)


def page_jpeg(strip: np.ndarray) -> bytes:
    """Return a strip of five panels as a JPEG small enough for the page."""
    height, width = strip.shape[0], strip.shape[1]
    factor = min(1.0, PAGE_SIDE_PX / max(height, width / len(PANELS)))
    size_wh = max(1, round(width * factor)), max(1, round(height * factor))
    small = cv2.resize(strip, size_wh, interpolation=cv2.INTER_AREA)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 85]
    _, content = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), quality)
    return bytes(content)
