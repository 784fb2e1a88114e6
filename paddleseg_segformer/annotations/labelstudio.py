"""Label Studio's JSON: polygons, rectangles, ellipses and brushes, in one file of tasks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

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
    read_json,
    set_named,
    sorted_samples,
)
from paddleseg_segformer.annotations.source import Conclusion, Files, Options, Sample
from paddleseg_segformer.data.headers import check_pixels
from paddleseg_segformer.errors import UserError

UPLOAD = re.compile(r"^[0-9a-f]{6,}-")  # what Label Studio puts before the names of uploads
KINDS = ("polygonlabels", "rectanglelabels", "ellipselabels", "brushlabels")

Result = Mapping[str, Any]


class LabelStudio(Drawn):
    """The results of each task; the later region is on top.

    Classes are the labels in alphabetical order. Of a task with several annotations, the one that
    is marked as ground truth counts.
    """

    @classmethod
    def recognise(cls, files: Files) -> str:
        found = _annotation_files(files)
        return f"{files.relative(found[0])} lists tasks with results" if found else ""

    def __init__(self, files: Files, options: Options) -> None:
        finder, samples = ImageFinder(files), []
        self._results: dict[Path, list[Result]] = {}
        for path in _annotation_files(files):
            with explained_content(path):
                tasks = read_json(path)
                if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
                    raise UserError(f"{path}: expected a list of tasks. Export as JSON.")
                for task in tasks:
                    results = _results(task, path)
                    name = _image_name(task, path)
                    image = finder.find(name, path, UPLOAD.sub("", name))
                    if image is not None and results is not None:
                        self._results[image] = results
                        samples.append(Sample(image, path, set_named(path.stem)))
        self.samples = sorted_samples(samples, files.root)
        self.warnings = finder.warnings()
        with explained_content(files.root):
            names = sorted({_label(item) for found in self._results.values() for item in found})
        self._raw_ids = {name: index for index, name in enumerate(names)}
        self.classes = dict(enumerate(names))
        self.conclusions = [
            Conclusion("where regions overlap, the later one is on top", "Label Studio")
        ]

    def size_hw(self, index: int) -> tuple[int, int] | None:
        sample = self.samples[index]
        with explained_content(sample.annotation):
            found = {
                (int(item["original_height"]), int(item["original_width"]))
                for item in self._results[sample.image]
                if item.get("original_height") and item.get("original_width")
            }
        if len(found) > 1:
            raise UserError(f"{sample.annotation}: {sample.image} has regions of {sorted(found)}.")
        return found.pop() if found else None

    def objects(self, index: int, size_hw: tuple[int, int]) -> Iterable[Object]:
        sample = self.samples[index]
        for item in self._results[sample.image]:
            where = f"{sample.annotation}: region {item.get('id')} of {sample.image.name}"
            yield Object(self._raw_ids[_label(item)], _rle(item, size_hw, where))


def _annotation_files(files: Files) -> list[Path]:
    found = []
    for path in files.of_kind(".json"):
        head = files.head(path)
        if head.lstrip().startswith("[") and ('"annotations"' in head or '"completions"' in head):
            found.append(path)
        elif re.search(r'"(polygonlabels|brushlabels)"', head) and '"original_width"' in head:
            raise UserError(
                f"{path}: Label Studio's JSON-MIN, expected its JSON, which holds all. Export "
                "as JSON."
            )
    return found


def _results(task: Mapping[str, Any], path: Path) -> list[Result] | None:
    """Return the regions of a task; None where nobody annotated it.

    Raises:
        UserError: several annotations, none or several of which are marked as ground truth.
    """
    made = [item for item in task.get("annotations", []) if not item.get("was_cancelled")]
    true = [item for item in made if item.get("ground_truth")]
    chosen = made if len(made) < 2 else true
    if made and len(chosen) != 1:
        raise UserError(
            f"{path}: task {task.get('id')} has {len(made)} annotations, expected one, or one that "
            "is marked as ground truth. Mark it in Label Studio."
        )
    if not chosen:
        return None
    results = [item for item in chosen[0].get("result", []) if _kind(item) is not None]
    others = {str(item.get("type")) for item in chosen[0].get("result", [])} - {
        "choices",
        "textarea",
        "rating",
        "relation",
        *(str(item.get("type")) for item in results),
    }
    if others:
        raise UserError(
            f"{path}: task {task.get('id')} has regions of type '{min(others)}', expected "
            f"{', '.join(KINDS)}. Delete them, or draw outlines."
        )
    return results


def _kind(item: Result) -> str | None:
    """Return which of `KINDS` a result is of."""
    value = item.get("value")
    return next((k for k in KINDS if isinstance(value, dict) and value.get(k)), None)


def _label(item: Result) -> str:
    kind = _kind(item)
    assert kind is not None
    labels = item["value"][kind]
    if not isinstance(labels, list) or len(labels) != 1:
        raise UserError(f"region {item.get('id')}: has the labels {labels}, expected one.")
    return str(labels[0])


def _image_name(task: Mapping[str, Any], path: Path) -> str:
    """Return the path of a task's image: the one entry of its data that names an image."""
    data = task.get("data")
    texts = [v for v in data.values() if isinstance(v, str)] if isinstance(data, dict) else []
    names = []
    for text in texts:
        address = urlsplit(text)
        inner = parse_qs(address.query).get("d", [""])[0]  # of local files
        name = unquote(inner or address.path)
        if re.search(r"\.(jpe?g|png|bmp|webp|tiff?)$", name, re.IGNORECASE):
            names.append(name.lstrip("/"))
    if len(names) != 1:
        raise UserError(
            f"{path}: task {task.get('id')} names {len(names)} images in its data, expected one."
        )
    return str(PurePosixPath(names[0]))


