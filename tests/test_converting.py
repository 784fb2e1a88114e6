"""`convert_weights`: exact both ways, honest where that is impossible."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from small_models import NARROW_MIT

from paddleseg_segformer import load_model
from paddleseg_segformer.cli import main
from paddleseg_segformer.config import Config
from paddleseg_segformer.config.building import build_component
from paddleseg_segformer.converting import save_model
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models import MODELS, MixVisionTransformer
from paddleseg_segformer.weights import (
    load_pretrained,
    load_weights,
    open_checkpoint,
    save_weights,
)

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors")

SIZES = {**NARROW_MIT, "depths": (1, 1, 2, 1)}


def make(model: str, **backbone) -> paddle.nn.Layer:
    arguments = {} if model == "MixVisionTransformerClassifier" else {"embedding_dim": 24}
    net = MODELS[model](
        num_classes=4, backbone=MixVisionTransformer(**{**SIZES, **backbone}), **arguments
    )
    for key, tensor in net.state_dict().items():
        low = 0.1 if key.endswith("_variance") else -0.4
        tensor.set_value(paddle.uniform(tensor.shape, min=low, max=0.5))
    net.eval()
    return net


def convert(*arguments) -> int:
    return main(["convert_weights", *map(str, arguments)])


CASES = [
    ("SegFormer", "nvlabs", "a.pth"),
    ("SegFormer", "nvlabs", "a.safetensors"),
    ("SegFormer", "hf", "folder"),
    ("SegFormer", "hf", "pytorch_model.bin"),
    ("SegFormer", "smp", "a.pt"),
    ("SegFormer", "paddleseg", "a.pdparams"),
    ("SegFormer", "paddleseg", "a.safetensors"),
    ("SegFormerMM", "mmseg", "a.pth"),
    ("SegFormerMM", "paddleseg", "a.safetensors"),
    ("MixVisionTransformerClassifier", "nvlabs", "a.pth"),
    ("MixVisionTransformerClassifier", "hf", "folder"),
    ("MixVisionTransformerClassifier", "paddleseg", "a.safetensors"),
]


@pytest.mark.check
@pytest.mark.parametrize(("model", "to", "name"), CASES)
def test_there_and_back_gives_the_same_file_and_logits(tmp_path, model, to, name):
    net = make(model)
    start, middle, end = tmp_path / "net.pdparams", tmp_path / name, tmp_path / "end.pdparams"
    save_weights(net, start)
    assert convert(start, middle, "--to", to) == 0
    assert convert(middle, end, "--to", "paddleseg") == 0
    before, after = paddle.load(str(start)), paddle.load(str(end))
    assert set(before) == set(after)
    for key, value in before.items():
        np.testing.assert_array_equal(after[key].numpy(), value.numpy(), err_msg=key)
    section = open_checkpoint(middle).model
    section["backbone"] = {**section["backbone"], "norm_eps": 1e-6, "embed_norm_eps": 1e-5}
    again = build_component("model", section, "model")
    again.eval()
    load_weights(again, middle)
    x = paddle.randn([1, 3, 45, 67])
    np.testing.assert_array_equal(again(x).numpy(), net(x).numpy())


def test_value_range_that_hugging_face_has_not_is_told(tmp_path, caplog):
    net = make("SegFormer")
    section = {"type": "SegFormer", "num_classes": 4, "embedding_dim": 24}
    section["backbone"] = {"type": "MixVisionTransformer", **SIZES}
    section["backbone"] = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in section["backbone"].items()
    }
    data = {"type": "Dataset", "transforms": [{"type": "Normalize"}], "value_range": [0, 4095]}
    config = Config(section, val_dataset=data)
    save_model(net, config, tmp_path / "hf", "hf")
    assert (
        "has no value_range: give it images that are mapped to 0..255 by [0, 4095]" in caplog.text
    )


@pytest.mark.parametrize("to", ["nvlabs", "mmseg", "hf", "smp", "paddleseg"])
@pytest.mark.parametrize("model", ["SegFormer", "SegFormerMM"])
def test_backbone_alone_goes_everywhere_bare(tmp_path, model, to):
    net = make(model)
    save_weights(net, tmp_path / "net.pdparams")
    dest = tmp_path / "backbone.safetensors"
    assert convert(tmp_path / "net.pdparams", dest, "--to", to, "--backbone_only") == 0
    with safetensors.safe_open(dest, "np") as file:
        prefixes = {name.split(".")[0] for name in file.keys()}  # noqa: SIM118
    assert not prefixes & {"backbone", "segformer", "decode_head"}
    checkpoint = open_checkpoint(dest)
    assert checkpoint.is_backbone
    for key, value in net.backbone.state_dict().items():
        np.testing.assert_array_equal(checkpoint.state[f"backbone.{key}"], value.numpy())


@pytest.mark.parametrize(
    ("model", "to", "reason"),
    [
        ("SegFormer", "mmseg", "has no batch norm and ReLU in the branches"),
        ("SegFormerMM", "nvlabs", "has batch norm and ReLU in the branches"),
        ("SegFormerMM", "hf", "--backbone_only"),
        ("SegFormerMM", "smp", "has batch norm and ReLU in the branches"),
        ("MixVisionTransformerClassifier", "smp", "a classifier of whole images"),
        ("MixVisionTransformerClassifier", "mmseg", "a classifier of whole images"),
    ],
)
def test_what_has_no_exact_counterpart_is_refused(tmp_path, capsys, model, to, reason):
    save_weights(make(model), tmp_path / "net.pdparams")
    assert convert(tmp_path / "net.pdparams", tmp_path / "out.safetensors", "--to", to) == 1
    error = capsys.readouterr().err
    assert reason in error and len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["net.pdparams"]


def test_suffix_of_another_code_base_is_refused(tmp_path, capsys):
    save_weights(make("SegFormer"), tmp_path / "net.pdparams")
    assert convert(tmp_path / "net.pdparams", tmp_path / "out.pdparams", "--to", "nvlabs") == 1
    assert "NVlabs's weights are written as .pth" in capsys.readouterr().err
    assert convert(tmp_path / "net.pdparams", tmp_path / "out", "--to", "smp") == 1
    assert convert(tmp_path / "net.pdparams", tmp_path / "out.pth", "--to", "paddleseg") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["net.pdparams"]


def test_attention_without_bias_is_refused(tmp_path, capsys):
    save_weights(make("SegFormer", qkv_bias=False), tmp_path / "net.pdparams")
    assert convert(tmp_path / "net.pdparams", tmp_path / "out.pth", "--to", "nvlabs") == 1
    assert "without qkv_bias" in capsys.readouterr().err
    assert convert(tmp_path / "net.pdparams", tmp_path / "o.safetensors", "--to", "paddleseg") == 0


def test_dry_run_prints_the_map_and_writes_nothing(tmp_path, capsys):
    save_weights(make("SegFormerMM"), tmp_path / "net.pdparams")
    assert convert(tmp_path / "net.pdparams", tmp_path / "o.pth", "--to", "mmseg", "--dry_run") == 0
    text = capsys.readouterr().out
    assert (
        "backbone.block1.0.attn.kv.weight -> backbone.layers.0.1.0.attn.attn.in_proj_weight "
        "(transposed, rows 1/3 to 3/3, 8x16)" in text
    )
    assert "mlp.fc1.weight -> backbone.layers.0.1.0.ffn.layers.0.weight (transposed, as 1x1" in text
    num_tensors = len(make("SegFormerMM").state_dict())
    assert f"{num_tensors} tensors of" in text
    assert [path.name for path in tmp_path.iterdir()] == ["net.pdparams"]


def test_classes_and_palette_travel_with_the_weights(tmp_path):
    net = make("SegFormer")
    save_weights(net, tmp_path / "net.pdparams")
    classes, palette = ["a", "b", "c", "d"], [[0, 0, index] for index in range(4)]
    assert convert(tmp_path / "net.pdparams", tmp_path / "nv.pth", "--to", "nvlabs") == 0
    content = torch.load(tmp_path / "nv.pth", weights_only=True)
    content["meta"] |= {"CLASSES": classes, "PALETTE": palette}
    torch.save(content, tmp_path / "nv.pth")
    assert convert(tmp_path / "nv.pth", tmp_path / "hub", "--to", "hf") == 0
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert config["id2label"] == {str(index): name for index, name in enumerate(classes)}
    assert config["label2id"] == {name: index for index, name in enumerate(classes)}
    assert config["architectures"] == ["SegformerForSemanticSegmentation"]
    assert open_checkpoint(tmp_path / "hub").classes == classes
    with safetensors.safe_open(tmp_path / "hub" / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
    assert convert(tmp_path / "nv.pth", tmp_path / "again.pth", "--to", "nvlabs") == 0
    assert torch.load(tmp_path / "again.pth", weights_only=True)["meta"]["PALETTE"] == palette


def test_other_epsilons_and_preprocessing_are_said(tmp_path, capsys):
    save_weights(make("SegFormer"), tmp_path / "net.pdparams")
    assert convert(tmp_path / "net.pdparams", tmp_path / "hub", "--to", "hf") == 0
    text = capsys.readouterr().out
    assert "Hugging Face's code fixes other LayerNorm epsilons (norm_eps 1e-06 -> 1e-05)" in text
    assert "no preprocessing is known" in text
    assert convert(tmp_path / "net.pdparams", tmp_path / "a.pth", "--to", "nvlabs") == 0
    assert "LayerNorm" not in capsys.readouterr().out


def test_incomplete_weights_are_not_converted(tmp_path, capsys):
    state = dict(make("SegFormer").state_dict())
    state["extra"] = paddle.zeros([2])
    paddle.save(state, str(tmp_path / "net.pdparams"))
    assert convert(tmp_path / "net.pdparams", tmp_path / "o.pth", "--to", "nvlabs") == 1
    assert "unexpected: extra (1 in all)" in capsys.readouterr().err
    del state["extra"], state["linear_c2.proj.bias"]
    paddle.save(state, str(tmp_path / "net.pdparams"))
    assert convert(tmp_path / "net.pdparams", tmp_path / "o.pth", "--to", "nvlabs") == 1
    assert "missing: linear_c2.proj.bias" in capsys.readouterr().err


def test_backbone_of_a_head_that_is_not_known_can_be_taken(tmp_path, capsys):
    net, path = make("SegFormerMM"), tmp_path / "net.pdparams"
    state = {f"backbone.{key}": value for key, value in net.backbone.state_dict().items()}
    state["decode_head.bottleneck.conv.weight"] = paddle.zeros([2, 3])
    paddle.save(state, str(path))
    assert convert(path, tmp_path / "mit.pth", "--to", "mmseg") == 1
    assert "unexpected: decode_head.bottleneck.conv.weight" in capsys.readouterr().err
    assert convert(path, tmp_path / "mit.pth", "--to", "mmseg", "--backbone_only") == 0
    target = make("SegFormer").backbone
    report = load_pretrained(target, str(path))
    assert report.left_out == ["decode_head.bottleneck.conv.weight"]
    for key, value in net.backbone.state_dict().items():
        np.testing.assert_array_equal(target.state_dict()[key].numpy(), value.numpy())
    state["backbone.block9.weight"] = paddle.zeros([2])
    paddle.save(state, str(path))
    with pytest.raises(UserError, match="unexpected: backbone.block9.weight"):
        load_pretrained(target, str(path))


def test_model_folder_keeps_what_the_source_says(tmp_path):
    net = make("SegFormer", norm_eps=1e-5)
    save_weights(net, tmp_path / "net.pdparams")
    assert convert(tmp_path / "net.pdparams", tmp_path / "hub", "--to", "hf") == 0
    assert convert(tmp_path / "hub", tmp_path / "own", "--to", "paddleseg") == 0
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == [
        "config.yml",
        "model.pdparams",
    ]
    checkpoint = open_checkpoint(tmp_path / "own")
    assert checkpoint.epsilons == {"norm_eps": 1e-5, "embed_norm_eps": 1e-5}
    assert checkpoint.transforms == open_checkpoint(tmp_path / "hub").transforms
    assert checkpoint.test_config == {"is_one_step": True}
    again = load_model(tmp_path / "own")
    x = paddle.randn([1, 3, 45, 67])
    np.testing.assert_array_equal(again(x).numpy(), net(x).numpy())


def test_folders_are_not_mixed(tmp_path, capsys):
    save_weights(make("SegFormer"), tmp_path / "net.pdparams")
    hub, own = tmp_path / "hub", tmp_path / "own"
    for _ in range(2):  # the same again is no mistake
        assert convert(tmp_path / "net.pdparams", hub, "--to", "hf") == 0
        assert convert(hub, own, "--to", "paddleseg") == 0
    capsys.readouterr()
    assert convert(hub, own, "--to", "hf") == 1
    assert "of other weights. Choose another folder." in capsys.readouterr().err
    assert convert(own, hub, "--to", "paddleseg") == 1
    assert (hub / "model.safetensors").is_file() and not (hub / "config.yml").exists()


def test_weights_of_unknown_preprocessing_get_no_model_folder(tmp_path, capsys):
    save_weights(make("SegFormer"), tmp_path / "net.pdparams")
    assert convert(tmp_path / "net.pdparams", tmp_path / "own", "--to", "paddleseg") == 1
    assert "says how images are prepared" in capsys.readouterr().err
    assert not (tmp_path / "own").exists()
