"""Segmenter against PaddleSeg's own: shared weights, unchanged YAML sections, its manager."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from paddleseg_segformer import register
from paddleseg_segformer.config import load_config
from paddleseg_segformer.config.building import build_component, build_model
from paddleseg_segformer.models import LinearSegmenter, MaskSegmenter
from paddleseg_segformer.models.layers import upsample_to_input
from paddleseg_segformer.models.vision_transformer import VARIANTS
from paddleseg_segformer.weights import load_weights

manager = pytest.importorskip("paddleseg.cvlibs").manager
segmenter = pytest.importorskip("paddleseg.models.segmenter")
vision_transformer = pytest.importorskip("paddleseg.models.backbones").vision_transformer

# The models of PaddleSeg's four configs, word for word but for `pretrained` of the backbone.
SMALL = {"embed_dim": 384, "depth": 12, "num_heads": 6}
BASE = {"embed_dim": 768, "depth": 12, "num_heads": 12}
BACKBONE = {
    "type": "VisionTransformer", "img_size": 512, "patch_size": 16, "mlp_ratio": 4,
    "qkv_bias": True, "drop_rate": 0.0, "drop_path_rate": 0.1, "final_norm": True,
}  # fmt: skip
ENTRIES = {
    f"vit_{size}_{head}": (head, encoder)
    for size, encoder in (("small", SMALL), ("base", BASE))
    for head in ("linear", "mask")
}


@pytest.fixture(scope="module", autouse=True)
def paddleseg_builds_without_weights() -> Iterator[None]:
    """PaddleSeg's encoder looks for the file `None` where none is to be loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vision_transformer.VisionTransformer, "init_weight", lambda self: None)
        yield


def section_of(head: str, encoder: dict[str, int]) -> dict[str, Any]:
    backbone = {**BACKBONE, **encoder, "pretrained": "https://host/vit.tar.gz"}
    if head == "linear":
        return {"type": "LinearSegmenter", "num_classes": 150, "backbone": backbone}
    width, heads = encoder["embed_dim"], encoder["num_heads"]
    return {
        "type": "MaskSegmenter", "num_classes": 150, "backbone": backbone, "h_embed_dim": width,
        "h_depth": 2, "h_num_heads": heads, "h_mlp_ratio": 4, "h_drop_rate": 0.0,
        "h_drop_path_rate": 0.1, "h_attn_drop_rate": 0.0, "h_qkv_bias": False,
    }  # fmt: skip


def build_theirs(section: dict[str, Any]) -> nn.Layer:
    arguments = {key: value for key, value in section.items() if key not in ("type", "backbone")}
    encoder = {k: v for k, v in section["backbone"].items() if k not in ("type", "pretrained")}
    return getattr(segmenter, section["type"])(
        backbone=vision_transformer.VisionTransformer(**encoder), **arguments
    )


@paddle.no_grad()
def randomise(model: nn.Layer) -> None:
    paddle.seed(0)
    for name, tensor in model.state_dict().items():
        noise = paddle.randn(tensor.shape)
        if name.endswith(("cls_token", "pos_embed")):
            tensor.set_value(0.3 * noise)
        elif tensor.ndim == 1:
            tensor.set_value(tensor + 0.1 * noise)
        else:
            tensor.set_value(noise / np.prod(tensor.shape[:1] or tensor.shape[1:]) ** 0.5)
    model.eval()


@pytest.fixture
def pair(entry: str, tmp_path: Path, drawn_as_zeros) -> tuple[nn.Layer, nn.Layer]:
    """Return PaddleSeg's model with random weights, and ours with its saved file loaded."""
    section = section_of(*ENTRIES[entry])
    config = tmp_path / "segmenter.yml"
    config.write_text(f"model: {section!r}")
    with drawn_as_zeros():
        theirs, ours = build_theirs(section), build_model(load_config(config))
    randomise(theirs)
    path = tmp_path / "model.pdparams"
    paddle.save(theirs.state_dict(), str(path))
    report = load_weights(ours, path)
    assert len(report.matched) == len(theirs.state_dict())
    ours.eval()
    return theirs, ours


def check_logits(
    theirs: nn.Layer, ours: nn.Layer, hw: tuple[int, int], tolerance: float = 1e-5
) -> None:
    x = paddle.randn([1, 3, *hw], dtype=ours.backbone.pos_embed.dtype)
    with paddle.no_grad():
        (expected,) = theirs(x)
        found = upsample_to_input(ours(x), hw, ours.pad_multiple)
    assert float(expected.std()) > 0.1
    assert float((found - expected).abs().max()) <= tolerance


