"""What goes with weights: classes, preprocessing and testing, as the source states them."""

from __future__ import annotations

import pickle
import re
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import paddle
import pytest
from small_models import NARROW_MIT, small_mit

from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.models import MODELS
from paddleseg_segformer.weights import load_weights, open_checkpoint
from paddleseg_segformer.weights.formats import MMSEG, NVLABS
from paddleseg_segformer.weights.formats.naming import export_state
from paddleseg_segformer.weights.sidecars.metadata import evaluation_settings, parse

torch = pytest.importorskip("torch")

NVLABS_CONFIG = """
norm_cfg = dict(type='SyncBN', requires_grad=True)
img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='MultiScaleFlipAug',
        img_scale=(2048, 640),
        flip=False,
        transforms=[
            dict(type='AlignedResize', keep_ratio=True, size_divisor=32),
            dict(type='RandomFlip'),
            dict(type='Normalize', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
            dict(type='ImageToTensor', keys=['img']),
            dict(type='Collect', keys=['img']),
        ]),
]
data = dict(samples_per_gpu=2, test=dict(type='ADE20KDataset', pipeline=test_pipeline))
model = dict(type='EncoderDecoder', test_cfg=dict(mode='whole'))
"""

MMSEG_CONFIG = """
crop_size = (1024, 512)
model = dict(
    data_preprocessor=dict(
        type='SegDataPreProcessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    test_cfg=dict(mode='slide', crop_size=(1024, 512), stride=(768, 384)))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 1024), keep_ratio=True),
    dict(type='PackSegInputs'),
]
launcher = __import__('os').system('false')
"""


def weights(model: str = "SegFormerMM", num_classes: int = 3) -> dict[str, torch.Tensor]:
    backbone = small_mit(**NARROW_MIT)
    net = MODELS[model](num_classes, backbone, 16)
    state = {key: value.numpy() for key, value in net.state_dict().items()}
    format = MMSEG if model == "SegFormerMM" else NVLABS
    exported = export_state(format, state, num_classes)
    return {key: torch.from_numpy(value) for key, value in exported.items()}


def test_config_of_nvlabs_gives_its_size_rule_and_constants(tmp_path):
    content = {"meta": {"config": NVLABS_CONFIG}, "state_dict": weights("SegFormer", 150)}
    torch.save(content, tmp_path / "b5.pth")
    checkpoint = open_checkpoint(tmp_path / "b5.pth")
    rule, normalize = checkpoint.transforms
    assert rule == {"type": "AlignedResize", "scale": [2048, 640], "size_divisor": 32}
    np.testing.assert_allclose(normalize["mean"], [0.485, 0.456, 0.406])
    np.testing.assert_allclose(normalize["std"], [0.229, 0.224, 0.225])
    assert checkpoint.test_config == {"average": "softmax", "scale_mode": "source"}
    assert checkpoint.reduces_labels
    Preprocess.from_transforms(checkpoint.transforms)


def test_config_of_mmsegmentation_gives_windows_in_width_and_height(tmp_path):
    classes, palette = ["a", "b", "c"], [[0, 0, 1], [0, 0, 2], [0, 0, 3]]
    meta = {"cfg": MMSEG_CONFIG, "dataset_meta": {"classes": tuple(classes), "palette": palette}}
    torch.save({"meta": meta, "state_dict": weights()}, tmp_path / "mm.pth")
    checkpoint = open_checkpoint(tmp_path / "mm.pth")
    assert checkpoint.transforms[0] == {"type": "ResizeKeepRatio", "scale": [2048, 1024]}
    assert checkpoint.test_config["crop_size"] == [512, 1024]
    assert checkpoint.test_config["stride"] == [384, 768]
    assert (checkpoint.classes, checkpoint.palette) == (classes, palette)


@pytest.mark.parametrize(
    ("num_classes", "rule", "is_slide"), [(150, "AlignedResize", None), (19, None, True)]
)
def test_without_a_config_the_published_evaluation_is_taken(tmp_path, num_classes, rule, is_slide):
    torch.save(weights("SegFormer", num_classes), tmp_path / "nv.pth")
    checkpoint = open_checkpoint(tmp_path / "nv.pth")
    assert [item["type"] for item in checkpoint.transforms] == [
        *([rule] if rule else []),
        "Normalize",
    ]
    assert checkpoint.test_config.get("is_slide") is is_slide


@pytest.mark.parametrize(
    "text", ["", "def f(:", "(" * 10_000, "test_pipeline = 3", "a = b.c", "x = {**y, 1: 2}", "\0"]
)
def test_text_that_is_no_config_says_nothing(text):
    assert evaluation_settings(text) == (None, {})


