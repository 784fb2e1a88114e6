"""Faster training with less memory on a CPU, in dygraph; the models can be read without it.

Gradients are written by hand where automatic ones keep or compute more than needed, maps are
resized by products with small matrices, and the Mix-FFN keeps its hidden map channel first. Each is
the same function as the plain lines after its call, which run on GPUs and in graphs, and which the
tests compare it with.

Shapes: N batch, C channels, L tokens (h * w), K classes, h w sides of a feature map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.autograd import PyLayer
from paddle.jit.sot import psdb

LOG_DENSITY_AT_0 = -0.5 * math.log(2 * math.pi)  # of the normal distribution

# the longest side that is resized by matrix products, with and without gradients: their cost per
# pixel grows with the side, that of interpolation does not
MATRIX_SIDE, MATRIX_SIDE_NO_GRAD = 128, 32

is_rewriting = True  # see `exact_rewrites`


@contextmanager
def exact_rewrites(is_enabled: bool) -> Iterator[None]:
    """With False, compute inside the block as published, not in cheaper forms of the same.

    Each layer runs as a layer, `paddle.grad` reaches any tensor inside, and
    `backward(retain_graph=True)` may be followed by another one. With Paddle's hand-written
    gradients (`PyLayer`), the former fails and the latter crashes.
    """
    global is_rewriting
    before, is_rewriting = is_rewriting, is_rewriting and is_enabled
    try:
        yield
    finally:
        is_rewriting = before


def is_eager() -> bool:
    """Tell whether operations run one by one, in dygraph; not in a graph, nor traced for one."""
    return paddle.in_dynamic_mode() and not psdb.in_sot()


def is_on_cpu(x: Tensor) -> bool:
    """Tell whether operations on `x` run on the CPU, in dygraph, and may be rewritten."""
    return is_rewriting and is_eager() and x.place.is_cpu_place()


def scale_samples(x: Tensor, factors: Tensor) -> Tensor:
    """Scale each sample of a batch by its own factor: (N, ...) by (N, 1, ...)."""
    return SampleScale.apply(x, factors) if paddle.is_grad_enabled() else x * factors


def mix_ffn(
    x: Tensor, hw: Sequence[int], *weights: Tensor, norm: nn.LayerNorm | None = None
) -> Tensor:
    """(N, L, C) tokens of an `hw` map -> (N, L, C), by a `MixFFN`'s parameters in their order.

    The hidden map is kept channel first: both linears are matrix products that read or write it in
    that layout, so no transpose is needed around the convolution.

    Args:
        norm: applied to `x` before; its result is not kept for the gradients.
    """
    if paddle.is_grad_enabled():
        normed = () if norm is None else (norm.weight, norm.bias)
        epsilon = None if norm is None else norm._epsilon
        return MixFFNGradient.apply(x, *normed, *weights, tuple(hw), epsilon)
    x = x if norm is None else norm(x)
    return _mix_ffn(_mix_ffn_hidden(x, weights, hw), weights)


def normed_linears(
    x: Tensor,
    norm: nn.LayerNorm,
    parts_of: Callable[[Tensor], Sequence[Tensor]],
    layers: Sequence[nn.Layer],
) -> tuple[Tensor, ...]:
    """Return a linear of each of the maps `parts_of(norm(x))`, none of which is kept.

    Args:
        x: (N, L, C).
        parts_of: (N, L, C) -> maps (N, L_i, C_i) that are cheap to compute, each another tensor.
        layers: linears, or convolutions whose stride is their kernel, which are linears of patches
            (N, L_i, rows * columns * C); all with a bias.

    Returns:
        (N, L_i, D_i) for each.
    """
    parameters = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
    return NormedLinears.apply(x, norm.weight, norm.bias, *parameters, parts_of, norm._epsilon)


def drop_and_classify(x: Tensor, dropout: nn.Dropout2D, classifier: nn.Conv2D) -> Tensor:
    """Return `classifier(dropout(x))` of a 1x1 convolution, (N, C, h, w) -> (N, K, h, w).

    A channel is dropped by dropping its weights, which are far fewer than its pixels.
    """
    num_images, channels, h, w = x.shape
    kept = dropout(paddle.ones([num_images, channels, 1, 1], x.dtype)).squeeze(-1)
    weight = classifier.weight.flatten(1) * kept.transpose([0, 2, 1])  # (N, K, C)
    logits = paddle.matmul(weight, x.flatten(2)).reshape([0, 0, h, w])
    return logits + classifier.bias.reshape([-1, 1, 1])


def is_resized_by_matrices(x: Tensor, align_corners: bool) -> bool:
    """Tell whether two products with small matrices are faster than Paddle's CPU kernel."""
    if align_corners or not is_on_cpu(x):
        return False
    has_gradient = paddle.is_grad_enabled() and not x.stop_gradient
    return max(x.shape[2:]) <= (MATRIX_SIDE if has_gradient else MATRIX_SIDE_NO_GRAD)


