"""Training for INT8: the folded network, with weights and inputs of its products rounded to 8 bits.

What an export multiplies is not what a model holds: norms are merged into linears, the head's
linears and fuse convolution into one matrix per stage (`folding`). So a model is folded anew in
each step, from its own weights, and the products of the folded network are rounded as INT8 rounds
them; the export then has the same products with the same ranges.

Weights: symmetric, 255 steps, a range for each output. Inputs: 256 steps, one range for each
product, an average over the steps of training. Rounding passes gradients on unchanged, and a value
outside its range gets none. Batch norm uses its statistics as they are, as it does in the export;
there is no dropout and no stochastic depth.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", 2018; Krishnamoorthi, "Quantizing deep convolutional
    networks for efficient inference", 2018.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models.folded_encoder import FoldedBlock, FoldedLayer
from paddleseg_segformer.models.folding import FoldedSegFormer, fold
from paddleseg_segformer.models.mix_transformer import Block

WEIGHT_MOST, INPUT_STEPS = 127, 255  # weights are -127 to 127 steps; inputs have 256 values
SMALLEST = 1e-8  # a range is no shorter


def quantize(model: nn.Layer, moving_rate: float) -> None:
    """Let a model compute as INT8 does, from now on; it gets one more layer, `quantizers`.

    Args:
        model: SegFormer or SegFormerMM on a MiT, of their own layers.
        moving_rate: What the range of an input keeps of itself in a step; the rest is the batch's.

    Raises:
        UserError: another model.
    """
    folded = fold(model)
    blocks = [x for x in model.sublayers() if isinstance(x, Block)]
    num_folded = sum(isinstance(x, FoldedBlock) for x in folded.sublayers())
    if not isinstance(folded, FoldedSegFormer) or not num_folded or num_folded < len(blocks):
        raise UserError(
            f"qat: {type(model).__name__} on {type(getattr(model, 'backbone', model)).__name__}, "
            "expected a SegFormer or SegFormerMM on a MixVisionTransformer with its own layers."
        )
    model.quantizers = Quantizers(len(products(folded)), moving_rate)


class Quantizers(nn.Layer):
    """The ranges of the inputs of a model's products, and the model's pass in INT8.

    Args:
        num_products: Of the folded model.
        moving_rate: See `quantize`.
    """

    def __init__(self, num_products: int, moving_rate: float) -> None:
        super().__init__()
        self.moving_rate = moving_rate
        # low and high; both 0: not seen yet
        self.register_buffer("ranges", paddle.zeros([num_products, 2]))

    def forward(self, model: nn.Layer, x: Tensor) -> Tensor:
        """(N, C, H, W) normalised image -> the model's logits (N, K, h, w)."""
        folded = fold(model, is_trainable=True)
        moving_rate = self.moving_rate if self.training else None
        inputs: dict[int, tuple[Tensor, Tensor]] = {}
        rounders = [_Rounder(Range(*ends), moving_rate, inputs) for ends in self.ranges.tolist()]
        for layer, rounder in zip(products(folded), rounders, strict=True):
            layer.quantize = rounder
        logits: Tensor = folded(x)
        if self.training:
            ranges = paddle.to_tensor([rounder.range for rounder in rounders])
            if dist.is_initialized():
                dist.all_reduce(ranges)
                ranges = ranges / dist.get_world_size()
            self.ranges.set_value(ranges)
        return logits


class Range(NamedTuple):
    """The least and the largest value of an input; both 0 for none seen."""

    low: float
    high: float

    @property
    def step(self) -> float:
        """Return the distance of the values that INT8 has."""
        return max(max(self.high, 0.0) - min(self.low, 0.0), SMALLEST) / INPUT_STEPS

    @property
    def least(self) -> int:
        """Return the number of the least value in steps; 0 is one of the values."""
        return round(min(self.low, 0.0) / self.step)


