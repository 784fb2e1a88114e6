"""What the page shows: example images; of a prediction pictures, classes and time."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from paddleseg_segformer.data.labels import LabelSet
from paddleseg_segformer.inference.image_sources import find_images
from paddleseg_segformer.inference.overlay import displayable, overlay, write_image
from paddleseg_segformer.predictor import Prediction

VIEWS = ("Overlay", "Confidence")
MAX_EXAMPLES = 8
DRAWN_SEEDS = (3, 5, 8)
DRAWN_SIZE_HW = (256, 512)


def example_images(folder: Path | None) -> list[Path]:
    """Return the first images of a folder, or without one drawn street scenes.

    Raises:
        UserError: no such folder, or no image in it.
    """
    if folder is not None:
        return [Path(image.path) for image in find_images(str(folder))[:MAX_EXAMPLES]]
    from paddleseg_segformer.street_scenes.dataset import render_scene

    folder = Path(tempfile.mkdtemp(prefix="street_scenes_"))
    paths = [folder / f"street_scene_{seed}.png" for seed in DRAWN_SEEDS]
    for path, seed in zip(paths, DRAWN_SEEDS, strict=True):
        write_image(path, render_scene(seed, DRAWN_SIZE_HW)[0])
    return paths


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


def draw(
    prediction: Prediction, view: str, shown: Collection[int], opacity_percent: float
) -> np.ndarray:
    """Return one of the `VIEWS`, (H, W, 3) RGB uint8.

    "Overlay" has the colours of the classes `shown` over the image, "Confidence" the confidence,
    dark to bright for 0 to 1.
    """
    image, opacity = displayable(prediction.image), opacity_percent / 100
    if view == "Confidence":
        levels = np.rint(255 * prediction.confidence).astype(np.uint8)
        scale = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
        return cv2.addWeighted(image, 1 - opacity, scale, opacity, 0)
    colored = overlay(prediction.image, prediction.label, prediction.label_set, opacity)
    return np.where(np.isin(prediction.label, list(shown))[:, :, None], colored, image)


def swatches(classes: list[PresentClass], list_id: str) -> str:
    """Return the CSS that shows each class's colour beside its checkbox."""
    rules = [
        f"#{list_id} label:nth-of-type({index + 1})::before {{background: rgb{item.color}}}"
        for index, item in enumerate(classes)
    ]
    return f"<style>{' '.join(rules)}</style>"


def timings_table(ms: Mapping[str, float], size_hw: tuple[int, int], backend: str) -> str:
    """Return backend, size and the time of each step as HTML."""
    rows = [(step, f"{value:.0f} ms") for step, value in ms.items()]
    rows.append(("size", f"{size_hw[0]} x {size_hw[1]} px"))
    rows.append(("backend", backend))
    cells = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)
    return f'<dl class="timings">{cells}</dl>'
