"""Affine maps that are merged, in float64: for an export, and in each step that trains for INT8.

All of it can be differentiated: outside `paddle.no_grad()` what is merged from trainable weights
has gradients.
"""

from __future__ import annotations

from typing import NamedTuple

import paddle
from paddle import Tensor, nn


class Affine(NamedTuple):
    """The map x -> x @ weight + bias on channels; (C, D) and (D,), float64."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of_linear(cls, linear: nn.Linear) -> Affine:
        """Return a linear as a map; without a bias it is zero."""
        return cls(array(linear.weight), bias_of(linear))

    def after_norm(self, norm: nn.LayerNorm) -> Affine:
        """Return the map that also does what a LayerNorm does after normalising."""
        gain, shift = array(norm.weight), array(norm.bias)
        return Affine(
            gain.unsqueeze(1) * self.weight, self.bias + paddle.matmul(shift, self.weight)
        )

    def then(self, other: Affine) -> Affine:
        """Return the map that applies this one, then the other."""
        bias = paddle.matmul(self.bias, other.weight) + other.bias
        return Affine(paddle.matmul(self.weight, other.weight), bias)

    def scaled(self, factor: float) -> Affine:
        """Return `factor` times the map."""
        return Affine(self.weight * factor, self.bias * factor)

    def outputs(self, channels: slice) -> Affine:
        """Return the map that gives some of the outputs."""
        return Affine(self.weight[:, channels], self.bias[channels])


def array(tensor: Tensor) -> Tensor:
    """Return a tensor in float64."""
    return tensor.astype("float64")


def bias_of(layer: nn.Linear | nn.Conv2D) -> Tensor:
    """Return a layer's bias in float64, zeros if it has none."""
    if layer.bias is not None:
        return array(layer.bias)
    num_outputs = layer.weight.shape[1 if isinstance(layer, nn.Linear) else 0]
    return paddle.zeros([num_outputs], "float64")


def conv_weight(weight: Tensor) -> Tensor:
    """(C, D) of a linear -> (D, C, 1, 1) of a 1x1 convolution."""
    return weight.transpose([1, 0]).unsqueeze([2, 3])


def channel_slices(num_channels: int, width: int) -> list[slice]:
    """Cut channels into slices of `width`, the last one shorter where it does not divide them."""
    return [
        slice(start, min(start + width, num_channels)) for start in range(0, num_channels, width)
    ]


def parameter(values: Tensor) -> Tensor:
    """Return values in float32: with gradients as they are, else a parameter of its own."""
    values = values.astype("float32")
    if not values.stop_gradient:
        return values
    made = paddle.create_parameter(list(values.shape), "float32")
    made.set_value(values)
    return made