class _Rounder:
    """Rounds the operands of one product; in training it follows the range of the input.

    Args:
        range: Of the input, so far.
        moving_rate: See `quantize`; None for a range that stays.
        inputs: Of the products of this pass, by their `id`: as they are, and rounded. Several
            products have one input; without gradients it is rounded for each, to save memory.
    """

    def __init__(
        self, range: Range, moving_rate: float | None, inputs: dict[int, tuple[Tensor, Tensor]]
    ) -> None:
        self.range = range
        self.moving_rate = moving_rate
        self.inputs = inputs

    def __call__(self, layer: FoldedLayer, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.moving_rate is not None:
            self._follow(x, self.moving_rate)
        step = weight_bound(layer) / WEIGHT_MOST
        weight = rounded(layer.weight / step, -WEIGHT_MOST, WEIGHT_MOST) * step
        if id(x) not in self.inputs:
            least, step = self.range.least, self.range.step
            x_rounded = rounded(x.scale(1 / step), least, least + INPUT_STEPS).scale(step)
            if not paddle.is_grad_enabled():
                return x_rounded, weight
            self.inputs[id(x)] = x, x_rounded
        return self.inputs[id(x)][1], weight

    def _follow(self, x: Tensor, rate: float) -> None:
        seen = Range(*paddle.stack([x.detach().min(), x.detach().max()]).tolist())
        if self.range != (0, 0):
            pairs = zip(self.range, seen, strict=True)
            seen = Range(*(rate * before + (1 - rate) * now for before, now in pairs))
        self.range = seen


def products(folded: nn.Layer) -> list[FoldedLayer]:
    """Return the layers of a folded network that INT8 computes, in their order."""
    return [layer for layer in folded.sublayers() if isinstance(layer, FoldedLayer)]


def weight_bound(layer: FoldedLayer) -> Tensor:
    """Return the largest absolute weight of each output, shaped to go with the weight."""
    axes = [axis for axis in range(layer.weight.ndim) if axis != layer.out_axis]
    return layer.weight.detach().abs().amax(axis=axes, keepdim=True).clip(min=SMALLEST)


def rounded(x: Tensor, least: int, most: int) -> Tensor:
    """Round to whole numbers from least to most; see the module for gradients."""
    if paddle.is_grad_enabled() and not x.stop_gradient:
        return _StraightThrough.apply(x, least, most)
    return x.round().clip(least, most)


class _StraightThrough(PyLayer):
    """Rounding whose gradient is that of its input's inside the range, 0 outside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, least: int, most: int) -> Tensor:
        whole = x.round()
        inside = whole.clip(least, most)
        ctx.save_for_backward(whole == inside)
        return inside

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (is_inside,) = ctx.saved_tensor()
        return paddle.where(is_inside, dy, paddle.zeros([], dy.dtype))


class LearntRange(NamedTuple):
    """What INT8 rounds one product of the folded network to.

    Args:
        weight: Of the product, float32.
        bound: The largest absolute weight of each output, shaped to go with the weight.
        low, high: The ends of the input's range.
    """

    weight: np.ndarray
    bound: np.ndarray
    low: float
    high: float


def learnt_ranges(model: nn.Layer) -> list[LearntRange] | None:
    """Return the ranges of a model's products; None if it was not trained for INT8.

    Raises:
        UserError: it was to be, and has no ranges yet.
    """
    quantizers = getattr(model, "quantizers", None)
    if quantizers is None:
        return None
    found = []
    for layer, ends in zip(products(fold(model)), quantizers.ranges.tolist(), strict=True):
        span = Range(*ends)
        if span == (0, 0):
            raise UserError(
                "qat: the model has no ranges of its inputs yet. Train it for some steps, or leave "
                "qat out of its config."
            )
        low = span.least * span.step
        high = low + INPUT_STEPS * span.step
        found.append(LearntRange(layer.weight.numpy(), weight_bound(layer).numpy(), low, high))
    return found


@contextmanager
def in_float(model: nn.Layer) -> Iterator[None]:
    """Let a model compute in float within a `with` block."""
    quantizers = getattr(model, "quantizers", None)
    if quantizers is not None:
        model.quantizers = None
    try:
        yield
    finally:
        if quantizers is not None:
            model.quantizers = quantizers
