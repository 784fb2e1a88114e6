"""Segmenter: exact counts, the original algorithm, any input size."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from reference_segmenter import reference_segmenter

from paddleseg_segformer.analysis.complexity import count_macs, count_parameters
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models import (
    BACKBONES,
    LinearSegmenter,
    MaskSegmenter,
    MixVisionTransformer,
    VisionTransformer,
)
from paddleseg_segformer.models.layers import DropPath, upsample_to_input

pytestmark = pytest.mark.check

PUBLISHED: dict[str, Any] = {"img_size": 512, "qkv_bias": True, "final_norm": True}
SMALL: dict[str, Any] = {"embed_dim": 384, "depth": 12, "num_heads": 6}
BASE: dict[str, Any] = {"embed_dim": 768, "depth": 12, "num_heads": 12}
TINY: dict[str, Any] = {
    **PUBLISHED, "img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 3,
}  # fmt: skip


def build(head: str, num_classes: int, h_qkv_bias: bool = False, **encoder: Any) -> nn.Layer:
    backbone = VisionTransformer(**encoder)
    if head == "linear":
        return LinearSegmenter(num_classes, backbone)
    width, heads = encoder["embed_dim"], encoder["num_heads"]
    return MaskSegmenter(num_classes, backbone, width, 2, heads, h_qkv_bias=h_qkv_bias)


@paddle.no_grad()
def randomise(model: nn.Layer) -> nn.Layer:
    """Give every weight a value that no initialiser gives, and switch to evaluation."""
    for name, tensor in model.state_dict().items():
        value = paddle.randn(tensor.shape) * 1.2 / max(np.prod(tensor.shape[:-1]), 4) ** 0.5
        if name.endswith(("cls_token", "pos_embed")):
            value = 0.5 * paddle.randn(tensor.shape)
        elif "norm" in name and name.endswith("weight"):
            value = 1 + 0.2 * paddle.randn(tensor.shape)
        tensor.set_value(value)
    model.eval()
    return model


@pytest.mark.usefixtures("zero_weights")
@pytest.mark.parametrize(
    ("head", "encoder", "h_qkv_bias", "parameters", "gmacs"),
    [
        ("linear", SMALL, False, 22_041_366, 31.8),
        ("mask", SMALL, False, 26_031_660, 38.4),
        ("mask", SMALL, True, 26_033_964, 38.4),
        ("linear", BASE, False, 86_549_910, 107.2),
        ("mask", BASE, False, 102_492_972, 129.3),
        ("mask", BASE, True, 102_497_580, 129.3),
    ],
)
def test_parameters_and_macs_are_the_published_ones(head, encoder, h_qkv_bias, parameters, gmacs):
    model = build(head, 150, h_qkv_bias, **PUBLISHED, **encoder)
    assert count_parameters(model) == parameters
    assert count_macs(model, (512, 512)).total() / 1e9 == pytest.approx(gmacs, rel=0.005)


@pytest.mark.parametrize("head", ["linear", "mask"])
@pytest.mark.parametrize("hw", [(64, 64), (70, 97), (33, 100), (9, 16)])
def test_original_rules_equal_the_original_algorithm(head, hw):
    options = {"pad_input": True, "pos_embed_interpolation": "bilinear"}
    model = randomise(build(head, 5, True, **TINY, **options))
    x = paddle.randn([2, 3, *hw])
    with paddle.no_grad():
        expected = reference_segmenter(model.state_dict(), x, 16, 3, 3)
        logits = model(x)
        found = upsample_to_input(logits, hw, model.pad_multiple)
    assert logits.shape == [2, 5, -(-hw[0] // 16), -(-hw[1] // 16)]
    assert float(expected.std()) > 0.3
    assert float((found - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.std()))


@pytest.mark.parametrize("head", ["linear", "mask"])
def test_paddleseg_rules_ignore_pixels_that_fill_no_patch(head):
    model = randomise(build(head, 5, **TINY))
    x = paddle.randn([1, 3, 70, 97])
    with paddle.no_grad():
        found, cut = model(x), model(x[:, :, :64, :96])
    assert model.pad_multiple == 1
    assert found.shape == [1, 5, 4, 6]
    np.testing.assert_array_equal(found.numpy(), cut.numpy())


def test_padding_changes_what_the_last_patches_hold():
    paddle.seed(1)
    floored = randomise(build("linear", 3, **TINY))
    padded = build("linear", 3, **TINY, pad_input=True)
    padded.set_state_dict(floored.state_dict())
    padded.eval()
    x = paddle.randn([1, 3, 64, 80])
    with paddle.no_grad():  # whole patches: both conventions agree
        np.testing.assert_allclose(floored(x).numpy(), padded(x).numpy(), atol=1e-6)
        assert padded(x[:, :, :, :70]).shape == [1, 3, 4, 5]


def test_positions_follow_the_grid_and_not_the_number_of_patches():
    encoder = VisionTransformer(**TINY)
    own = encoder.positions((4, 4))
    wide = encoder.positions((2, 8))
    assert wide.shape == own.shape
    assert float((wide - own).abs().max()) > 1e-3
    np.testing.assert_array_equal(wide[:, 0].numpy(), own[:, 0].numpy())


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_resizing_positions_to_their_own_grid_changes_nothing(interpolation):
    from paddleseg_segformer.models.vision_transformer import resize_positions

    positions = paddle.randn([1, 1 + 12, 8])
    same = resize_positions(positions, (3, 4), (3, 4), interpolation)
    np.testing.assert_array_equal(same.numpy(), positions.numpy())


@pytest.mark.parametrize("head", ["linear", "mask"])
def test_every_parameter_gets_a_gradient(head):
    model = build(head, 4, True, **TINY)
    model.train()
    model(paddle.randn([2, 3, 40, 64])).square().mean().backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or float(parameter.grad.abs().max()) == 0
    ]
    assert without == []


def test_stochastic_depth_rises_over_encoder_and_mask_transformer():
    backbone = VisionTransformer(**{**TINY, "depth": 3}, drop_path_rate=0.2)
    model = MaskSegmenter(5, backbone, 24, 2, 3, h_drop_path_rate=0.1)
    rates = [layer.rate for layer in model.sublayers() if isinstance(layer, DropPath)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0, 0.1])


def test_initial_weights_are_the_original_ones():
    model = build("mask", 64, **{**TINY, "embed_dim": 96})
    for name, parameter in model.named_parameters():
        value = parameter.numpy()
        if "norm" in name:
            assert (value == (1 if name.endswith("weight") else 0)).all(), name
        elif "patch_embed" in name:
            assert np.abs(value).max() <= 1 / 768**0.5, name
            assert value.std() == pytest.approx(1 / (3 * 768) ** 0.5, rel=0.2), name
        elif name.endswith("bias"):
            assert (value == 0).all(), name
        else:
            assert value.std() == pytest.approx(0.02, rel=0.2), name


def test_mask_logits_are_normalised_over_the_classes():
    model = build("mask", 7, **TINY)
    model.eval()
    logits = model(paddle.randn([1, 3, 64, 64])).numpy()
    np.testing.assert_allclose(logits.mean(axis=1), 0, atol=1e-5)
    tokens, _ = model.backbone.encode(paddle.randn([1, 3, 64, 64]))
    maps = model.head.class_maps(tokens[:, 1:]).numpy()
    assert maps.shape == (1, 16, 7)
    assert np.abs(maps).max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VisionTransformer(norm_layer="nn.BatchNorm"), "expected nn.LayerNorm"),
        (lambda: VisionTransformer(pos_embed_interpolation="bicubik"), "Did you mean 'bicubic'"),
        (lambda: VisionTransformer(img_size=8), "img_size: found 8, expected"),
        (lambda: VisionTransformer(img_size=[64, 64, 3]), "img_size: found"),
        (lambda: VisionTransformer(**{**TINY, "num_heads": 5}), "num_heads: found 5, expected a"),
        (lambda: LinearSegmenter(0, VisionTransformer(**TINY)), "num_classes: found 0"),
        (lambda: MaskSegmenter(1, VisionTransformer(**TINY), 24, 1, 3), "expected 2 or more"),
        (lambda: LinearSegmenter(2, MixVisionTransformer()), "expected a VisionTransformer"),
        (lambda: MaskSegmenter(2, nn.Linear(2, 2), 8, 1, 1), "backbone Linear: expected"),
        (lambda: VisionTransformer(**TINY)(paddle.rand([1, 3, 15, 64])), "image of 15x64 px"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_norm_over_two_classes_keeps_their_order_alone(caplog):
    """Why there is a warning: the logits do not grow with the distance of the two cosines."""
    with caplog.at_level(logging.WARNING):
        model = build("mask", 2, **TINY)
    assert "use a LinearSegmenter" in caplog.text
    cosines = paddle.to_tensor([[0.9, 0.1], [0.5, -0.5], [0.3, 0.2], [-1.0, 1.0]])
    logits = model.head.mask_norm(cosines).numpy()
    halves = np.array([0.4, 0.5, 0.05, -1.0])  # of the distances
    expected = halves / np.sqrt(halves**2 + 1e-5)
    assert (np.abs(expected) > 0.99).all()
    np.testing.assert_allclose(logits, np.stack([expected, -expected], axis=1), atol=1e-5)


def test_image_size_is_width_and_height():
    assert VisionTransformer(**{**TINY, "img_size": [128, 64]}).grid_hw == (4, 8)


@pytest.mark.parametrize("name", ["ViT_tiny_patch16_384", "ViT_small_patch32_384"])
def test_named_variants_build(name):
    encoder = BACKBONES[name](depth=1, final_norm=True)
    assert encoder.grid_hw == ((24, 24) if "16" in name else (12, 12))
    assert encoder(paddle.rand([1, 3, 64, 96])).shape[1] == encoder.embed_dim
