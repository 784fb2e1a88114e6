"""Logits at the original size and what is made of them, tile by tile.

A window's logits stay at the network's output resolution. For one tile of the output, its share is
`rows @ logits @ columns^T` with two small matrices; shares are summed over windows and views, and
the tile is reduced (argmax, maximum, entropy) before the next one is made. Logits of all classes at
full size never exist.

Legend: h w sides of a window's logits, K classes, R C sides of a tile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from paddleseg_segformer.inference.interpolation import LinearMap, bilinear

if TYPE_CHECKING:
    from paddle import Tensor

Array = Any  # a NumPy array or a Paddle tensor


class Piece(NamedTuple):
    """A window's logits and their way to the original image."""

    logits: Array  # (h, K, w): both matrix products are then plain two-dimensional ones
    rows: LinearMap  # h -> H of the original image
    columns: LinearMap  # w -> W of the original image


class Tile(NamedTuple):
    """A rectangle of the original image."""

    top: int
    bottom: int
    left: int
    right: int


class NumpyArrays:
    """Array operations on the host.

    NumPy on tiles that fit into the processor's cache is several times faster than Paddle's CPU
    kernels for bilinear resizing and argmax.
    """

    tile_hw = (64, 64)

    @staticmethod
    def from_tensor(logits: Tensor) -> np.ndarray:
        """(K, h, w) -> (h, K, w) float32."""
        return np.ascontiguousarray(logits.astype("float32").numpy().transpose(1, 0, 2))

    @staticmethod
    def matrix(block: np.ndarray) -> np.ndarray:
        return block

    @staticmethod
    def softmax(logits: np.ndarray) -> np.ndarray:
        exp = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exp / exp.sum(axis=1, keepdims=True)

    @staticmethod
    def argmax(scores: np.ndarray) -> np.ndarray:
        """Return the lowest id of the largest score, (R, K, C) -> (R, C) int32."""
        best = scores[:, 0].copy()
        label = np.zeros(best.shape, np.int32)
        is_better = np.empty(best.shape, bool)
        for class_id in range(1, scores.shape[1]):
            score = scores[:, class_id]
            np.greater(score, best, out=is_better)
            np.maximum(score, best, out=best)
            np.copyto(label, class_id, where=is_better)
        return label

    @staticmethod
    def candidates(parts: Sequence[np.ndarray]) -> np.ndarray:
        """Return the ids that can be the largest somewhere in a tile, in ascending order.

        Every logit of the tile is a sum of the parts' logits with weights of 0 or more that are the
        same for all classes. So a class that lies below another throughout all parts cannot win.

        Args:
            parts: The logits (h, K, w) that the tile depends on.
        """
        leader = sum(part.mean(axis=(0, 2)) for part in parts).argmax()
        can_win = np.zeros(parts[0].shape[1], bool)
        for part in parts:
            can_win |= (part - part[:, leader : leader + 1]).max(axis=(0, 2)) >= 0
        return np.flatnonzero(can_win)

    @staticmethod
    def to_numpy(array: np.ndarray) -> np.ndarray:
        return array


class PaddleArrays:
    """Array operations on the logits' own device: few large tiles."""

    tile_hw = (256, 512)

    @staticmethod
    def from_tensor(logits: Tensor) -> Tensor:
        """(K, h, w) -> (h, K, w) float32."""
        return logits.astype("float32").transpose([1, 0, 2])

    @staticmethod
    def matrix(block: np.ndarray) -> Tensor:
        import paddle

        return paddle.to_tensor(block)

    @staticmethod
    def softmax(logits: Tensor) -> Tensor:
        import paddle

        return paddle.nn.functional.softmax(logits, axis=1)

    @staticmethod
    def argmax(scores: Tensor) -> Tensor:
        return scores.argmax(axis=1, dtype="int32")

    @staticmethod
    def candidates(parts: Sequence[Tensor]) -> None:
        """Return None: leaving out classes would cost more here than it saves."""
        return None

    @staticmethod
    def to_numpy(array: Tensor) -> np.ndarray:
        return array.numpy()


Arrays = type[NumpyArrays] | type[PaddleArrays]


