"""The files that `predict` and `infer` write for each image, and for all of them together."""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paddleseg_segformer.data.io import write_label
from paddleseg_segformer.data.rasters import Raster, open_raster
from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError, did_you_mean
from paddleseg_segformer.files import atomic_files, atomic_path, write_text
from paddleseg_segformer.inference.geodata import (
    Strips,
    georeference_for_vectors,
    regions_of_map,
    style,
    write_map,
    write_vectors,
)
from paddleseg_segformer.inference.image_sources import ImageFile
from paddleseg_segformer.inference.overlay import legend, write_image
from paddleseg_segformer.inference.polygons import (
    CocoFile,
    PolygonRules,
    Region,
    geojson,
    regions_of,
)
from paddleseg_segformer.inference.strips import StripFolder

if TYPE_CHECKING:
    from paddleseg_segformer.data.labels import LabelSet
    from paddleseg_segformer.predictor import Prediction

logger = logging.getLogger(__name__)

LABELS, OVERLAYS, PROBABILITIES, CONFIDENCE, POLYGONS, GEODATA, STRIPS = RESULTS = (
    "pseudo_color_prediction",
    "added_prediction",
    "probabilities",
    "confidence",
    "polygons",
    "geodata",
    ".strips",
)
OUTPUTS = ("label", "overlay", "confidence", "polygons", "legend", "geotiff", "vectors")
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
        self.folder = Path(args.save_dir)
        self.outputs = set(args.outputs) | ({"confidence"} if args.save_confidence else set())
        self.has_legend = False
        self.coco: CocoFile | None = None
        if self.outputs & {"polygons", "geotiff", "vectors"}:
            with explained():
                import rasterio  # noqa: F401
        if "vectors" in self.outputs:
            with explained():
                import pyogrio  # noqa: F401
                import shapely  # noqa: F401

    def save(self, prediction: Prediction, image: ImageFile) -> None:
        """Write one image's results, in sub-folders as the images are."""
        args, name = self.args, image.name
        if args.min_confidence or args.class_confidence:
            prediction.mark_unknown(self.limits(prediction.label_set))
        if "label" in self.outputs:
            prediction.save(self.folder / LABELS / f"{name}.png")
        if "overlay" in self.outputs:
            suffix = image.path.suffix.lower()
            if args.has_png_overlays or suffix not in OVERLAY_SUFFIXES:
                suffix = ".png"
            path = self.folder / OVERLAYS / f"{name}{suffix}"
            prediction.save_overlay(path, args.overlay_alpha, "legend" in self.outputs)
        if "confidence" in self.outputs:
            levels = np.rint(255 * prediction.confidence).astype(np.uint8)
            write_label(self.folder / CONFIDENCE / f"{name}.png", levels)
        if "polygons" in self.outputs:
            self._save_polygons(prediction, image)
        if self.outputs & {"geotiff", "vectors"}:
            with open_raster(image.path) as raster:
                self.check_geodata(raster)
                strips = [(0, prediction.label)]
                self._save_geodata(image, raster, strips, prediction.label_set, GEODATA)
        self._save_legend(prediction.label_set)
        if args.save_probabilities:
            with atomic_path(self.folder / PROBABILITIES / f"{name}.npy") as temporary:
                np.save(temporary, prediction.probabilities.astype(np.float16))

    def check_geodata(self, raster: Raster) -> None:
        """Refuse a picture that lacks what an output needs, before it is predicted."""
        if "vectors" in self.outputs:
            georeference_for_vectors(raster)

    def check_large(self, raster: Raster) -> None:
        """Refuse outputs that need a large picture as a whole; say which are left out."""
        self.check_geodata(raster)
        if self.args.save_probabilities:
            raise UserError(
                f"{raster.path}: --save_probabilities is for pictures that fit into memory. Leave "
                "it out."
            )
        if "overlay" in self.outputs:
            logger.info("%s: no overlay, which is for pictures that fit into memory", raster.path)

    def save_large(
        self, image: ImageFile, raster: Raster, strips: StripFolder, label_set: LabelSet
    ) -> None:
        """Write the results of a picture that was predicted in strips."""
        is_geodata = bool(self.outputs & {"geotiff", "vectors"})
        if is_geodata or self.outputs & {"label", "polygons"}:
            folder = GEODATA if is_geodata else LABELS
            self._save_geodata(image, raster, strips.read(), label_set, folder)
        if "confidence" in self.outputs:
            path = self.folder / CONFIDENCE / f"{image.name}.tif"
            with atomic_files(path.parent) as temporary:
                write_map(temporary / path.name, strips.read("confidence"), raster, None)
        self._save_legend(label_set)

    def _save_geodata(
        self, image: ImageFile, raster: Raster, strips: Strips, label_set: LabelSet, folder: str
    ) -> None:
        """Write the label map as a GeoTIFF and what is made of it, all or nothing."""
        path = self.folder / folder / image.name
        rules = self._rules(label_set)
        with atomic_files(path.parent) as temporary:
            tiff = temporary / f"{path.name}.tif"
            write_map(tiff, strips, raster, label_set)
            if "vectors" in self.outputs:
                regions = regions_of_map(tiff, label_set.num_classes, rules)
                write_vectors(temporary, path.name, regions, raster, label_set)
            if "polygons" in self.outputs and isinstance(strips, Iterator):  # of a large picture
                found = list(regions_of_map(tiff, label_set.num_classes, rules))
                self._save_regions(image, raster.shape[:2], found, label_set)
            write_text(tiff.with_suffix(".qml"), style(label_set))

    def _save_legend(self, label_set: LabelSet) -> None:
        if "legend" in self.outputs and not self.has_legend:
            write_image(self.folder / "legend.png", legend(label_set))
            self.has_legend = True

    def finish(self) -> None:
        """Write what is of all images."""
        if self.coco:
            text = json.dumps(self.coco.to_dict())
            write_text(self.folder / POLYGONS / "coco.json", text)

    def _save_polygons(self, prediction: Prediction, image: ImageFile) -> None:
        label_set = prediction.label_set
        regions = regions_of(
            prediction.label, label_set.num_classes, prediction.confidence, self._rules(label_set)
        )
        size_hw = prediction.label.shape[0], prediction.label.shape[1]
        self._save_regions(image, size_hw, regions, label_set)

    def _save_regions(
        self,
        image: ImageFile,
        size_hw: tuple[int, int],
        regions: list[Region],
        label_set: LabelSet,
    ) -> None:
        text = json.dumps(geojson(regions, label_set))
        write_text(self.folder / POLYGONS / f"{image.name}.geojson", text)
        self.coco = self.coco or CocoFile(label_set)
        self.coco.add(f"{image.name}{image.path.suffix}", size_hw, regions)

    def _rules(self, label_set: LabelSet) -> PolygonRules:
        """Return which regions are written as polygons."""
        names = self.args.polygon_classes
        ids = frozenset(_class_id(name, label_set, "--polygon_classes") for name in names)
        return PolygonRules(self.args.polygon_min_px, self.args.polygon_simplify_px, ids or None)

    def limits(self, label_set: LabelSet) -> np.ndarray:
        """Return the least confidence of each class, (K,)."""
        limits = np.full(label_set.num_classes, self.args.min_confidence, np.float32)
        for name, limit in self.args.class_confidence:
            limits[_class_id(name, label_set, "--class_confidence")] = limit
        return limits


def _class_id(name: str, label_set: LabelSet, flag: str) -> int:
    """Return the id of a class by its name, or by the id itself."""
    if name in label_set.classes:
        return label_set.classes.index(name)
    if not name.isdigit() or int(name) >= label_set.num_classes:
        raise UserError(f"{flag}: no class '{name}'.{did_you_mean(name, label_set.classes)}")
    return int(name)
