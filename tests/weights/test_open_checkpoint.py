"""Files of every code base and container: recognised, described, loaded with the same weights."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from small_models import NARROW_MIT

from paddleseg_segformer.config.building import build_component
from paddleseg_segformer.converting import prepare
from paddleseg_segformer.converting import write as save_as
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models import MODELS, MixVisionTransformer
from paddleseg_segformer.weights import load_pretrained, load_weights, open_checkpoint
from paddleseg_segformer.weights.formats import FORMATS
from paddleseg_segformer.weights.formats.naming import export_state

torch = pytest.importorskip("torch")
safetensors_numpy = pytest.importorskip("safetensors.numpy")

SIZES = {**NARROW_MIT, "depths": (1, 2, 1, 1)}


def make(model: str, num_classes: int = 5, **backbone) -> paddle.nn.Layer:
    """Build a small net in evaluation mode, every weight random, batch statistics included."""
    net = MODELS[model](
        num_classes=num_classes, backbone=MixVisionTransformer(**{**SIZES, **backbone})
    )
    for key, tensor in net.state_dict().items():
        low = 0.5 if key.endswith("_variance") else -0.5
        tensor.set_value(paddle.uniform(tensor.shape, min=low, max=1.0) * 0.4)
    net.eval()
    return net


def foreign(net: paddle.nn.Layer, format: str) -> dict[str, np.ndarray]:
    state = {key: value.numpy() for key, value in net.state_dict().items()}
    is_segformer = "linear_fuse._conv.weight" in state
    return export_state(FORMATS[format], state, net.num_classes if is_segformer else None)


def write(state: dict[str, np.ndarray], path) -> None:
    if path.suffix == ".safetensors":
        safetensors_numpy.save_file(state, path)
    elif path.suffix == ".pdparams":
        paddle.save(state, str(path))
    else:
        torch.save({key: torch.from_numpy(value) for key, value in state.items()}, path)


def assert_same_logits(net: paddle.nn.Layer, path) -> None:
    checkpoint = open_checkpoint(path)
    again = build_component("model", checkpoint.model, "model")
    again.eval()
    report = load_weights(again, path)
    assert report.is_exact and len(report.matched) == len(net.state_dict())
    x = paddle.randn([1, net.backbone.in_channels, 37, 70])
    np.testing.assert_array_equal(again(x).numpy(), net(x).numpy())


CASES = [
    (format, model, suffix)
    for format, models in {
        "paddleseg": ("SegFormer", "SegFormerMM", "MixVisionTransformerClassifier"),
        **{
            item.name: item.models
            for item in FORMATS.values()
            if item.models and item.backbone_type == "MixVisionTransformer"
        },
    }.items()
    for model in models
    for suffix in (".safetensors", ".pth", ".pdparams")
]


@pytest.mark.parametrize(("format", "model", "suffix"), CASES)
def test_network_rebuilt_from_a_file_gives_the_same_logits(tmp_path, format, model, suffix):
    epsilons = FORMATS[format].epsilons or {}
    net = make(model, in_channels=4, **epsilons)
    path = tmp_path / f"weights{suffix}"
    write(foreign(net, format), path)
    checkpoint = open_checkpoint(path)
    assert (checkpoint.format, checkpoint.model["type"]) == (format, model)
    assert checkpoint.missing == checkpoint.unexpected == []
    assert_same_logits(net, path)


@pytest.mark.parametrize("is_torch", [False, True])
def test_bare_backbones_are_told_apart_by_the_layout_of_matrices(tmp_path, is_torch):
    net = make("MixVisionTransformerClassifier")
    state = foreign(net, "nvlabs" if is_torch else "paddleseg")
    bare = {key.removeprefix("backbone."): value for key, value in state.items()}
    path = tmp_path / "mit.safetensors"
    write(bare, path)
    assert open_checkpoint(path).format == ("nvlabs" if is_torch else "paddleseg")
    assert_same_logits(net, path)
    del bare["head.weight"], bare["head.bias"]
    write(bare, path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.is_backbone and checkpoint.model["type"] == "MixVisionTransformer"
    target = MixVisionTransformer(**SIZES)
    load_pretrained(target, str(path))
    for key, value in net.backbone.state_dict().items():
        np.testing.assert_array_equal(target.state_dict()[key].numpy(), value.numpy())


def test_safetensors_whose_header_length_looks_like_a_pickle(tmp_path):
    lengths = set()
    for spaces in range(0, 256, 8):  # the header is padded to 8 bytes: 32 different last bytes
        path = tmp_path / "model.safetensors"
        metadata = {"note": "x" * spaces}
        safetensors_numpy.save_file({"w": np.zeros(3, np.float32)}, path, metadata=metadata)
        lengths.add(path.read_bytes()[0])
        assert list(open_checkpoint(path, is_known=False).state) == ["w"]
    assert 0x80 in lengths


def test_published_variants_are_named(tmp_path):
    net = MODELS["SegFormer"](3, MixVisionTransformer(), 256)
    write(foreign(net, "nvlabs"), tmp_path / "b0.pth")
    assert open_checkpoint(tmp_path / "b0.pth").model == {
        "type": "SegFormer",
        "num_classes": 3,
        "embedding_dim": 256,
        "backbone": {"type": "MixVisionTransformer_B0"},
    }


def write_hugging_face(folder, net, **changes) -> None:
    folder.mkdir(exist_ok=True)
    write(foreign(net, "hf"), folder / "model.safetensors")
    config = {
        "model_type": "segformer",
        "hidden_sizes": [8, 16, 40, 64],
        "depths": [1, 2, 1, 1],
        "num_attention_heads": [1, 2, 5, 4],
        "decoder_hidden_size": 256,
        "id2label": {str(index): f"thing {index}" for index in range(5)},
    }
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    processor = {"do_reduce_labels": True, "size": {"height": 96, "width": 128}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def test_hugging_face_folder_is_described_by_its_configs(tmp_path):
    net = make("SegFormer", num_heads=(1, 2, 5, 4), norm_eps=1e-5)
    write_hugging_face(tmp_path / "hub", net)
    checkpoint = open_checkpoint(tmp_path / "hub")
    assert checkpoint.classes == [f"thing {index}" for index in range(5)]
    assert checkpoint.reduces_labels
    assert checkpoint.transforms[0]["type"] == "AntialiasResize"
    assert checkpoint.transforms[0]["target_size"] == [128, 96]
    assert checkpoint.test_config == {"is_one_step": True}
    assert checkpoint.model["backbone"]["num_heads"] == [1, 2, 5, 4]
    assert_same_logits(net, tmp_path / "hub")
    assert_same_logits(net, tmp_path / "hub" / "model.safetensors")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"depths": [1, 1, 1, 1]}, r"says depths \[1, 1, 1, 1\], but the weights beside it have"),
        ({"decoder_hidden_size": 64}, "says embedding_dim 64"),
        ({"id2label": {"0": "one"}}, "says num_classes 1"),
        ({"model_type": "bert"}, "model_type is 'bert'"),
        ({"hidden_act": "relu"}, "hidden_act: found relu"),
    ],
)
def test_config_of_other_weights_is_refused(tmp_path, changes, expected):
    write_hugging_face(tmp_path / "hub", make("SegFormer"), **changes)
    with pytest.raises(UserError, match=expected):
        open_checkpoint(tmp_path / "hub")


def test_trainers_wrapping_and_metadata(tmp_path):
    net = make("SegFormerMM")
    state = {f"module.{key}": torch.from_numpy(v) for key, v in foreign(net, "mmseg").items()}
    classes, palette = tuple("abcde"), [[index, 0, 255] for index in range(5)]
    meta = {"CLASSES": classes, "PALETTE": palette}
    torch.save({"meta": meta, "state_dict": state, "optimizer": {}}, tmp_path / "iter_1.pth")
    checkpoint = open_checkpoint(tmp_path / "iter_1.pth")
    assert (checkpoint.classes, checkpoint.palette) == (list(classes), palette)
    assert checkpoint.epsilons == {"norm_eps": 1e-6, "embed_norm_eps": 1e-6}


def test_wrappers_of_training_programs_are_taken_off(tmp_path):
    net = make("SegFormer")
    for prefix in ("model._orig_mod.", "module.", "net.model."):
        state = {prefix + key: torch.from_numpy(v) for key, v in foreign(net, "hf").items()}
        torch.save({"state_dict": state, "epoch": 3}, tmp_path / "last.ckpt")
        checkpoint = open_checkpoint(tmp_path / "last.ckpt")
        assert checkpoint.format == "hf" and checkpoint.unexpected == checkpoint.missing == []


def test_weight_under_two_names_is_unexpected(tmp_path):
    state = foreign(make("SegFormer"), "hf")
    twice = "segformer.stages.0.layer_norm.weight"
    write({**state, twice: np.zeros(8, np.float32)}, tmp_path / "hf.safetensors")
    checkpoint = open_checkpoint(tmp_path / "hf.safetensors")
    assert len(checkpoint.unexpected) == 1 and "layer_norm" in checkpoint.unexpected[0]


def test_weights_go_into_a_network_of_half_precision(tmp_path):
    net, target = make("SegFormer"), make("SegFormer").bfloat16()
    write(foreign(net, "nvlabs"), tmp_path / "nv.pth")
    load_weights(target, tmp_path / "nv.pth")
    for key, value in net.state_dict().items():
        found = target.state_dict()[key]
        np.testing.assert_array_equal(
            found.astype("float32").numpy(), value.astype(found.dtype).astype("float32").numpy()
        )


def test_half_precision_is_widened_and_said(tmp_path):
    net, target = make("SegFormer"), make("SegFormer")
    state = {key: torch.from_numpy(value) for key, value in foreign(net, "nvlabs").items()}
    for dtype in (torch.float16, torch.bfloat16):
        halves = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
        torch.save(halves, tmp_path / "half.pth")
        safetensors_torch = pytest.importorskip("safetensors.torch")
        safetensors_torch.save_file(
            {key: value.contiguous() for key, value in halves.items()},
            tmp_path / "half.safetensors",
        )
        for name in ("half.pth", "half.safetensors"):
            report = load_weights(target, tmp_path / name)
            kind = str(dtype).removeprefix("torch.")
            assert report.cast == {kind: len(net.state_dict())}
            key = "backbone.block2.1.attn.q.weight"
            expected = halves[key].float().numpy().T
            np.testing.assert_array_equal(target.state_dict()[key].numpy(), expected)


def test_other_epsilons_are_named(tmp_path, caplog):
    net = make("SegFormer")
    write(foreign(net, "hf"), tmp_path / "hf.safetensors")
    load_weights(net, tmp_path / "hf.safetensors")
    assert "trained with norm_eps=1e-05, the model has 1e-06" in caplog.text
    assert "embed_norm_eps" not in caplog.text


def test_first_convolution_is_fitted_to_other_input_channels(tmp_path, caplog):
    net = make("SegFormer")
    write(foreign(net, "nvlabs"), tmp_path / "rgb.pth")
    weight = net.state_dict()["backbone.patch_embed1.proj.weight"].numpy()
    target = make("SegFormer", in_channels=1)
    report = load_pretrained(target, str(tmp_path / "rgb.pth"))
    found = target.state_dict()["backbone.patch_embed1.proj.weight"].numpy()
    np.testing.assert_allclose(found, weight.sum(axis=1, keepdims=True), rtol=1e-6)
    assert report.reshaped[0].startswith("backbone.patch_embed1.proj.weight: found [8, 3, 7, 7]")
    assert "reshaped backbone.patch_embed1" in caplog.text
    target = make("SegFormer", in_channels=5)
    load_pretrained(target, str(tmp_path / "rgb.pth"))
    found = target.state_dict()["backbone.patch_embed1.proj.weight"].numpy()
    np.testing.assert_allclose(found, weight[:, [0, 1, 2, 0, 1]] * 0.6, rtol=1e-6)
    with pytest.raises(UserError, match="mismatched: backbone.patch_embed1.proj.weight"):
        load_weights(target, tmp_path / "rgb.pth")


def test_loading_in_part_is_deliberate_and_logged(tmp_path, caplog):
    net, target = make("SegFormer", num_classes=5), make("SegFormer", num_classes=3)
    write(foreign(net, "smp"), tmp_path / "smp.pth")
    with pytest.raises(UserError, match="5 classes, but the model is .*3 classes"):
        load_weights(target, tmp_path / "smp.pth")
    report = load_weights(target, tmp_path / "smp.pth", strict=False)
    assert len(report.mismatched) == 2
    assert "loaded in part; mismatched: linear_pred.weight: found [5," in caplog.text
    key = "linear_c4.proj.weight"
    np.testing.assert_array_equal(target.state_dict()[key].numpy(), net.state_dict()[key].numpy())


def test_nothing_in_common_is_refused_even_in_part(tmp_path):
    write({"stem.weight": np.ones(3, np.float32)}, tmp_path / "other.pdparams")
    with pytest.raises(
        UserError, match="holds weights of an unknown model .1 tensors., but the model is"
    ):
        load_weights(make("SegFormer"), tmp_path / "other.pdparams", strict=False)


def averages(state: dict) -> dict:
    """Return the averages that mmcv's EMAHook keeps as buffers of the model."""
    return {"ema_" + key.replace(".", "_"): np.asarray(value + 1) for key, value in state.items()}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("format", "prefix", "companions"),
    [
        ("mmseg", "", averages),
        ("hf", "model.", lambda state: {"std": np.ones(3, np.float32), "mean": np.ones(3, "f")}),
        ("smp", "model.", lambda state: {"criterion.weight": np.ones(5, np.float32)}),
        ("nvlabs", "module.", averages),
    ],
)
def test_what_trainers_keep_beside_the_weights_is_set_aside(
    tmp_path, caplog, format, prefix, companions, suffix
):
    net = make("SegFormerMM" if format == "mmseg" else "SegFormer")
    state = {prefix + key: value for key, value in foreign(net, format).items()}
    others = companions(state)
    path = tmp_path / f"last{suffix}"
    write({**others, **state}, path)
    checkpoint = open_checkpoint(path)
    assert (checkpoint.format, checkpoint.unexpected, checkpoint.missing) == (format, [], [])
    for key, tensor in net.state_dict().items():
        np.testing.assert_array_equal(checkpoint.state[key], tensor.numpy())
    assert f"{len(others)} tensors are no weights of the model and are set aside" in caplog.text


