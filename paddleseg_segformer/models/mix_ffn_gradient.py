"""The Mix-FFN's gradient by hand, for the CPU: less is kept and less is computed.

Shapes: N batch, C channels, L tokens (h * w), h w sides of a feature map.
"""

from __future__ import annotations

import math
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor
from paddle.autograd import PyLayer

LOG_DENSITY_AT_0 = -0.5 * math.log(2 * math.pi)  # of the normal distribution


class MixFFNGradient(PyLayer):
    """fc1, 3x3 depthwise convolution, GELU, fc2 with the hidden maps channel first.

    Kept are the input and fc1's output; the plain form also keeps the convolution's and GELU's,
    each as large as fc1's. The convolution is computed again, and the gradient of its input is a
    convolution too, with the kernel turned round: together they take no longer than Paddle's
    kernel for that gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        fc1_weight: Tensor,
        fc1_bias: Tensor,
        kernel: Tensor,
        kernel_bias: Tensor,
        fc2_weight: Tensor,
        fc2_bias: Tensor,
        hw: tuple[int, int],
    ) -> Tensor:
        """(N, L, C) tokens of an `hw` map -> (N, L, C)."""
        hidden = paddle.matmul(fc1_weight, x, transpose_x=True, transpose_y=True)  # (N, 4C, L)
        hidden = hidden.add_(fc1_bias.unsqueeze(-1)).reshape([0, 0, *hw])
        inputs = x, fc1_weight, fc1_bias, kernel, kernel_bias, fc2_weight, fc2_bias
        ctx.is_wanted = [not tensor.stop_gradient for tensor in inputs]
        ctx.save_for_backward(x, hidden, fc1_weight, kernel, kernel_bias, fc2_weight)
        mixed = _depthwise(hidden, kernel).add_(kernel_bias.reshape([-1, 1, 1]))
        active = F.gelu(mixed).flatten(2)
        return paddle.matmul(active, fc2_weight, transpose_x=True).add_(fc2_bias)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """(N, L, C) -> the gradients of the inputs, None for those without one."""
        x, hidden, fc1_weight, kernel, kernel_bias, fc2_weight = ctx.saved_tensor()
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
        (d_kernel,) = paddle.grad(mixed, kernel, d_mixed)
        del mixed
        d_kernel_bias = _sum_pixels(d_mixed.flatten(2))
        d_hidden = _depthwise(d_mixed, paddle.flip(kernel.detach(), [2, 3])).flatten(2)
        del d_mixed
        d_fc1 = paddle.matmul(x, d_hidden, transpose_x=True, transpose_y=True).sum(0)
        d_x = paddle.matmul(d_hidden, fc1_weight, transpose_x=True, transpose_y=True)
        d_bias1, d_bias2 = _sum_pixels(d_hidden), dy.sum([0, 1])
        gradients = d_x, d_fc1, d_bias1, d_kernel, d_kernel_bias, d_fc2, d_bias2
        wanted = zip(gradients, ctx.is_wanted, strict=True)
        return tuple(gradient if is_wanted else None for gradient, is_wanted in wanted)


def _depthwise(x: Tensor, kernel: Tensor) -> Tensor:
    return F.conv2d(x, kernel, padding=1, groups=x.shape[1])


def _sum_pixels(x: Tensor) -> Tensor:
    """(N, C, L) -> (C,); the product takes a quarter of the time of Paddle's sum."""
    return paddle.matmul(x, paddle.ones([x.shape[2]], x.dtype)).sum(0)


def _gelu_and_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return GELU and its derivative.

    gelu(x) = x P(x), with the normal distribution P(x) = (1 + erf(x / sqrt(2))) / 2; the derivative
    is P(x) + x p(x), with its density p.
    """
    probability = paddle.erf(x * 0.5**0.5).scale_(0.5, 0.5)
    density = paddle.square(x).scale_(-0.5, LOG_DENSITY_AT_0).exp_()
    return x * probability, density.multiply_(x).add_(probability)