def resize(x: Tensor, hw: Sequence[int]) -> Tensor:
    """Resize bilinearly by matrix products: (N, C, h, w) -> (N, C, *hw)."""
    size_hw = int(hw[0]), int(hw[1])
    return Resize.apply(x, size_hw) if paddle.is_grad_enabled() else _resized(x, size_hw)


def resized_sum(total: Tensor, *others: Tensor) -> Tensor:
    """Sum (N, C, h_i, w_i) maps after resizing each to the first one's size, in its memory."""
    if paddle.is_grad_enabled():
        return ResizedSum.apply(total, *others)
    return _resized_sum(total, *others)


class SampleScale(PyLayer):
    """Scaling by one number per sample; only these are kept."""

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


class MixFFNGradient(PyLayer):
    """LayerNorm if asked for, fc1, 3x3 depthwise convolution, GELU, fc2; hidden maps channel first.

    It keeps the input and fc1's output; the plain form also keeps the norm's, and the convolution's
    and GELU's, of the size of fc1's. The convolution is recomputed, and the gradient of its input
    is a convolution with the flipped kernel: both take no longer than Paddle's kernel for that
    gradient.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        """(N, L, C), parameters of a norm and a `MixFFN`, (h, w), epsilon -> (N, L, C)."""
        *tensors, hw, ctx.epsilon = arguments
        inputs, weights = tensors[:-6], tensors[-6:]
        hidden = _mix_ffn_hidden(_normed(*inputs, ctx.epsilon), weights, hw)
        fc1_weight, _, kernel, kernel_bias, fc2_weight, _ = weights
        ctx.is_wanted = [not tensor.stop_gradient for tensor in tensors]
        ctx.save_for_backward(*inputs, hidden, fc1_weight, kernel, kernel_bias, fc2_weight)
        return _mix_ffn(hidden, weights)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """(N, L, C) -> the gradients of the inputs, None for those without one."""
        *inputs, hidden, fc1_weight, kernel, kernel_bias, fc2_weight = ctx.saved_tensor()
        kernel = kernel.detach()
        kernel.stop_gradient = False
        with paddle.enable_grad():
            mixed = _depthwise(hidden.detach(), kernel)
        active, slope = _gelu_and_slope(mixed.detach() + kernel_bias.reshape([-1, 1, 1]))
        d_fc2 = paddle.matmul(active.flatten(2), dy).sum(0)
        del active
        d_mixed = paddle.matmul(fc2_weight, dy, transpose_y=True).reshape(hidden.shape)
        d_mixed.multiply_(slope)
        del slope
        mixed.backward(d_mixed)  # `paddle.grad` inside another one is a crash
        d_kernel = kernel.grad
        del mixed
        d_kernel_bias = _sum_pixels(d_mixed.flatten(2))
        d_hidden = _depthwise(d_mixed, paddle.flip(kernel.detach(), [2, 3])).flatten(2)
        del d_mixed
        d_bias1, d_bias2 = _sum_pixels(d_hidden), _sum_rows(dy.flatten(0, 1))
        inputs = _leaves(inputs)
        with paddle.enable_grad():
            x = _normed(*inputs, ctx.epsilon)
        d_fc1 = paddle.matmul(x.detach(), d_hidden, transpose_x=True, transpose_y=True).sum(0)
        d_x = paddle.matmul(d_hidden, fc1_weight, transpose_x=True, transpose_y=True)
        del d_hidden
        if ctx.epsilon is not None:
            x.backward(d_x)
        d_inputs = [d_x] if ctx.epsilon is None else [tensor.grad for tensor in inputs]
        return _wanted(ctx, *d_inputs, d_fc1, d_bias1, d_kernel, d_kernel_bias, d_fc2, d_bias2)


class NormedLinears(PyLayer):
    """Linears of maps that are made of a LayerNorm's output; only its input is kept."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        """(N, L, C), the norm's parameters, weights and biases in turn -> (N, L_i, D_i) each."""
        *tensors, ctx.parts_of, ctx.epsilon = arguments
        ctx.is_wanted = [not tensor.stop_gradient for tensor in tensors]
        inputs, weights, biases = tensors[:3], tensors[3::2], tensors[4::2]
        ctx.save_for_backward(*inputs, *weights)
        parts = ctx.parts_of(_normed(*inputs, ctx.epsilon))
        return tuple(
            paddle.matmul(part, _as_matrix(weight)).add_(bias)
            for part, weight, bias in zip(parts, weights, biases, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *d_outs: Tensor) -> tuple[Tensor | None, ...]:
        """(N, L_i, D_i) each -> the gradients of the inputs, None for those without one."""
        saved = ctx.saved_tensor()
        inputs, weights = _leaves(saved[:3]), saved[3:]
        with paddle.enable_grad():
            parts = ctx.parts_of(_normed(*inputs, ctx.epsilon))
        d_parts, d_parameters = [], []
        for part, weight, d_out in zip(parts, weights, d_outs, strict=True):
            d_parts.append(paddle.matmul(d_out, _as_matrix(weight), transpose_y=True))
            rows = d_out.flatten(0, 1)  # (N * L_i, D_i)
            d_matrix = paddle.matmul(part.detach().flatten(0, 1), rows, transpose_x=True)
            d_parameters += [_as_weight(d_matrix, weight.shape), _sum_rows(rows)]
        paddle.autograd.backward(list(parts), d_parts)
        return _wanted(ctx, *(tensor.grad for tensor in inputs), *d_parameters)


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
        ctx.is_wanted = [not tensor.stop_gradient for tensor in (total, *others)]
        return _resized_sum(total, *others)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """(N, C, h, w) -> the gradient of each map, None for those without one."""
        return _wanted(ctx, dy, *(_resized_gradient(dy, hw) for hw in ctx.sizes))


def _leaves(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors of the same memory, of which gradients are asked."""
    leaves = [tensor.detach() for tensor in tensors]
    for leaf in leaves:
        leaf.stop_gradient = False
    return leaves


