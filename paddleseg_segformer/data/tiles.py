"""Large pictures as samples: tiles that are read by windows, so that the rest is not decoded."""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paddleseg_segformer.data.io import grey_of, ids_of_colors, label_of_values
from paddleseg_segformer.data.rasters import Picture, Raster, open_raster
from paddleseg_segformer.data.sample_lists import SampleList
from paddleseg_segformer.data.values import ValueRange
from paddleseg_segformer.errors import UserError, did_you_mean

logger = logging.getLogger(__name__)

DEFAULT_MARGIN_PX = 64
SLOW_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")  # decoded from their beginning
_NAME = re.compile(r"(.*)\[(\d+):(\d+),(\d+):(\d+)\]", re.DOTALL)


class Window(NamedTuple):
    """Rows top .. bottom - 1 and columns left .. right - 1 of a picture."""

    top: int
    bottom: int
    left: int
    right: int


class Tiles(NamedTuple):
    """How pictures are cut into tiles.

    Args:
        size: Height and width in pixels; smaller pictures are one tile.
        stride: Pixels from one tile to the next. For training the last tiles of a row and column
            are moved back to end with the picture; else they are cut, so that each pixel is in
            one tile.
        margin: Pixels around a tile that are read with it and do not count; 0 for training.
        is_training: Whether the samples are for training.
    """

    size: int
    stride: int
    margin: int
    is_training: bool

    @classmethod
    def of(cls, declared: Mapping[str, Any], is_training: bool) -> Tiles:
        """Return what a config's `tiles` says.

        Raises:
            UserError: unknown keys, or numbers that make no tiles.
        """
        known = ("size", "stride") if is_training else ("size", "margin")
        if not isinstance(declared, Mapping) or "size" not in declared:
            raise UserError(f"tiles: found {declared!r}, expected keys with a `size`.")
        for key, value in declared.items():
            if key not in known:
                use = "training" if is_training else "evaluation"
                raise UserError(
                    f"tiles: '{key}' has no effect in {use}.{did_you_mean(str(key), known)}"
                )
            least = 0 if key == "margin" else 1
            if type(value) is not int or value < least:
                raise UserError(f"tiles: {key} is {value!r}, expected a number from {least}.")
        size = declared["size"]
        stride = declared.get("stride", size)
        if stride > size:
            raise UserError(f"tiles: stride {stride} leaves out pixels between tiles of {size} px.")
        margin = 0 if is_training else declared.get("margin", DEFAULT_MARGIN_PX)
        return cls(size, stride, margin, is_training)

    def counts(self, shape: Sequence[int]) -> tuple[int, int]:
        """Return how many tiles a picture (H, W, ...) has, down and across."""
        if self.is_training:
            rows, columns = (
                1 + -(-max(length - self.size, 0) // self.stride) for length in shape[:2]
            )
        else:
            rows, columns = (-(-length // self.size) for length in shape[:2])
        return rows, columns

    def window(self, shape: Sequence[int], row: int, column: int) -> Window:
        """Return the place of a tile in a picture (H, W, ...)."""
        spans = []
        for index, length in zip((row, column), shape, strict=False):
            start = index * self.stride
            if self.is_training:
                start = min(start, max(length - self.size, 0))
            spans += [start, min(start + self.size, length)]
        return Window(*spans)

    def around(self, window: Window, shape: Sequence[int]) -> Window:
        """Return a tile with its margin, within a picture (H, W, ...)."""
        top, bottom, left, right = window
        margin, (height, width, *_) = self.margin, shape
        return Window(
            max(top - margin, 0),
            min(bottom + margin, height),
            max(left - margin, 0),
            min(right + margin, width),
        )


class TileList:
    """The tiles of listed pictures, in order: names such as `scene.tif[0:1024,512:1536]`.

    Args:
        pictures: Paths of pictures and labels; the header of each picture is read.
        tiles: How they are cut.

    Raises:
        UserError: a picture is missing, or cannot be read by windows.
    """

    def __init__(self, pictures: SampleList, tiles: Tiles) -> None:
        self.pictures = pictures
        self.tiles = tiles
        self._shapes = np.empty((len(pictures), 2), np.int32)
        slow = ""
        for index in range(len(pictures)):
            path = pictures[index][0]
            with open_raster(path) as raster:
                self._shapes[index] = raster.shape[:2]
            if Path(path).suffix.lower() in SLOW_SUFFIXES:
                slow = slow or path
        if slow:
            logger.warning(
                "%s: each of its tiles decodes what lies before it, or all. Save large pictures as "
                "tiled TIFF: gdal_translate -co TILED=YES", slow,
            )  # fmt: skip
        counts = [math.prod(tiles.counts(shape)) for shape in self._shapes.tolist()]
        self._ends = np.cumsum(counts, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> tuple[str, str | None]:
        picture = int(np.searchsorted(self._ends, index, side="right"))
        shape = self._shapes[picture].tolist()
        columns = self.tiles.counts(shape)[1]
        place = index - (int(self._ends[picture - 1]) if picture else 0)
        top, bottom, left, right = self.tiles.window(shape, *divmod(place, columns))
        image, label = self.pictures[picture]
        where = f"[{top}:{bottom},{left}:{right}]"
        return image + where, label and label + where

    def fingerprint(self) -> str:
        """Return the number of tiles, and a checksum of the list, the sizes and the tiles."""
        digest = hashlib.blake2b(self._shapes.tobytes(), digest_size=4)
        digest.update(f"{self.pictures.fingerprint()} {self.tiles}".encode())
        return f"{len(self)} tiles, {digest.hexdigest()}"


def split_name(name: str) -> tuple[str, Window]:
    """Return the picture's path and the window of a tile's name."""
    found = _NAME.fullmatch(name)
    if not found:
        raise UserError(f"{name}: found no window, expected a tile such as a.tif[0:512,512:1024].")
    return found[1], Window(*map(int, found.groups()[1:]))


def read_tile(
    name: str, tiles: Tiles, img_channels: int, value_range: ValueRange | None
) -> tuple[np.ndarray, Window, Raster]:
    """Return a tile's pixels with its margin, their window, and the picture's closed raster."""
    path, window = split_name(name)
    with open_raster(path) as raster:
        around = tiles.around(window, raster.shape)
        top, bottom, left, right = around
        image = Picture(raster, img_channels, value_range)[top:bottom, left:right]
    return image, around, raster


def read_label_tile(name: str, colors: np.ndarray | None, picture: Raster | None) -> np.ndarray:
    """Return the stored ids (h, w) of a tile, as `io.read_label` would of the whole.

    Args:
        colors: As of `io.read_label`.
        picture: Its image, to compare with.

    Raises:
        UserError: the label is of another size or lies elsewhere; or it does not hold an id per
            pixel in a way that windows tell.
    """
    path, window = split_name(name)
    with open_raster(path) as raster:
        if picture and picture.shape[:2] != raster.shape[:2]:
            raise UserError(
                f"{path}: the label is {raster.shape[0]}x{raster.shape[1]} (height x width), but "
                f"its image {picture.path} is {picture.shape[0]}x{picture.shape[1]}. Make them "
                "equal."
            )
        places = [item.georeference for item in (picture, raster) if item and item.georeference]
        if len(places) == 2 and not places[0].transform.almost_equals(places[1].transform):
            raise UserError(
                f"{path}: lies elsewhere than its image {picture and picture.path}: their "
                "geotransforms differ. Warp the one to the other."
            )
        values = raster.read(*window)
    palette = raster.colors
    if colors is not None:
        rgb = values[:, :, :3] if palette is None else palette[values[:, :, 0]]
        if rgb.shape[2] != 3 or rgb.dtype != np.uint8:
            raise UserError(f"{path}: found {values.shape[2]} bands, expected colours (RGB).")
        return ids_of_colors(Path(path), rgb, colors)
    if palette is not None and path.lower().endswith(".png") and (palette == palette[:, :1]).all():
        raise UserError(
            f"{path}: its palette holds greys alone, which may be the ids, or their positions. "
            "Save it without a palette."
        )
    values = grey_of(values)
    return label_of_values(Path(path), values[:, :, 0] if values.shape[2:] == (1,) else values)
