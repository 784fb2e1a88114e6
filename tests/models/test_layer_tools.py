"""Tools that go by layers see every one: hooks, reports, low-rank updates, quantisers, norms."""

from __future__ import annotations

import builtins
import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import paddle
import pytest
from paddle import Tensor, nn
from paddle.hapi import dynamic_flops
from paddle.nn.quant.qat import QuantedConv2D, QuantedLinear
from paddle.quantization import PTQ, QAT, QuantConfig
from paddle.quantization.observers import AbsmaxObserver
from paddle.quantization.quanters import FakeQuanterWithAbsMaxObserver
from small_models import HUB_SIZES, small_mit, small_segformer, small_vit, spread

from paddleseg_segformer import huggingface as hf
from paddleseg_segformer.models import (
    BACKBONES,
    LinearSegmenter,
    MaskSegmenter,
    MixVisionTransformerClassifier,
    SegFormer,
    SegFormerLastStage,
    SegFormerMM,
    exact_rewrites,
)
from paddleseg_segformer.models.layers import DropPath

HF_SIZES = {**HUB_SIZES, "depths": (1, 1, 1, 1), "num_labels": 5}
MAKERS: dict[str, Callable[[], nn.Layer]] = {
    "SegFormer": lambda: small_segformer(5),
    "SegFormerMM": lambda: small_segformer(5, SegFormerMM),
    "SegFormerLastStage": lambda: small_segformer(5, SegFormerLastStage),
    "learned positions": lambda: small_segformer(5, positional_encoding="learned", img_size=64),
    "classifier": lambda: MixVisionTransformerClassifier(small_mit(), 5),
    "LinearSegmenter": lambda: LinearSegmenter(5, small_vit(final_norm=True)),
    "MaskSegmenter": lambda: MaskSegmenter(5, small_vit(), 16, 2, 2),
    **{
        name: lambda name=name: getattr(hf, name)(hf.SegformerConfig(**HF_SIZES))
        for name in (
            "SegformerModel",
            "SegformerForSemanticSegmentation",
            "SegformerForImageClassification",
        )
    },
}
every_model = pytest.mark.parametrize("name", MAKERS)
every_mode = pytest.mark.parametrize("is_training", [False, True], ids=["eval", "train"])
QUICK = ("SegFormer", True), ("SegFormerMM", False), ("MaskSegmenter", False)
each_layer_alone = pytest.mark.parametrize(
    ("name", "is_training"),
    [
        pytest.param(name, mode, marks=() if (name, mode) in QUICK else pytest.mark.slow)
        for name in MAKERS
        for mode in (False, True)
    ],
)


def make(name: str, is_training: bool) -> nn.Layer:
    """Return a model in which nothing is random, with weights that matter."""
    paddle.seed(3)
    model = spread(MAKERS[name]())
    for layer in model.sublayers():
        if isinstance(layer, (nn.Linear, nn.Conv2D)):
            is_conv = isinstance(layer, nn.Conv2D)
            inputs = np.prod(layer.weight.shape[1:]) if is_conv else layer.weight.shape[0]
            layer.weight.set_value(paddle.randn(layer.weight.shape) / float(inputs) ** 0.5)
        if isinstance(layer, (nn.Dropout, nn.Dropout2D)):
            layer.p = 0.0
        if isinstance(layer, DropPath):
            layer.rate = 0.0
    if is_training:
        model.train()
    return model


def run(model: nn.Layer, x: Tensor) -> Tensor:
    output = model(x)
    return output if isinstance(output, Tensor) else output[0]


def images() -> Tensor:
    return paddle.to_tensor(np.random.default_rng(1).standard_normal((2, 3, 64, 64)), "float32")


def with_weights(model: nn.Layer) -> list[tuple[str, nn.Layer]]:
    """Return each linear and convolution by its name."""
    kinds = (nn.Linear, nn.Conv2D)
    return [(name, layer) for name, layer in model.named_sublayers() if isinstance(layer, kinds)]


