"""SegFormer: exact sizes, exact counts, and the rewritten head against the published form."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from reference_segformer import reference_all_mlp, reference_mm

from paddleseg_segformer.analysis.complexity import count_macs, count_parameters
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models import (
    BACKBONES,
    MixVisionTransformerClassifier,
    SegFormer,
    SegFormerMM,
)

pytestmark = pytest.mark.check

HEADS = {SegFormer: reference_all_mlp, SegFormerMM: reference_mm}


def build(variant: str, num_classes: int, model_class: type = SegFormer, **backbone):
    width = 256 if variant in ("B0", "B1") or model_class is SegFormerMM else 768
    encoder = BACKBONES[f"MixVisionTransformer_{variant}"](**backbone)
    return model_class(num_classes, encoder, width)


@paddle.no_grad()
def randomise(model: paddle.nn.Layer, seed: int = 0) -> None:
    """Give every weight and statistic a value that no initialiser gives, so that none can hide."""
    paddle.seed(seed)
    for name, tensor in model.state_dict().items():
        value = paddle.randn(tensor.shape) * (0.5 / max(np.prod(tensor.shape[1:]), 4) ** 0.5)
        if name.endswith("_variance"):
            value = paddle.rand(tensor.shape) + 0.5
        elif "norm" in name and name.endswith("weight"):
            value = 1 + paddle.randn(tensor.shape) * 0.2
        tensor.set_value(value)


@pytest.mark.usefixtures("zero_weights")
@pytest.mark.parametrize(
    ("variant", "encoder", "head_150", "head_19"),
    [
        ("B0", 3319392, 433302, 399635),
        ("B1", 13151424, 564374, 530707),
        ("B2", 24196288, 3265686, 3164947),
        ("B3", 44072128, 3265686, 3164947),
        ("B4", 60842688, 3265686, 3164947),
        ("B5", 81443008, 3265686, 3164947),
    ],
)
def test_parameters_equal_published_integers(variant, encoder, head_150, head_19):
    models = {number: build(variant, number) for number in (150, 19)}
    assert count_parameters(models[150].backbone) == encoder
    assert count_parameters(models[150]) - encoder == head_150
    assert count_parameters(models[19]) - encoder == head_19


@pytest.mark.usefixtures("zero_weights")
@pytest.mark.parametrize(("variant", "millions"), [("B0", 3.754), ("B2", 24.762)])
def test_mmsegmentation_head_parameters(variant, millions):
    model = build(variant, 150, SegFormerMM)
    assert round(count_parameters(model) / 1e6, 3) == millions


@pytest.mark.usefixtures("zero_weights")
@pytest.mark.parametrize(
    ("variant", "parameters_m", "gmacs_224"),
    [("B0", 3.576, 0.45), ("B1", 13.664, 1.68), ("B2", 24.709, 3.27)],
)
def test_classifier_counts(variant, parameters_m, gmacs_224):
    model = MixVisionTransformerClassifier(BACKBONES[f"MixVisionTransformer_{variant}"]())
    assert round(count_parameters(model) / 1e6, 3) == parameters_m
    assert count_macs(model, (224, 224)).total() / 1e9 == pytest.approx(gmacs_224, abs=0.006)
    assert model(paddle.rand([2, 3, 64, 64])).shape == [2, 1000]


# GMACs with 150 classes: published at 512x512 and 1024x2048, rewritten at 512x512
GMACS = {
    "B0": (8.4, 125.5, 4.09),
    "B1": (15.9, 243.7, 11.58),
    "B2": (62.4, 717.1, 23.68),
    "B3": (79.0, 962.9, 40.31),
    "B4": (95.7, 1240.6, 56.91),
    "B5": (111.6, 1460.4, 72.86),
}


@pytest.mark.usefixtures("zero_weights")
@pytest.mark.parametrize("variant", GMACS)
def test_macs_equal_published_figures(variant):
    ade, cityscapes, rewritten = GMACS[variant]
    model = build(variant, 150)
    published = count_macs(model, (512, 512), rewritten=False).total() / 1e9
    assert published == pytest.approx(ade, rel=0.002)
    at_cityscapes = count_macs(model, (1024, 2048), rewritten=False).total() / 1e9
    assert at_cityscapes == pytest.approx(cityscapes, rel=0.0015)
    assert count_macs(model, (512, 512)).total() / 1e9 == pytest.approx(rewritten, abs=0.01)


@pytest.mark.usefixtures("zero_weights")
@pytest.mark.parametrize(("short_side", "gmacs"), [(768, 51.7), (640, 31.5), (512, 17.7)])
def test_macs_of_real_time_settings(short_side, gmacs):
    macs = count_macs(build("B0", 19), (short_side, 2 * short_side), rewritten=False).total()
    assert macs / 1e9 == pytest.approx(gmacs, rel=0.006)


@pytest.mark.parametrize("model_class", HEADS)
@pytest.mark.parametrize("hw", [(64, 64), (97, 131), (29, 29)])
def test_rewritten_head_equals_published_form(model_class, hw):
    model = build("B0", 19, model_class)
    randomise(model)
    model.eval()
    x = paddle.randn([2, 3, *hw])
    with paddle.no_grad():
        expected = HEADS[model_class](model, model.backbone(x))
        found = model(x)
    assert found.shape == [2, 19, -(-hw[0] // 4), -(-hw[1] // 4)]
    assert float(expected.std()) > 0.05
    assert float((found - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.std()))


@pytest.mark.parametrize("model_class", HEADS)
def test_rewritten_head_has_the_published_forms_gradients_in_training(model_class):
    model = build("B0", 5, model_class, drop_path_rate=0.0)
    randomise(model)
    model.train()
    model.dropout.p = 0.0
    x = paddle.randn([2, 3, 65, 49])
    gradients = []
    for forward in (model, lambda image: HEADS[model_class](model, model.backbone(image))):
        (forward(x) ** 2).mean().backward()
        gradients.append(
            {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
        )
        model.clear_gradients()
    rewritten, published = gradients
    assert rewritten.keys() == published.keys()
    scale = max(np.abs(value).max() for value in published.values())
    for name, expected in published.items():
        error = np.abs(rewritten[name] - expected).max()
        assert error <= 1e-4 * max(np.abs(expected).max(), 1e-3 * scale), name


@pytest.mark.parametrize("model_class", HEADS)
def test_every_parameter_gets_a_gradient(model_class):
    model = build("B0", 4, model_class)
    model.train()
    model(paddle.randn([2, 3, 64, 64])).square().mean().backward()
    without = [n for n, p in model.named_parameters() if not p.stop_gradient and p.grad is None]
    assert without == []


def test_statistics_of_batch_norm_are_updated_as_in_the_published_form():
    states = []
    for forward in (lambda m, x: m(x), lambda m, x: reference_all_mlp(m, m.backbone(x))):
        model = build("B0", 3, drop_path_rate=0.0)
        randomise(model)
        model.train()
        forward(model, paddle.ones([2, 3, 64, 64]) * paddle.linspace(-1, 1, 64))
        states.append(model.linear_fuse[1]._mean.numpy())
    np.testing.assert_allclose(states[0], states[1], atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0, "backbone": None}, "num_classes"),
        ({"num_classes": 2, "backbone": paddle.nn.Linear(2, 2)}, "feat_channels"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        SegFormer(**arguments)


@pytest.mark.parametrize("model_class", HEADS)
def test_hooks_fire_on_every_layer_and_change_nothing(model_class):
    model = build("B0", 5, model_class)
    randomise(model)
    model.eval()
    x = paddle.rand([1, 3, 61, 93])
    with paddle.no_grad():
        expected = model(x).numpy()
        leaves = [name for name, layer in model.named_sublayers() if not layer.sublayers()]
        ran = set()
        for name in leaves:
            hook = lambda layer, inputs, output, name=name: ran.add(name)  # noqa: E731
            dict(model.named_sublayers())[name].register_forward_post_hook(hook)
        np.testing.assert_allclose(model(x).numpy(), expected, atol=1e-4)
    assert ran >= {name for name in leaves if "drop" not in name}
