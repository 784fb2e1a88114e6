"""Unchanged PaddleSeg files: its YAML builds our model, and its weights give its logits."""

from __future__ import annotations

import re
import sys

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddleseg_segformer import components, paddleseg_components, register
from paddleseg_segformer.config import load_config
from paddleseg_segformer.config.building import (
    build_components,
    build_loss,
    build_model,
    build_optimizer,
)
from paddleseg_segformer.dependencies import REMEDIES, MissingDependency
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models import SegFormer
from paddleseg_segformer.optimizers import build_lr_schedule
from paddleseg_segformer.weights import load_weights

# A PaddleSeg SegFormer config with its base file, as published, values and layout unchanged.
BASE = """
batch_size: 1
iters: 160000

train_dataset:
  type: Cityscapes
  dataset_root: data/cityscapes
  transforms:
    - type: ResizeStepScaling
      min_scale_factor: 0.5
      max_scale_factor: 2.0
      scale_step_size: 0.25
    - type: RandomPaddingCrop
      crop_size: [1024, 1024]
    - type: RandomHorizontalFlip
    - type: RandomDistort
      brightness_range: 0.4
      contrast_range: 0.4
      saturation_range: 0.4
    - type: Normalize
  mode: train

val_dataset:
  type: Cityscapes
  dataset_root: data/cityscapes
  transforms:
    - type: Normalize
  mode: val

optimizer:
  type: sgd
  momentum: 0.9
  weight_decay: 4.0e-5

lr_scheduler:
  type: PolynomialDecay
  learning_rate: 0.01
  end_lr: 0
  power: 0.9

loss:
  types:
    - type: CrossEntropyLoss
  coef: [1]
"""
SEGFORMER = """
_base_: '../_base_/cityscapes_1024x1024.yml'

model:
  type: SegFormer
  backbone:
    type: MixVisionTransformer_B0
    pretrained: https://bj.bcebos.com/paddleseg/dygraph/backbone/mix_vision_transformer_b0.tar.gz
  embedding_dim: 256
  num_classes: 19

optimizer:
  _inherited_: False
  type: AdamW
  beta1: 0.9
  beta2: 0.999
  weight_decay: 0.01

lr_scheduler:
  type: PolynomialDecay
  learning_rate: 0.00006
  power: 1

batch_size: 2

test_config:
  is_slide: True
  crop_size: [1024, 1024]
  stride: [768, 768]
"""


@pytest.fixture
def yaml_path(tmp_path):
    (tmp_path / "_base_").mkdir()
    (tmp_path / "segformer").mkdir()
    (tmp_path / "_base_" / "cityscapes_1024x1024.yml").write_text(BASE)
    path = tmp_path / "segformer" / "segformer_b0_cityscapes_1024x1024_160k.yml"
    path.write_text(SEGFORMER)
    return path


def test_unchanged_paddleseg_yaml_builds_everything(yaml_path):
    config = load_config(yaml_path)
    model = build_model(config)
    assert type(model) is SegFormer and model.num_classes == 19
    schedule = build_lr_schedule(config.lr_scheduler, config.iters)
    optimizer = build_optimizer(config.optimizer, model, schedule)
    assert isinstance(optimizer, paddle.optimizer.AdamW)
    assert optimizer.get_lr() == pytest.approx(6e-5)
    assert len(build_components("transform", config.train_dataset["transforms"], "transforms")) == 5
    loss, coefficient = build_loss(config.loss)
    assert (type(loss).__name__, coefficient) == ("CrossEntropyLoss", 1.0)
    settings = config.test_config.inference_settings()
    assert (settings.crop_size_hw, settings.stride_hw) == ((1024, 1024), (768, 768))


