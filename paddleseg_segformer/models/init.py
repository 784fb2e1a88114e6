"""Weight initialisation of the published code bases."""

from __future__ import annotations

import math

import paddle
from paddle import Tensor, nn


@paddle.no_grad()
def init_mit_weights(layer: nn.Layer) -> None:
    """Initialise one layer of a MiT encoder: `model.apply(init_mit_weights)`.

    Linear: normal, std 0.02 (the published cut-off at +-2 is 100 standard deviations away), zero
        bias;
    convolution: normal, std sqrt(2 / fan_out), zero bias; LayerNorm keeps 1 and 0.
    """
    if isinstance(layer, nn.Linear):
        _normal(layer, std=0.02)
    elif isinstance(layer, nn.Conv2D):
        out_channels, _, kernel_h, kernel_w = layer.weight.shape
        _normal(layer, std=math.sqrt(2.0 * layer._groups / (kernel_h * kernel_w * out_channels)))


@paddle.no_grad()
def init_vit_weights(layer: nn.Layer) -> None:
    """Initialise one layer of a Segmenter: `model.apply(init_vit_weights)`.

    Linear: normal, std 0.02, zero bias; the patch embedding's convolution: uniform(+-1 /
    sqrt(fan_in)), bias included; LayerNorm keeps 1 and 0.
    """
    if isinstance(layer, nn.Linear):
        _normal(layer, std=0.02)
    elif isinstance(layer, nn.Conv2D):
        _uniform(layer, bound=1.0 / math.sqrt(math.prod(layer.weight.shape[1:])))


@paddle.no_grad()
def init_tokens(*parameters: Tensor) -> None:
    """Initialise class tokens and position embeddings: normal, std 0.02."""
    for parameter in parameters:
        parameter.set_value(paddle.normal(0.0, 0.02, parameter.shape).astype(parameter.dtype))


@paddle.no_grad()
def init_head_weights(layer: nn.Layer) -> None:
    """Initialise one layer of an all-MLP head.

    Linears and the classifier: uniform(+-1 / sqrt(fan_in)); the bias-free fuse convolution:
    normal, std sqrt(2 / fan_out).
    """
    if isinstance(layer, nn.Conv2D) and layer.bias is None:
        _normal(layer, std=math.sqrt(2.0 / layer.weight.shape[0]))
    elif isinstance(layer, (nn.Linear, nn.Conv2D)):
        fan_in = layer.weight.shape[0 if isinstance(layer, nn.Linear) else 1]
        _uniform(layer, bound=1.0 / math.sqrt(fan_in))


def _uniform(layer: nn.Layer, bound: float) -> None:
    for parameter in (layer.weight, layer.bias):
        parameter.set_value(paddle.uniform(parameter.shape, parameter.dtype, -bound, bound))


def _normal(layer: nn.Layer, std: float) -> None:
    layer.weight.set_value(paddle.normal(0.0, std, layer.weight.shape).astype(layer.weight.dtype))
    if layer.bias is not None:
        layer.bias.set_value(paddle.zeros_like(layer.bias))
