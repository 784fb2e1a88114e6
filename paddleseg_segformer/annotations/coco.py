"""COCO's JSON: polygons and run lengths of objects, in one file for each set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from paddleseg_segformer.annotations.drawn import (
    Drawn,
    ImageFinder,
    Object,
    Rle,
    explained_content,
    number_in,
    polygons,
    read_json,
    set_named,
    smallest_last,
    sorted_samples,
)
from paddleseg_segformer.annotations.source import Conclusion, Files, Options, Sample
from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError

KEYS = ('"images"', '"annotations"', '"categories"')
OTHERS = ("captions_", "person_keypoints_", "image_info_")  # beside COCO's own instances
END_BYTES = 4096  # of a file, in which its keys are looked for


class Coco(Drawn):
    """Objects as COCO's `instances_*.json` lists them.

    Classes are the categories in the order of their ids. The smaller object is on top, for the
    files state no order. A crowd (`iscrowd`) has its class, and lies below every other object: it
    is a rough outline of many, or a mask, which CVAT writes as a crowd.
    """

    @classmethod
    def recognise(cls, files: Files) -> str:
        found = _annotation_files(files)
        names = ", ".join(files.relative(path) for path in found[:3])
        return (
            f"{names} {'lists' if len(found) == 1 else 'list'} images and objects" if found else ""
        )

    def __init__(self, files: Files, options: Options) -> None:
        paths = _annotation_files(files)
        by_set: dict[str, Path] = {}
        for path in paths:
            set_name = set_named(path.stem) or set_named(path.parent.name)
            first = by_set.setdefault(set_name, path)
            one, other = (first, path) if set_name else (paths[0], paths[-1])
            if one != other:
                raise UserError(
                    f"{one} and {other}: which of them is meant? Name the file in place of the "
                    "folder, or one for each set with train or val in its name."
                )
        self._names: dict[int, str] = {}  # by category id
        self._objects: dict[Path, list[Mapping[str, Any]]] = {}
        self._sizes: dict[Path, tuple[int, int]] = {}
        finder, samples = ImageFinder(files), []
        for set_name, path in by_set.items():
            with explained_content(path):
                samples += self._read(path, set_name, finder)
        self.samples = sorted_samples(samples, files.root)
        self.warnings = finder.warnings()
        self._raw_ids = {category: index for index, category in enumerate(sorted(self._names))}
        self.classes = {raw_id: self._names[id_] for id_, raw_id in self._raw_ids.items()}
        self.conclusions = [
            Conclusion("where objects overlap, the smaller one is on top", "COCO states no order"),
        ]

    def size_hw(self, index: int) -> tuple[int, int] | None:
        return self._sizes[self.samples[index].image]

    def objects(self, index: int, size_hw: tuple[int, int]) -> Iterable[Object]:
        sample = self.samples[index]
        crowds: list[Object] = []
        objects: list[Object] = []
        for item in self._objects[sample.image]:
            where = f"{sample.annotation}: annotation {item.get('id')}"
            found = Object(
                self._raw_ids[item["category_id"]], _rle(item.get("segmentation"), size_hw, where)
            )
            (crowds if item.get("iscrowd") else objects).append(found)
        return [*smallest_last(crowds), *smallest_last(objects)]

    def _read(self, path: Path, set_name: str, finder: ImageFinder) -> list[Sample]:
        """Read one file; return its samples."""
        content = read_json(path)
        parts = [content.get(key) for key in ("images", "annotations", "categories")]
        if not all(isinstance(part, list) for part in parts):
            raise UserError(f"{path}: expected lists of images, annotations and categories.")
        images, annotations, categories = parts
        if not annotations:
            raise UserError(f"{path}: lists no annotations. Annotate the images, or leave it out.")
        names = {int(item["id"]): str(item["name"]) for item in categories}
        by_id = {item["id"]: item for item in images}
        sizes = {item["id"]: (int(item["height"]), int(item["width"])) for item in images}
        files_of = {item["id"]: str(item["file_name"]) for item in images}
        if self._names and names != self._names:
            differing = sorted({*names.items()} ^ {*self._names.items()})
            raise UserError(
                f"{path}: its categories differ from those of the other file, first in "
                f"{differing[0]}. Make them equal."
            )
        self._names = names
        grouped: defaultdict[Any, list[Mapping[str, Any]]] = defaultdict(list)
        for item in annotations:
            if not isinstance(item, dict) or item.get("category_id") not in names:
                found = item.get("category_id") if isinstance(item, dict) else item
                raise UserError(f"{path}: found the category {found}, expected one of {[*names]}.")
            if item.get("image_id") not in by_id:
                raise UserError(
                    f"{path}: an annotation is of image {item.get('image_id')}, which is not "
                    "listed. Export again."
                )
            grouped[item["image_id"]].append(item)
        samples = []
        for image_id, name in files_of.items():
            if image := finder.find(name, path):
                self._objects[image] = grouped[image_id]
                self._sizes[image] = sizes[image_id]
                samples.append(Sample(image, path, set_name))
        return samples


def _annotation_files(files: Files) -> list[Path]:
    """Return the JSON files that look like COCO's, by their beginning and end."""
    found = []
    for path in files.of_kind(".json"):
        with path.open("rb") as file:
            ends = file.read(END_BYTES)
            file.seek(-min(END_BYTES, path.stat().st_size), 2)
            ends += file.read()
        if path.name.startswith(OTHERS):
            continue
        text = ends.decode("utf-8", errors="replace")
        is_other = '"shapes"' in text or '"segments_info"' in text
        if text.lstrip().startswith("{") and any(key in text for key in KEYS) and not is_other:
            found.append(path)
    return found


