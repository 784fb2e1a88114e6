"""Stages of backbones: every parameter has its place, frozen ones stay, depths scale the rate."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models import BACKBONES, LinearSegmenter, SegFormer
from paddleseg_segformer.models.stages import freeze_stages, is_part_of, set_training, stages_of
from paddleseg_segformer.optimizers import parameter_groups

SMALL = {"embed_dims": [8, 16, 20, 32], "depths": [2, 1, 3, 1], "num_heads": [1, 2, 5, 8]}


def segformer(**changes) -> SegFormer:
    paddle.seed(1)
    return SegFormer(3, BACKBONES["MixVisionTransformer_B0"](**SMALL, **changes), 16)


@pytest.mark.parametrize(
    ("make", "num_stages", "num_depths"),
    [
        (segformer, 4, 7),
        (
            lambda: LinearSegmenter(
                3, BACKBONES["VisionTransformer"](32, 8, embed_dim=24, depth=3, num_heads=3)
            ),
            4,
            4,
        ),
    ],
)
def test_every_parameter_of_a_backbone_is_at_one_depth(make, num_stages, num_depths):
    model = make()
    stages = stages_of(model, "")
    assert len(stages) == num_stages
    depths = [depth for stage in stages for depth in stage]
    assert len(depths) == num_depths
    for name, _ in model.named_parameters():
        places = [depth for depth in depths if is_part_of(name, depth)]
        assert len(places) == name.startswith("backbone."), name


@pytest.mark.parametrize("use_recompute", [False, True])
def test_frozen_stages_have_no_gradient_and_the_others_the_same_as_without(use_recompute):
    image = paddle.to_tensor(np.random.default_rng(0).random((2, 3, 64, 64), np.float32))
    gradients = []
    for num_frozen in (0, 2):
        model = segformer(drop_path_rate=0.0, use_recompute=use_recompute)
        frozen = freeze_stages(model, num_frozen)
        set_training(model, frozen)
        model.dropout.p = 0.0
        model(image).square().sum().backward()
        gradients.append(
            {name: p.grad for name, p in model.named_parameters() if "batch_norm._" not in name}
        )
    whole, part = gradients
    rounding = 1e-6 * max(float(gradient.abs().max()) for gradient in whole.values())
    for name, gradient in part.items():
        is_frozen = is_part_of(name.removeprefix("backbone."), FROZEN)
        assert (gradient is None) == is_frozen, name
        if not is_frozen:
            np.testing.assert_allclose(
                gradient.numpy(), whole[name].numpy(), rtol=1e-4, atol=rounding
            )


FROZEN = [f"{part}{stage}" for stage in (1, 2) for part in ("patch_embed", "block", "norm")]


def test_frozen_layers_stay_in_evaluation_mode_also_batch_norm():
    model = segformer()
    model.backbone.patch_embed1.add_sublayer("bn", paddle.nn.BatchNorm2D(3))
    set_training(model, freeze_stages(model, 1))
    modes = {name: layer.training for name, layer in model.named_sublayers()}
    assert not modes["backbone.patch_embed1.bn"] and not modes["backbone.block1.0.drop_path"]
    assert modes["backbone.block2.0"] and modes["linear_fuse"]


def test_rates_fall_from_the_head_to_the_first_block():
    model = segformer()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rules = [{"name": "norm", "weight_decay_mult": 0.0}]
    rates, decays = {}, {}
    for group in parameter_groups(model, rules, 0.1, layer_decay=0.5):
        for parameter in group["params"]:
            rates[names[id(parameter)]] = group["learning_rate"]
            decays[names[id(parameter)]] = group["weight_decay"]
    assert rates.keys() == {name for name, p in model.named_parameters() if not p.stop_gradient}
    assert rates["linear_pred.weight"] == 1.0
    assert rates["backbone.block4.0.mlp.fc1.weight"] == 0.5 == rates["backbone.norm4.bias"]
    assert rates["backbone.block3.2.attn.q.weight"] == 0.25 == rates["backbone.norm3.bias"]
    assert rates["backbone.patch_embed3.proj.weight"] == 0.5**4
    assert rates["backbone.patch_embed1.proj.bias"] == 0.5**7
    assert decays["backbone.norm3.bias"] == 0.0 and decays["linear_pred.weight"] == 0.1


def test_what_cannot_be_done_is_refused():
    with pytest.raises(UserError, match="found 5, expected at most 4"):
        freeze_stages(segformer(), 5)
    with pytest.raises(UserError, match=r"layer_decay: found 1.5, expected a factor in \(0, 1\]"):
        parameter_groups(segformer(), [], None, 1.5)
    with pytest.raises(UserError, match="Linear does not say the order of its layers"):
        parameter_groups(paddle.nn.Linear(2, 2), [], None, 0.5)
