"""Layers that were replaced by others (LoRA) or have hooks run, in dygraph and in exports."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import paddle
import pytest
from paddle import nn
from small_models import small_segformer, spread

from paddleseg_segformer.export.static_graph import save_static_graph
from paddleseg_segformer.models import SegFormer, SegFormerMM
from paddleseg_segformer.models.folding import fold


class LowRank(nn.Layer):
    """A layer and a small update of its own beside it, as in LoRA."""

    def __init__(self, inner: nn.Layer) -> None:
        super().__init__()
        self.inner = inner
        self.update = nn.Linear(1, 1)

    @property
    def weight(self) -> paddle.Tensor:  # what code reads that takes it for the layer
        return self.inner.weight

    @property
    def bias(self) -> paddle.Tensor:
        return self.inner.bias

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return 1.5 * self.inner(x)


class Subclass(nn.Linear):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return 1.5 * super().forward(x)


def subclassed(layer: nn.Layer) -> nn.Layer:
    """Return a copy of a layer that is of a class of its own, as those of loralib are."""
    kind, other = type(layer), copy.deepcopy(layer)
    other.__class__ = type(
        "Scaled", (kind,), {"forward": lambda self, x: 1.5 * kind.forward(self, x)}
    )
    return other


def replaceable(model: nn.Layer) -> list[str]:
    kinds = (nn.Linear, nn.Conv2D)
    return [name for name, layer in model.named_sublayers() if type(layer) in kinds]


def replace(
    model: nn.Layer, name: str, made_of: Callable[[nn.Layer], nn.Layer] = LowRank
) -> Callable[[], None]:
    """Put another in place of a layer; return what undoes it."""
    parent, _, key = name.rpartition(".")
    owner = dict(model.named_sublayers(include_self=True))[parent]
    before = owner._sub_layers[key]
    owner._sub_layers[key] = made_of(before)
    return lambda: owner._sub_layers.update({key: before})


def scale(model: nn.Layer, name: str, factor: float) -> None:
    layer = dict(model.named_sublayers())[name]
    for tensor in (layer.weight, layer.bias):
        if tensor is not None:
            tensor.set_value(tensor * factor)


@pytest.mark.parametrize("made_of", [LowRank, subclassed])
@pytest.mark.parametrize("kind", [SegFormer, SegFormerMM])
def test_each_replaced_layer_runs_in_dygraph_training_and_exports(kind, made_of) -> None:
    model = spread(small_segformer(5, kind, drop_path_rate=0.0))
    model.dropout.p = 0.0
    x = paddle.randn([1, 3, 64, 64])
    names = replaceable(model)
    assert len(names) == 4 + 4 * 6 + 3 + len(model.linear_pred.weight.shape) + (
        2 if kind is SegFormer else 2
    )
    for name in names:
        with paddle.no_grad():
            scale(model, name, 1.5)
            expected = model(x).numpy()  # the same by other weights
            scale(model, name, 1 / 1.5)
            undo = replace(model, name, made_of)
            found = {"dygraph": model(x), "folded": fold(model)(x)}
            undo()
        undo = replace(model, name, made_of)
        found["with gradients"] = model(x).detach()
        undo()
        for way, value in found.items():
            bound = 2e-4 * expected.std()
            np.testing.assert_allclose(value.numpy(), expected, atol=bound, err_msg=f"{name} {way}")


@pytest.mark.parametrize("change", ["subclass", "hook", "bias"])
def test_subclasses_hooks_and_layers_without_bias_are_honoured(change) -> None:
    model = spread(small_segformer(5))
    x = paddle.randn([1, 3, 64, 64])
    for owner, key in ((model.backbone.block1[0].mlp, "fc1"), (model.linear_c2, "proj")):
        before = getattr(owner, key)
        with paddle.no_grad():
            if change == "subclass":
                after = Subclass(*before.weight.shape)
                after.weight.set_value(before.weight)
                after.bias.set_value(before.bias)
            elif change == "bias":
                after = nn.Linear(*before.weight.shape, bias_attr=False)
                after.weight.set_value(before.weight)
            if change != "hook":
                setattr(owner, key, after)
                found = [model(x), fold(model)(x)]
                setattr(owner, key, before)
            else:
                handle = before.register_forward_post_hook(lambda *args: 1.5 * args[2])
                found = [model(x), fold(model)(x)]
                handle.remove()
            factor = 1.0 if change == "bias" else 1.5
            bias = before.bias.clone()
            before.weight.set_value(before.weight * factor)
            before.bias.set_value(bias * (0.0 if change == "bias" else 1.5))
            expected = model(x).numpy()
            before.weight.set_value(before.weight / factor)
            before.bias.set_value(bias)
        for value in found:
            np.testing.assert_allclose(value.numpy(), expected, atol=2e-4 * expected.std())


def test_replaced_layers_are_in_the_exported_graph(tmp_path) -> None:
    model = spread(small_segformer(5))
    for name in ("backbone.block2.0.attn.q", "backbone.block3.0.mlp.dwconv.dwconv", "linear_pred"):
        replace(model, name)
    x = paddle.randn([1, 3, 64, 96])
    with paddle.no_grad():
        expected = model(x).numpy()
    save_static_graph(model, tmp_path)
    loaded = paddle.jit.load(str(tmp_path / "model"))
    np.testing.assert_allclose(loaded(x).numpy(), expected, atol=1e-4 * expected.std())
