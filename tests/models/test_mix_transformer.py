"""The MiT encoder: strides, sizes, epsilons, options."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from small_models import small_mit

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models import (
    MixVisionTransformer,
    MixVisionTransformerClassifier,
    attention,
)
from paddleseg_segformer.models.attention import EfficientSelfAttention, attend
from paddleseg_segformer.models.layers import DropPath
from paddleseg_segformer.models.mix_transformer import BACKBONES

pytestmark = pytest.mark.check


@pytest.mark.parametrize(
    ("hw", "sizes"),
    [
        ((97, 131), [(25, 33), (13, 17), (7, 9), (4, 5)]),
        ((64, 96), [(16, 24), (8, 12), (4, 6), (2, 3)]),
        ((29, 29), [(8, 8), (4, 4), (2, 2), (1, 1)]),
    ],
)
def test_odd_input_keeps_ceil_strides(hw, sizes):
    features = BACKBONES["MixVisionTransformer_B0"]()(paddle.rand([1, 3, *hw]))
    assert [tuple(f.shape[2:]) for f in features] == sizes
    assert [f.shape[1] for f in features] == [32, 64, 160, 256]


def test_smaller_than_29_px_is_refused_by_name():
    with pytest.raises(UserError, match="29"):
        BACKBONES["MixVisionTransformer_B0"]()(paddle.rand([1, 3, 28, 64]))


@pytest.mark.usefixtures("zero_weights")
@pytest.mark.parametrize("name", BACKBONES)
def test_layer_norm_epsilons_are_the_published_two(name):
    encoder = BACKBONES[name]()
    for layer_name, layer in encoder.named_sublayers():
        if isinstance(layer, paddle.nn.LayerNorm):
            published = 1e-5 if "patch_embed" in layer_name or ".attn." in layer_name else 1e-6
            assert layer._epsilon == published, layer_name


def test_in_channels_and_every_hyper_parameter_are_free():
    encoder = MixVisionTransformer(
        in_channels=5,
        embed_dims=(8, 16, 24, 32),
        depths=(1, 1, 2, 1),
        num_heads=(1, 2, 3, 4),
        sr_ratios=(4, 2, 1, 1),
        mlp_ratios=(2, 2, 3, 4),
        drop_path_rate=0.3,
    )
    assert [f.shape[1] for f in encoder(paddle.rand([2, 5, 33, 40]))] == [8, 16, 24, 32]
    rates = [layer.rate for layer in encoder.sublayers() if isinstance(layer, DropPath)]
    np.testing.assert_allclose(rates, np.linspace(0, 0.3, 5))


def test_wrong_number_of_stages_is_named():
    with pytest.raises(UserError, match="depths: found 3 numbers"):
        MixVisionTransformer(depths=(1, 1, 1))


def test_attention_equals_its_definition_and_ignores_trailing_rows():
    paddle.seed(0)
    layer = EfficientSelfAttention(dim=8, num_heads=2, sr_ratio=2)
    h, w = 5, 7  # the reduction floors to 2 x 3
    x = paddle.randn([2, h * w, 8])
    found = layer(x, (h, w)).numpy()
    grid = x.reshape([2, h, w, 8])[:, :4, :6].transpose([0, 3, 1, 2])
    reduced = layer.norm(layer.sr(grid).flatten(2).transpose([0, 2, 1]))
    q, kv = layer.q(x).numpy(), layer.kv(reduced).numpy()
    expected = np.empty_like(q)
    for n in range(2):
        for head in range(2):
            part = slice(head * 4, head * 4 + 4)
            scores = q[n, :, part] @ kv[n, :, part].T / 2.0
            weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
            expected[n, :, part] = weights @ kv[n, :, 8:][:, part]
    expected = layer.proj(paddle.to_tensor(expected)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("merge", "sr_ratio"), [(2, 2), (3, 1)])
def test_merged_queries_are_those_of_the_means_of_their_squares(merge, sr_ratio):
    """Against matrices that average the tokens, and that give each token its square's result."""
    paddle.seed(0)
    layer = EfficientSelfAttention(8, 2, sr_ratio, merge=merge)
    h, w = 5, 7
    squares = [(y // merge) * -(-w // merge) + x // merge for y in range(h) for x in range(w)]
    spreading = np.eye(-(-h // merge) * -(-w // merge), dtype=np.float32)[squares]  # (L, L')
    averaging = (spreading / spreading.sum(axis=0)).T

    def slow(x):
        q = layer.q(paddle.matmul(paddle.to_tensor(averaging), x)).reshape([2, -1, 2, 4])
        reduced = x
        if sr_ratio > 1:
            grid = x.reshape([2, h, w, 8]).transpose([0, 3, 1, 2])
            reduced = layer.norm(layer.sr(grid).flatten(2).transpose([0, 2, 1]))
        kv = layer.kv(reduced).reshape([2, -1, 2, 2, 4])
        scores = paddle.einsum("nlmd,nsmd->nmls", q, kv[:, :, 0]) / 2.0
        out = paddle.einsum("nmls,nsmd->nlmd", F.softmax(scores), kv[:, :, 1])
        return paddle.matmul(paddle.to_tensor(spreading), layer.proj(out.flatten(2)))

    results = []
    for function in (lambda x: layer(x, (h, w)), slow):
        paddle.seed(1)
        x = paddle.randn([2, h * w, 8])
        x.stop_gradient = False
        out = function(x)
        (out * paddle.randn(out.shape)).sum().backward()
        results.append((out.numpy(), x.grad.numpy(), layer.q.weight.grad.numpy()))
        layer.clear_gradients()
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_merge_is_one_whole_number_for_each_stage():
    merged = small_mit(merge=[2, 2, 1, 1])
    assert [merged.block1[0].attn.merge, merged.block4[0].attn.merge] == [2, 1]
    assert set(merged.state_dict()) == set(small_mit().state_dict())
    for merge in ((0, 1, 1, 1), (2.0, 1, 1, 1)):
        with pytest.raises(UserError, match="merge: found .*, expected whole numbers of 1 or more"):
            small_mit(merge=merge)
    with pytest.raises(UserError, match="merge: found 1 numbers"):
        small_mit(merge=[2])


def test_attention_weights_on_request_are_those_that_the_blocks_apply():
    encoder = BACKBONES["MixVisionTransformer_B0"](depths=(1, 2, 1, 1))
    encoder.eval()
    x = paddle.randn([2, 3, 97, 131])
    features, attentions = encoder.forward_with_attentions(x)
    for found, expected in zip(features, encoder(x), strict=True):
        np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)
    shapes = [(2, 1, 25 * 33, 3 * 4), (2, 2, 13 * 17, 3 * 4), (2, 2, 13 * 17, 3 * 4)]
    shapes += [(2, 5, 7 * 9, 3 * 4), (2, 8, 4 * 5, 4 * 5)]
    assert [tuple(weights.shape) for weights in attentions] == shapes
    block, (tokens, hw) = encoder.block1[0], encoder.patch_embed1(x)
    normed = block.norm1(tokens)
    attn = block.attn
    values = attn.kv(attn.norm(attn.sr(normed.transpose([0, 2, 1]).reshape([2, 32, *hw])).flatten(2)
                               .transpose([0, 2, 1])))[:, :, 32:]  # fmt: skip
    expected = attn.proj(paddle.matmul(attentions[0][:, 0], values))
    np.testing.assert_allclose(attn(normed, hw).numpy(), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("use_recompute", [False, True])
def test_attention_weights_on_request_get_gradients(use_recompute):
    encoder = MixVisionTransformer(use_recompute=use_recompute, drop_path_rate=0.0)
    features, attentions = encoder.forward_with_attentions(paddle.randn([1, 3, 64, 64]))
    assert encoder.use_recompute == use_recompute
    for weights in attentions:
        weights.retain_grads()
    features[-1].square().sum().backward()
    assert all(float(weights.grad.abs().max()) > 0 for weights in attentions)
    layer = EfficientSelfAttention(dim=8, num_heads=2, sr_ratio=1)
    layer.kept = []
    x = paddle.randn([1, 6, 8])
    (found,) = paddle.grad(layer(x, (2, 3)).sum(), layer.kept)
    values = layer.kv(x).numpy()[0, :, 8:]  # (S, C)
    per_value = (values * layer.proj.weight.numpy().sum(1)).reshape(6, 2, 4).sum(2)  # (S, M)
    expected = np.broadcast_to(per_value.T[:, None], (2, 6, 6))
    np.testing.assert_allclose(found.numpy()[0], expected, atol=1e-5)


def test_classifier_without_classes_is_refused():
    with pytest.raises(UserError, match="num_classes: found 0, expected 1 or more"):
        MixVisionTransformerClassifier(MixVisionTransformer(), num_classes=0)


def test_attend_without_gradient_equals_attend_with():
    paddle.seed(0)
    q, k, v = (paddle.randn([1, length, 2, 8]) for length in (3000, 50, 50))
    q.stop_gradient = False
    with_gradient = attend(q, k, v)
    with paddle.no_grad():
        without = attend(q, k, v)
    np.testing.assert_allclose(with_gradient.numpy(), without.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("generation", "dtype", "width", "is_fused"),
    [
        (8, "float16", 32, True),
        (9, "bfloat16", 64, True),
        (7, "float16", 32, False),
        (8, "float16", 20, False),
        (8, "float32", 32, False),
        (8, "float64", 32, False),
    ],
)
def test_attention_is_fused_where_paddle_has_the_kernel(
    generation, dtype, width, is_fused, monkeypatch
):
    monkeypatch.setattr(attention, "_gpu_generation", lambda device_id: generation)
    place = SimpleNamespace(is_gpu_place=lambda: True, gpu_device_id=lambda: 0)
    q = SimpleNamespace(place=place, dtype=getattr(paddle, dtype), shape=[1, 4, 1, width])
    assert attention._has_fused_kernel(q) == is_fused


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    paddle.seed(0)
    layer = DropPath(0.25)
    kept = layer(paddle.ones([4000, 2, 3])).numpy()
    np.testing.assert_allclose(np.unique(kept), [0, 1 / 0.75], rtol=1e-6)
    assert (kept.min(axis=(1, 2)) == kept.max(axis=(1, 2))).all()
    assert kept.mean() == pytest.approx(1.0, abs=0.05)
    layer.eval()
    assert layer(paddle.ones([2, 2])).numpy().tolist() == [[1, 1], [1, 1]]


def test_recompute_gives_the_same_loss_gradients_and_random_numbers():
    results = []
    for use_recompute in (False, True):
        paddle.seed(1)
        encoder = MixVisionTransformer(
            depths=(1, 2, 1, 1), drop_path_rate=0.5, drop_rate=0.1, use_recompute=use_recompute
        )
        encoder.train()
        x = paddle.randn([3, 3, 37, 64])
        paddle.seed(7)
        loss = sum((feature**2).mean() for feature in encoder(x))
        loss.backward()
        gradients = {name: p.grad.numpy() for name, p in encoder.named_parameters()}
        results.append((float(loss), gradients, paddle.rand([2]).tolist()))
    (loss, plain, after), (same_loss, recomputed, same_after) = results
    assert (loss, after) == (same_loss, same_after)
    for name, gradient in plain.items():
        np.testing.assert_allclose(recomputed[name], gradient, atol=1e-6, err_msg=name)


def test_recompute_is_for_every_block_in_training_alone(monkeypatch):
    import paddle.distributed.fleet.utils as utils

    runs = []
    monkeypatch.setattr(utils, "recompute", lambda block, *inputs: runs.append(1) or block(*inputs))
    encoder = BACKBONES["MixVisionTransformer_B0"](use_recompute=True)
    x = paddle.rand([1, 3, 32, 32])
    encoder.train()
    encoder(x)
    assert len(runs) == sum(encoder.depths)
    encoder.eval()
    encoder(x)
    with paddle.no_grad():
        encoder.train()
        encoder(x)
    assert len(runs) == sum(encoder.depths)