def test_absent_paddleseg_is_one_line_where_it_is_needed(monkeypatch):
    for name in ("paddleseg", "paddleseg.cvlibs"):
        monkeypatch.setitem(sys.modules, name, None)
    paddleseg_components._table.cache_clear()
    remedy = re.escape(f"Run: {REMEDIES['paddleseg']}")
    with pytest.raises(MissingDependency, match=f"^paddleseg cannot be imported .*{remedy}$"):
        register()
    with pytest.raises(UserError, match=f"^unknown loss type 'BCELoss'.* PaddleSeg's.*{remedy}$"):
        components.resolve("loss", "BCELoss")
    with pytest.raises(UserError, match=f"'SegFomer'. Did you mean 'SegFormer'.*{remedy}$"):
        components.resolve("model", "SegFomer")
    assert components.resolve("model", "SegFormer") is SegFormer


@pytest.fixture(scope="module")
def paddleseg_pair(tmp_path_factory):
    """PaddleSeg's own SegFormer-B0 with random weights, and ours with its saved file loaded."""
    backbones = pytest.importorskip("paddleseg.models.backbones.mix_transformer")
    segformer = pytest.importorskip("paddleseg.models.segformer")

    from paddleseg_segformer.models import BACKBONES

    paddle.seed(0)
    theirs = segformer.SegFormer(
        num_classes=19, backbone=backbones.MixVisionTransformer_B0(), embedding_dim=256
    )
    with paddle.no_grad():
        for name, tensor in theirs.state_dict().items():
            noise = paddle.randn(tensor.shape)
            if name.endswith("_variance"):
                tensor.set_value(paddle.rand(tensor.shape) + 0.5)
            elif tensor.ndim == 1:
                tensor.set_value(tensor + 0.1 * noise)
            else:
                tensor.set_value(
                    1.2 * noise / np.prod(tensor.shape[: 1 if tensor.ndim == 2 else 2]) ** 0.5
                )
    path = tmp_path_factory.mktemp("weights") / "model.pdparams"
    paddle.save(theirs.state_dict(), str(path))
    ours = SegFormer(19, BACKBONES["MixVisionTransformer_B0"](), 256)
    report = load_weights(ours, path)
    assert len(report.matched) == 191 and not (
        report.missing or report.unexpected or report.mismatched
    )
    theirs.eval()
    ours.eval()
    return theirs, ours


@pytest.mark.check
@pytest.mark.parametrize("hw", [(64, 64), (97, 131), (512, 512)])
def test_paddleseg_weights_give_paddlesegs_logits(paddleseg_pair, hw):
    theirs, ours = paddleseg_pair
    x = paddle.randn([1, 3, *hw])
    with paddle.no_grad():
        expected = theirs(x)[0]
        found = F.interpolate(ours(x), size=hw, mode="bilinear")
    assert float(expected.std()) > 0.1
    assert float((found - expected).abs().max()) <= 1e-5 * max(float(expected.std()), 1.0)


def test_registered_model_keeps_paddlesegs_contract(paddleseg_pair, tmp_path):
    from paddleseg.cvlibs import manager

    theirs, ours = paddleseg_pair
    before = dict(manager.MODELS.components_dict), dict(manager.BACKBONES.components_dict)
    try:
        register()
        path = tmp_path / "model.pdparams"
        paddle.save(theirs.state_dict(), str(path))
        backbone = manager.BACKBONES["MixVisionTransformer_B0"](
            drop_path_rate=0.2, pretrained=str(path)
        )
        model = manager.MODELS["SegFormer"](
            num_classes=19, backbone=backbone, embedding_dim=256, pretrained=str(path)
        )
        assert isinstance(model, SegFormer)
        model.eval()
        x = paddle.randn([2, 3, 65, 49])
        with paddle.no_grad():
            (found,) = model(x)
            (expected,) = theirs(x)
        np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)
        assert {f"MixVisionTransformer_B{i}" for i in range(6)} <= set(
            manager.BACKBONES.components_dict
        )
    finally:
        manager.MODELS.components_dict.update(before[0])
        manager.BACKBONES.components_dict.update(before[1])