def _rle(segmentation: Any, size_hw: tuple[int, int], where: str) -> Rle:
    """Return the pixels of a segmentation: polygons, or run lengths in either of COCO's forms."""
    with explained():
        from pycocotools import mask as coco_mask
    if isinstance(segmentation, list) and segmentation:
        rings = []
        for flat in segmentation:
            if not isinstance(flat, list) or len(flat) % 2:
                raise UserError(f"{where}: found {str(flat)[:60]}, expected x and y in turn.")
            rings.append(list(zip(flat[::2], flat[1::2], strict=True)))
        return polygons(rings, size_hw, where)
    if isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
        counts = segmentation["counts"]
        if list(segmentation["size"]) != list(size_hw):
            raise UserError(
                f"{where}: run lengths of {segmentation['size']}, expected {list(size_hw)}."
            )
        if isinstance(counts, list):
            runs = [int(number_in(count, where)) for count in counts]
        else:
            runs = _runs(str(counts))
        if min(runs, default=0) < 0:
            raise UserError(f"{where}: found a run of {min(runs)} pixels. Export it again.")
        if sum(runs) != size_hw[0] * size_hw[1]:  # pycocotools would write beyond
            raise UserError(
                f"{where}: its run lengths are of {sum(runs)} pixels, expected "
                f"{size_hw[0] * size_hw[1]}."
            )
        return coco_mask.frPyObjects({"size": list(size_hw), "counts": runs}, *size_hw)
    if not segmentation:
        raise UserError(f"{where}: has a box and no segmentation. Draw its outline, or delete it.")
    raise UserError(f"{where}: found {str(segmentation)[:60]}, expected polygons or run lengths.")


def _runs(counts: str) -> list[int]:
    """Return the run lengths in COCO's compressed text: 5 bits a character, differences of two."""
    runs: list[int] = []
    place = 0
    while place < len(counts):
        value = shift = 0
        more = True
        while more and place < len(counts):
            code = ord(counts[place]) - 48
            value |= (code & 31) << shift
            more = bool(code & 32)
            place, shift = place + 1, shift + 5
            if not more and code & 16:
                value |= -1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
    return runs
