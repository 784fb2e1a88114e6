"""A NaN at any layer or in any weight ends in one line, never in labels or a checkpoint."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import paddle
import pytest
from paddle import nn
from small_models import small_mit, small_segformer, small_vit

from paddleseg_segformer.cli import main
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.models import LinearSegmenter, MaskSegmenter, SegFormer
from paddleseg_segformer.models.segformer import SegFormerMM
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.training import run as run_module
from paddleseg_segformer.training.checkpoints import checkpoints

MODELS: dict[str, Callable[[], nn.Layer]] = {
    "SegFormer": small_segformer,
    "SegFormerMM": lambda: small_segformer(kind=SegFormerMM),
    "LinearSegmenter": lambda: LinearSegmenter(5, small_vit()),
    "MaskSegmenter": lambda: MaskSegmenter(5, small_vit(), 24, 1, 3),
}


def kinds(model: nn.Layer) -> dict[str, list[nn.Layer]]:
    """Return the layers of each kind."""
    found: dict[str, list[nn.Layer]] = {}
    for _, layer in model.named_sublayers():
        found.setdefault(type(layer).__name__, []).append(layer)
    return found


def spoil(layer: nn.Layer, calls: list[nn.Layer]) -> None:
    """Let a layer give one NaN."""

    def hook(layer, inputs, output):
        first = output[0] if isinstance(output, (list, tuple)) else output
        wrong = np.zeros(first.shape, np.float32)
        wrong.flat[-1] = np.nan  # of attention: a value; the CPU's softmax drops a key's
        calls.append(layer)
        spoilt = first + paddle.to_tensor(wrong)
        return type(output)([spoilt, *output[1:]]) if first is not output else spoilt

    layer.register_forward_post_hook(hook)


@pytest.mark.parametrize("name", MODELS)
def test_prediction_refuses_what_any_layer_spoils(name):
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    preprocess = Preprocess.from_transforms([{"type": "Normalize"}])
    num_spoilt = 0
    for kind in kinds(MODELS[name]()):
        for place in (0, -1):
            model = MODELS[name]()
            model.eval()
            calls: list[nn.Layer] = []
            spoil(kinds(model)[kind][place], calls)
            predictor = Predictor(model, preprocess)
            if not calls:
                prediction = predict(predictor, image)
            if calls:
                assert prediction == "refused", (kind, place)
                num_spoilt += 1
    assert num_spoilt >= 6, num_spoilt


def predict(predictor: Predictor, image: np.ndarray) -> str:
    try:
        predictor(image)
    except UserError as error:
        assert "the network's logits are not finite" in str(error)
        return "refused"
    return "labels"


# behind the head's batch norm, the CPU's ReLU makes NaN a 0 for values and gradients alike
TRAINED = sorted({*kinds(small_segformer())} - {"BatchNorm2D"})


@pytest.mark.parametrize("kind", TRAINED)
def test_training_stops_at_what_any_layer_spoils(small_run, monkeypatch, capsys, kind):
    build, calls = run_module.build_training, []

    def build_spoilt(*args, **options):
        parts = build(*args, **options)
        spoil(kinds(parts.model)[kind][-1], calls)
        return parts

    monkeypatch.setattr(run_module, "build_training", build_spoilt)
    config = small_run / "tiny.yml"
    status = main(["train", "--config", str(config), "--save_dir", str(small_run / "out")])
    if not calls:
        pytest.skip("this layer's function is part of another's")
    assert status == 1
    error = capsys.readouterr().err
    assert error.startswith("error: iteration 1: the ") and error.count("\n") == 1
    assert "not finite" in error or "nan" in error
    assert "0.png" in error and checkpoints(small_run / "out") == []


@pytest.fixture
def small_run(tmp_path):
    """A data set of one image, and a config of two steps."""
    label = np.zeros((32, 32), np.uint8)
    label[16:] = 1
    cv2.imwrite(str(tmp_path / "0.png"), np.stack([label * 200] * 3, 2))
    cv2.imwrite(str(tmp_path / "0_label.png"), label)
    (tmp_path / "list.txt").write_text("0.png 0_label.png\n")
    (tmp_path / "tiny.yml").write_text(
        f"""batch_size: 1
iters: 2
model:
  type: SegFormer
  num_classes: 2
  embedding_dim: 16
  backbone: {{type: MixVisionTransformer_B0, embed_dims: [8, 16, 20, 32], depths: [1, 1, 1, 1]}}
train_dataset:
  type: Dataset
  dataset_root: {tmp_path}
  num_classes: 2
  mode: train
  train_path: {tmp_path}/list.txt
  transforms: [{{type: Normalize}}]
"""
    )
    return tmp_path


def test_no_weight_may_be_nan(tmp_path, capsys):
    """Of each kind of parameter, in turn: val, predict and export read weights alike."""
    from paddleseg_segformer.weights import load_weights, save_weights

    model = SegFormer(2, small_mit(), embedding_dim=16)
    state = model.state_dict()
    path = tmp_path / "model.pdparams"
    for name, tensor in state.items():
        sound = tensor.clone()
        wrong = sound.numpy().copy()
        wrong.flat[wrong.size // 2] = np.inf if name.endswith("bias") else np.nan
        tensor.set_value(wrong)
        save_weights(model, path)
        tensor.set_value(sound)
        with pytest.raises(UserError, match=f"{name} holds numbers that are not finite"):
            load_weights(model, path)
