"""The ablation of Mix-FFN: learned position embeddings and feed-forward without convolution."""

from __future__ import annotations

import re

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from small_models import small_segformer, spread

from paddleseg_segformer.analysis.complexity import activation_bytes, count_macs
from paddleseg_segformer.cli import main
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export import export_model
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.model_folder import load_model
from paddleseg_segformer.models.folding import fold
from paddleseg_segformer.models.quantized import quantize
from paddleseg_segformer.runtimes.engine_network import load_network
from paddleseg_segformer.runtimes.engines import EngineOptions
from paddleseg_segformer.weights import load_weights, open_checkpoint, save_weights

LEARNED = {"positional_encoding": "learned", "img_size": [96, 64]}  # width, height


def learned(**changes):
    paddle.seed(0)
    return spread(small_segformer(5, **{**LEARNED, **changes}))


def test_embeddings_are_of_each_stages_map_and_no_convolution_is_left():
    model = learned()
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    expected = [(1, 16 * 24, 8), (1, 8 * 12, 16), (1, 4 * 6, 20), (1, 2 * 3, 32)]
    found = [shapes[f"backbone.patch_embed{i}.pos_embed"] for i in range(1, 5)]
    assert found == expected
    assert not [name for name in shapes if "dwconv" in name]


def test_a_stage_equals_the_formula():
    """Stage 1 by hand: LayerNorm(conv) + positions, resized bilinearly in NumPy."""
    backbone = learned().backbone
    embed = backbone.patch_embed1
    for height, width in ((64, 96), (128, 48)):
        x = paddle.randn([1, 3, height, width])
        tokens, hw = embed(x)
        assert list(hw) == [height // 4, width // 4]
        plain = embed.norm(embed.proj(x).flatten(2).transpose([0, 2, 1]))
        grid = embed.pos_embed.numpy()[0].reshape(16, 24, 8)
        positions = resized(grid, height // 4, width // 4).reshape(-1, 8)
        np.testing.assert_allclose((tokens - plain).numpy()[0], positions, atol=1e-5)


def resized(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear interpolation with half-pixel centres, one output at a time."""
    out = np.empty((height, width, grid.shape[2]))
    for row in range(height):
        y = np.clip((row + 0.5) * grid.shape[0] / height - 0.5, 0, grid.shape[0] - 1)
        for column in range(width):
            x = np.clip((column + 0.5) * grid.shape[1] / width - 0.5, 0, grid.shape[1] - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, grid.shape[0] - 1), min(left + 1, grid.shape[1] - 1)
            dy, dx = y - top, x - left
            out[row, column] = (1 - dy) * (
                (1 - dx) * grid[top, left] + dx * grid[top, right]
            ) + dy * ((1 - dx) * grid[bottom, left] + dx * grid[bottom, right])
    return out


def test_a_block_has_a_plain_feed_forward():
    block = learned().backbone.block2[0]
    x = paddle.randn([1, 6, 16])
    mlp = block.mlp
    after = x + block.attn(block.norm1(x), (2, 3))
    hidden = F.gelu(F.linear(block.norm2(after), mlp.fc1.weight, mlp.fc1.bias))
    expected = after + F.linear(hidden, mlp.fc2.weight, mlp.fc2.bias)
    np.testing.assert_allclose(block(x, (2, 3)).numpy(), expected.numpy(), atol=1e-5)


def test_every_parameter_gets_a_gradient_also_with_recompute():
    gradients = []
    for use_recompute in (False, True):
        model = learned(use_recompute=use_recompute, drop_path_rate=0.0)
        model.backbone.train()
        paddle.seed(3)
        model(paddle.randn([2, 3, 50, 70])).square().mean().backward()
        trained = [item for item in model.named_parameters() if not item[1].stop_gradient]
        gradients.append({name: parameter.grad for name, parameter in trained})
        assert all(float(grad.abs().max()) > 0 for grad in gradients[-1].values())
    for name, gradient in gradients[0].items():
        np.testing.assert_allclose(gradients[1][name].numpy(), gradient.numpy(), atol=1e-5)


def test_positions_are_a_switch_and_img_size_belongs_to_it():
    for changes, message in (
        ({"img_size": None}, "img_size: found None, expected the training images' pixels"),
        ({"positional_encoding": "mix_ffn"}, "img_size: found [96, 64], expected the training"),
        ({"positional_encoding": "learnt"}, "'learnt', expected mix_ffn or learned."),
        ({"img_size": [64]}, "img_size: found [64], expected pixels"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            learned(**changes)


@pytest.mark.parametrize("merge", [(1, 1, 1, 1), (2, 2, 1, 1)])
def test_folded_network_gives_the_same_logits(merge):
    model = learned(merge=merge)
    for size in ((64, 96), (97, 131)):
        x = paddle.randn([1, 3, *size])
        with paddle.no_grad():
            np.testing.assert_allclose(fold(model)(x).numpy(), model(x).numpy(), atol=1e-4)


@pytest.mark.parametrize("input_hw", [None, (80, 112)], ids=["free", "fixed"])
def test_exports_give_the_models_logits_at_other_sizes(tmp_path, input_hw):
    pytest.importorskip("openvino")
    model = learned()
    export_model(
        model,
        tmp_path / "out",
        preprocess=Preprocess.from_transforms([{"type": "Normalize"}]),
        formats=("paddle", "onnx", "openvino"),
        input_shape=input_hw and (1, 3, *input_hw),
    )
    x = paddle.randn([1, 3, *(input_hw or (97, 131))])
    with paddle.no_grad():
        expected = model(x).numpy()
    for backend in ("paddle", "onnxruntime", "openvino"):
        network = load_network(tmp_path / "out", EngineOptions(device="cpu", backend=backend))
        np.testing.assert_allclose(np.asarray(network(x.numpy())), expected, atol=2e-4)


def test_costs_lack_the_convolution():
    mix, plain = small_segformer(5), learned()
    for hw in ((64, 64), (97, 131)):
        ours, theirs = (count_macs(model, hw) for model in (plain, mix))
        assert theirs.pop("depthwise convolution") > 0
        assert "depthwise convolution" not in ours and ours == theirs
    less, more = (activation_bytes(model, (64, 96)) for model in (plain, mix))
    # four maps less of the hidden width, and two more of the channels
    sizes = ((8, 16 * 24), (16, 8 * 12), (20, 4 * 6), (32, 2 * 3))
    assert more["feed-forward"] - less["feed-forward"] == sum(4 * 4 * c * n for c, n in sizes)


def test_weights_are_saved_recognised_and_loaded(tmp_path):
    model = learned(img_size=64)
    save_weights(model, tmp_path / "model.pdparams")
    backbone = open_checkpoint(tmp_path / "model.pdparams").model["backbone"]
    assert (backbone["positional_encoding"], backbone["img_size"]) == ("learned", 64)
    again = load_model(tmp_path / "model.pdparams")
    x = paddle.randn([1, 3, 64, 64])
    # the number of heads is guessed, so of these narrow stages only the embedding can be compared
    embedded = [m.backbone.patch_embed1(x)[0].numpy() for m in (model, again)]
    np.testing.assert_array_equal(*embedded)
    other = small_segformer(5)
    with pytest.raises(UserError, match="positional_encoding learned"):
        load_weights(other, tmp_path / "model.pdparams")


@pytest.mark.parametrize("target", ["hf", "nvlabs", "mmseg", "smp"])
def test_other_code_bases_have_no_such_model(tmp_path, target, capsys):
    save_weights(learned(img_size=64), tmp_path / "model.pdparams")
    arguments = ["convert_weights", str(tmp_path / "model.pdparams"), str(tmp_path / "out")]
    assert main([*arguments, "--to", target, "--backbone_only"]) == 1
    error = capsys.readouterr().err.strip()
    assert "has no MixVisionTransformer with positional_encoding learned" in error
    assert "\n" not in error


def test_training_for_int8_is_refused():
    with pytest.raises(UserError, match="expected a SegFormer or SegFormerMM on a MixVision"):
        quantize(learned(), 0.9)
