"""Logits at the original size and what is made of them, tile by tile.

A window's logits stay at the network's output resolution. For one tile of the output, its share is
`rows @ logits @ columns^T` with two small matrices; shares are summed over windows and views, and
the tile is reduced (argmax, maximum, entropy) before the next one is made. Logits of all classes at
full size never exist. On the host, labels need even less: see `label_cells.py`.

Legend: h w sides of a window's logits, K classes, R C sides of a tile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from operator import add
from typing import NamedTuple

import numpy as np

from paddleseg_segformer.inference.arrays import Array, Arrays, NumpyArrays, Piece, arrays_for
from paddleseg_segformer.inference.interpolation import bilinear
from paddleseg_segformer.inference.label_cells import write_labels


class Tile(NamedTuple):
    """A rectangle of the original image."""

    top: int
    bottom: int
    left: int
    right: int


def write_tile_labels(
    views: Sequence[Sequence[Piece]], tile: Tile, average: str, arrays: Arrays, label: np.ndarray
) -> None:
    """Write the class ids of a tile into its part of a label map; ties go to the lowest id."""
    top, bottom, left, right = tile
    is_sum = average == "logits" or len(views) == 1
    if is_sum and arrays is NumpyArrays:
        pieces = [piece for view in views for piece in view]
        write_labels(pieces, (top, bottom), (left, right), label)
        return
    for inner in tiles_of(tile, arrays.tile_hw):
        scores = tile_scores(views, inner, "logits" if is_sum else average, arrays)
        part = label[inner.top - top : inner.bottom - top, inner.left - left : inner.right - left]
        part[:] = arrays.to_numpy(arrays.argmax(scores))


def tile_scores(
    views: Sequence[Sequence[Piece]], tile: Tile, average: str, arrays: Arrays
) -> Array:
    """Return a tile's averaged logits, or probabilities if `average` is softmax, (R, K, C)."""
    views_scores = (_sum_shares(_shares(pieces, tile, arrays)) for pieces in views)
    if average == "softmax":
        views_scores = (arrays.softmax(scores) for scores in views_scores)
    return reduce(add, views_scores) / len(views)


def tile_probabilities(
    views: Sequence[Sequence[Piece]],
    tile: Tile,
    average: str,
    arrays: Arrays,
    temperatures: Sequence[float] = (),
) -> np.ndarray:
    """Return a tile's class probabilities (R, K, C), calibrated by `temperatures` if there are any.

    Source of the temperatures: Guo et al., "On Calibration of Modern Neural Networks", 2017; one
    for each predicted class: Frenkel and Goldberger, "Network Calibration by Class-based
    Temperature Scaling", 2021.
    """
    scores = tile_scores(views, tile, average, arrays)
    if not temperatures:
        return arrays.to_numpy(scores if average == "softmax" else arrays.softmax(scores))
    scores = arrays.to_numpy(scores)
    if average == "softmax":
        scores = np.log(np.maximum(scores, np.finfo(np.float32).tiny))
    divisors = np.asarray(temperatures, np.float32)
    if len(divisors) > 1:
        divisors = divisors[NumpyArrays.argmax(scores)][:, None]  # (R, 1, C)
    return NumpyArrays.softmax(scores / divisors)


def upsampled_labels(logits: Array, size_hw: tuple[int, int]) -> np.ndarray:
    """Return the class ids of logits (K, h, w) resized bilinearly in one step, (H, W).

    uint8, or int32 for more than 256 classes; ties go to the lowest id.
    """
    num_classes, h, w = logits.shape
    arrays = arrays_for(logits)
    views = [[arrays.piece(logits, bilinear(h, size_hw[0]), bilinear(w, size_hw[1]))]]
    label = np.empty(size_hw, label_type(num_classes))
    for tile in tiles_of(Tile(0, size_hw[0], 0, size_hw[1]), arrays.label_tile_hw):
        part = label[tile.top : tile.bottom, tile.left : tile.right]
        write_tile_labels(views, tile, "logits", arrays, part)
    return label


def label_type(num_classes: int) -> type[np.uint8] | type[np.int32]:
    """Return the type of label maps."""
    return np.uint8 if num_classes <= 256 else np.int32


def tiles_of(whole: Tile, tile_hw: tuple[int, int]) -> Iterator[Tile]:
    """Yield the tiles of a rectangle row by row."""
    for top in range(whole.top, whole.bottom, tile_hw[0]):
        bottom = min(top + tile_hw[0], whole.bottom)
        for left in range(whole.left, whole.right, tile_hw[1]):
            yield Tile(top, bottom, left, min(left + tile_hw[1], whole.right))


Share = tuple[Array, Array, Array]  # logits (h, w, K) and matrices (R, h), (C, w)


def _shares(pieces: Sequence[Piece], tile: Tile, arrays: Arrays) -> list[Share]:
    """Return what the tile needs of each window that reaches into it."""
    shares = []
    for piece in pieces:
        row_block = piece.rows.block(tile.top, tile.bottom, arrays.matrix)
        column_block = piece.columns.block(tile.left, tile.right, arrays.matrix)
        if row_block is None or column_block is None:
            continue
        (top, rows), (left, columns) = row_block, column_block
        bottom, right = top + rows.shape[1], left + columns.shape[1]
        shares.append((piece.logits[top:bottom, left:right], rows, columns))
    return shares


def _sum_shares(shares: Sequence[Share]) -> Array:
    """Return the sum of `rows @ logits @ columns^T` over the shares, (R, K, C)."""
    return reduce(add, (_scores(*share) for share in shares))


def _scores(logits: Array, rows: Array, columns: Array) -> Array:
    """(h, w, K), (R, h), (C, w) -> (R, K, C)."""
    h, w, num_classes = logits.shape
    scores = (rows @ logits.reshape([h, w * num_classes])).reshape([-1, w, num_classes])
    return scores.transpose([0, 2, 1]) @ columns.T
