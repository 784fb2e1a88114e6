"""Binary models of one logit: the same numbers as a sigmoid gives, in training and exports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddleseg_segformer.config.schema import Config, config_from
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.losses import CrossEntropyLoss
from paddleseg_segformer.model_folder import build_model
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.weights import save_weights

BACKBONE = {"type": "MixVisionTransformer", "embed_dims": [8, 16, 20, 32], "depths": [1, 1, 1, 1]}
SEGFORMER = {"type": "SegFormer", "num_classes": 2, "embedding_dim": 16, "backbone": BACKBONE}
SEGMENTER = {
    "type": "LinearSegmenter",
    "num_classes": 2,
    "backbone": {"type": "VisionTransformer", "img_size": 32, "patch_size": 8, "embed_dim": 24,
                 "depth": 1, "num_heads": 3},
}  # fmt: skip


def make(section: dict, **changes) -> paddle.nn.Layer:
    paddle.seed(2)
    return build_model(Config(model={**section, "one_logit": True, **changes}), True)


@pytest.mark.parametrize("section", [SEGFORMER, SEGMENTER], ids=["SegFormer", "LinearSegmenter"])
@pytest.mark.parametrize("kind", ["AdamW", "Momentum"])
def test_training_is_that_of_a_sigmoid(section, kind):
    model = make(section)
    model.eval()
    rng = np.random.default_rng(0)
    image = paddle.to_tensor(rng.random((2, 3, 32, 32), np.float32))
    optimizer = getattr(paddle.optimizer, kind)(
        0.05, parameters=model.parameters(), weight_decay=0.1
    )
    for _ in range(3):
        logits = model(image)
        assert (logits[:, 0] == 0).all()
        label = paddle.to_tensor(rng.choice([0, 1, 255], logits[:, 0].shape))
        loss = CrossEntropyLoss()(logits, label)
        valid = (label != 255).astype("float32")
        target = (label == 1).astype("float32")
        expected = F.binary_cross_entropy_with_logits(logits[:, 1], target, valid, "sum")
        assert float(loss) == pytest.approx(float(expected / valid.sum()), rel=1e-5)
        before = model.classifier_layer.weight.numpy().copy()
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        assert not np.array_equal(before, model.classifier_layer.weight.numpy())
    assert (model(image)[:, 0] == 0).all()


NORMALIZE = [{"type": "Normalize"}]


def config(section: dict) -> Config:
    data = {
        "type": "Dataset",
        "num_classes": 2,
        "mode": "val",
        "transforms": [{"type": "Normalize"}],
    }
    return config_from({"model": {**section, "one_logit": True}, "val_dataset": data}, "test")


def test_prediction_is_a_sigmoid_above_a_half_also_exported(tmp_path: Path):
    model = make(SEGFORMER)
    save_weights(model, tmp_path / "model.pdparams")
    predictor = Predictor.from_config(config(SEGFORMER), tmp_path / "model.pdparams")
    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    network = predictor.pipeline.network
    x = paddle.to_tensor((image / 127.5 - 1).transpose(2, 0, 1)[None].astype(np.float32))
    z = F.interpolate(network(x)[:, 1:], [64, 64], mode="bilinear", align_corners=False)
    sigmoid = F.sigmoid(z).numpy()[0, 0]
    prediction = predictor(image)
    np.testing.assert_allclose(prediction.probabilities[1], sigmoid, atol=1e-5)
    is_clear = np.abs(sigmoid - 0.5) > 1e-5
    np.testing.assert_array_equal(prediction.label[is_clear], (sigmoid > 0.5)[is_clear])
    assert 0 < prediction.label.mean() < 1
    pytest.importorskip("onnxruntime")
    from paddleseg_segformer.export.folder import export_model

    preprocess = predictor.pipeline.preprocess
    export_model(network, tmp_path / "export", preprocess=preprocess, formats=("onnx",))
    exported = Predictor.from_export(tmp_path / "export", backend="onnxruntime")(image)
    np.testing.assert_array_equal(exported.label[is_clear], prediction.label[is_clear])
    np.testing.assert_allclose(exported.confidence, prediction.confidence, atol=1e-4)


@pytest.mark.parametrize("section", [SEGFORMER, SEGMENTER], ids=["SegFormer", "LinearSegmenter"])
def test_starts_from_weights_of_one_logit_and_of_two(section, tmp_path):
    image = paddle.to_tensor(np.random.default_rng(0).random((1, 3, 32, 32), np.float32))
    for num_classes in (1, 2):
        paddle.seed(9)
        trained = build_model(Config(model={**section, "num_classes": num_classes}))
        trained.eval()
        path = tmp_path / f"{num_classes}.pdparams"
        save_weights(trained, path)
        model = make(section, pretrained=str(path))
        model.eval()
        logits = trained(image)
        expected = logits[:, 0] if num_classes == 1 else logits[:, 1] - logits[:, 0]
        np.testing.assert_allclose(model(image)[:, 1], expected, rtol=1e-4, atol=1e-5)
        assert (model(image)[:, 0] == 0).all()


def test_what_cannot_be_told_apart_is_refused(tmp_path):
    with pytest.raises(UserError, match="one_logit: found 3 classes, expected 2"):
        make(SEGFORMER, num_classes=3)
    single = Config(model={**SEGFORMER, "num_classes": 1})
    save_weights(build_model(single), tmp_path / "model.pdparams")
    with pytest.raises(UserError, match="a model of one logit"):
        Predictor.from_config(
            config_from(
                {"model": dict(single.model), "val_dataset": {"type": "Dataset",
                 "transforms": [{"type": "Normalize"}], "mode": "val", "num_classes": 1}}, "test"
            ),
            tmp_path / "model.pdparams",
        )  # fmt: skip
