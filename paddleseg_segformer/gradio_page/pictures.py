"""What the page shows of a prediction: pictures, the classes in it, the time it took."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import cv2
import numpy as np

from paddleseg_segformer.data.labels import LabelSet
from paddleseg_segformer.inference.overlay import displayable, overlay
from paddleseg_segformer.predictor import Prediction

VIEWS = ("Overlay", "Confidence")


class PresentClass(NamedTuple):
    """A class that occurs in a label map."""

    class_id: int
    name: str
    color: tuple[int, int, int]  # RGB
    share: float  # of the pixels

    @property
    def title(self) -> str:
        """Return name and share for the page."""
        share = f"{self.share:.1%}" if self.share >= 0.001 else "< 0.1%"
        return f"{self.name}  {share}"


def present_classes(label: np.ndarray, label_set: LabelSet) -> list[PresentClass]:
    """Return the classes that occur in a label map (H, W), the largest share first."""
    ids, counts = np.unique(label, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [
        PresentClass(
            int(ids[index]),
            label_set.classes[ids[index]],
            label_set.palette[ids[index]],
            counts[index] / label.size,
        )
        for index in order
    ]


def draw_overlay(prediction: Prediction, shown: Collection[int], opacity: float) -> np.ndarray:
    """Return the image with the colours of the classes `shown` over it, (H, W, 3) RGB uint8."""
    colored = overlay(prediction.image, prediction.label, prediction.label_set, opacity)
    is_shown = np.isin(prediction.label, list(shown))
    return np.where(is_shown[:, :, None], colored, displayable(prediction.image))


def draw_confidence(prediction: Prediction, opacity: float) -> np.ndarray:
    """Return the image with the confidence over it, dark to bright for 0 to 1, (H, W, 3) RGB."""
    levels = np.rint(255 * prediction.confidence).astype(np.uint8)
    scale = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    return cv2.addWeighted(displayable(prediction.image), 1 - opacity, scale, opacity, 0)


def draw(
    prediction: Prediction, view: str, shown: Collection[int], opacity_percent: float
) -> np.ndarray:
    """Return one of the `VIEWS`, (H, W, 3) RGB uint8."""
    if view == "Confidence":
        return draw_confidence(prediction, opacity_percent / 100)
    return draw_overlay(prediction, shown, opacity_percent / 100)


def swatches(classes: list[PresentClass], list_id: str) -> str:
    """Return style rules that put the classes' colours before the entries of a list of switches."""
    rules = [
        f"#{list_id} label:nth-of-type({index + 1})::before {{background: rgb{item.color}}}"
        for index, item in enumerate(classes)
    ]
    return f"<style>{' '.join(rules)}</style>"


def timings_table(ms: Mapping[str, float], size_hw: tuple[int, int], engine: str) -> str:
    """Return engine, size and the time of each step as HTML."""
    rows = [(step, f"{value:.0f} ms") for step, value in ms.items()]
    rows.append(("size", f"{size_hw[0]} x {size_hw[1]} px"))
    rows.append(("engine", engine))
    cells = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)
    return f'<dl class="timings">{cells}</dl>'