@contextmanager
def replaced(model: nn.Layer, name: str, layer: nn.Layer) -> Iterator[None]:
    parent, _, key = name.rpartition(".")
    owner = dict(model.named_sublayers(include_self=True))[parent]
    before, owner._sub_layers[key] = owner._sub_layers[key], layer
    yield
    owner._sub_layers[key] = before


def assert_close(found: Tensor, expected: Tensor, name: str) -> None:
    bound = 2e-4 * float(expected.std())
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=bound, err_msg=name)


@every_model
@every_mode
def test_hooks_on_all_layers_fire_and_change_nothing(name: str, is_training: bool) -> None:
    model, x = make(name, is_training), images()
    expected = run(model, x)
    fired: set[int] = set()
    layers = [layer for layer in model.sublayers() if not isinstance(layer, nn.LayerList)]
    for layer in layers:
        layer.register_forward_post_hook(lambda layer, *_: fired.add(id(layer)))
    assert_close(run(model, x), expected, name)
    assert fired == set(map(id, layers))


@each_layer_alone
def test_one_hook_on_any_layer_fires_and_changes_nothing(name: str, is_training: bool) -> None:
    model, x = make(name, is_training), images()
    expected = run(model, x)
    for path, layer in model.named_sublayers():
        if isinstance(layer, nn.LayerList):  # holds layers, and never runs
            continue
        calls: list[str] = []
        handles = (
            layer.register_forward_pre_hook(lambda *_, calls=calls: calls.append("before")),
            layer.register_forward_post_hook(lambda *_, calls=calls: calls.append("after")),
        )
        assert_close(run(model, x), expected, path)
        assert calls[:2] == ["before", "after"], f"{path} {calls}"
        for handle in handles:
            handle.remove()


class LowRank(nn.Layer):
    """A frozen layer and a product of two thin ones beside it, the second zero at first (LoRA)."""

    def __init__(self, inner: nn.Linear | nn.Conv2D, rank: int = 2) -> None:
        super().__init__()
        self.inner = inner
        if isinstance(inner, nn.Linear):
            inputs, outputs = inner.weight.shape
            self.down = nn.Linear(inputs, rank, bias_attr=False)
            self.up = nn.Linear(rank, outputs, bias_attr=False)
        else:
            form = inner._kernel_size, inner._stride, inner._padding
            self.down = nn.Conv2D(inner._in_channels, rank, *form, bias_attr=False)
            self.up = nn.Conv2D(rank, inner._out_channels, 1, bias_attr=False)
        self.up.weight.set_value(paddle.zeros_like(self.up.weight))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.up(self.down(x))


@each_layer_alone
def test_low_rank_updates_of_any_layer_count_and_get_gradients(
    name: str, is_training: bool
) -> None:
    model, x = make(name, is_training), images()
    for parameter in model.parameters():
        parameter.stop_gradient = True
    expected = run(model, x)
    for path, layer in with_weights(model):
        update = LowRank(layer)
        with replaced(model, path, update):
            assert_close(run(model, x), expected, path)
            update.up.weight.set_value(0.5 * paddle.randn(update.up.weight.shape))
            output = run(model, x)
            output.square().mean().backward()
        assert float((output - expected).abs().max()) > 1e-4, path
        for part in (update.down, update.up):
            assert float(part.weight.grad.abs().max()) > 0, path


@every_model
@every_mode
def test_low_rank_updates_of_all_layers_train(name: str, is_training: bool) -> None:
    model, x = make(name, is_training), images()
    for parameter in model.parameters():
        parameter.stop_gradient = True
    expected = run(model, x)
    for path, layer in with_weights(model):
        parent, _, key = path.rpartition(".")
        owner = dict(model.named_sublayers(include_self=True))[parent]
        owner._sub_layers[key] = LowRank(layer)
    assert_close(run(model, x), expected, name)
    updates = [layer for layer in model.sublayers() if isinstance(layer, LowRank)]
    run(model, x).square().mean().backward()
    assert all(float(update.up.weight.grad.abs().max()) > 0 for update in updates)


