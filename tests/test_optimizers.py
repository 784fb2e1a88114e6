"""Parameter groups and schedules of both recipes."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddleseg_segformer.config.building import build_optimizer
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models import BACKBONES, SegFormer
from paddleseg_segformer.optimizers import build_lr_schedule, parameter_groups

pytestmark = pytest.mark.check

PAPER_RULES = [{"name": "linear_", "lr_mult": 10.0}, {"name": "norm", "weight_decay_mult": 0.0}]


@pytest.fixture(scope="module")
def model():
    return SegFormer(3, BACKBONES["MixVisionTransformer_B0"](), 32)


def test_paper_groups_head_with_its_batch_norm_then_norms_then_the_rest(model):
    names = {parameter.name: name for name, parameter in model.named_parameters()}
    head, norms, rest = parameter_groups(model, PAPER_RULES, 0.01)
    head_names = {names[p.name] for p in head["params"]}
    assert {
        "linear_fuse._batch_norm.weight",
        "linear_c1.proj.bias",
        "linear_pred.weight",
    } <= head_names
    assert not any(name.startswith("backbone") for name in head_names)
    assert (head["learning_rate"], head["weight_decay"]) == (10.0, 0.01)
    norm_names = {names[p.name] for p in norms["params"]}
    assert {"backbone.norm1.bias", "backbone.block1.0.attn.norm.weight"} <= norm_names
    assert all("norm" in name for name in norm_names)
    assert (norms["learning_rate"], norms["weight_decay"]) == (1.0, 0.0)
    assert (rest["learning_rate"], rest["weight_decay"]) == (1.0, 0.01)
    total = sum(len(group["params"]) for group in (head, norms, rest))
    assert total == sum(not p.stop_gradient for p in model.parameters())


def test_groups_take_effect_in_one_step():
    """After one AdamW step a group has moved by its own rate and decay."""
    layer = paddle.nn.Sequential(
        ("linear_a", paddle.nn.Linear(2, 2, bias_attr=False)),
        ("norm", paddle.nn.Linear(2, 2, bias_attr=False)),
        ("rest", paddle.nn.Linear(2, 2, bias_attr=False)),
    )
    for parameter in layer.parameters():
        parameter.set_value(paddle.ones([2, 2]))
    section = {"type": "AdamW", "weight_decay": 0.1, "custom_cfg": PAPER_RULES}
    optimizer = build_optimizer(section, layer, 0.01)
    sum(parameter.sum() for parameter in layer.parameters()).backward()
    optimizer.step()
    moved = {name: 1 - float(p.mean()) for name, p in layer.named_parameters()}
    # AdamW: step lr * m / sqrt(v) = lr on the first step, decay lr * weight_decay * weight
    assert moved["linear_a.weight"] == pytest.approx(0.1 + 0.1 * 0.1, rel=1e-3)
    assert moved["norm.weight"] == pytest.approx(0.01, rel=1e-3)
    assert moved["rest.weight"] == pytest.approx(0.01 + 0.01 * 0.1, rel=1e-3)


@pytest.mark.parametrize("t", [0, 749, 1499, 1500, 80000, 159999])
def test_paper_schedule(t):
    section = {
        "type": "PolynomialDecay",
        "learning_rate": 6e-5,
        "power": 1.0,
        "end_lr": 0.0,
        "warmup_iters": 1500,
        "warmup_ratio": 1e-6,
    }
    schedule = build_lr_schedule(section, 160000)
    schedule.step(t)
    expected = 6e-5 * (1 - t / 160000)
    if t < 1500:
        expected *= 1 - (1 - t / 1500) * (1 - 1e-6)
    assert schedule() == pytest.approx(expected, rel=1e-6)


def test_paddleseg_schedules():
    section = {"type": "PolynomialDecay", "learning_rate": 6e-5, "power": 1, "end_lr": 0}
    schedule = build_lr_schedule(section, 100)
    rates = []
    for _ in range(100):
        rates.append(schedule())
        schedule.step()
    assert rates == pytest.approx([6e-5 * (1 - t / 100) for t in range(100)])
    warm = build_lr_schedule({**section, "warmup_iters": 10, "warmup_start_lr": 1e-6}, 100)
    rates = []
    for _ in range(100):
        rates.append(warm())
        warm.step()
    assert rates[:3] == pytest.approx([1e-6, 6.9e-6, 1.28e-5])
    assert rates[10] == pytest.approx(6e-5)
    assert rates[55] == pytest.approx(3e-5)


@pytest.mark.parametrize("warmup", [{}, {"warmup_ratio": 0.1}, {"warmup_start_lr": 1e-5}])
def test_schedule_continues_from_its_state(warmup):
    section = {"type": "PolynomialDecay", "learning_rate": 1e-3, "power": 1.0, "end_lr": 0.0}
    if warmup:
        section |= {"warmup_iters": 6, **warmup}
    whole, first = build_lr_schedule(section, 20), build_lr_schedule(section, 20)
    for _ in range(4):
        whole.step()
        first.step()
    second = build_lr_schedule(section, 20)
    second.set_state_dict(first.state_dict())
    for _ in range(16):
        assert second() == whole()
        whole.step()
        second.step()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"type": "Polynomial", "learning_rate": 1.0}, "unknown type 'Polynomial'"),
        ({"type": "PolynomialDecay", "learning_rte": 1.0}, "Did you mean 'learning_rate'?"),
        (
            {"type": "PolynomialDecay", "learning_rate": 6e-5, "end_lr": 1e-4},
            "end_lr 0.0001 is above learning_rate 6e-05",
        ),
        ({"type": "PolynomialDecay", "learning_rate": 1.0, "warmup_iters": 5}, "needs one of"),
        ({"type": "ReduceOnPlateau", "learning_rate": 1.0}, "Use PolynomialDecay or StepDecay"),
    ],
)
def test_wrong_schedule_is_named(section, message):
    with pytest.raises(UserError) as caught:
        build_lr_schedule(section, 10)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"type": "AdmW"}, "unknown optimizer type 'AdmW'. Did you mean 'AdamW'?"),
        ({"type": "AdamW", "weight_decy": 0.1}, "Did you mean 'weight_decay'?"),
        (
            {"type": "AdamW", "custom_cfg": [{"name": "nothing_so_called"}]},
            "no trainable parameter",
        ),
        ({"type": "AdamW", "custom_cfg": [{"name": "norm", "lr": 1}]}, "custom_cfg: found"),
        (
            {"type": "AdamW", "grad_clip_cfg": {"name": "ClipGradByNrom"}},
            "Did you mean 'ClipGradByNorm'?",
        ),
    ],
)
def test_wrong_optimizer_is_named(model, section, message):
    with pytest.raises(UserError) as caught:
        build_optimizer(section, model, 0.1)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"type": "sgd", "momentum": 0.9, "weight_decay": 4e-5}, "Momentum"),
        ({"type": "sgd"}, "SGD"),
        ({"type": "adam"}, "Adam"),
        (
            {"type": "AdamW", "grad_clip_cfg": {"name": "ClipGradByGlobalNorm", "clip_norm": 1.0}},
            "AdamW",
        ),
    ],
)
def test_paddleseg_spellings(model, section, expected):
    optimizer = build_optimizer(section, model, 0.1)
    assert type(optimizer).__name__ == expected
    assert (optimizer._grad_clip is not None) == ("grad_clip_cfg" in section)


def test_rate_falls_to_0_where_no_end_is_given():
    schedule = build_lr_schedule({"type": "PolynomialDecay", "learning_rate": 6e-5}, iters=10)
    rates = []
    for _ in range(11):
        rates.append(schedule())
        schedule.step()
    np.testing.assert_allclose(rates, np.linspace(6e-5, 0, 11), atol=1e-12)
