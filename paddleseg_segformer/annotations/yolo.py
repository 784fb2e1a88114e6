"""YOLO's segmentation labels: a text file of polygons for each image, and a data.yaml."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

from paddleseg_segformer.annotations.drawn import (
    Drawn,
    ImageFinder,
    Object,
    number_in,
    polygons,
    smallest_last,
    sorted_samples,
)
from paddleseg_segformer.annotations.source import SETS, Conclusion, Files, Options, Sample
from paddleseg_segformer.data.io import IMAGE_SUFFIXES
from paddleseg_segformer.data.labels import class_names
from paddleseg_segformer.data.lists import read_list_text, walk_files
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.yaml_files import read_yaml

NAMES = "classes.txt"


class Yolo(Drawn):
    """Polygons in shares of the image's sides; the smaller one is on top, as Ultralytics has it.

    An image without a label file, or with an empty one, holds no object. Classes are the `names` of
    a `data.yaml`, or without one the lines of `classes.txt`, as Label Studio exports them.
    """

    @classmethod
    def recognise(cls, files: Files) -> str:
        if found := _data_files(files):
            return f"{files.relative(found[0])} names classes and sets"
        return f"there is a {NAMES}, and text files in labels/" if _has_names(files) else ""

    def __init__(self, files: Files, options: Options) -> None:
        found = _data_files(files)
        if not found and _has_names(files):
            self._yaml, content = files.root / NAMES, {}
            content["names"] = class_names(str(self._yaml))
        elif len(found) == 1:
            [self._yaml] = found
            content = read_yaml(self._yaml)
        else:
            listed = " and ".join(map(str, found[:2])) or "none"
            raise UserError(
                f"{files.root}: expected one data.yaml with names, found {listed}. Name the file "
                "in place of the folder."
            )
        self.classes = _names(content["names"], self._yaml)
        samples, num_unlabelled, finder = [], 0, ImageFinder(files)
        images = {name: _images(content, name, self._yaml, finder) for name in SETS}
        if not any(content.get(name) for name in SETS):
            images = {"": files.rasters}
        for one, other in combinations(images, 2):
            if both := sorted({*images[one]} & {*images[other]}):
                raise UserError(
                    f"{self._yaml}: {both[0]} is in {one} and in {other}. Remove it from one of "
                    "the two, or leave val out to have the images split."
                )
        for set_name, paths in images.items():
            for image in paths:
                label = _label_path(image)
                num_unlabelled += label is None
                samples.append(Sample(image, label, set_name))
        if not any(sample.annotation for sample in samples):
            raise UserError(
                f"{self._yaml}: none of the {len(samples)} images has a label file. They are "
                "expected in labels/ beside images/, with the images' names and .txt."
            )
        self.samples = sorted_samples(samples, self._yaml)
        self.warnings = finder.warnings()
        if num_unlabelled:
            self.warnings.append(f"{num_unlabelled} images without a label file hold no object")
        self.conclusions = [
            Conclusion("where objects overlap, the smaller one is on top", "YOLO states no order")
        ]

    def objects(self, index: int, size_hw: tuple[int, int]) -> Iterable[Object]:
        path = self.samples[index].annotation
        if path is None or not path.stat().st_size:
            return []
        found = []
        height, width = size_hw
        for number, line in enumerate(read_list_text(path).decode().split("\n"), 1):
            words = line.split()
            if not words:
                continue
            where = f"{path}, line {number}"
            class_id, *values = (number_in(word, where) for word in words)
            if class_id not in self.classes:
                raise UserError(
                    f"{where}: found the class {words[0]}, expected 0 to {len(self.classes) - 1} "
                    f"({self._yaml})."
                )
            if len(values) == 4:
                raise UserError(
                    f"{where}: a box (x, y, width, height), expected the corners of a polygon. "
                    "Draw outlines, or export as segmentation."
                )
            if len(values) % 2 or not all(-1 <= value <= 2 for value in values):
                raise UserError(
                    f"{where}: expected x and y in turn, in shares of the image's sides."
                )
            corners = zip(values[::2], values[1::2], strict=True)
            ring = [(x * width, y * height) for x, y in corners]
            found.append(Object(int(class_id), polygons([ring], size_hw, where)))
        return smallest_last(found)


def _data_files(files: Files) -> list[Path]:
    """Return the YAML files that hold `names`, and sets or `nc`, the number of classes."""
    found = []
    for path in files.of_kind(".yaml", ".yml"):
        lines = files.head(path, 1 << 20).split("\n")
        keys = {line.partition(":")[0] for line in lines}
        if "names" in keys and keys & {"train", "val", "nc"}:
            found.append(path)
    return found


def _names(content: Any, path: Path) -> dict[int, str]:
    """Return the names by id."""
    pairs = list(content.items() if isinstance(content, dict) else enumerate(content or []))
    if not pairs or {key for key, _ in pairs} != {*range(len(pairs))}:
        raise UserError(
            f"{path}: names: found {str(content)[:60]}, expected ids from 0 with names."
        )
    return {int(key): str(name) for key, name in sorted(pairs)}


def _has_names(files: Files) -> bool:
    """Tell whether there are label files, and `classes.txt` in the place of a data.yaml."""
    texts = (files.relative(path) for path in files.of_kind(".txt"))
    return (files.root / NAMES).is_file() and any("labels/" in text for text in texts)


def _images(content: dict[str, Any], set_name: str, path: Path, finder: ImageFinder) -> list[Path]:
    """Return the images of a set: of folders, or listed in text files."""
    stated = content.get(set_name) or []
    images: list[Path] = []
    for item in stated if isinstance(stated, list) else [stated]:
        root = path.parent / str(content.get("path") or "")
        places = [root / str(item), path.parent / str(item), path.parent / str(item).lstrip("./")]
        place = next((place for place in places if place.exists()), None)
        if place is None:
            if set_name == "test":  # often named, and not delivered
                continue
            raise UserError(f"{path}: {set_name}: there is no {places[0]}. Correct the path.")
        if place.is_dir():
            images += [p for p in walk_files(place) if p.suffix.lower() in IMAGE_SUFFIXES]
        else:
            lines = read_list_text(place).decode().split("\n")
            found = (finder.find(line.strip(), place) for line in lines if line.strip())
            images += [image for image in found if image]
    return images


def _label_path(image: Path) -> Path | None:
    """Return the label file of an image: the last folder `images` in its path becomes `labels`."""
    parts = list(image.parts)
    if "images" in parts:
        place = len(parts) - 1 - parts[::-1].index("images")
        parts[place] = "labels"
    label = Path(*parts).with_suffix(".txt")
    return label if label.is_file() else None
