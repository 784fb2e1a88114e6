"""Small layers shared by the backbones and heads.

Shapes: N batch, C channels, L tokens (h * w), h w sides of a feature map.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_segformer.models import cpu_gradients


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
        # drawn in float32: not every device supports half precision
        mask = paddle.bernoulli(paddle.full(mask_shape, keep))
        factors = in_type_of(x, mask / keep)
        if cpu_gradients.is_on_cpu(x):
            return cpu_gradients.scale_samples(x, factors)
        return x * factors


def convolve(layer: nn.Layer, x: Tensor) -> Tensor:
    """Call a convolution, or a sequence of one: (N, C, h, w) -> (N, D, h', w').

    The bias of Paddle's own is added as (C, 1, 1), in the type of the product. Paddle adds it as
    (1, C, 1, 1), whose gradient takes as long on a CPU as that of a 3x3 depthwise convolution.
    """
    conv = layer[0] if is_only(layer, 1) else layer
    is_own = type(conv) is nn.Conv2D and not has_hooks(conv) and _pads_zeros(conv)
    if not (is_own and cpu_gradients.is_rewriting):
        return layer(x)
    weight = in_type_of(x, conv.weight)  # else a depthwise one is computed in float32
    out = F.conv2d(x, weight, None, conv._stride, conv._padding, conv._dilation, conv._groups)
    return out if conv.bias is None else add_channel_bias(out, conv.bias)


def linear(layer: nn.Layer, x: Tensor) -> Tensor:
    """Call a linear: (..., C) -> (..., D). The bias is added in the type of the product."""
    is_own = type(layer) is nn.Linear and not has_hooks(layer) and layer.bias is not None
    if not (is_own and cpu_gradients.is_rewriting):
        return layer(x)
    out = paddle.matmul(x, layer.weight)
    return out + in_type_of(out, layer.bias)


PLAIN = (nn.Linear, nn.LayerNorm, nn.BatchNorm2D, nn.Dropout, nn.Dropout2D, DropPath)


def are_plain(*layers: nn.Layer) -> bool:
    """Tell whether layers may be computed from their weights, without being called.

    They have to be called where something watches or changes them as they run (hooks), and where
    they were replaced by another kind of layer, such as one of LoRA's. Of convolutions, `is_conv`
    tells.
    """
    return all(type(layer) in PLAIN and not has_hooks(layer) for layer in layers)


def is_conv(
    layer: nn.Layer,
    kernel: int,
    stride: int = 1,
    padding: int = 0,
    *,
    has_bias: bool = True,
    is_depthwise: bool = False,
) -> bool:
    """Tell whether a layer is a convolution of this form that may be computed from its weights."""
    if type(layer) is not nn.Conv2D or has_hooks(layer) or not _pads_zeros(layer):
        return False
    form = layer._kernel_size, layer._stride, layer._dilation, layer._padding, layer._groups
    groups = layer.weight.shape[0] if is_depthwise else 1
    expected = [kernel] * 2, [stride] * 2, [1, 1], padding, groups
    return form == expected and (layer.bias is not None) == has_bias


def _pads_zeros(conv: nn.Conv2D) -> bool:
    """Tell whether a convolution pads with zeros, channels first."""
    return conv._padding_mode == "zeros" and conv._data_format == "NCHW"


def is_only(container: nn.Layer, num_layers: int) -> bool:
    """Tell whether a layer is a sequence that does no more than run its so many layers."""
    is_sequence = type(container) is nn.Sequential and not has_hooks(container)
    return is_sequence and len(container) == num_layers


def have_biases(layers: Sequence[nn.Layer]) -> bool:
    """Tell whether each of some linears or convolutions has a bias."""
    return all(layer.bias is not None for layer in layers)


def has_hooks(layer: nn.Layer) -> bool:
    """Tell whether something watches or changes a layer as it runs."""
    return bool(layer._forward_pre_hooks or layer._forward_post_hooks)


def add_channel_bias(x: Tensor, bias: Tensor) -> Tensor:
    """Add (C,) to (N, C, h, w)."""
    return x + in_type_of(x, bias).reshape([-1, 1, 1])


def in_type_of(x: Tensor, other: Tensor) -> Tensor:
    """Return `other` in the type of `x`.

    In mixed precision products are in half precision and weights in float32: adding a bias would
    turn the map into float32.
    """
    return other if other.dtype == x.dtype else other.astype(x.dtype)


def conv_bn(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return a 1x1 convolution without bias and a batch norm, named as in PaddleSeg's files."""
    return nn.Sequential(
        ("_conv", nn.Conv2D(in_channels, out_channels, kernel_size=1, bias_attr=False)),
        ("_batch_norm", nn.BatchNorm2D(out_channels)),
    )