def test_config_text_is_not_run(tmp_path):
    canary = tmp_path / "canary"
    assert parse(f"a = open({str(canary)!r}, 'w')\nb = [1, -2.5, a]\nc = dict(d=b)") == {
        "a": None,
        "b": [1, -2.5, None],
        "c": {"d": [1, -2.5, None]},
    }
    assert not canary.exists()


def test_classes_of_another_count_are_not_taken(tmp_path):
    meta = {"CLASSES": ("a", "b"), "PALETTE": [[0, 0, 300]] * 3}
    torch.save({"meta": meta, "state_dict": weights()}, tmp_path / "mm.pth")
    checkpoint = open_checkpoint(tmp_path / "mm.pth")
    assert checkpoint.classes is None and checkpoint.palette is None


def training_log(monkeypatch) -> object:
    """Return an object of a class of mmengine's name, with what its own holds."""
    module = types.ModuleType("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def __init__(self) -> None:
            self._log_history = np.arange(5.0)
            self._count_history = np.arange(5)
            self.max_length = 1_000_000

    HistoryBuffer.__module__ = module.__name__
    HistoryBuffer.__qualname__ = "HistoryBuffer"
    module.HistoryBuffer = HistoryBuffer
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return HistoryBuffer()


@pytest.mark.parametrize("is_zip", [True, False])
def test_training_state_of_mmengine_is_passed_over(tmp_path, monkeypatch, is_zip):
    log = training_log(monkeypatch)
    state = weights()
    content = {
        "meta": {"epoch": 0, "iter": 160000, "time": "20260101", "seed": np.int64(3)},
        "state_dict": OrderedDict(state),
        "message_hub": {
            "log_scalars": OrderedDict({"train/loss": log, "train/lr": log}),
            "runtime_info": OrderedDict({"iter": 3, "cfg": Path("config.py")}),
            "resumed_keys": OrderedDict({"iter": True}),
        },
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]},
        "param_schedulers": [{"last_step": 3}],
    }
    path = tmp_path / "iter_160000.pth"
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    monkeypatch.undo()
    assert "mmengine" not in sys.modules
    checkpoint = open_checkpoint(path)
    assert checkpoint.unexpected == checkpoint.missing == []
    net = MODELS["SegFormerMM"](3, small_mit(**NARROW_MIT), 16)
    assert load_weights(net, path).is_exact
    expected = state["decode_head.conv_seg.weight"].numpy()
    np.testing.assert_array_equal(net.linear_pred.weight.numpy(), expected)


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_arrays_of_older_and_newer_numpy_are_read(tmp_path, module):
    """NumPy 2 names its modules with an underscore."""
    content = pickle.dumps({"a": np.arange(3, dtype=np.float32)}, protocol=4)
    named = bytes([0x8C, len(module)]) + module
    renamed, count = re.subn(rb"\x8c.numpy\._?core\.multiarray", named, content)
    assert count == 1
    length = int.from_bytes(content[3:11], "little") + len(renamed) - len(content)
    framed = renamed[:3] + length.to_bytes(8, "little") + renamed[11:]
    path = tmp_path / "model.pdparams"
    path.write_bytes(framed)
    checkpoint = open_checkpoint(path, is_known=False)
    np.testing.assert_array_equal(checkpoint.state["a"], [0, 1, 2])


def test_model_folder_is_described_by_its_yaml(tmp_path):
    net = MODELS["SegFormer"](3, small_mit(**NARROW_MIT, norm_eps=1e-5), 16)
    paddle.save(net.state_dict(), str(tmp_path / "model.pdparams"))
    (tmp_path / "config.yml").write_text(
        """
model:
  type: SegFormer
  num_classes: 3
  embedding_dim: 16
  dropout_rate: 0.2
  pretrained: nowhere.pth
  backbone:
    type: MixVisionTransformer_B0
    embed_dims: [8, 16, 40, 64]
    depths: [1, 1, 1, 1]
    norm_eps: 1.0e-5
val_dataset:
  type: Dataset
  dataset_root: nowhere
  val_path: nowhere
  mode: val
  num_classes: 3
  classes: [a, b, c]
  transforms: [{type: Normalize}]
test_config: {is_slide: true, crop_size: [64, 64], stride: [48, 48]}
"""
    )
    for path in (tmp_path, tmp_path / "model.pdparams"):
        checkpoint = open_checkpoint(path)
        assert checkpoint.format == "paddleseg"
        assert checkpoint.classes == ["a", "b", "c"]
        assert checkpoint.transforms == [{"type": "Normalize"}]
        assert checkpoint.test_config["crop_size"] == [64, 64]
        assert checkpoint.model["dropout_rate"] == 0.2 and "pretrained" not in checkpoint.model
        assert checkpoint.model["backbone"]["norm_eps"] == 1e-5
