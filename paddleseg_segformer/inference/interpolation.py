"""Linear maps along one image axis, as banded matrices.

Everything between the network's logits and the logits of the original image is linear and acts on
rows and columns separately: bilinear resizing, placing a window, dividing by the number of windows,
flipping back, cropping off padding. Such a chain is one small matrix per axis, composed here in
float64 and applied to any part of the output alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from paddleseg_segformer.inference.arrays import Array, Arrays

Convert = Callable[[np.ndarray], Any]


class LinearMap:
    """A linear map from `num_inputs` to `num_outputs` samples, few neighbouring inputs per output.

    Args:
        num_inputs: Length of the input axis.
        start: (n,) index of the first input that an output uses.
        weights: (n, T) factors of the inputs start .. start + T - 1; start + T never exceeds
            `num_inputs`.
        first: The output that the first of the n rows makes; those of no row are 0.
        num_outputs: By default n.
    """

    def __init__(
        self,
        num_inputs: int,
        start: np.ndarray,
        weights: np.ndarray,
        first: int = 0,
        num_outputs: int | None = None,
    ) -> None:
        self.num_inputs = num_inputs
        self.num_outputs = len(start) if num_outputs is None else num_outputs
        self.start = start
        self.weights = weights
        self.first = first
        self._blocks: dict[tuple[int, int, Convert], tuple[int, Any] | None] = {}

    @cached_property
    def output_range(self) -> tuple[int, int]:
        """Return first and last + 1 of the outputs that depend on any input."""
        used = self.first + np.flatnonzero(self.weights.any(axis=1))
        return (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)

    @property
    def input_range(self) -> tuple[int, int]:
        """Return first and last + 1 of the inputs that any output uses."""
        rows, taps = np.nonzero(self.weights)
        used = self.start[rows] + taps
        return (int(used.min()), int(used.max()) + 1) if len(used) else (0, 0)

    def part(self, low: int, high: int) -> LinearMap:
        """Return the map that makes the outputs low .. high - 1 alone; each has a row."""
        rows = slice(low - self.first, high - self.first)
        return LinearMap(self.num_inputs, self.start[rows], self.weights[rows])

    def reversed(self) -> LinearMap:
        """Return the map that makes the outputs in reverse order."""
        first = self.num_outputs - self.first - len(self.start)
        return LinearMap(
            self.num_inputs, self.start[::-1], self.weights[::-1], first, self.num_outputs
        )

    def then(self, outer: LinearMap) -> LinearMap:
        """Return the map that applies this one first and `outer` to its result."""
        if len(self.start) < self.num_outputs:
            around = (self.first, self.num_outputs - self.first - len(self.start))
            start, weights = np.pad(self.start, around), np.pad(self.weights, (around, (0, 0)))
            return LinearMap(self.num_inputs, start, weights).then(outer)
        middle = outer.start[:, None] + np.arange(outer.weights.shape[1])  # (outputs, outer taps)
        is_used = (outer.weights != 0) & np.asarray(self.weights.any(axis=1))[middle]
        starts = self.start[middle]
        low = np.where(is_used, starts, self.num_inputs).min(axis=1)
        high = np.where(is_used, starts + self.weights.shape[1], 0).max(axis=1)
        num_taps = max(1, int((high - low).max()))
        low = np.minimum(low, self.num_inputs - num_taps)
        weights = np.zeros((len(outer.start), num_taps))
        for tap in range(outer.weights.shape[1]):
            rows = np.flatnonzero(is_used[:, tap])
            for inner_tap in range(self.weights.shape[1]):
                product = outer.weights[rows, tap] * self.weights[middle[rows, tap], inner_tap]
                position = starts[rows, tap] - low[rows] + inner_tap
                weights[rows, position] += product
        return LinearMap(self.num_inputs, low, weights, outer.first, outer.num_outputs)

    def block(self, low: int, high: int, convert: Convert) -> tuple[int, Any] | None:
        """Return the part that makes the outputs low .. high - 1; it is made once.

        Args:
            low: First output.
            high: Last output + 1.
            convert: Turns a NumPy array into the caller's kind of array.

        Returns:
            The first input it uses and a float32 matrix (high - low, number of inputs used), or
            None where these outputs depend on no input.
        """
        key = (low, high, convert)
        if key not in self._blocks:
            block = self._block(low, high)
            self._blocks[key] = block and (block[0], convert(block[1]))
        return self._blocks[key]

    def _block(self, low: int, high: int) -> tuple[int, np.ndarray] | None:
        above = max(low - self.first, 0)
        weights = self.weights[above : max(high - self.first, 0)]
        rows, taps = np.nonzero(weights)
        if not len(rows):
            return None
        inputs = self.start[above:][rows] + taps
        first = int(inputs.min())
        matrix = np.zeros((high - low, int(inputs.max()) + 1 - first), np.float32)
        matrix[rows + above + self.first - low, inputs - first] = weights[rows, taps]
        return first, matrix

    def gather(self, x: Array, axis: int, arrays: Arrays, offset: int = 0) -> Array:
        """Apply the map to one axis of an array that holds the inputs from `offset` on."""
        if self.weights.shape[1] == 1 and x.shape[axis] == self.num_outputs:
            return x
        shape = [-1 if index == axis else 1 for index in range(x.ndim)]
        result = None
        for tap in range(self.weights.shape[1]):
            last = x.shape[axis] - 1  # a tap outside the array has weight 0
            index = np.clip(self.start + tap - offset, 0, last)
            weight = self.weights[:, tap].astype(np.float32).reshape(shape)
            term = arrays.take(x, index, axis) * arrays.matrix(weight)
            result = term if result is None else result + term
        return result

    def dense(self) -> np.ndarray:
        """Return the whole matrix (num_outputs, num_inputs) in float64."""
        matrix = np.zeros((self.num_outputs, self.num_inputs))
        rows = self.first + np.arange(len(self.start))
        for tap in range(self.weights.shape[1]):
            matrix[rows, self.start + tap] += self.weights[:, tap]
        return matrix


@lru_cache(maxsize=1024)
def bilinear(num_inputs: int, num_outputs: int, align_corners: bool = False) -> LinearMap:
    """Return bilinear resizing with half-pixel centres and clamped edges.

    Args:
        num_inputs, num_outputs: Lengths of the axis.
        align_corners: The first and the last samples lie on each other instead.
    """
    if num_inputs == num_outputs:
        return crop(num_inputs, num_inputs)
    position = (np.arange(num_outputs) + 0.5) * (num_inputs / num_outputs) - 0.5
    if align_corners:
        position = np.arange(num_outputs) * ((num_inputs - 1) / max(num_outputs - 1, 1))
    position = np.clip(position, 0, num_inputs - 1)
    num_taps = min(2, num_inputs)
    start = np.minimum(position.astype(np.int64), num_inputs - num_taps)
    fraction = position - start
    weights = np.stack([1 - fraction, fraction], axis=1)[:, :num_taps]
    return LinearMap(num_inputs, start, weights)


def crop(num_inputs: int, num_outputs: int) -> LinearMap:
    """Return the first `num_outputs` inputs: padding at the end is dropped."""
    return LinearMap(num_inputs, np.arange(num_outputs), np.ones((num_outputs, 1)))


def flip(length: int) -> LinearMap:
    """Return the inputs in reverse order."""
    return LinearMap(length, np.arange(length)[::-1].copy(), np.ones((length, 1)))


def place(num_inputs: int, offset: int, num_outputs: int, factors: np.ndarray) -> LinearMap:
    """Return a window put at `offset` into an axis of zeros, each sample times its factor.

    Args:
        num_inputs: Length of the window.
        offset: Where it starts on the output axis.
        num_outputs: Length of the output axis.
        factors: (num_inputs,) one factor for each sample.
    """
    return LinearMap(num_inputs, np.arange(num_inputs), factors[:, None], offset, num_outputs)