@every_model
def test_paddles_quantizers_take_every_layer_in_training(name: str) -> None:
    model, x = make(name, True), images()
    quanter = FakeQuanterWithAbsMaxObserver(moving_rate=0.9)
    quantized = QAT(QuantConfig(activation=quanter, weight=quanter)).quantize(model)
    rounded = [
        layer
        for layer in quantized.sublayers()
        if isinstance(layer, (QuantedLinear, QuantedConv2D))
    ]
    assert len(rounded) == len(with_weights(model)) and not with_weights(quantized)
    run(quantized, x).square().mean().backward()
    for layer in rounded:
        assert float(layer.weight.grad.abs().max()) > 0
        assert layer.weight_quanter.scales().item() > 0
        assert layer.activation_quanter.scales().item() > 0


@every_model
def test_paddles_quantizers_take_every_layer_after_training(name: str) -> None:
    model, x = make(name, False), images()
    config = QuantConfig(activation=None, weight=None)
    observer = AbsmaxObserver(quant_bits=8)
    config.add_type_config([nn.Linear, nn.Conv2D], activation=observer, weight=observer)
    expected = run(model, x)
    quantization = PTQ(config)
    observed = quantization.quantize(model)
    with paddle.no_grad():
        assert_close(run(observed, x), expected, name)
        converted = quantization.convert(observed)
        found = run(converted, x)
    assert not with_weights(converted)
    difference = float((found - expected).abs().mean() / expected.std())
    assert 1e-4 < difference < 0.3  # rounded, and still the same function


@each_layer_alone
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
def test_norms_of_weights_act_on_any_layer(name: str, is_training: bool, norm: Callable) -> None:
    model, x = make(name, is_training), images()
    for layer in model.sublayers():  # whose own norm would undo another scale of the weights
        if isinstance(layer, nn.BatchNorm2D):
            layer.eval()
    with paddle.no_grad():
        expected = run(model, x)
        for path, layer in with_weights(model):
            own = norm(copy.deepcopy(layer))
            with replaced(model, path, own):
                found = run(model, x)
                if norm is nn.utils.weight_norm:
                    assert_close(found, expected, path)
                    own.weight_g.set_value(own.weight_g * (1 + paddle.rand(own.weight_g.shape)))
                    found = run(model, x)
            if path in ("head.proj_patch", "head.proj_class") and norm is nn.utils.spectral_norm:
                continue  # their outputs are brought to unit length
            assert float((found - expected).abs().max()) > 1e-4, path


@every_model
def test_reports_count_every_parameter(name: str, capsys) -> None:
    model = make(name, True)
    found = paddle.summary(model, (1, 3, 64, 64))
    distinct = {id(parameter): parameter.size for parameter in model.parameters()}
    assert found["total_params"] == sum(distinct.values())
    printed = capsys.readouterr().out
    assert sum(map(printed.count, (" Linear-", " Conv2D-"))) == len(with_weights(model))
    assert model.training


def operations(model: nn.Layer, capsys, monkeypatch) -> tuple[int, int, str]:
    """Return operations, parameters and what is said of `paddle.flops` at 64x64."""
    to_int = lambda x: builtins.int(x.item() if isinstance(x, Tensor) else x)  # noqa: E731
    monkeypatch.setattr(dynamic_flops, "int", to_int, raising=False)  # Paddle's fails on NumPy 2.4
    paddle.flops(model, [1, 3, 64, 64])
    printed = capsys.readouterr().out
    found = re.search(r"Total Flops: (\d+) +Total Params: (\d+)", printed)
    assert found
    return int(found[1]), int(found[2]), printed


@every_model
def test_cost_reports_know_every_layer(name: str, capsys, monkeypatch) -> None:
    model = make(name, False)
    expected, ran = 0, set()
    for _, layer in with_weights(model):

        def count(layer: nn.Layer, _: object, y: Tensor) -> None:
            nonlocal expected
            ran.add(id(layer))
            is_conv = isinstance(layer, nn.Conv2D)
            inputs = np.prod(layer.weight.shape[1:]) if is_conv else layer.weight.shape[0]
            expected += int(y.size * (inputs + (is_conv and layer.bias is not None)))

        layer.register_forward_post_hook(count)
    found, _, printed = operations(model, capsys, monkeypatch)
    batch_norms = [layer for layer in model.sublayers() if isinstance(layer, nn.BatchNorm2D)]
    assert len(ran) == len(with_weights(model))
    assert found == expected if not batch_norms else found > expected
    assert not re.search("suitable count function for .*(Linear|Conv2D)'", printed)


