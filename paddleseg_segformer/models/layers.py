"""Small layers shared by the backbones and heads.

Shapes: N batch, C channels, L tokens (h * w), h w sides of a feature map.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn


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
        mask = paddle.bernoulli(paddle.full(mask_shape, keep, dtype=x.dtype))
        return x * (mask / keep)


def conv_bn(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return a 1x1 convolution without bias and a batch norm, named as in PaddleSeg's files."""
    return nn.Sequential(
        ("_conv", nn.Conv2D(in_channels, out_channels, kernel_size=1, bias_attr=False)),
        ("_batch_norm", nn.BatchNorm2D(out_channels)),
    )


def tokens_to_map(x: Tensor, hw: Sequence[int | Tensor]) -> Tensor:
    """(N, L, C) -> (N, C, h, w) with L = h * w, row-major."""
    return x.transpose([0, 2, 1]).reshape([0, 0, hw[0], hw[1]])


def map_to_tokens(x: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, h * w, C)."""
    return x.flatten(2).transpose([0, 2, 1])


def upsample(x: Tensor, hw: Sequence[int | Tensor], align_corners: bool = False) -> Tensor:
    """Resize (N, C, h, w) bilinearly to (N, C, *hw)."""
    return F.interpolate(x, size=hw, mode="bilinear", align_corners=align_corners)


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


def project(x: Tensor, weight: Tensor) -> Tensor:
    """Apply a 1x1 convolution: (N, C, h, w) by a (C, D) weight -> (N, D, h, w)."""
    out = paddle.matmul(weight, x.flatten(2), transpose_x=True)  # (N, D, L)
    return out.reshape([0, 0, x.shape[2], x.shape[3]])
