"""Objects that were drawn over images (polygons, boxes, ellipses, masks), as maps of raw ids.

A point (x, y) is in pixels from the image's upper left corner, so that the centre of the first
pixel is (0.5, 0.5). A pixel belongs to a polygon where its centre lies within it, as pycocotools
finds it, which is to about a tenth of a pixel; a polygon that crosses itself is filled by the
even-odd rule. Where objects overlap, the later one is on top, or the smaller one: each form says.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from paddleseg_segformer.annotations.source import (
    NOTHING,
    SETS,
    Annotations,
    Files,
    Sample,
)
from paddleseg_segformer.data.headers import check_pixels
from paddleseg_segformer.data.io import read_file
from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError

MAX_OUTLINE_PX = 1 << 24  # of a polygon, for each of which pycocotools takes 80 bytes

Points = Sequence[Sequence[float]]
Rle = dict[str, Any]  # COCO's run lengths: {"size": [H, W], "counts": bytes}


class Object(NamedTuple):
    """One object of an image: its raw id, and its pixels."""

    raw_id: int
    rle: Rle


class Drawn(Annotations):
    """A form whose annotations are objects; subclasses give those of each sample."""

    is_drawn = True

    def objects(self, index: int, size_hw: tuple[int, int]) -> Iterable[Object]:
        """Return the objects of a sample, the lowest first."""
        raise NotImplementedError

    def label(self, index: int, size_hw: tuple[int, int]) -> np.ndarray:
        with explained():
            from pycocotools import mask as coco_mask
        raw = np.full(size_hw, NOTHING, np.int32)
        with explained_content(self.samples[index].annotation):
            for raw_id, rle in self.objects(index, size_hw):
                raw[coco_mask.decode(rle).view(bool)] = raw_id
        return raw


def smallest_last(objects: Iterable[Object]) -> list[Object]:
    """Return objects by their number of pixels, the smallest last, and so on top."""
    with explained():
        from pycocotools import mask as coco_mask
    return sorted(objects, key=lambda item: -int(coco_mask.area(item.rle)))


def polygons(rings: Sequence[Points], size_hw: tuple[int, int], where: str) -> Rle:
    """Return the pixels within any of some polygons.

    Args:
        rings: Corners (x, y) of each, three or more.
        where: For messages.

    Raises:
        UserError: fewer corners, or coordinates that are no numbers.
    """
    flat = []
    for ring in rings:
        try:
            corners = np.asarray(ring, np.float64)
        except (TypeError, ValueError):
            corners = np.empty(0)
        if corners.ndim != 2 or corners.shape[1:] != (2,) or not np.isfinite(corners).all():
            raise UserError(f"{where}: found corners {str(ring)[:60]}, expected pairs of numbers.")
        if len(corners) < 3:
            raise UserError(
                f"{where}: found a polygon of {len(corners)} corners, expected three or more. "
                "Delete it, or draw it again."
            )
        limit = 16 * max(size_hw)
        if np.abs(corners).max() > limit:
            raise UserError(f"{where}: found a corner {limit} px or more outside the image.")
        outline_px = np.abs(np.diff(corners, axis=0, append=corners[:1])).max(axis=1).sum()
        if outline_px > MAX_OUTLINE_PX:
            raise UserError(
                f"{where}: found a polygon of {len(corners)} corners whose outline is "
                f"{outline_px:.0f} px long, expected at most {MAX_OUTLINE_PX}. Draw it again."
            )
        flat.append(corners.ravel().tolist())
    with explained():
        from pycocotools import mask as coco_mask
    check_pixels(where, *size_hw)
    return coco_mask.merge(coco_mask.frPyObjects(flat, *size_hw))


def box(
    corners: tuple[float, float, float, float],
    size_hw: tuple[int, int],
    where: str,
    rotation: float = 0,
    pivot: tuple[float, float] | None = None,
) -> Rle:
    """Return the pixels of a box.

    Args:
        corners: x and y of two opposite ones.
        rotation: In degrees, clockwise as the image is seen.
        pivot: Point (x, y) that it is turned about; by default its centre.
    """
    x0, y0, x1, y1 = corners
    ring = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float64)
    return polygons([_turned(ring, rotation, pivot).tolist()], size_hw, where)


def ellipse(
    center: tuple[float, float],
    radii: tuple[float, float],
    size_hw: tuple[int, int],
    where: str,
    rotation: float = 0,
) -> Rle:
    """Return the pixels whose centres lie within an ellipse.

    Args:
        center: (x, y).
        radii: Along x and y, before the rotation.
        rotation: In degrees, clockwise as the image is seen.
    """
    if not all(map(math.isfinite, (*center, *radii, rotation))) or min(radii) <= 0:
        raise UserError(f"{where}: found an ellipse of radii {radii}, expected some above 0.")
    angle = math.radians(rotation)
    rows, columns = np.ogrid[: size_hw[0], : size_hw[1]]
    x, y = columns + 0.5 - center[0], rows + 0.5 - center[1]
    along = (x * math.cos(angle) + y * math.sin(angle)) / radii[0]
    across = (y * math.cos(angle) - x * math.sin(angle)) / radii[1]
    return of_mask(along**2 + across**2 <= 1, (0, 0), size_hw, where)


def of_mask(
    mask: np.ndarray, top_left: tuple[int, int], size_hw: tuple[int, int], where: str
) -> Rle:
    """Return the pixels of a mask (h, w) whose first pixel is at (row, column) of the image.

    Raises:
        UserError: a part of it lies outside the image.
    """
    with explained():
        from pycocotools import mask as coco_mask
    top, left = top_left
    height, width = mask.shape
    if top < 0 or left < 0 or top + height > size_hw[0] or left + width > size_hw[1]:
        raise UserError(
            f"{where}: a mask of {height}x{width} (height x width) at row {top}, column {left} of "
            f"an image of {size_hw[0]}x{size_hw[1]}. Draw it again."
        )
    whole = np.zeros(size_hw, np.uint8, order="F")
    whole[top : top + height, left : left + width] = mask
    return coco_mask.encode(whole)


def _turned(
    points: np.ndarray, degrees: float, pivot: tuple[float, float] | None = None
) -> np.ndarray:
    angle, middle = math.radians(degrees), points.mean(axis=0) if pivot is None else pivot
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return (points - middle) @ turn + middle


# --- files


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        UserError: it is empty, cut off, or not JSON.
    """
    try:
        return json.loads(read_file(path))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: not valid JSON ({error}). Is it cut off? Export it again."
        ) from None


