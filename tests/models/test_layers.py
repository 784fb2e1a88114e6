"""The cheaper forms of small layers against their plain forms: values and gradients."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddleseg_segformer.models import BACKBONES, SegFormer
from paddleseg_segformer.models.cpu_gradients import (
    MATRIX_SIDE,
    MATRIX_SIDE_NO_GRAD,
    interpolation_matrix,
)
from paddleseg_segformer.models.layers import convolve, upsample

pytestmark = pytest.mark.check


def value_and_gradients(function, *inputs):
    """Return a function's value and its gradients under fixed random output gradients."""
    inputs = [paddle.to_tensor(array, stop_gradient=False) for array in inputs]
    out = function(*inputs)
    weights = paddle.to_tensor(np.random.default_rng(9).standard_normal(out.shape), out.dtype)
    (out * weights).sum().backward()
    return [out.numpy(), *(each.grad.numpy() for each in inputs)]


@pytest.mark.parametrize(
    ("kernel", "stride", "groups"), [(3, 1, 6), (3, 2, 1), (4, 4, 1), (1, 1, 1)]
)
def test_convolution_equals_paddles(kernel, stride, groups):
    layer = paddle.nn.Conv2D(6, 12, kernel, stride=stride, padding=kernel // 2, groups=groups)
    layer.bias.set_value(paddle.randn([12]))

    def plain(x):
        return F.conv2d(x, layer.weight, layer.bias, stride, kernel // 2, groups=groups)

    x = np.random.default_rng(0).standard_normal((2, 6, 13, 11)).astype(np.float32)
    results = []
    for forward in (lambda x: convolve(layer, x), plain):
        values = value_and_gradients(forward, x)
        results.append([*values, layer.weight.grad.numpy(), layer.bias.grad.numpy()])
        layer.clear_gradients()
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("hw", "new_hw"),
    [((5, 7), (25, 33)), ((1, 1), (8, 8)), ((1, 3), (4, 5)), ((8, 8), (8, 8)), ((9, 10), (4, 3))],
)
def test_upsampling_by_matrices_equals_interpolation(hw, new_hw):
    x = np.random.default_rng(0).standard_normal((2, 3, *hw)).astype(np.float32)
    found = value_and_gradients(lambda t: upsample(t, new_hw), x)
    expected = value_and_gradients(
        lambda t: F.interpolate(t, size=new_hw, mode="bilinear", align_corners=False), x
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_matrices_are_used_for_small_maps_and_without_aligned_corners_only():
    def hits(side: int, has_gradient: bool, align_corners: bool = False) -> int:
        interpolation_matrix.cache_clear()
        x = paddle.rand([1, 1, side, side])
        x.stop_gradient = not has_gradient
        upsample(x, [2 * side, 2 * side], align_corners)
        return interpolation_matrix.cache_info().misses

    assert hits(MATRIX_SIDE_NO_GRAD, False) == hits(MATRIX_SIDE, True) == 1
    assert hits(MATRIX_SIDE_NO_GRAD + 1, False) == hits(MATRIX_SIDE + 1, True) == 0
    assert hits(8, True, align_corners=True) == 0


def test_aligned_corners_equal_interpolation():
    x = paddle.rand([1, 2, 5, 6])
    expected = F.interpolate(x, size=[20, 24], mode="bilinear", align_corners=True)
    np.testing.assert_array_equal(upsample(x, [20, 24], True).numpy(), expected.numpy())


def test_dropped_channels_do_not_reach_the_classifier_and_the_others_are_scaled():
    model = SegFormer(5, BACKBONES["MixVisionTransformer_B0"](), 256, dropout_rate=0.5)
    model.linear_pred.bias.set_value(paddle.randn([5]))
    model.train()
    rng = np.random.default_rng(0)
    fused = rng.standard_normal((3, 256, 4, 6)).astype(np.float32)
    masks = []
    dropout = model.dropout.forward
    model.dropout.forward = lambda ones: masks.append(dropout(ones)) or masks[-1]
    found = value_and_gradients(lambda x: model.classify(x * 1), fused)  # overwrites its input
    (mask,) = masks
    assert np.unique(mask.numpy()).tolist() == [0.0, 2.0]
    assert 0.3 < float((mask == 0).astype("float32").mean()) < 0.7
    assert len({row.numpy().tobytes() for row in mask}) == 3  # each image has its own
    expected = value_and_gradients(lambda x: model.linear_pred(F.relu(x) * mask), fused)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