def test_numbers_and_text_among_the_weights_are_passed_over(tmp_path):
    net = make("SegFormer")
    state = {key: torch.from_numpy(value) for key, value in foreign(net, "hf").items()}
    torch.save({"epoch": 3, "name": "run", "best": 0.5, **state}, tmp_path / "last.pth")
    assert open_checkpoint(tmp_path / "last.pth").unexpected == []


@pytest.mark.parametrize(
    ("id2label", "expected"),
    [
        ({"1": "a", "2": "b", "3": "c"}, ["LABEL_0", "a", "b"]),
        ({"0": "a", "2": "c", "7": "h"}, ["a", "LABEL_1", "c"]),
    ],
)
def test_class_names_as_transformers_counts_them(tmp_path, id2label, expected):
    write_hugging_face(tmp_path / "hub", make("SegFormer", num_classes=3), id2label=id2label)
    assert open_checkpoint(tmp_path / "hub").classes == expected
    transformers = pytest.importorskip("transformers")
    theirs = transformers.SegformerConfig.from_pretrained(tmp_path / "hub")
    assert theirs.num_labels == 3


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"num_labels": 5}, 5),
        ({"id2label": None, "num_labels": 5}, 5),
        ({"label2id": {"a": 0}}, 5),
        ({"id2label": {str(index): "same" for index in range(5)}}, 5),
    ],
)
def test_number_of_classes_as_transformers_counts_them(tmp_path, stated, expected):
    write_hugging_face(tmp_path / "hub", make("SegFormer"), **stated)
    transformers = pytest.importorskip("transformers")
    theirs = transformers.SegformerConfig.from_pretrained(tmp_path / "hub")
    assert open_checkpoint(tmp_path / "hub").model["num_classes"] == theirs.num_labels == expected