@contextmanager
def explained_content(where: Path | None) -> Iterator[None]:
    """Turn what damaged content of an annotation file causes into one line that names the file."""
    try:
        yield
    except UserError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"[:120]
        raise UserError(
            f"{where}: its content is not as annotation tools write it ({reason}). Export it again."
        ) from error


def number_in(value: Any, where: str) -> float:
    """Return a number of an annotation file.

    Raises:
        UserError: it is none.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where}: found {str(value)[:40]!r}, expected a number.")
    return number


class ImageFinder:
    """Finds the images that annotation files name."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.missing: list[str] = []

    @cached_property
    def _by_name(self) -> Mapping[str, list[Path]]:
        found: defaultdict[str, list[Path]] = defaultdict(list)
        for path in self._files.rasters:
            found[path.name].append(path)
        return found

    def find(self, name: str, annotation: Path, alternative: str = "") -> Path | None:
        """Return the image that an annotation file calls `name`, whose folders may have changed.

        Images that are not there are noted in `missing`.

        Args:
            alternative: Another name to look for, where there is no such image.

        Raises:
            UserError: several images fit; two are named.
        """
        parts = PurePosixPath(name.replace("\\", "/")).parts
        beside = annotation.parent.joinpath(*parts)
        if beside.is_file():
            return beside
        paths = self._by_name.get(parts[-1] if parts else "", [])
        for length in range(len(parts), 0, -1):  # the most folders that fit
            end = "/".join(part for part in parts[-length:] if part not in ("..", "/"))
            fitting = [p for p in paths if f"/{self._files.relative(p)}".endswith(f"/{end}")]
            if len(fitting) > 1:
                near = [p for p in fitting if p.is_relative_to(annotation.parent)]
                named = [
                    p for p in fitting if set_named(p.parent.name) == set_named(annotation.stem)
                ]
                fitting = near if len(near) == 1 else named if len(named) == 1 else fitting
            if len(fitting) > 1:
                raise UserError(
                    f"{annotation}: {name} may be {fitting[0]} or {fitting[1]}. Remove one of the "
                    "two, or give them different names."
                )
            if fitting:
                return fitting[0]
        if alternative:
            return self.find(alternative, annotation)
        self.missing.append(name)
        return None

    def warnings(self) -> list[str]:
        """Return a warning of images that are annotated, but not there."""
        if not self.missing:
            return []
        count, first = len(self.missing), self.missing[0]
        return [
            f"{count} annotated images are not there and left out, such as {first}: export them "
            "too, or put them beside the annotations"
        ]


def set_named(text: str) -> str:
    """Return the set that a file's or folder's name stands for, or nothing."""
    words = re.findall(r"[a-z]+", text.lower())
    names = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
    found = {names.get(word, word) for word in words} & set(SETS)
    return found.pop() if len(found) == 1 else ""


def sorted_samples(samples: Iterable[Sample], where: Path) -> list[Sample]:
    """Return samples in the order of their images.

    Raises:
        UserError: an image is annotated twice; it is named.
    """
    ordered = sorted(samples, key=lambda sample: sample.image)
    for first, second in zip(ordered, ordered[1:], strict=False):
        if first.image == second.image:
            raise UserError(
                f"{first.image}: is annotated twice, in {first.annotation} and "
                f"{second.annotation}. Keep one of the two ({where})."
            )
    return ordered
