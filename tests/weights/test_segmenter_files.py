"""Segmenter's weight files: PaddleSeg's, rstrudel/segmenter's, timm's ImageNet weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
import yaml
from paddle import nn

from paddleseg_segformer.cli import main
from paddleseg_segformer.config.building import build_component
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.models import LinearSegmenter, MaskSegmenter, VisionTransformer
from paddleseg_segformer.models.vision_transformer import resize_positions
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.weights import (
    load_pretrained,
    load_weights,
    open_checkpoint,
    save_weights,
)
from paddleseg_segformer.weights.formats import RSTRUDEL, TIMM_VIT
from paddleseg_segformer.weights.formats.naming import export_state

torch = pytest.importorskip("torch")

ORIGINAL = {"pad_input": True, "pos_embed_interpolation": "bilinear"}
SIZES: dict[str, Any] = {
    "img_size": 64, "embed_dim": 64, "depth": 2, "num_heads": 1, "qkv_bias": True,
    "final_norm": True,
}  # fmt: skip


def make(head: str, h_qkv_bias: bool = True, **encoder: Any) -> nn.Layer:
    """Build a small net in evaluation mode, every weight random."""
    backbone = VisionTransformer(**{**SIZES, **encoder})
    model = (
        LinearSegmenter(5, backbone)
        if head == "linear"
        else MaskSegmenter(5, backbone, 64, 2, 1, h_qkv_bias=h_qkv_bias)
    )
    for tensor in model.state_dict().values():
        tensor.set_value(paddle.randn(tensor.shape) * 0.1)
    model.eval()
    return model


def state_of(model: nn.Layer) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in model.state_dict().items()}


def write_rstrudel(model: nn.Layer, path: Path, **changes: np.ndarray) -> None:
    """Write a training snapshot as the original implementation does."""
    state = {**export_state(RSTRUDEL, state_of(model), 5), **changes}
    tensors = {key: torch.from_numpy(value) for key, value in state.items()}
    torch.save({"model": tensors, "n_cls": 5, "epoch": 3, "optimizer": {"state": {}}}, path)


def rebuilt(path: Path) -> nn.Layer:
    """Build the model that a file describes, and load the file."""
    model = build_component("model", open_checkpoint(path).model, "model")
    report = load_weights(model, path)
    assert report.is_exact and not report.left_out
    model.eval()
    return model


def assert_same_logits(model: nn.Layer, other: nn.Layer) -> None:
    for hw in ((64, 64), (45, 70)):
        x = paddle.randn([2, 3, *hw])
        with paddle.no_grad():
            np.testing.assert_array_equal(model(x).numpy(), other(x).numpy())


@pytest.mark.parametrize("head", ["linear", "mask"])
@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors"])
def test_paddleseg_file_is_recognised_and_described(tmp_path, head, suffix) -> None:
    model = make(head, h_qkv_bias=False)
    path = tmp_path / f"model{suffix}"
    if suffix == ".pdparams":
        save_weights(model, path)
    else:
        pytest.importorskip("safetensors.numpy").save_file(state_of(model), path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.format == "paddleseg"
    assert checkpoint.missing == checkpoint.unexpected == []
    backbone = {
        "type": "VisionTransformer", "img_size": 64, "embed_dim": 64, "depth": 2, "num_heads": 1,
        "qkv_bias": True, "final_norm": True,
    }  # fmt: skip
    assert checkpoint.model["backbone"] == backbone
    assert_same_logits(model, rebuilt(path))


@pytest.mark.parametrize("head", ["linear", "mask"])
def test_rstrudel_file_gives_the_logits_of_the_original_rules(tmp_path, head) -> None:
    model = make(head, **ORIGINAL)
    path = tmp_path / "any name.pth"
    write_rstrudel(model, path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.format == "rstrudel"
    assert checkpoint.missing == checkpoint.unexpected == []
    assert checkpoint.epsilons == {"epsilon": 1e-5}
    assert checkpoint.transforms == [{"type": "Normalize", "mean": [0.5], "std": [0.5]}]
    assert_same_logits(model, rebuilt(path))


def test_raw_matrices_of_the_original_are_not_transposed() -> None:
    model = make("mask")
    state = state_of(model)
    exported = export_state(RSTRUDEL, state, 5)
    for key, name in (("proj_patch", "proj_patch"), ("proj_class", "proj_classes")):
        np.testing.assert_array_equal(exported[f"decoder.{name}"], state[f"head.{key}.weight"])
    proj = "blocks.0.attn.proj.weight"
    np.testing.assert_array_equal(exported[f"encoder.{proj}"], state[f"backbone.{proj}"].T)
    assert exported["encoder.head.weight"].shape == (1000, 64)
    assert exported["encoder.head.bias"].shape == (1000,)
    assert exported["decoder.cls_emb"].shape == (1, 5, 64)


VARIANT = """
net_kwargs:
  backbone: vit_tiny_patch16_384
  d_model: 64
  decoder: {drop_path_rate: 0.0, dropout: 0.1, n_layers: 2, name: mask_transformer}
  distilled: false
  drop_path_rate: 0.1
  dropout: 0.0
  image_size: !!python/tuple [64, 64]
  n_cls: 5
  n_heads: 2
  n_layers: 2
  normalization: vit
  patch_size: 16
