"""Affine maps that are merged before an export, in float64."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import paddle
from paddle import Tensor, nn


class Affine(NamedTuple):
    """The map x -> x @ weight + bias on channels; (C, D) and (D,), float64."""

    weight: np.ndarray
    bias: np.ndarray

    @classmethod
    def of_linear(cls, linear: nn.Linear) -> Affine:
        """Return a linear as a map; without a bias it is zero."""
        weight = array(linear.weight)
        bias = np.zeros(weight.shape[1]) if linear.bias is None else array(linear.bias)
        return cls(weight, bias)

    def after_norm(self, norm: nn.LayerNorm) -> Affine:
        """Return the map that also does what a LayerNorm does after normalising."""
        gain, shift = array(norm.weight), array(norm.bias)
        return Affine(gain[:, None] * self.weight, self.bias + shift @ self.weight)

    def then(self, other: Affine) -> Affine:
        """Return the map that applies this one, then the other."""
        return Affine(self.weight @ other.weight, self.bias @ other.weight + other.bias)

    def scaled(self, factor: float) -> Affine:
        """Return `factor` times the map."""
        return Affine(self.weight * factor, self.bias * factor)

    def outputs(self, channels: slice) -> Affine:
        """Return the map that gives some of the outputs."""
        return Affine(self.weight[:, channels], self.bias[channels])


def array(tensor: Tensor) -> np.ndarray:
    """Return a tensor's values in float64."""
    return tensor.astype("float32").numpy().astype(np.float64)


def conv_weight(weight: np.ndarray) -> np.ndarray:
    """(C, D) of a linear -> (D, C, 1, 1) of a 1x1 convolution."""
    return weight.T[:, :, None, None]


def channel_slices(num_channels: int, width: int) -> list[slice]:
    """Cut channels into slices of `width`, the last one shorter where it does not divide them."""
    return [
        slice(start, min(start + width, num_channels)) for start in range(0, num_channels, width)
    ]


def parameter(values: np.ndarray) -> Tensor:
    """Return a float32 parameter that holds `values`."""
    made = paddle.create_parameter(list(values.shape), "float32")
    made.set_value(paddle.to_tensor(np.ascontiguousarray(values, np.float32)))
    return made
