"""Small layers shared by the backbones and heads.

Shapes: N batch, C channels, L tokens (h * w), h w sides of a feature map.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.autograd import PyLayer


def has_own_gradients(x: Tensor) -> bool:
    """Tell whether a pass over `x` may be followed by a backward pass on the CPU, in dygraph.

    Gradients are then written by hand where the automatic ones keep or compute more than needed.
    """
    return paddle.in_dynamic_mode() and paddle.is_grad_enabled() and x.place.is_cpu_place()


class SampleScale(PyLayer):
    """Scale each sample of a batch by a number of its own; only these are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factors: Tensor) -> Tensor:
        """(N, ...) by (N, 1, ...) -> (N, ...)."""
        ctx.save_for_backward(factors)
        return x * factors

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        """(N, ...) -> the gradient of `x`."""
        (factors,) = ctx.saved_tensor()
        return dy * factors, None


class DropPath(nn.Layer):
    """Stochastic depth: drop a residual branch per sample, scaling the kept ones by 1 / (1 - rate).

    Source: Huang et al., "Deep Networks with Stochastic Depth", 2016.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask_shape = [x.shape[0]] + [1] * (x.ndim - 1)
        # drawn in float32: not every device can in half precision
        mask = paddle.bernoulli(paddle.full(mask_shape, keep))
        factors = in_type_of(x, mask / keep)
        return SampleScale.apply(x, factors) if has_own_gradients(x) else x * factors


class Conv2D(nn.Conv2D):
    """Convolution whose bias is added as (C, 1, 1).

    Paddle adds it as (1, C, 1, 1); the gradient of that takes its CPU kernel as long as that
    of a 3x3 depthwise convolution does.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is None or not paddle.in_dynamic_mode():
            return super().forward(x)
        weight = in_type_of(x, self.weight)  # else a depthwise one is computed in float32
        out = F.conv2d(x, weight, None, self._stride, self._padding, self._dilation, self._groups)
        return add_channel_bias(out, self.bias)


def add_channel_bias(x: Tensor, bias: Tensor) -> Tensor:
    """Add (C,) to (N, C, h, w)."""
    return x + in_type_of(x, bias).reshape([-1, 1, 1])


def in_type_of(x: Tensor, other: Tensor) -> Tensor:
    """Return `other` in the type of `x`.

    In mixed precision products are in half precision and weights in float32: a bias would lift
    the map to which it is added to float32.
    """
    return other if other.dtype == x.dtype else other.astype(x.dtype)


