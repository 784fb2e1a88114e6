"""CVAT's XML for images, version 1.1."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

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
    set_named,
    sorted_samples,
)
from paddleseg_segformer.annotations.source import Color, Conclusion, Files, Options, Sample
from paddleseg_segformer.data.headers import check_pixels
from paddleseg_segformer.data.io import read_file
from paddleseg_segformer.errors import UserError, did_you_mean

WITHOUT_AREA = ("polyline", "points", "cuboid", "skeleton")
NOT_DRAWN = ("tag", "attribute")  # of the whole image, and of a shape


class Cvat(Drawn):
    """Shapes of an `annotations.xml`; the one of a higher `z_order` is on top, then the later one.

    Classes are the labels in the order of the task.
    """

    @classmethod
    def recognise(cls, files: Files) -> str:
        found = _annotation_files(files)
        return f"{files.relative(found[0])} is of CVAT" if found else ""

    def __init__(self, files: Files, options: Options) -> None:
        finder, samples = ImageFinder(files), []
        self._images: dict[Path, ElementTree.Element] = {}
        names: dict[str, Color | None] = {}
        for path in _annotation_files(files):
            tree = _read_xml(path)
            if tree.find("track") is not None:
                raise UserError(
                    f"{path}: holds tracks of a video. Export the task as 'CVAT for images 1.1'."
                )
            for label in tree.iterfind("meta//labels/label"):
                names.setdefault(label.findtext("name", ""), _color(label.findtext("color", "")))
            for image in tree.iterfind("image"):
                name = image.get("name", "")
                found = finder.find(name, path)
                if found is None:
                    continue
                if found in self._images:
                    raise UserError(f"{path}: the image {found} comes twice. Keep one of the two.")
                self._images[found] = image
                set_name = set_named(image.get("subset", "")) or set_named(name.rpartition("/")[0])
                samples.append(Sample(found, path, set_name))
        self.samples = sorted_samples(samples, files.root)
        self.warnings = finder.warnings()
        drawn = (shape for image in self._images.values() for shape in image)
        used = {shape.get("label", "") for shape in drawn if shape.tag not in NOT_DRAWN}
        if names and (unknown := sorted(used - names.keys())):
            raise UserError(
                f"{samples[0].annotation}: a shape has the label '{unknown[0]}', which the task "
                f"does not list.{did_you_mean(unknown[0], names)}"
            )
        ordered = list(names) or sorted(used)
        self._raw_ids = {name: index for index, name in enumerate(ordered)}
        self.classes = dict(enumerate(ordered))
        colors = {self._raw_ids[name]: color for name, color in names.items() if color}
        self.palette = colors if len({*colors.values()}) == len(ordered) else None
        self.conclusions = [
            Conclusion("where shapes overlap, the higher z_order is on top, then the later", "CVAT")
        ]

    def size_hw(self, index: int) -> tuple[int, int] | None:
        sample = self.samples[index]
        image = self._images[sample.image]
        where = f"{sample.annotation}: image {image.get('name')}"
        with explained_content(sample.annotation):
            height, width = (int(number_in(image.get(key), where)) for key in ("height", "width"))
        return height, width

    def objects(self, index: int, size_hw: tuple[int, int]) -> Iterable[Object]:
        sample = self.samples[index]
        image = self._images[sample.image]
        name = f"{sample.annotation}: {image.get('name')}"
        shapes = [shape for shape in image if shape.tag not in NOT_DRAWN]
        shapes.sort(key=lambda shape: number_in(shape.get("z_order", "0"), name))
        for shape in shapes:
            label = shape.get("label", "")
            where = f"{name}: {shape.tag} ({label})"
            yield Object(self._raw_ids[label], _rle(shape, size_hw, where))


def _annotation_files(files: Files) -> list[Path]:
    """Return the XML files of CVAT; those that are backups of one another are for the caller."""
    return [path for path in files.of_kind(".xml") if "<annotations>" in files.head(path)]


def _read_xml(path: Path) -> ElementTree.Element:
    content = read_file(path)
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:  # they may grow without bounds
        raise UserError(f"{path}: holds a document type, which CVAT does not write. Remove it.")
    try:
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{path}: not valid XML ({error}). Is it cut off? Export again.") from None


def _color(text: str) -> Color | None:
    try:
        red, green, blue = bytes.fromhex(text.removeprefix("#"))
    except ValueError:
        return None
    return red, green, blue


def _rle(shape: ElementTree.Element, size_hw: tuple[int, int], where: str) -> Rle:
    """Return the pixels of a shape.

    Raises:
        UserError: a shape without an area, of an unknown type, or with coordinates that are none.
    """

    def number(key: str, default: str = "") -> float:
        return number_in(shape.get(key, default), f"{where}: {key}")

    if shape.tag == "polygon":
        corners = [point.split(",") for point in shape.get("points", "").split(";")]
        ring = [[number_in(value, where) for value in corner] for corner in corners]
        return polygons([ring], size_hw, where)
    if shape.tag == "box":
        corners_xy = (number("xtl"), number("ytl"), number("xbr"), number("ybr"))
        return box(corners_xy, size_hw, where, number("rotation", "0"))
    if shape.tag == "ellipse":
        center, radii = (number("cx"), number("cy")), (number("rx"), number("ry"))
        return ellipse(center, radii, size_hw, where, number("rotation", "0"))
    if shape.tag == "mask":
        height, width = int(number("height")), int(number("width"))
        check_pixels(where, height, width)
        runs = [int(number_in(item, where)) for item in shape.get("rle", "").split(",")]
        if min(runs) < 0 or sum(runs) != height * width:
            raise UserError(
                f"{where}: its run lengths are of {sum(runs)} pixels, expected {height * width}."
            )
        mask = np.repeat(np.arange(len(runs)) % 2, runs).reshape(height, width)
        return of_mask(mask, (int(number("top")), int(number("left"))), size_hw, where)
    reason = "has no area" if shape.tag in WITHOUT_AREA else "is not known"
    raise UserError(
        f"{where}: the shape {reason}; expected polygon, box, ellipse or mask. Delete it, or draw "
        "its outline."
    )
