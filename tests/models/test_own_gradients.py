"""Gradients written by hand equal the automatic ones."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from small_models import small_mit

from paddleseg_segformer.losses import CrossEntropyLoss, loss_of_network
from paddleseg_segformer.models import cpu_gradients
from paddleseg_segformer.models.layers import DropPath, upsampled_sum
from paddleseg_segformer.models.mix_transformer import Block, MixFFN
from paddleseg_segformer.models.segformer import SegFormer, SegFormerMM

pytestmark = pytest.mark.check


@pytest.fixture
def automatic(monkeypatch):
    """Return a switch to the plain forms, differentiated by Paddle."""

    def switch() -> None:
        monkeypatch.setattr(cpu_gradients, "is_on_cpu", lambda x: False)

    return switch


def step(model, x, label, before=lambda: None):
    """Return loss, gradients, and a random number drawn behind the step."""
    before()
    model.clear_gradients()
    paddle.seed(5)
    loss = loss_of_network(CrossEntropyLoss(), model(x), label)
    loss.backward()
    gradients = {
        name: parameter.grad.numpy()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return float(loss), gradients, paddle.rand([1]).item()


@pytest.mark.parametrize("kind", [SegFormer, SegFormerMM])
@pytest.mark.parametrize(
    "changes", [{}, {"use_recompute": True}, {"merge": (2, 2, 2, 1)}, {"attn_drop_rate": 0.3}]
)
def test_step_equals_the_plain_form(kind, changes, automatic):
    encoder = small_mit(depths=(1, 2, 1, 1), drop_path_rate=0.5, **changes)
    model = kind(5, encoder, embedding_dim=16, dropout_rate=0.3)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.set_value(paddle.randn(parameter.shape) * 0.1)
    model.train()
    x, label = paddle.randn([3, 3, 67, 41]), paddle.randint(0, 5, [3, 67, 41])
    label[:, :9] = 255
    loss, found, after = step(model, x, label)
    plain_loss, expected, plain_after = step(model, x, label, automatic)
    assert (loss, after) == (pytest.approx(plain_loss, rel=1e-6), plain_after)
    trained = {name for name, item in model.named_parameters() if not item.stop_gradient}
    assert found.keys() == expected.keys() == trained
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, atol=2e-6, rtol=1e-4, err_msg=name)


def test_recomputed_attention_drops_the_same_weights():
    model = SegFormer(5, small_mit(attn_drop_rate=0.5), embedding_dim=16)
    model.train()
    x, label = paddle.randn([2, 3, 64, 64]), paddle.randint(0, 5, [2, 64, 64])
    loss, expected, _ = step(model, x, label)
    model.backbone.use_recompute = True
    recomputed_loss, found, _ = step(model, x, label)
    assert recomputed_loss == pytest.approx(loss, rel=1e-6)
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, atol=2e-6, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("frozen", ["norm1.", "norm2.", "attn.q.", "attn.sr.", "mlp.", ""])
@pytest.mark.parametrize("x_is_frozen", [False, True])
def test_frozen_parts_of_a_block_get_no_gradient(frozen, x_is_frozen, automatic):
    block = Block(16, 2, 2, 4, True, 0.0, 0.0, 0.0, 1e-6, 1e-5)
    for parameter in block.parameters():
        parameter.set_value(paddle.randn(parameter.shape) * 0.3)
    x = paddle.randn([2, 5 * 7, 16])
    tensors = {"x": x, **dict(block.named_parameters())}

    def gradients():
        for tensor in tensors.values():
            tensor.clear_gradient(set_to_zero=False)
        (block(x, (5, 7)) ** 2).sum().backward()
        return {key: item.grad.numpy() for key, item in tensors.items() if item.grad is not None}

    for name, tensor in tensors.items():
        tensor.stop_gradient = x_is_frozen if name == "x" else bool(frozen) and frozen in name
    found = gradients()
    trained = {name for name, tensor in tensors.items() if not tensor.stop_gradient}
    for tensor in tensors.values():  # Paddle's own gradient is wrong where a norm's gain has none
        tensor.stop_gradient = False
    automatic()
    expected = gradients()
    assert found.keys() == trained
    for name, one in found.items():
        bound = 1e-4 * np.abs(expected[name]).max()
        np.testing.assert_allclose(one, expected[name], atol=bound, rtol=1e-3, err_msg=name)


def test_head_trains_behind_a_frozen_first_map(automatic):
    model = SegFormer(5, small_mit(drop_path_rate=0.0), embedding_dim=16, dropout_rate=0.0)
    model.train()
    frozen = tuple(f"backbone.{name}1" for name in ("patch_embed", "block", "norm"))
    for name, parameter in model.named_parameters():
        if name.startswith((*frozen, "linear_c1", "linear_fuse")):
            parameter.stop_gradient = True
    x, label = paddle.randn([2, 3, 64, 64]), paddle.randint(0, 5, [2, 64, 64])
    _, found, _ = step(model, x, label)
    _, expected, _ = step(model, x, label, automatic)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, atol=2e-6, rtol=1e-4, err_msg=name)


def test_block_keeps_neither_norms_nor_patches(automatic):
    allocated = paddle.base.core.host_memory_stat_current_value
    block = Block(16, 1, 4, 4, True, 0.0, 0.0, 0.0, 1e-6, 1e-5)
    x = paddle.randn([2, 64 * 64, 16])
    x.stop_gradient = False
    kept = []
    for before in (lambda: None, automatic):
        before()
        start = allocated("Allocated", 0)
        out = block(x, (64, 64))
        kept.append(allocated("Allocated", 0) - start)
        del out
    map_bytes = 4 * x.size
    # neither norm's result, nor the map before the reduction, nor the hidden maps after the first
    assert kept[1] - kept[0] > (2 + 2 * 4) * map_bytes


def ffn_step(ffn, x, hw):
    ffn.clear_gradients()
    x.clear_gradient()
    out = ffn(x, hw)
    (out * paddle.cos(paddle.arange(out.size, dtype="float32")).reshape(out.shape)).sum().backward()
    tensors = [x, *ffn.parameters()]
    return out.numpy(), [None if t.grad is None else t.grad.numpy() for t in tensors]


@pytest.mark.parametrize("hw", [(1, 1), (1, 5), (7, 3)])
@pytest.mark.parametrize("frozen", [(), ("fc1.weight", "fc2.bias"), ("dwconv.dwconv.weight",)])
@pytest.mark.parametrize("x_is_frozen", [False, True])
def test_mix_ffn_equals_the_plain_form(hw, frozen, x_is_frozen, automatic):
    ffn = MixFFN(6, 24)
    for name, parameter in ffn.named_parameters():
        parameter.set_value(paddle.randn(parameter.shape))
        parameter.stop_gradient = name in frozen
    x = paddle.randn([2, hw[0] * hw[1], 6])
    x.stop_gradient = x_is_frozen
    out, found = ffn_step(ffn, x, hw)
    automatic()
    plain, expected = ffn_step(ffn, x, hw)
    np.testing.assert_allclose(out, plain, atol=1e-4)
    assert [gradient is None for gradient in found].count(True) == len(frozen) + x_is_frozen
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_allclose(one, other, atol=2e-3, rtol=1e-4)


def test_mix_ffn_drops_as_the_plain_form_does(automatic):
    ffn = MixFFN(6, 24, drop=0.5)
    x = paddle.randn([2, 6, 6])
    x.stop_gradient = False
    results = []
    for before in (lambda: None, automatic):
        before()
        paddle.seed(3)
        results.append(ffn_step(ffn, x, (2, 3))[0])
    np.testing.assert_array_equal(*results)
    assert 0.2 < (results[0] == 0).mean() < 0.8


def test_resized_sum_equals_the_plain_form(automatic):
    sizes = [(16, 12), (8, 6), (5, 3), (16, 12)]
    maps = [paddle.randn([2, 3, *hw]) for hw in sizes]
    results = []
    for before in (lambda: None, automatic):
        before()
        for item in maps:
            item.stop_gradient = False
            item.clear_gradient()
        total = upsampled_sum([item * 1 for item in maps])  # overwrites the first
        (total**2).sum().backward()
        results.append([total.numpy(), *(item.grad.numpy() for item in maps)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    alone = upsampled_sum(maps[:1])
    np.testing.assert_array_equal(alone.numpy(), maps[0].numpy())


def test_drop_path_keeps_no_map():
    allocated = paddle.base.core.host_memory_stat_current_value
    layer = DropPath(0.5)
    layer.train()
    x = paddle.randn([4, 1 << 16])
    x.stop_gradient = False
    branch = x + 1
    out = layer(branch)
    with_branch = allocated("Allocated", 0)
    del branch
    assert with_branch - allocated("Allocated", 0) >= 4 * x.size
    out.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy() != 0, out.numpy() != 0)