def relu(x: Tensor) -> Tensor:
    """ReLU, which lets NaN through where a prediction is made of it.

    The CPU's makes NaN a 0, so that a network that has broken down would give labels. Training
    sees NaN in the gradients.
    """
    is_predicting = paddle.in_dynamic_mode() and x.stop_gradient
    return F.leaky_relu(x, 0.0) if is_predicting else F.relu(x)


def tokens_to_map(x: Tensor, hw: Sequence[int | Tensor]) -> Tensor:
    """(N, L, C) -> (N, C, h, w) with L = h * w, row-major.

    Here and in `map_to_tokens`, height and width are separate axes while channels are moved: where
    a graph flattens them first, OpenVINO moves the scales of INT8 convolutions in between, and
    copies the map twice instead of not at all.
    """
    return x.reshape([0, hw[0], hw[1], x.shape[2]]).transpose([0, 3, 1, 2])


def map_to_tokens(x: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, h * w, C)."""
    return x.transpose([0, 2, 3, 1]).flatten(1, 2)


def map_to_patches(x: Tensor, hw: Sequence[int], ratio: int) -> Tensor:
    """Split an `hw` map into its whole squares: (N, L, C) -> (N, S, ratio * ratio * C).

    A convolution whose kernel and stride are `ratio` is a linear of them.
    """
    h, w = (side // ratio for side in hw)
    channels = x.shape[2]
    x = x.reshape([0, *hw, channels])[:, : h * ratio, : w * ratio]
    rows = x.reshape([-1, ratio, w, ratio * channels]).unbind(1)
    return paddle.concat(rows, axis=2).reshape([-1, h * w, ratio * ratio * channels])


def merge_tokens(x: Tensor, hw: Sequence[int | Tensor], ratio: int) -> Tensor:
    """Average the tokens of each `ratio` x `ratio` square of an `hw` map, of fewer at its edges.

    (N, L, C) -> (N, L', C) with L' = ceil(h / ratio) * ceil(w / ratio).
    """
    if ratio == 1:
        return x
    padding = [0, ratio - 1, 0, ratio - 1]  # not counted; OpenVINO wants maps of a kernel's size
    return map_to_tokens(F.avg_pool2d(tokens_to_map(x, hw), ratio, padding=padding))


def spread_tokens(x: Tensor, hw: Sequence[int | Tensor], ratio: int) -> Tensor:
    """Give each token of an `hw` map the value of its square in a map of `merge_tokens`.

    (N, L', C) -> (N, L, C), by repeating tokens, then rows: no axis changes its place.
    """
    if ratio == 1:
        return x
    h, w = ((side + ratio - 1) // ratio * ratio for side in hw)
    x = x.reshape([-1, 1, x.shape[2]]).expand([-1, ratio, -1])  # each token
    row = w * x.shape[2]
    x = x.reshape([-1, 1, row]).expand([-1, ratio, row]).reshape([-1, h, w, x.shape[2]])
    return x[:, : hw[0], : hw[1]].flatten(1, 2)


def upsample(x: Tensor, hw: Sequence[int | Tensor], align_corners: bool = False) -> Tensor:
    """Resize (N, C, h, w) bilinearly to (N, C, *hw)."""
    if cpu_gradients.is_resized_by_matrices(x, align_corners):
        return cpu_gradients.resize(x, hw)
    return F.interpolate(x, size=hw, mode="bilinear", align_corners=align_corners)


def upsampled_sum(maps: Sequence[Tensor], align_corners: bool = False) -> Tensor:
    """Sum (N, C, h_i, w_i) maps after resizing each to the first one's size.

    The first map may be overwritten by the sum.
    """
    total, *others = maps
    if others and all(cpu_gradients.is_resized_by_matrices(x, align_corners) for x in others):
        return cpu_gradients.resized_sum(total, *others)
    hw = total.shape[2:]
    for smaller in others:
        total = total + in_type_of(total, upsample(smaller, hw, align_corners))
    return total


def upsample_to_input(logits: Tensor, hw: Sequence[int | Tensor], pad_multiple: int = 1) -> Tensor:
    """Resize a network's logits (N, K, h, w) to its input's size (N, K, *hw).

    Args:
        pad_multiple: the network pads its input at the bottom and right to a multiple of this
            number of pixels; its logits cover the padded input, and the padding is cropped off.
    """
    if pad_multiple == 1:
        return upsample(logits, hw)
    padded = [-(-side // pad_multiple) * pad_multiple for side in hw]
    return upsample(logits, padded)[:, :, : hw[0], : hw[1]]


def project(x: Tensor, weight: Tensor) -> Tensor:
    """Apply a linear without bias at each position: (N, C, h, w) by (C, D) -> (N, D, h, w)."""
    return F.conv2d(x, weight.transpose([1, 0]).unsqueeze(-1).unsqueeze(-1))