def test_cost_report_of_b0_is_paddlesegs(capsys, monkeypatch) -> None:
    model = SegFormer(19, BACKBONES["MixVisionTransformer_B0"](), 256)
    figures = operations(model, capsys, monkeypatch)[:2]
    assert figures == (106502400, 3719539)  # of PaddleSeg's model, by the same function


@every_model
def test_layers_are_visited_once_and_own_every_parameter(name: str) -> None:
    model = make(name, False)
    visited: list[nn.Layer] = []
    model.apply(visited.append)
    assert sorted(map(id, visited)) == sorted(map(id, model.sublayers(include_self=True)))
    owned = [parameter for layer in visited for parameter in layer._parameters.values()]
    owned = [parameter for parameter in owned if parameter is not None]
    assert sorted(map(id, owned)) == sorted(map(id, model.parameters()))


@every_model
@every_mode
def test_plain_forms_give_the_same_and_gradients_of_any_part_twice(name, is_training) -> None:
    model, x = make(name, is_training), images()
    maps: list[Tensor] = []
    parts = [layer for path, layer in model.named_sublayers() if path.endswith("fc1")]
    handles = [
        part.register_forward_post_hook(lambda *args: maps.append(args[2])) for part in parts
    ]
    with exact_rewrites(False):
        output = run(model, x)
        for handle in handles:
            handle.remove()
        plain = run(model, x)
    for found in (plain, output):
        assert_close(found, run(model, x), name)
    loss = output.square().mean()
    found = paddle.grad(loss, maps, retain_graph=True)
    loss.backward(retain_graph=True)
    trained = [parameter for parameter in model.parameters() if parameter.grad is not None]
    once = [parameter.grad.clone() for parameter in trained]
    loss.backward()
    assert len(found) == len(parts) and all(float(item.abs().max()) > 0 for item in found)
    for gradient, parameter in zip(once, trained, strict=True):
        twice = 2 * gradient.numpy()
        np.testing.assert_allclose(parameter.grad.numpy(), twice, rtol=1e-5, atol=1e-6)


CHANGED_FORMS = {  # the same shapes of weights and maps, another function
    "backbone.block1.0.mlp.dwconv.dwconv": lambda: nn.Conv2D(
        32, 32, 3, padding=2, dilation=2, groups=32
    ),
    "backbone.block2.0.mlp.dwconv.dwconv": lambda: nn.Conv2D(
        64, 64, 3, padding=1, padding_mode="reflect", groups=64
    ),
    "backbone.block1.0.attn.sr": lambda: nn.Conv2D(8, 8, 8, stride=4, padding=2),
    "backbone.patch_embed2.proj": lambda: nn.Conv2D(8, 16, 3, 2, 1, padding_mode="circular"),
    "linear_fuse._conv": lambda: nn.Conv2D(64, 16, 1),  # with a bias
    "linear_pred": lambda: nn.Conv2D(16, 5, 3, padding=1),
}


@pytest.mark.parametrize("path", CHANGED_FORMS)
def test_convolutions_of_another_form_run_as_they_are(path: str) -> None:
    from paddleseg_segformer.models.folding import fold

    class Watched(nn.Layer):  # no layer of ours: it is called
        def __init__(self, inner: nn.Layer) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    model, x = make("SegFormer", False), images()
    conv = CHANGED_FORMS[path]()
    conv.bias.set_value(paddle.randn(conv.bias.shape))
    with replaced(model, path, Watched(conv)):
        expected = run(model, x)
    with replaced(model, path, conv):
        ways = {"gradients": run(model, x)}
        with paddle.no_grad():
            ways |= {"dygraph": run(model, x), "folded": fold(model)(x)}
        model.train()
        model.dropout.p = 0.5  # the classifier is multiplied in another way
        run(model, x).sum().backward()
        assert conv.bias.grad is not None
    for way, found in ways.items():
        assert_close(found, expected, way)
