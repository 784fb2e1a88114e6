"""Explanations against slow restatements: differences of the network's outputs, one by one."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddleseg_segformer.analysis.explanations import (
    choose_target,
    gradient_attention,
    occlusion,
)
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models import (
    MaskSegmenter,
    MixVisionTransformer,
    SegFormer,
    VisionTransformer,
    attention,
)

VIT = {"img_size": 64, "patch_size": 32, "embed_dim": 12, "depth": 2, "num_heads": 2}
MIT = {"embed_dims": (8, 8, 12, 16), "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}


@pytest.fixture(params=["mit", "merged", "vit"])
def model(request) -> paddle.nn.Layer:
    """Return a network with weights that make attention uneven, in double precision."""
    paddle.seed(0)
    if request.param == "vit":
        made = MaskSegmenter(3, VisionTransformer(**VIT), 32, 1, 2)
    else:
        merge = (2, 1, 2, 1) if request.param == "merged" else (1, 1, 1, 1)
        made = SegFormer(3, MixVisionTransformer(**MIT, merge=merge), 8)
    for tensor in made.parameters():
        if tensor.ndim > 1:
            tensor.set_value(2 * paddle.randn(tensor.shape) / np.prod(tensor.shape[:-1]) ** 0.5)
    made.to(dtype="float64")
    made.eval()
    return made


def image(height: int = 64, width: int = 64) -> paddle.Tensor:
    return paddle.to_tensor(np.random.default_rng(1).normal(size=(1, 3, height, width)))


@pytest.mark.parametrize("is_last", [False, True])
def test_gradient_attention_is_that_of_differences(model, monkeypatch, is_last) -> None:
    x = image()
    target = choose_target(model, x, (20, 33))
    num_layers = 4 if isinstance(model, SegFormer) else 2
    block = num_layers - 1 if is_last else num_layers - 2
    layer = -1 if is_last else block
    found = gradient_attention(model, x, target, layer)
    calls: list[np.ndarray] = []
    change: dict[tuple[int, ...], float] = {}
    original = attention.attention_weights

    def changed(q, k):
        weights = original(q, k)
        calls.append(weights.numpy())
        if len(calls) - 1 == block:
            delta = np.zeros(weights.shape)
            for place, step in change.items():
                delta[place] += step
            weights = weights + paddle.to_tensor(delta)
        return weights

    monkeypatch.setattr(attention, "attention_weights", changed)
    monkeypatch.setattr(attention, "BLOCK_SCORES", 1 << 30)

    def logit() -> float:
        calls.clear()
        with paddle.no_grad():
            maps = model(x)[0, target.class_id].numpy()
        return float(maps[target.mask > 0].mean())

    logit()
    weights = calls[block][0]  # (M, L, S)
    expected = np.zeros(weights.shape)
    step = 1e-5
    for place in np.ndindex(weights.shape):
        change = {(0, *place): step}
        up = logit()
        change = {(0, *place): -step}
        expected[place] = (up - logit()) / (2 * step)
    products = np.maximum(weights * expected, 0).mean(axis=0)
    keys = products.sum(axis=0)[-found.values.size :]
    np.testing.assert_allclose(found.values.reshape(-1), keys, rtol=1e-5, atol=1e-12)
    assert keys.max() > 0


def test_occlusion_is_the_probability_that_is_lost(model) -> None:
    x = image()
    target = choose_target(model, x, (5, 9), class_id=1)
    found = occlusion(model, x, target, square_px=30)
    assert found.values.shape == (3, 3)

    def probability(pixels: np.ndarray) -> float:
        with paddle.no_grad():
            logits = model(paddle.to_tensor(pixels))[0].numpy()
        exp = np.exp(logits - logits.max(axis=0))
        cell = 32 if isinstance(model, MaskSegmenter) else 4
        return float((exp / exp.sum(axis=0))[1, 5 // cell, 9 // cell])

    for row in range(3):
        for column in range(3):
            pixels = x.numpy().copy()
            pixels[0, :, 30 * row : 30 * row + 30, 30 * column : 30 * column + 30] = 0
            lost = probability(x.numpy()) - probability(pixels)
            assert found.values[row, column] == pytest.approx(lost, abs=1e-12)
    assert np.abs(found.values).max() > 0


def test_target_is_a_pixel_or_all_places_of_a_class(model) -> None:
    x = image()
    with paddle.no_grad():
        predicted = model(x)[0].numpy().argmax(axis=0)
    common = int(np.bincount(predicted.reshape(-1)).argmax())
    of_class = choose_target(model, x, None, common)
    np.testing.assert_array_equal(of_class.mask > 0, predicted == common)
    of_pixel = choose_target(model, x, (63, 63))
    assert of_pixel.class_id == predicted[-1, -1] and of_pixel.mask[-1, -1] == 1
    assert of_pixel.mask.sum() == 1
    maps = np.random.default_rng(2).random((1, 3, *predicted.shape))
    mean = maps[0, common][predicted == common].mean()
    assert float(of_class.mean(paddle.to_tensor(maps))[0]) == pytest.approx(mean, rel=1e-6)
    with pytest.raises(UserError, match="found 3, expected ids of 0 to 2"):
        choose_target(model, x, None, 3)
    missing = sorted({0, 1, 2} - set(predicted.reshape(-1).tolist()))
    if missing:
        with pytest.raises(UserError, match="is predicted nowhere in the image"):
            choose_target(model, x, None, missing[0])


def test_layers_and_weights_are_left_as_they_were(model) -> None:
    x = image()
    before = model(x).numpy()
    gradient_attention(model, x, choose_target(model, x, (0, 0)))
    np.testing.assert_array_equal(model(x).numpy(), before)
    assert all(tensor.grad is None for tensor in model.parameters())
    with pytest.raises(UserError, match="layer: found 9"):
        gradient_attention(model, x, choose_target(model, x, (0, 0)), 9)
