"""PaddleSeg's own ways to export, train and count, over the models that `register` gives it."""

from __future__ import annotations

import builtins
import re

import numpy as np
import paddle
import pytest
from paddle.hapi import dynamic_flops
from paddle.static import InputSpec

from paddleseg_segformer import register

manager = pytest.importorskip("paddleseg.cvlibs", reason="PaddleSeg is not installed").manager
theirs = pytest.importorskip("paddleseg.models.segformer")
their_backbones = pytest.importorskip("paddleseg.models.backbones.mix_transformer")

TINY_MIT = {"embed_dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}
TINY_VIT = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 2}
TINY_MASKS = {"h_embed_dim": 16, "h_depth": 1, "h_num_heads": 2}
MODELS = {
    "SegFormer": ("MixVisionTransformer", TINY_MIT, {"embedding_dim": 8}),
    "SegFormerMM": ("MixVisionTransformer", TINY_MIT, {"embedding_dim": 8}),
    "LinearSegmenter": ("VisionTransformer", TINY_VIT, {}),
    "MaskSegmenter": ("VisionTransformer", TINY_VIT, TINY_MASKS),
}


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register our models for one test."""
    for table in (manager.MODELS, manager.BACKBONES):
        monkeypatch.setattr(table, "_components_dict", dict(table.components_dict))
    monkeypatch.setattr(dynamic_flops, "register_hooks", dict(dynamic_flops.register_hooks))
    register()


def tiny(name: str) -> paddle.nn.Layer:
    backbone, arguments, head = MODELS[name]
    paddle.seed(0)
    return manager.MODELS[name](
        num_classes=5, backbone=manager.BACKBONES[backbone](**arguments), **head
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_export_as_paddleseg_does_it_gives_the_models_logits(name, tmp_path) -> None:
    model = tiny(name)
    model.eval()
    images = [paddle.rand(shape) for shape in ([1, 3, 48, 64], [2, 3, 33, 47])]
    expected = [model(image)[0].numpy() for image in images]
    spec = [InputSpec([None, 3, None, None], "float32")]
    static = paddle.jit.to_static(model, input_spec=spec)
    paddle.jit.save(static, str(tmp_path / "model"))
    exported = paddle.jit.load(str(tmp_path / "model"))
    for image, logits in zip(images, expected, strict=True):
        np.testing.assert_allclose(exported(image).numpy(), logits, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_static_training_as_paddleseg_does_it_gives_the_gradients_of_dygraph(name) -> None:
    x = paddle.rand([2, 3, 32, 48])
    gradients = []
    for wrap in (lambda model: model, paddle.jit.to_static):  # as its train() calls it
        model = tiny(name)
        for layer in model.sublayers():  # nothing random, but statistics of the batch
            if isinstance(layer, (paddle.nn.Dropout, paddle.nn.Dropout2D)):
                layer.p = 0.0
            if type(layer).__name__ == "DropPath":
                layer.rate = 0.0
        model.train()
        (wrap(model)(x)[0] ** 2).mean().backward()
        trained = {k: p for k, p in model.named_parameters() if not p.stop_gradient}
        gradients.append({key: item.grad.numpy() for key, item in trained.items()})
    for key, gradient in gradients[0].items():
        np.testing.assert_allclose(gradients[1][key], gradient, rtol=1e-3, atol=1e-6, err_msg=key)


def cost(model: paddle.nn.Layer, capsys, monkeypatch) -> tuple[int, int]:
    """Return operations and parameters, as PaddleSeg's training prints them at its end."""
    to_int = lambda x: builtins.int(x.item() if isinstance(x, paddle.Tensor) else x)  # noqa: E731
    monkeypatch.setattr(dynamic_flops, "int", to_int, raising=False)  # Paddle's fails on NumPy 2.4
    paddle.flops(model, [1, 3, 64, 64])
    found = re.search(r"Total Flops: (\d+) +Total Params: (\d+)", capsys.readouterr().out)
    assert found
    return int(found[1]), int(found[2])


def test_cost_report_counts_as_much_as_in_paddlesegs_own_model(capsys, monkeypatch) -> None:
    ours = manager.MODELS["SegFormer"](
        num_classes=19, backbone=manager.BACKBONES["MixVisionTransformer_B0"](), embedding_dim=256
    )
    their = theirs.SegFormer(19, their_backbones.MixVisionTransformer_B0(), 256)
    expected = cost(their, capsys, monkeypatch)
    assert cost(ours, capsys, monkeypatch) == expected == (106502400, 3719539)
