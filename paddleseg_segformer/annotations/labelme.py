"""LabelMe's JSON: a file of shapes for each image."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_segformer.annotations.classes import BACKGROUNDS
from paddleseg_segformer.annotations.drawn import (
    Drawn,
    ImageFinder,
    Object,
    Rle,
    box,
    ellipse,
    explained_content,
    number_in,
    of_mask,
    polygons,
    read_json,
    set_named,
    sorted_samples,
)
from paddleseg_segformer.annotations.source import Conclusion, Files, Options, Sample
from paddleseg_segformer.data.io import decode_label
from paddleseg_segformer.data.lists import read_list_text
from paddleseg_segformer.errors import UserError

LABELS = "labels.txt"  # LabelMe's list of the labels, if it is there
AS_POLYGON = ("polygon", "rotation", "oriented_rectangle")


class LabelMe(Drawn):
    """Shapes as LabelMe stores them beside each image; the later shape is on top.

    Classes are the labels in alphabetical order, or in that of a `labels.txt` beside the data; a
    background is the first. `__ignore__` does not count.
    """

    @classmethod
    def recognise(cls, files: Files) -> str:
        found = [path for path in files.of_kind(".json") if '"shapes"' in files.head(path)]
        return f"{len(found)} files of shapes, such as {files.relative(found[0])}" if found else ""

    def __init__(self, files: Files, options: Options) -> None:
        finder, samples = ImageFinder(files), []
        self._shapes: dict[Path, list[Mapping[str, Any]]] = {}
        self._sizes: dict[Path, tuple[int, int]] = {}
        beside = {path.with_suffix("") for path in files.rasters}
        for path in files.of_kind(".json"):
            if path.with_suffix("") not in beside and '"shapes"' not in files.head(path):
                continue
            with explained_content(path):
                content = read_json(path)
                shapes = content.get("shapes") if isinstance(content, dict) else None
                if not isinstance(shapes, list) or not all(
                    isinstance(item, dict) for item in shapes
                ):
                    raise UserError(
                        f"{path}: expected a list of shapes. Save it with LabelMe again."
                    )
                name = str(content.get("imagePath") or path.with_suffix(".jpg").name)
                image = finder.find(name, path)
                if image is None:
                    continue
                self._shapes[image] = shapes
                if content.get("imageHeight") and content.get("imageWidth"):
                    self._sizes[image] = int(content["imageHeight"]), int(content["imageWidth"])
                samples.append(Sample(image, path, set_named(path.parent.name)))
        self.samples = sorted_samples(samples, files.root)
        self.warnings = finder.warnings()
        used = {str(item.get("label")) for shapes in self._shapes.values() for item in shapes}
        names = sorted(used, key=lambda name: (name not in BACKGROUNDS, name))
        listed = files.root / LABELS
        if listed.is_file() and not options.classes:
            lines = (line.strip() for line in read_list_text(listed).decode().split("\n"))
            names = [name for name in lines if name]
            if unknown := sorted(used - {*names}):
                raise UserError(
                    f"{listed}: does not list the label '{unknown[0]}', which shapes have. Add it, "
                    "or correct the shapes."
                )
        self._raw_ids = {name: index for index, name in enumerate(names)}
        self.classes = dict(enumerate(names))
        self.conclusions = [
            Conclusion("where shapes overlap, the later one is on top", "LabelMe draws them so")
        ]

    def size_hw(self, index: int) -> tuple[int, int] | None:
        return self._sizes.get(self.samples[index].image)

    def objects(self, index: int, size_hw: tuple[int, int]) -> Iterable[Object]:
        sample = self.samples[index]
        for number, shape in enumerate(self._shapes[sample.image], 1):
            where = f"{sample.annotation}: shape {number} ({shape.get('label')})"
            yield Object(self._raw_ids[str(shape.get("label"))], _rle(shape, size_hw, where))


def _rle(shape: Mapping[str, Any], size_hw: tuple[int, int], where: str) -> Rle:
    """Return the pixels of a shape.

    Raises:
        UserError: a shape without an area, or of an unknown type.
    """
    kind, points = shape.get("shape_type") or "polygon", shape.get("points") or []
    if kind in AS_POLYGON or (kind == "rectangle" and len(points) == 4):
        return polygons([points], size_hw, where)
    if kind not in ("rectangle", "circle", "mask"):
        raise UserError(
            f"{where}: found a shape of type '{kind}', which has no area; expected polygon, "
            "rectangle, circle or mask. Delete it, or draw its outline."
        )
    if len(points) != 2 or any(len(point) != 2 for point in points):
        raise UserError(f"{where}: a {kind} of {len(points)} points, expected two.")
    (x0, y0), (x1, y1) = ([number_in(value, where) for value in point] for point in points)
    if kind == "rectangle":
        return box((x0, y0, x1, y1), size_hw, where)
    if kind == "circle":  # its centre, and a point on it
        radius = math.hypot(x1 - x0, y1 - y0)
        return ellipse((x0, y0), (radius, radius), size_hw, where)
    try:
        png = base64.b64decode(str(shape.get("mask")), validate=True)
    except binascii.Error:
        raise UserError(f"{where}: its mask is not base64. Save it with LabelMe again.") from None
    mask = decode_label(Path(where), png) != 0
    expected = (round(y1) - round(y0) + 1, round(x1) - round(x0) + 1)
    if mask.shape != expected:
        raise UserError(f"{where}: a mask of {mask.shape} in a box of {expected}. Draw it again.")
    return of_mask(np.asarray(mask), (round(y0), round(x0)), size_hw, where)