dataset_kwargs: {dataset: ade20k, image_size: 512}
inference_kwargs: {im_size: 512, window_size: 480, window_stride: 320}
"""


def test_variant_yml_states_heads_dropout_and_evaluation(tmp_path) -> None:
    model = make("mask", num_heads=2, **ORIGINAL)
    write_rstrudel(model, tmp_path / "checkpoint.pth")
    (tmp_path / "variant.yml").write_text(VARIANT)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.model["backbone"]["num_heads"] == 2
    assert checkpoint.model["backbone"]["drop_path_rate"] == 0.1
    assert (checkpoint.model["h_num_heads"], checkpoint.model["h_drop_rate"]) == (1, 0.1)
    assert checkpoint.transforms == [
        {"type": "ResizeKeepRatio", "scale": [2048, 512]},
        {"type": "Normalize", "mean": [0.5], "std": [0.5]},
    ]
    assert checkpoint.test_config == {
        "is_slide": True, "crop_size": [480, 480], "stride": [320, 320], "average": "softmax",
        "scale_mode": "source",
    }  # fmt: skip
    assert_same_logits(model, rebuilt(tmp_path))


def test_folder_of_the_original_predicts_and_is_written_back(tmp_path) -> None:
    model = make("mask", num_heads=2, **ORIGINAL)
    source = tmp_path / "source"
    source.mkdir()
    write_rstrudel(model, source / "checkpoint.pth")
    (source / "variant.yml").write_text(VARIANT)
    predictor = Predictor.from_pretrained(source, is_slide=False)
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    expected = Predictor(
        model,
        Preprocess.from_transforms(open_checkpoint(source).transforms),
        predictor.settings,
    )
    np.testing.assert_array_equal(predictor(image).label, expected(image).label)
    for format in ("paddleseg", "rstrudel"):
        predictor.save_pretrained(tmp_path / format, format)
        again = Predictor.from_pretrained(tmp_path / format, is_slide=False)
        assert_same_logits(again.pipeline.network, model)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("net_kwargs: {d_model: 64}", "not a variant.yml of rstrudel/segmenter"),
        ("!!python/object/apply:os.system ['true']", "variant.yml: not valid YAML"),
        (VARIANT.replace("d_model: 64", "d_model: 128"), "says embed_dim 128, but the weights"),
        (VARIANT.replace("vit\n", "gan\n"), "KeyError: 'gan'"),
    ],
)
def test_wrong_variant_yml_is_one_line(tmp_path, text, message) -> None:
    write_rstrudel(make("mask"), tmp_path / "checkpoint.pth")
    (tmp_path / "variant.yml").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        open_checkpoint(tmp_path)
    assert "variant.yml" in str(error.value) and "\n" not in str(error.value)


def test_distilled_model_is_refused(tmp_path) -> None:
    path = tmp_path / "deit.pth"
    write_rstrudel(make("linear"), path, **{"encoder.dist_token": np.zeros((1, 1, 64), np.float32)})
    with pytest.raises(UserError, match=r"holds encoder\.dist_token: a distilled DeiT has"):
        open_checkpoint(path)
    tensors = {"pos_embed": torch.zeros(1, 18, 64), "dist_token": torch.zeros(1, 1, 64)}
    torch.save(tensors, path)
    with pytest.raises(UserError, match="holds dist_token: a distilled DeiT"):
        open_checkpoint(path)


def convert(*arguments: object) -> int:
    return main(["convert_weights", *map(str, arguments)])


@pytest.mark.parametrize("head", ["linear", "mask"])
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "folder"])
def test_there_and_back_gives_the_same_weights(tmp_path, head, name) -> None:
    model = make(head)
    start, middle, end = tmp_path / "start.pdparams", tmp_path / name, tmp_path / "end.pdparams"
    save_weights(model, start)
    assert convert(start, middle, "--to", "rstrudel") == 0
    if name == "folder":
        assert sorted(item.name for item in middle.iterdir()) == ["checkpoint.pth", "variant.yml"]
        stated = yaml.safe_load((middle / "variant.yml").read_text())["net_kwargs"]
        assert (stated["n_cls"], stated["d_model"], stated["n_heads"]) == (5, 64, 1)
    assert convert(middle, end, "--to", "paddleseg") == 0
    before, after = paddle.load(str(start)), paddle.load(str(end))
    assert set(before) == set(after)
    for key, value in before.items():
        np.testing.assert_array_equal(after[key].numpy(), value.numpy(), err_msg=key)


def test_mask_transformer_without_bias_gets_zeros_there(tmp_path, caplog) -> None:
    model = make("mask", h_qkv_bias=False)
    save_weights(model, tmp_path / "start.pdparams")
    assert convert(tmp_path / "start.pdparams", tmp_path / "a.pth", "--to", "rstrudel") == 0
    tensors = torch.load(tmp_path / "a.pth", weights_only=True)["model"]
    assert tensors["decoder.blocks.1.attn.qkv.bias"].tolist() == [0.0] * 192
    section = open_checkpoint(tmp_path / "a.pth").model
    assert section["h_qkv_bias"] is True
    again = rebuilt(tmp_path / "a.pth")
    x = paddle.randn([1, 3, 64, 64])  # whole patches of the stored grid: both rules agree
    with paddle.no_grad():
        np.testing.assert_allclose(again(x).numpy(), model(x).numpy(), atol=1e-6)


@pytest.mark.parametrize("to", ["nvlabs", "hf"])
def test_segmenter_is_not_converted_to_segformers_formats(tmp_path, capsys, to) -> None:
    save_weights(make("linear"), tmp_path / "a.pdparams")
    out = tmp_path / "out.safetensors"
    assert convert(tmp_path / "a.pdparams", out, "--to", to, "--backbone_only") == 1
    error = capsys.readouterr().err
    assert "holds a VisionTransformer" in error and len(error.splitlines()) == 1
    assert not out.exists()


def timm_state(backbone: VisionTransformer) -> dict[str, Any]:
    state = {f"backbone.{key}": value for key, value in state_of(backbone).items()}
    exported = export_state(TIMM_VIT, state, None)
    exported |= {"head.weight": np.zeros((10, 64), np.float32), "head.bias": np.zeros(10, "f4")}
    return {key: torch.from_numpy(value) for key, value in exported.items()}


def test_timm_weights_start_a_backbone_with_resized_positions(tmp_path, caplog) -> None:
    source = VisionTransformer(**{**SIZES, "img_size": 96})
    torch.save(timm_state(source), tmp_path / "vit.pth")
    checkpoint = open_checkpoint(tmp_path / "vit.pth")
    assert (checkpoint.format, checkpoint.model["img_size"]) == ("timm", 96)
    assert checkpoint.is_backbone and checkpoint.model["epsilon"] == 1e-6
    target = VisionTransformer(**SIZES, epsilon=1e-6)
    with caplog.at_level(logging.WARNING):
        report = load_pretrained(target, str(tmp_path / "vit.pth"))
    assert report.reshaped == ["pos_embed: found [1, 37, 64], expected [1, 17, 64]"]
    assert "reshaped pos_embed: found [1, 37, 64]" in caplog.text
    expected = resize_positions(source.pos_embed, (6, 6), (4, 4))
    np.testing.assert_array_equal(target.pos_embed.numpy(), expected.numpy())
    for key, value in source.state_dict().items():
        if key != "pos_embed":
            np.testing.assert_array_equal(target.state_dict()[key].numpy(), value.numpy())


def test_paddlesegs_imagenet_weights_start_a_segmenters_backbone(tmp_path) -> None:
    source = VisionTransformer(**{**SIZES, "img_size": 96})
    save_weights(source, tmp_path / "vit.pdparams")
    model = make("mask")
    load_pretrained(model.backbone, str(tmp_path / "vit.pdparams"))
    qkv = "blocks.1.attn.qkv.weight"
    np.testing.assert_array_equal(
        model.backbone.state_dict()[qkv].numpy(), source.state_dict()[qkv].numpy()
    )


def test_positions_of_another_width_stop_the_start(tmp_path) -> None:
    save_weights(VisionTransformer(**{**SIZES, "embed_dim": 128}), tmp_path / "vit.pdparams")
    with pytest.raises(UserError, match="embed_dim 128"):
        load_pretrained(VisionTransformer(**SIZES), str(tmp_path / "vit.pdparams"))


def test_strict_loading_resizes_nothing(tmp_path) -> None:
    save_weights(make("linear", img_size=96), tmp_path / "a.pdparams")
    with pytest.raises(UserError, match="img_size 96|found .1, 37, 64."):
        load_weights(make("linear"), tmp_path / "a.pdparams")


def test_other_rules_for_input_sizes_are_warned_about(tmp_path, caplog) -> None:
    write_rstrudel(make("linear"), tmp_path / "a.pth")
    with caplog.at_level(logging.WARNING):
        load_weights(make("linear"), tmp_path / "a.pth")
    assert "trained with pad_input=True, the model has False" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        load_weights(make("linear", **ORIGINAL), tmp_path / "a.pth")
    assert caplog.text == ""


def test_encoder_without_a_final_norm_is_not_converted(tmp_path, capsys) -> None:
    save_weights(make("mask", final_norm=False), tmp_path / "model.pdparams")
    source, destination = str(tmp_path / "model.pdparams"), tmp_path / "there"
    assert main(["convert_weights", source, str(destination), "--to", "rstrudel"]) == 1
    assert "rstrudel/segmenter has no encoder without final_norm" in capsys.readouterr().err
    assert not destination.exists()
