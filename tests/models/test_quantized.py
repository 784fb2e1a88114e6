"""Training for INT8: the rounding beside NumPy's, its gradients, and the model's other parts."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from small_models import small_segformer, small_vit, spread

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models import LinearSegmenter, SegFormer, SegFormerMM
from paddleseg_segformer.models.folded_encoder import FoldedLinear
from paddleseg_segformer.models.folding import fold
from paddleseg_segformer.models.quantized import (
    Range,
    _Rounder,
    in_float,
    learnt_ranges,
    products,
    quantize,
)


def quantized(kind: type[nn.Layer] = SegFormer, moving_rate: float = 0.5) -> nn.Layer:
    paddle.seed(3)
    model = spread(small_segformer(5, kind))
    quantize(model, moving_rate)
    return model


def rounder(low: float, high: float) -> _Rounder:
    return _Rounder(Range(low, high), None, {})


def linear(weight: np.ndarray) -> FoldedLinear:
    layer = FoldedLinear.__new__(FoldedLinear)
    nn.Layer.__init__(layer)
    layer.weight = paddle.to_tensor(weight, stop_gradient=False)
    return layer


@pytest.mark.parametrize(("low", "high"), [(-0.17, 3.1), (-2.0, 2.0), (0.5, 4.0), (-3.0, -1.0)])
def test_operands_are_rounded_as_by_numpy(low, high) -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.normal(0, 2, (7, 6)), rng.normal(0, 1, (6, 4)) * [1, 10, 0.1, 3]
    x, weight = x.astype(np.float32), weight.astype(np.float32)
    with paddle.no_grad():
        found = rounder(low, high)(linear(weight), paddle.to_tensor(x))
    step = np.abs(weight).max(axis=0) / 127  # of each output
    np.testing.assert_allclose(found[1].numpy(), np.rint(weight / step) * step, rtol=1e-5)
    step = (max(high, 0) - min(low, 0)) / 255
    zero = -np.rint(min(low, 0) / step)
    expected = (np.clip(np.rint(x / step) + zero, 0, 255) - zero) * step
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-5)
    assert 0.0 in np.float32((np.arange(256) - zero) * step)  # padding stays what it is


def test_rounding_passes_gradients_on_but_for_values_outside() -> None:
    x = paddle.to_tensor([[-5.0, -0.4, 0.3, 0.9, 7.0]], stop_gradient=False)
    layer = linear(np.ones((5, 1), np.float32))
    for item in rounder(-1.0, 1.0)(layer, x):
        (item * 3).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [[0, 3, 3, 3, 0]], rtol=1e-6)
    np.testing.assert_allclose(layer.weight.grad.numpy(), np.full((5, 1), 3), rtol=1e-6)


@pytest.mark.parametrize("kind", [SegFormer, SegFormerMM])
def test_every_weight_learns_and_the_model_stays_close(kind) -> None:
    model = quantized(kind)
    x = paddle.randn([2, 3, 64, 96])
    with in_float(model), paddle.no_grad():
        expected = model(x)
    model.train()
    found = model(x)
    error = float((found - expected).detach().std() / expected.std())
    assert 1e-3 < error < 0.1
    found.square().mean().backward()
    still = [
        name
        for name, item in model.named_parameters()
        if not name.endswith(("_mean", "_variance")) and not float(item.grad.abs().sum())
    ]
    assert not still
    model.eval()
    with paddle.no_grad():  # in the ranges of the one batch
        np.testing.assert_allclose(model(x).numpy(), found.numpy(), atol=1e-4)


@pytest.mark.parametrize("kind", [SegFormer, SegFormerMM])
def test_gradients_are_those_of_the_model_where_nothing_is_rounded(kind, monkeypatch) -> None:
    model = quantized(kind)
    model.dropout.p = 0.0
    monkeypatch.setattr(_Rounder, "__call__", lambda self, layer, x: (x, layer.weight))
    x, results = paddle.randn([1, 3, 64, 64]), []
    for run in (lambda: model.quantizers(model, x), lambda: _plain(model, x)):
        run().square().mean().backward()
        named = model.named_parameters()
        results.append({k: v.grad.numpy() for k, v in named if v.grad is not None})
        model.clear_gradients()
    assert results[0].keys() == results[1].keys()
    for name, expected in results[1].items():
        bound = 1e-4 * np.abs(expected).max() + 1e-7
        np.testing.assert_allclose(results[0][name], expected, atol=bound, err_msg=name)


def _plain(model: nn.Layer, x: paddle.Tensor) -> paddle.Tensor:
    with in_float(model):
        return model(x)


def test_ranges_follow_the_batches() -> None:
    model = quantized(moving_rate=0.75)
    model.train()
    ends = []
    with paddle.no_grad():
        for factor in (1.0, 5.0):
            x = factor * paddle.randn([1, 3, 64, 64])
            model(x)
            ends.append([float(x.min()), float(x.max())])
    first = model.quantizers.ranges[0].numpy()  # of the image, which the first product takes
    np.testing.assert_allclose(first, 0.75 * np.array(ends[0]) + 0.25 * np.array(ends[1]), 1e-5)
    model.eval()
    before = model.quantizers.ranges.numpy()
    with paddle.no_grad():
        model(9 * x)
    np.testing.assert_array_equal(model.quantizers.ranges.numpy(), before)


def test_learnt_ranges_are_of_the_products_that_an_export_has() -> None:
    model = quantized()
    with pytest.raises(UserError, match="no ranges of its inputs yet"):
        learnt_ranges(model)
    model.train()
    with paddle.no_grad():
        model(paddle.randn([1, 3, 64, 64]))
    found = learnt_ranges(model)
    layers = products(fold(model))
    assert len(found) == len(layers) == len(model.quantizers.ranges)
    for item, layer in zip(found, layers, strict=True):
        np.testing.assert_array_equal(item.weight, layer.weight.numpy())
        assert item.low <= 0 <= item.high
    assert learnt_ranges(small_segformer(5)) is None


@pytest.mark.parametrize("kind", ["segmenter", "replaced"])
def test_other_models_are_refused(kind) -> None:
    model = LinearSegmenter(5, small_vit()) if kind == "segmenter" else small_segformer(5)
    if kind == "replaced":
        model.backbone.block1[0].mlp.fc1 = nn.Sequential(nn.Identity())
    with pytest.raises(UserError, match="qat: .*expected a SegFormer or SegFormerMM"):
        quantize(model, 0.99)
