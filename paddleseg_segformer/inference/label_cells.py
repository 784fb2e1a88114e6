"""Class ids of a tile without the scores of all its pixels.

Neighbouring pixels that are made of the same logits form a cell. Their scores are sums of these
logits with weights of 0 or more that are the same for all classes. So where one class has the
largest of all these logits, it has the largest score in the whole cell; only the other cells, at
the borders of classes, are computed.

Legend: h w sides of a window's logits, K classes, R C sides of a tile, G cells along an axis or in
a list, P Q sides of a cell in pixels, T taps: logits that a pixel is made of, along an axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, reduce
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np

from paddleseg_segformer.inference.arrays import Piece
from paddleseg_segformer.inference.interpolation import LinearMap

MAX_CELL_PX = 16  # side; larger ones are cut
CHUNK_VALUES = 1 << 18  # scores made at a time: they stay in the processor's cache


class Cells(NamedTuple):
    """The cells along one axis."""

    sizes: np.ndarray  # (G,) px
    outputs: np.ndarray  # (G, P) pixels of a cell, counted from the tile's first; the last repeated
    inputs: tuple[np.ndarray, ...]  # for each piece (G, T): logits that the cell is made of
    kinds: np.ndarray  # (G,) cells of one kind have the same weights
    weights: tuple[np.ndarray, ...]  # for each piece (kinds, P, T) float32


def write_labels(
    pieces: Sequence[Piece], rows: tuple[int, int], columns: tuple[int, int], label: np.ndarray
) -> None:
    """Write the class ids of a tile; ties go to the lowest id.

    Args:
        pieces: What the tile is made of; its scores are the sum over them.
        rows: First row and last + 1.
        columns: The same for columns.
        label: (R, C), any integer type.
    """
    row_spans = _spans([piece.rows for piece in pieces], *rows)
    column_spans = _spans([piece.columns for piece in pieces], *columns)
    for (top, bottom), (left, right) in product(row_spans, column_spans):
        reaching = [
            piece
            for piece in pieces
            if _covers(piece.rows, top, bottom) and _covers(piece.columns, left, right)
        ]
        part = label[top - rows[0] : bottom - rows[0], left - columns[0] : right - columns[0]]
        row_cells = cells_of(tuple(piece.rows for piece in reaching), top, bottom)
        column_cells = cells_of(tuple(piece.columns for piece in reaching), left, right)
        _write_span(reaching, row_cells, column_cells, part)


def _spans(maps: Sequence[LinearMap], low: int, high: int) -> Iterator[tuple[int, int]]:
    """Cut an axis where a piece begins or ends."""
    ends = {end for each in maps for end in each.output_range if low < end < high}
    return pairwise([low, *sorted(ends), high])


def _covers(each: LinearMap, low: int, high: int) -> bool:
    first, end = each.output_range
    return first <= low and high <= end


@lru_cache(maxsize=1024)
def cells_of(maps: tuple[LinearMap, ...], low: int, high: int) -> Cells:
    """Return the cells of the outputs low .. high - 1."""
    parts = [each.part(low, high) for each in maps]
    starts = np.stack([each.start for each in parts])
    is_first = np.append(True, (starts[:, 1:] != starts[:, :-1]).any(axis=0))
    position = np.arange(high - low)
    in_cell = position - np.maximum.accumulate(np.where(is_first, position, 0))
    first = np.flatnonzero(in_cell % MAX_CELL_PX == 0)
    sizes = np.diff(np.append(first, high - low))
    outputs = np.minimum(
        first[:, None] + np.arange(sizes.max()), (first + sizes - 1)[:, None]
    )  # (G, P)
    inputs = [
        start[first][:, None] + np.arange(each.weights.shape[1])
        for each, start in zip(maps, starts, strict=True)
    ]
    weights = [each.weights[outputs].astype(np.float32) for each in parts]
    flat = np.concatenate([each.reshape(len(first), -1) for each in weights], axis=1)
    _, examples, kinds = np.unique(flat, axis=0, return_index=True, return_inverse=True)
    kinds = kinds.reshape(-1)  # NumPy 2.0 gives it another axis
    return Cells(sizes, outputs, tuple(inputs), kinds, tuple(each[examples] for each in weights))


def _write_span(pieces: Sequence[Piece], rows: Cells, columns: Cells, label: np.ndarray) -> None:
    """Write the class ids of pixels that all pieces contribute to."""
    lowest, highest = (_over_taps(pieces, rows, columns, extreme) for extreme in (np.min, np.max))
    label[:] = lowest.repeat(rows.sizes, axis=0).repeat(columns.sizes, axis=1)
    i, j = np.nonzero(lowest != highest)
    num_classes = pieces[0].logits.shape[2]
    step = max(1, CHUNK_VALUES // (rows.outputs.shape[1] * columns.outputs.shape[1] * num_classes))
    products = _weight_products(rows, columns, len(i))
    for start in range(0, len(i), step):
        part = slice(start, start + step)
        pixels = rows.outputs[i[part], :, None], columns.outputs[j[part], None, :]
        label[pixels] = _cell_labels(pieces, rows, columns, i[part], j[part], products)


def _weight_products(rows: Cells, columns: Cells, num_cells: int) -> list[np.ndarray] | None:
    """Return for each piece the weights (row kinds, column kinds, P * Q, T * T), if worth it."""
    if len(rows.weights[0]) * len(columns.weights[0]) > num_cells:
        return None
    return [
        _outer(along_rows[:, None], along_columns[None])
        for along_rows, along_columns in zip(rows.weights, columns.weights, strict=True)
    ]


def _outer(along_rows: np.ndarray, along_columns: np.ndarray) -> np.ndarray:
    """(..., P, T), (..., Q, T) -> (..., P * Q, T * T)."""
    product = along_rows[..., :, None, :, None] * along_columns[..., None, :, None, :]
    *lead, p, q, t, u = product.shape
    return product.reshape(*lead, p * q, t * u)


def _over_taps(
    pieces: Sequence[Piece], rows: Cells, columns: Cells, extreme: Callable[..., np.ndarray]
) -> np.ndarray:
    """Return the lowest or highest of the ids that are largest in a cell's logits, (G, G)."""
    found = []
    for piece, row_inputs, column_inputs in zip(pieces, rows.inputs, columns.inputs, strict=True):
        along_rows = extreme(piece.best[row_inputs], axis=1)  # (G, w)
        found.append(extreme(along_rows[:, column_inputs], axis=2))
    return extreme(found, axis=0)


def _cell_labels(
    pieces: Sequence[Piece],
    rows: Cells,
    columns: Cells,
    i: np.ndarray,
    j: np.ndarray,
    products: list[np.ndarray] | None,
) -> np.ndarray:
    """Return the class ids (G, P, Q) of the cells (i, j)."""
    kinds = rows.kinds[i], columns.kinds[j]
    shares = []
    for index, piece in enumerate(pieces):
        inputs = rows.inputs[index][i, :, None] * piece.best.shape[1]
        inputs = (inputs + columns.inputs[index][j, None, :]).reshape(len(i), -1)
        logits = piece.logits.reshape(-1, piece.logits.shape[2]).take(inputs, axis=0)
        if products is None:
            weights = _outer(rows.weights[index][kinds[0]], columns.weights[index][kinds[1]])
        else:
            weights = products[index][kinds]
        shares.append(weights @ logits)  # (G, P * Q, K)
    label = reduce(np.add, shares).argmax(axis=2)
    return label.reshape(len(i), rows.outputs.shape[1], columns.outputs.shape[1])
