"""The files that `predict` and `infer` write for each image, and for all of them together."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from typing import TYPE_CHECKING

import numpy as np

from paddleseg_segformer.data.io import write_label
from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError, did_you_mean
from paddleseg_segformer.files import atomic_path, write_text
from paddleseg_segformer.inference.image_sources import ImageFile
from paddleseg_segformer.inference.overlay import displayable, legend, write_image
from paddleseg_segformer.inference.polygons import CocoFile, geojson, regions_of

if TYPE_CHECKING:
    from paddleseg_segformer.data.labels import LabelSet
    from paddleseg_segformer.predictor import Prediction

LABELS, OVERLAYS, PROBABILITIES, CONFIDENCE, POLYGONS, PAIRS = RESULTS = (
    "pseudo_color_prediction",
    "added_prediction",
    "probabilities",
    "confidence",
    "polygons",
    "side_by_side",
)
OUTPUTS = ("label", "overlay", "side_by_side", "confidence", "polygons", "legend")
FILM_FOLDERS = {"label": LABELS, "overlay": OVERLAYS, "side_by_side": PAIRS}  # of a video's outputs
OVERLAY_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


class ResultFiles:
    """Writes what `--outputs` and the older flags ask for.

    Args:
        args: flags of `predict`.

    Raises:
        MissingDependency: polygons are asked for, and their packages are not installed.
    """

    def __init__(self, args: Namespace) -> None:
        self.args = args
        self.folder = str(args.save_dir).rstrip("/") or "/"
        self.outputs = set(args.outputs) | ({"confidence"} if args.save_confidence else set())
        self.has_legend = False
        self.coco: CocoFile | None = None
        if "polygons" in self.outputs:
            with explained():
                import rasterio  # noqa: F401

    @property
    def needs_network(self) -> bool:
        """Tell whether writing may have windows computed: more than the labels is needed."""
        args = self.args
        is_more = args.min_confidence or args.class_confidence or args.save_probabilities
        return bool(is_more) or not self.outputs.isdisjoint({"confidence", "polygons"})

    def names_of(self, image: ImageFile) -> dict[str, str]:
        """Return the files of an image's results below the folder, by what they hold."""
        args, name = self.args, image.name.replace(os.sep, "/")
        suffix = image.path.suffix.lower()
        if args.has_png_overlays or suffix not in OVERLAY_SUFFIXES:
            suffix = ".png"
        names = {
            "label": f"{LABELS}/{name}.png",
            "overlay": f"{OVERLAYS}/{name}{suffix}",
            "side_by_side": f"{PAIRS}/{name}.png",
            "confidence": f"{CONFIDENCE}/{name}.png",
            "polygons": f"{POLYGONS}/{name}.geojson",
        }
        names = {kind: file for kind, file in names.items() if kind in self.outputs}
        if args.save_probabilities:
            names["probabilities"] = f"{PROBABILITIES}/{name}.npy"
        return names

    def save(self, prediction: Prediction, image: ImageFile) -> None:
        """Write one image's results, in sub-folders as the images are."""
        args = self.args
        if args.min_confidence or args.class_confidence:
            prediction.mark_unknown(self._limits(prediction.label_set))
        for kind, name in self.names_of(image).items():
            path = f"{self.folder}/{name}"
            if kind == "label":
                prediction.save(path)
            elif kind == "overlay":
                prediction.save_overlay(path, args.overlay_alpha, "legend" in self.outputs)
            elif kind == "side_by_side":
                overlay = prediction.overlay(args.overlay_alpha)
                write_image(path, np.hstack([displayable(prediction.image), overlay]))
            elif kind == "confidence":
                levels = np.rint(255 * prediction.confidence).astype(np.uint8)
                write_label(path, levels)
            elif kind == "polygons":
                self._save_polygons(prediction, image, path)
            else:
                with atomic_path(path) as temporary:
                    np.save(temporary, prediction.probabilities.astype(np.float16))
        if "legend" in self.outputs and not self.has_legend:
            write_image(f"{self.folder}/legend.png", legend(prediction.label_set))
            self.has_legend = True

    def finish(self) -> None:
        """Write what is of all images."""
        if self.coco:
            text = json.dumps(self.coco.to_dict())
            write_text(f"{self.folder}/{POLYGONS}/coco.json", text)

    def _save_polygons(self, prediction: Prediction, image: ImageFile, path: str) -> None:
        label_set = prediction.label_set
        self.coco = self.coco or CocoFile(label_set)
        regions = regions_of(prediction.label, label_set.num_classes, prediction.confidence)
        write_text(path, json.dumps(geojson(regions, label_set)))
        size_hw = prediction.label.shape[0], prediction.label.shape[1]
        self.coco.add(f"{image.name}{image.path.suffix}", size_hw, regions)

    def _limits(self, label_set: LabelSet) -> np.ndarray:
        """Return the least confidence of each class, (K,)."""
        limits = np.full(label_set.num_classes, self.args.min_confidence, np.float32)
        for name, limit in self.args.class_confidence:
            is_id = name.isdigit() and name not in label_set.classes
            index = int(name) if is_id else -1
            if name in label_set.classes:
                index = label_set.classes.index(name)
            if not 0 <= index < len(limits):
                raise UserError(
                    f"--class_confidence: no class '{name}'.{did_you_mean(name, label_set.classes)}"
                )
            limits[index] = limit
        return limits
