"""The files that `predict` and `infer` write for each image, and for all of them together."""

from __future__ import annotations

import json
import logging
import os
from argparse import Namespace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paddleseg_segformer.cloud import CloudFile, is_url
from paddleseg_segformer.data.io import write_label
from paddleseg_segformer.data.rasters import Raster, open_raster
from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError, did_you_mean
from paddleseg_segformer.files import atomic_files, atomic_path, refuse_name, write_text
from paddleseg_segformer.inference.geodata import (
    Strips,
    georeference_for_vectors,
    regions_of_map,
    style,
    write_map,
    write_vectors,
)
from paddleseg_segformer.inference.image_sources import ImageFile, is_large
from paddleseg_segformer.inference.overlay import displayable, legend, write_image
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

LABELS, OVERLAYS, PROBABILITIES, CONFIDENCE, POLYGONS, PAIRS, GEODATA, STRIPS = RESULTS = (
    "pseudo_color_prediction",
    "added_prediction",
    "probabilities",
    "confidence",
    "polygons",
    "side_by_side",
    "geodata",
    ".strips",
)
OUTPUTS = (
    *("label", "overlay", "side_by_side", "confidence", "polygons", "legend"),
    *("geotiff", "vectors"),
)
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
        self.is_large = cache(is_large)  # decided once: it depends on the free memory
        self.coco: CocoFile | None = None
        if self.outputs & {"polygons", "geotiff", "vectors"}:
            with explained():
                import rasterio  # noqa: F401
        if "vectors" in self.outputs:
            with explained():
                import pyogrio  # noqa: F401
                import shapely  # noqa: F401

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
            "geotiff": f"{GEODATA}/{name}.tif",
            "vectors": f"{GEODATA}/{name}.gpkg",
        }
        if self.is_large(image.path):
            names |= {"label": f"{LABELS}/{name}.tif", "confidence": f"{CONFIDENCE}/{name}.tif"}
            del names["overlay"], names["side_by_side"]
        names = {kind: file for kind, file in names.items() if kind in self.outputs}
        if args.save_probabilities:
            names["probabilities"] = f"{PROBABILITIES}/{name}.npy"
        return names

    def check_names(self, image: ImageFile) -> None:
        """Refuse an image whose results cannot have their names.

        Raises:
            UserError: one is too long, or a device's on Windows.
        """
        for name in self.names_of(image).values():
            refuse_name(name)

    def save(self, prediction: Prediction, image: ImageFile) -> None:
        """Write one image's results, in sub-folders as the images are."""
        args = self.args
        if args.min_confidence or args.class_confidence:
            prediction.mark_unknown(self.limits(prediction.label_set))
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
                self._save_polygons(prediction, image, name)
            elif kind in ("geotiff", "vectors"):
                if kind == "geotiff" or "geotiff" not in self.outputs:
                    self._save_small_geodata(prediction, image)
            else:
                with atomic_path(path) as temporary:
                    np.save(temporary, prediction.probabilities.astype(np.float16))
        self._save_legend(prediction.label_set)

    def check_large(self, raster: Raster) -> None:
        """Refuse outputs that need a large picture as a whole; say which are left out.

        Raises:
            UserError: such an output, or one that needs something that the picture lacks.
        """
        if "vectors" in self.outputs:
            georeference_for_vectors(raster)
        if self.args.save_probabilities or is_url(self.folder):
            flag = "--save_probabilities" if self.args.save_probabilities else "a URL as --save_dir"
            raise UserError(f"{raster.path}: {flag} is for pictures that fit into memory.")
        if self.outputs & {"overlay", "side_by_side"}:
            logger.info("%s: no overlay, which is for pictures that fit into memory", raster.path)

    def save_large(
        self, image: ImageFile, raster: Raster, strips: StripFolder, label_set: LabelSet
    ) -> None:
        """Write the results of a picture that was predicted in strips."""
        names = self.names_of(image)
        if self.outputs & {"geotiff", "vectors", "polygons"}:
            self._save_geodata(image, raster, strips.read(), label_set, names.get("polygons"))
        for kind in ("label", "confidence"):
            if kind in names:
                path = Path(self.folder, names[kind])
                with atomic_files(path.parent) as temporary:
                    colors = label_set if kind == "label" else None
                    write_map(temporary / path.name, strips.read(kind), raster, colors)
        self._save_legend(label_set)

    def _save_small_geodata(self, prediction: Prediction, image: ImageFile) -> None:
        if isinstance(image.path, CloudFile) or is_url(self.folder):
            raise UserError(f"{image.path}: geodata are of local files. Download it.")
        with open_raster(image.path) as raster:
            if "vectors" in self.outputs:
                georeference_for_vectors(raster)
            strips = [(0, prediction.label)]
            self._save_geodata(image, raster, strips, prediction.label_set)

    def _save_geodata(
        self,
        image: ImageFile,
        raster: Raster,
        strips: Strips,
        label_set: LabelSet,
        polygons: str | None = None,
    ) -> None:
        """Write the label map as a GeoTIFF and what is made of it, all or nothing.

        Args:
            image: The picture.
            raster: Its file.
            strips: Of its label map.
            label_set: Names and colours.
            polygons: The file of its polygons in pixels.
        """
        path = Path(self.folder, GEODATA, image.name)
        rules = self._rules(label_set)
        with atomic_files(path.parent) as temporary:
            tiff = temporary / f"{path.name}.tif"
            write_map(tiff, strips, raster, label_set)
            regions = regions_of_map(tiff, label_set.num_classes, rules)
            if "vectors" in self.outputs:
                write_vectors(temporary, path.name, regions, raster, label_set)
            if polygons:
                found = list(regions_of_map(tiff, label_set.num_classes, rules))
                self._save_regions(image, raster.shape[:2], found, label_set, polygons)
            write_text(tiff.with_suffix(".qml"), style(label_set))

    def _save_legend(self, label_set: LabelSet) -> None:
        if "legend" in self.outputs and not self.has_legend:
            write_image(f"{self.folder}/legend.png", legend(label_set))
            self.has_legend = True

    def finish(self) -> None:
        """Write what is of all images."""
        if self.coco:
            text = json.dumps(self.coco.to_dict())
            write_text(f"{self.folder}/{POLYGONS}/coco.json", text)

    def _save_polygons(self, prediction: Prediction, image: ImageFile, name: str) -> None:
        label_set = prediction.label_set
        regions = regions_of(
            prediction.label, label_set.num_classes, prediction.confidence, self._rules(label_set)
        )
        size_hw = prediction.label.shape[0], prediction.label.shape[1]
        self._save_regions(image, size_hw, regions, label_set, name)

    def _save_regions(
        self,
        image: ImageFile,
        size_hw: tuple[int, int],
        regions: list[Region],
        label_set: LabelSet,
        name: str,
    ) -> None:
        """Write polygons in pixels to a file below the folder; keep them for COCO's file."""
        write_text(f"{self.folder}/{name}", json.dumps(geojson(regions, label_set)))
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