def arrays_for(logits: Tensor) -> Arrays:
    """Return the operations for logits of the tensor's device."""
    return NumpyArrays if logits.place.is_cpu_place() else PaddleArrays


def tile_labels(
    views: Sequence[Sequence[Piece]], tile: Tile, average: str, arrays: Arrays
) -> np.ndarray:
    """Return the class ids of a tile (R, C), int32; ties go to the lowest id."""
    if average == "softmax" and len(views) > 1:
        return arrays.to_numpy(arrays.argmax(tile_scores(views, tile, average, arrays)))
    shares = [share for pieces in views for share in _shares(pieces, tile, arrays)]
    ids = arrays.candidates([logits for logits, _, _ in shares])
    if ids is None:
        return arrays.to_numpy(arrays.argmax(_sum_shares(shares)))
    if len(ids) == 1:
        return np.full((tile.bottom - tile.top, tile.right - tile.left), ids[0], np.int32)
    chosen = [(logits[:, ids], rows, columns) for logits, rows, columns in shares]
    return ids[arrays.argmax(_sum_shares(chosen))].astype(np.int32)


def tile_scores(
    views: Sequence[Sequence[Piece]], tile: Tile, average: str, arrays: Arrays
) -> Array:
    """Return a tile's averaged logits, or probabilities if `average` is softmax, (R, K, C)."""
    views_scores = (_sum_shares(_shares(pieces, tile, arrays)) for pieces in views)
    if average == "softmax":
        views_scores = (arrays.softmax(scores) for scores in views_scores)
    return reduce(add, views_scores) / len(views)


def tile_probabilities(
    views: Sequence[Sequence[Piece]], tile: Tile, average: str, arrays: Arrays
) -> np.ndarray:
    """Return a tile's class probabilities (R, K, C)."""
    scores = tile_scores(views, tile, average, arrays)
    return arrays.to_numpy(scores if average == "softmax" else arrays.softmax(scores))


def upsampled_labels(logits: Tensor, size_hw: tuple[int, int]) -> np.ndarray:
    """Return the class ids of logits (K, h, w) resized bilinearly in one step, (H, W).

    uint8, or int32 for more than 256 classes; ties go to the lowest id.
    """
    num_classes, h, w = logits.shape
    arrays = arrays_for(logits)
    rows, columns = bilinear(h, size_hw[0]), bilinear(w, size_hw[1])
    views = [[Piece(arrays.from_tensor(logits), rows, columns)]]
    label = np.empty(size_hw, np.uint8 if num_classes <= 256 else np.int32)
    for tile in tiles_of(size_hw, arrays.tile_hw):
        label[tile.top : tile.bottom, tile.left : tile.right] = tile_labels(
            views, tile, "logits", arrays
        )
    return label


def tiles_of(size_hw: tuple[int, int], tile_hw: tuple[int, int]) -> Iterator[Tile]:
    """Yield the tiles of an image row by row."""
    for top in range(0, size_hw[0], tile_hw[0]):
        for left in range(0, size_hw[1], tile_hw[1]):
            bottom, right = min(top + tile_hw[0], size_hw[0]), min(left + tile_hw[1], size_hw[1])
            yield Tile(top, bottom, left, right)


Share = tuple[Array, Array, Array]  # logits (h, K, w) and matrices (R, h), (C, w)


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
        shares.append((piece.logits[top:bottom, :, left:right], rows, columns))
    return shares


def _sum_shares(shares: Sequence[Share]) -> Array:
    """Return the sum of `rows @ logits @ columns^T` over the shares, (R, K, C)."""
    return reduce(add, (_scores(*share) for share in shares))


def _scores(logits: Array, rows: Array, columns: Array) -> Array:
    """(h, K, w), (R, h), (C, w) -> (R, K, C)."""
    h, num_classes, w = logits.shape
    scores = rows @ logits.reshape([h, num_classes * w])  # (R, K * w)
    scores = scores.reshape([rows.shape[0] * num_classes, w]) @ columns.T  # (R * K, C)
    return scores.reshape([rows.shape[0], num_classes, columns.shape[0]])