def _wanted(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
    """Return None in place of the gradients that no one asked for."""
    wanted = zip(gradients, ctx.is_wanted, strict=True)
    return tuple(gradient if is_wanted else None for gradient, is_wanted in wanted)


def _normed(x: Tensor, *parameters_and_epsilon: Any) -> Tensor:
    """Apply a LayerNorm by its parameters and epsilon; nothing where there are none."""
    *parameters, epsilon = parameters_and_epsilon
    return F.layer_norm(x, x.shape[-1:], *parameters, epsilon) if parameters else x


def _as_matrix(weight: Tensor) -> Tensor:
    """(D, C, rows, columns) of a convolution -> (rows * columns * C, D); a matrix as it is."""
    return weight if weight.ndim == 2 else weight.transpose([2, 3, 1, 0]).flatten(0, 2)


def _as_weight(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """Undo `_as_matrix`; contiguous, for processes exchange gradients as they lie in memory."""
    if len(shape) == 2:
        return matrix
    return matrix.reshape([*shape[2:], shape[1], shape[0]]).transpose([3, 2, 0, 1]).contiguous()


def _mix_ffn_hidden(x: Tensor, weights: Sequence[Tensor], hw: Sequence[int]) -> Tensor:
    """Apply fc1 to the tokens (N, L, C) of an `hw` map -> (N, 4C, h, w)."""
    hidden = paddle.matmul(weights[0], x, transpose_x=True, transpose_y=True)  # (N, 4C, L)
    return hidden.add_(weights[1].unsqueeze(-1)).reshape([0, 0, *hw])


def _mix_ffn(hidden: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Apply convolution, GELU and fc2 to the hidden map (N, 4C, h, w) -> (N, L, C)."""
    _, _, kernel, kernel_bias, fc2_weight, fc2_bias = weights
    mixed = _depthwise(hidden, kernel).add_(kernel_bias.reshape([-1, 1, 1]))
    return paddle.matmul(F.gelu(mixed).flatten(2), fc2_weight, transpose_x=True).add_(fc2_bias)


def _depthwise(x: Tensor, kernel: Tensor) -> Tensor:
    return F.conv2d(x, kernel, padding=1, groups=x.shape[1])


def _sum_pixels(x: Tensor) -> Tensor:
    """(N, C, L) -> (C,); the product takes a quarter of the time of Paddle's sum."""
    return paddle.matmul(x, paddle.ones([x.shape[2]], x.dtype)).sum(0)


def _sum_rows(x: Tensor) -> Tensor:
    """(L, C) -> (C,), for the same reason."""
    return paddle.matmul(x, paddle.ones([x.shape[0]], x.dtype), transpose_x=True)


def _gelu_and_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return GELU and its derivative.

    gelu(x) = x P(x), with the normal distribution P(x) = (1 + erf(x / sqrt(2))) / 2; the derivative
    is P(x) + x p(x), with its density p.
    """
    probability = paddle.erf(x * 0.5**0.5).scale_(0.5, 0.5)
    density = paddle.square(x).scale_(-0.5, LOG_DENSITY_AT_0).exp_()
    return x * probability, density.multiply_(x).add_(probability)


def _resized(x: Tensor, hw: Sequence[int]) -> Tensor:
    """(N, C, h, w) -> (N, C, *hw)."""
    rows, columns = _resizing_matrices(x.shape[2:], hw, x.dtype)
    return paddle.matmul(rows, paddle.matmul(x, columns, transpose_y=True))


def _resized_gradient(dy: Tensor, hw: Sequence[int]) -> Tensor:
    """Return the gradient (N, C, *hw) of a map that was resized to the size of `dy`."""
    rows, columns = _resizing_matrices(hw, dy.shape[2:], dy.dtype)
    return paddle.matmul(rows, paddle.matmul(dy, columns), transpose_x=True)


def _resized_sum(total: Tensor, *others: Tensor) -> Tensor:
    if total.is_leaf:  # nothing before it has gradients, and Paddle lets no one write to it
        total = total.clone()
    hw = total.shape[2:]
    for smaller in others:
        total.add_(_resized(smaller, hw))
    return total


def _resizing_matrices(
    hw: Sequence[int], new_hw: Sequence[int], dtype: paddle.dtype
) -> tuple[Tensor, Tensor]:
    """Return the matrices that resize rows and columns."""
    rows, columns = (
        interpolation_matrix(old, new, str(dtype)) for old, new in zip(hw, new_hw, strict=True)
    )
    return rows, columns


@lru_cache(maxsize=256)
def interpolation_matrix(length: int, new_length: int, dtype: str) -> Tensor:
    """Return the (new_length, length) weights of bilinear resizing along one axis."""
    position = (np.arange(new_length) + 0.5) * (length / new_length) - 0.5
    position = np.clip(position, 0, length - 1)
    matrix = np.maximum(
        1 - np.abs(position[:, None] - np.arange(length)), 0
    )  # a hat function per sample
    return paddle.to_tensor(matrix.astype("float32")).astype(dtype.rpartition(".")[2])