def _rle(item: Result, size_hw: tuple[int, int], where: str) -> Rle:
    """Return the pixels of a region, whose coordinates are percents of the image's sides."""
    if item.get("image_rotation"):
        raise UserError(
            f"{where}: drawn on an image that was turned by {item['image_rotation']} degrees in "
            "Label Studio. Turn the image file instead, and draw it again."
        )
    value, kind = item["value"], _kind(item)
    height, width = size_hw

    def px(key: str, side: int) -> float:
        return number_in(value.get(key), f"{where}: {key}") / 100 * side

    rotation = number_in(value.get("rotation") or 0, where)
    if kind == "polygonlabels":
        points = [[number_in(v, where) for v in point] for point in value.get("points", [])]
        return polygons([[(x / 100 * width, y / 100 * height) for x, y in points]], size_hw, where)
    if kind == "rectanglelabels":
        x, y = px("x", width), px("y", height)
        corners = (x, y, x + px("width", width), y + px("height", height))
        return box(corners, size_hw, where, rotation, pivot=(x, y))
    if kind == "ellipselabels":
        center = (px("x", width), px("y", height))
        radii = (px("radiusX", width), px("radiusY", height))
        return ellipse(center, radii, size_hw, where, rotation)
    if value.get("format") != "rle" or not isinstance(value.get("rle"), list):
        raise UserError(f"{where}: a brush without run lengths ('rle'). Export as JSON.")
    alpha = decode_brush(value["rle"], 4 * height * width, where).reshape(height, width, 4)[:, :, 3]
    return of_mask(alpha > 0, (0, 0), size_hw, where)


def decode_brush(codes: list[int], count: int, where: str) -> np.ndarray:
    """Return the bytes (count,) that a brush's run lengths stand for: RGBA, pixel by pixel.

    The stream is: how many words follow (32 bits), bits of a word less one (5), bits less one of
    four kinds of lengths (4 each); then runs of a flag (1), kind of length (2), length less one,
    and one word, which is repeated, or as many words as the length says.

    Raises:
        UserError: the stream is damaged, or of another number of bytes.

    Source: the format of github.com/thi-ng/umbrella, packages/rle-pack, which Label Studio uses.
    """
    check_pixels(where, count // 4, 1)
    try:
        bits = np.unpackbits(np.array(codes, np.uint8))
    except (OverflowError, TypeError, ValueError):
        raise UserError(f"{where}: its run lengths are no bytes. Export again.") from None
    place = 0

    def read(size: int) -> int:
        nonlocal place
        if place + size > len(bits):
            raise UserError(f"{where}: its run lengths are cut off. Export again.")
        word = int.from_bytes(np.packbits(bits[place : place + size]).tobytes(), "big")
        place += size
        return word >> (-size % 8)

    total, word_bits = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    if total != count or word_bits != 8:
        raise UserError(
            f"{where}: a brush of {total} words of {word_bits} bits, expected {count} of 8 (RGBA "
            "of the image). Export again."
        )
    values = np.zeros(count, np.uint8)
    done = 0
    while done < count:
        is_repeated = read(1)
        length = read(sizes[read(2)]) + 1
        if done + length > count:
            raise UserError(f"{where}: its run lengths are too long. Export again.")
        if is_repeated:
            values[done : done + length] = read(8)
        elif place + 8 * length > len(bits):
            raise UserError(f"{where}: its run lengths are cut off. Export again.")
        else:
            values[done : done + length] = np.packbits(bits[place : place + 8 * length])
            place += 8 * length
        done += length
    return values