@pytest.mark.parametrize("entry", ENTRIES)
def test_paddleseg_weights_give_paddlesegs_logits(pair):
    theirs, ours = pair
    for hw in ((128, 160), (75, 49)):
        check_logits(theirs, ours, hw)


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRIES)
def test_paddleseg_weights_give_paddlesegs_logits_at_full_size(pair):
    """In double precision, where 40 million logits show no rounding."""
    theirs, ours = pair
    for model in (theirs, ours):
        model.to(dtype="float64")
    check_logits(theirs, ours, (512, 512), tolerance=1e-11)


def test_epsilons_and_stochastic_depth_are_paddlesegs():
    section = section_of("mask", {"embed_dim": 24, "depth": 3, "num_heads": 3})
    section["backbone"]["drop_path_rate"] = 0.3
    theirs = dict(build_theirs(section).named_sublayers())
    ours = build_component("model", _without_weights(section), "model")
    rates = []
    for name, layer in ours.named_sublayers():
        if isinstance(layer, nn.LayerNorm):
            assert layer._epsilon == theirs[name]._epsilon, name
        if name.endswith("drop_path"):
            rates.append((layer.rate, getattr(theirs[name], "drop_prob", 0.0)))
    assert len(rates) == 5
    for found, expected in rates:
        assert found == pytest.approx(expected)


def _without_weights(section: dict[str, Any]) -> dict[str, Any]:
    backbone = {key: value for key, value in section["backbone"].items() if key != "pretrained"}
    return {**section, "backbone": backbone}


@pytest.mark.parametrize("arguments", [{"qk_scale": 0.05, "mlp_ratio": 3}, {"final_norm": False}])
def test_other_arguments_mean_what_they_mean_in_paddleseg(arguments):
    section = section_of("linear", {"embed_dim": 24, "depth": 2, "num_heads": 3})
    section["backbone"] |= {"img_size": 64, "patch_size": 8, "epsilon": 1e-3, **arguments}
    theirs = build_theirs(section)
    randomise(theirs)
    ours = build_component("model", _without_weights(section), "model")
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.set_state_dict(theirs.state_dict())
    ours.eval()
    check_logits(theirs, ours, (40, 72))


def test_named_variants_have_paddlesegs_arguments():
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vision_transformer, "VisionTransformer", lambda **arguments: arguments)
        for name in dir(vision_transformer):
            if name.startswith("ViT_"):
                found[name] = getattr(vision_transformer, name)()
    assert len(found) == 9
    defaults = {"img_size": 224, "patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12}
    defaults |= {"mlp_ratio": 4}
    for name, expected in found.items():
        assert {**defaults, **VARIANTS[name]} == {**defaults, **expected}, name


@pytest.fixture
def registered() -> Iterator[None]:
    before = dict(manager.MODELS.components_dict), dict(manager.BACKBONES.components_dict)
    register()
    yield
    for registry, components in zip((manager.MODELS, manager.BACKBONES), before, strict=True):
        registry.components_dict.clear()
        registry.components_dict.update(components)


def test_registered_models_keep_paddlesegs_contract(registered, tmp_path):
    section = section_of("mask", {"embed_dim": 24, "depth": 2, "num_heads": 3})
    section["backbone"]["img_size"] = 64
    theirs = build_theirs(section)
    randomise(theirs)
    path = tmp_path / "model.pdparams"
    paddle.save(theirs.state_dict(), str(path))
    encoder = {k: v for k, v in section["backbone"].items() if k != "type"}
    backbone = manager.BACKBONES["VisionTransformer"](**{**encoder, "pretrained": str(path)})
    arguments = {k: v for k, v in section.items() if k not in ("type", "backbone")}
    model = manager.MODELS["MaskSegmenter"](backbone=backbone, pretrained=str(path), **arguments)
    assert isinstance(model, MaskSegmenter) and not isinstance(model, LinearSegmenter)
    model.eval()
    x = paddle.randn([2, 3, 65, 49])
    with paddle.no_grad():
        (found,), (expected,) = model(x), theirs(x)
        tokens, shape = model.backbone(x)
        their_tokens, their_shape = theirs.backbone(x)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)
    assert shape.tolist() == their_shape.tolist() == [2, 24, 4, 3]
    for ours, published in zip(tokens, their_tokens, strict=True):
        np.testing.assert_allclose(ours.numpy(), published.numpy(), atol=1e-5)


def test_paddlesegs_other_models_take_our_registered_backbone(registered):
    from paddleseg.models.setr import SegmentationTransformer

    backbone = manager.BACKBONES["VisionTransformer"](
        img_size=64, embed_dim=24, depth=4, num_heads=3
    )
    model = SegmentationTransformer(5, backbone, backbone_indices=[0, 1, 2, 3])
    assert [logits.shape for logits in model(paddle.rand([1, 3, 64, 64]))] == [[1, 5, 64, 64]] * 4