def conv_bn(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return a 1x1 convolution without bias and a batch norm, named as in PaddleSeg's files."""
    return nn.Sequential(
        ("_conv", Conv2D(in_channels, out_channels, kernel_size=1, bias_attr=False)),
        ("_batch_norm", nn.BatchNorm2D(out_channels)),
    )


def tokens_to_map(x: Tensor, hw: Sequence[int | Tensor]) -> Tensor:
    """(N, L, C) -> (N, C, h, w) with L = h * w, row-major.

    Channels are moved while height and width are axes of their own, here and in `map_to_tokens`:
    where a graph flattens them first, OpenVINO moves the scales of INT8 convolutions in between,
    and copies the map twice instead of not at all.
    """
    return x.reshape([0, hw[0], hw[1], x.shape[2]]).transpose([0, 3, 1, 2])


def map_to_tokens(x: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, h * w, C)."""
    return x.transpose([0, 2, 3, 1]).flatten(1, 2)


# the longest side that is resized by matrix products, with and without gradients: their cost grows
# with the square of the side, interpolation's does not
MATRIX_SIDE, MATRIX_SIDE_NO_GRAD = 128, 32


def upsample(x: Tensor, hw: Sequence[int | Tensor], align_corners: bool = False) -> Tensor:
    """Resize (N, C, h, w) bilinearly to (N, C, *hw)."""
    if _is_resized_by_matrices(x, align_corners):
        size_hw = int(hw[0]), int(hw[1])
        if has_own_gradients(x):
            return Resize.apply(x, size_hw)
        return _resized(x, size_hw)
    return F.interpolate(x, size=hw, mode="bilinear", align_corners=align_corners)


def upsampled_sum(maps: Sequence[Tensor], align_corners: bool = False) -> Tensor:
    """Sum (N, C, h_i, w_i) maps after resizing each to the first one's size."""
    total, *others = maps
    by_matrices = [_is_resized_by_matrices(smaller, align_corners) for smaller in others]
    if others and has_own_gradients(total) and all(by_matrices):
        return ResizedSum.apply(*maps)
    hw = total.shape[2:]
    for smaller in others:
        total = total + in_type_of(total, upsample(smaller, hw, align_corners))
    return total


class Resize(PyLayer):
    """Resizing by matrix products; no map is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, hw: tuple[int, int]) -> Tensor:
        """(N, C, h, w) -> (N, C, *hw)."""
        ctx.hw = x.shape[2:]
        return _resized(x, hw)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        """(N, C, *hw) -> (N, C, h, w)."""
        return _resized_gradient(dy, ctx.hw)


class ResizedSum(PyLayer):
    """Sum of maps, resized to the first one's size by matrix products; no map is kept."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, *others: Tensor) -> Tensor:
        """(N, C, h, w) and others (N, C, h_i, w_i) -> (N, C, h, w)."""
        ctx.sizes = [smaller.shape[2:] for smaller in others]
        hw = total.shape[2:]
        total = total + _resized(others[0], hw)
        for smaller in others[1:]:
            total.add_(_resized(smaller, hw))
        return total

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
        """(N, C, h, w) -> the gradient of each map."""
        return dy, *(_resized_gradient(dy, hw) for hw in ctx.sizes)


def _resized(x: Tensor, hw: Sequence[int]) -> Tensor:
    """(N, C, h, w) -> (N, C, *hw)."""
    rows, columns = _resizing_matrices(x.shape[2:], hw, x.dtype)
    return paddle.matmul(rows, paddle.matmul(x, columns, transpose_y=True))


def _resized_gradient(dy: Tensor, hw: Sequence[int]) -> Tensor:
    """Return the gradient (N, C, *hw) of a map that was resized to the size of `dy`."""
    rows, columns = _resizing_matrices(hw, dy.shape[2:], dy.dtype)
    return paddle.matmul(rows, paddle.matmul(dy, columns), transpose_x=True)


def _resizing_matrices(
    hw: Sequence[int], new_hw: Sequence[int], dtype: paddle.dtype
) -> tuple[Tensor, Tensor]:
    """Return the matrices that resize rows and columns."""
    rows, columns = (
        interpolation_matrix(old, new, str(dtype)) for old, new in zip(hw, new_hw, strict=True)
    )
    return rows, columns


def _is_resized_by_matrices(x: Tensor, align_corners: bool) -> bool:
    """Return whether two products with small matrices are faster than Paddle's CPU kernel."""
    if not paddle.in_dynamic_mode() or align_corners or not x.place.is_cpu_place():
        return False
    has_gradient = paddle.is_grad_enabled() and not x.stop_gradient
    return max(x.shape[2:]) <= (MATRIX_SIDE if has_gradient else MATRIX_SIDE_NO_GRAD)


@lru_cache(maxsize=256)
def interpolation_matrix(length: int, new_length: int, dtype: str) -> Tensor:
    """Return the (new_length, length) weights of bilinear resizing along one axis."""
    position = (np.arange(new_length) + 0.5) * (length / new_length) - 0.5
    position = np.clip(position, 0, length - 1)
    matrix = np.maximum(1 - np.abs(position[:, None] - np.arange(length)), 0)  # a tent per sample
    return paddle.to_tensor(matrix.astype("float32")).astype(dtype.rpartition(".")[2])


def upsample_to_input(logits: Tensor, hw: Sequence[int | Tensor], pad_multiple: int = 1) -> Tensor:
    """Resize a network's logits (N, K, h, w) to its input's size (N, K, *hw).

    Args:
        pad_multiple: the network pads its input at the bottom and right to a multiple of so many
            pixels, and its logits stand for the padded input; the padding is cropped off.
    """
    if pad_multiple == 1:
        return upsample(logits, hw)
    padded = [-(-side // pad_multiple) * pad_multiple for side in hw]
    return upsample(logits, padded)[:, :, : hw[0], : hw[1]]


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a linear to each position: (N, C, h, w) by a (C, D) weight -> (N, D, h, w).

    In a graph it is a 1x1 convolution, so that engines keep the maps in the layout of the
    convolutions around them; otherwise a matrix product.
    """
    if not paddle.in_dynamic_mode():
        return F.conv2d(x, weight.transpose([1, 0]).unsqueeze(-1).unsqueeze(-1), bias)
    out = paddle.matmul(weight, x.flatten(2), transpose_x=True)  # (N, D, L)
    if bias is not None:
        out = out + in_type_of(out, bias).unsqueeze(-1)
    return out.reshape([0, 0, x.shape[2], x.shape[3]])