def test_folder_that_resizes_the_short_side_goes_there_and_back(tmp_path):
    write_hugging_face(tmp_path / "hub", make("SegFormer", num_heads=(1, 2, 5, 4)))
    size = {"shortest_edge": 96, "longest_edge": 160}
    for sides in (size, {"shortest_edge": 96}):
        processor = tmp_path / "hub" / "preprocessor_config.json"
        processor.write_text(json.dumps({"size": sides, "resample": 3}))
        rule = open_checkpoint(tmp_path / "hub").transforms[0]
        assert rule == {
            "type": "AntialiasResizeByShort",
            "short_size": 96,
            "max_size": sides.get("longest_edge"),
            "resample": "BICUBIC",
        }
        save_as(prepare(tmp_path / "hub", "hf"), tmp_path / "back")
        back = json.loads((tmp_path / "back" / "preprocessor_config.json").read_text())
        assert (back["size"], back["resample"]) == (sides, 3)


def test_unknown_names_say_what_is_known(tmp_path):
    hub = "hf download nvidia/segformer-b0 --local-dir FOLDER"
    where = r"under \$PADDLESEG_SEGFORMER_HOME or ~/.cache/paddleseg_segformer"
    with pytest.raises(UserError, match=rf"no such weight file. Expected .* {where}.*{hub}"):
        open_checkpoint("nvidia/segformer-b0")
    with pytest.raises(UserError, match=rf"a URL, whose file is kept {where}, or"):
        open_checkpoint(str(tmp_path / "nowhere.pth"))
