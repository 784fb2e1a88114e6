"""Losses against numpy definitions; the caller's labels stay as they are."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.losses import (
    CrossEntropyLoss,
    DiceLoss,
    MixedLoss,
    OhemCrossEntropyLoss,
)

pytestmark = pytest.mark.check


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 4, 5, 6)).astype("float32") * 2
    label = rng.integers(0, 4, (2, 5, 6))
    label[0, :2] = 255
    return logits, label


def pixel_losses(logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    losses = np.zeros(label.shape)
    for n, y, x in np.argwhere(label != 255):
        losses[n, y, x] = -log_probabilities[n, label[n, y, x], y, x]
    return losses


def run(loss, logits, label) -> float:
    given = paddle.to_tensor(label)
    value = float(loss(paddle.to_tensor(logits), given))
    assert (given.numpy() == label).all(), "the caller's labels were changed"
    return value


def test_cross_entropy_averages_over_valid_pixels_or_over_all(batch):
    losses, valid = pixel_losses(*batch), batch[1] != 255
    assert run(CrossEntropyLoss(), *batch) == pytest.approx(losses.sum() / valid.sum(), rel=1e-5)
    assert run(CrossEntropyLoss(avg_non_ignore=False), *batch) == pytest.approx(
        losses.mean(), rel=1e-5
    )


WEIGHT = np.array([1.0, 0.5, 2.0, 0.0])


def test_cross_entropy_weights_classes(batch):
    losses, valid = pixel_losses(*batch), batch[1] != 255
    weights = WEIGHT[np.where(valid, batch[1], 0)]
    weighted = (losses * weights)[valid]
    assert run(CrossEntropyLoss(weight=WEIGHT.tolist()), *batch) == pytest.approx(
        weighted.sum() / weights[valid].sum(), rel=1e-5
    )
    whole = CrossEntropyLoss(weight=WEIGHT.tolist(), avg_non_ignore=False)
    assert run(whole, *batch) == pytest.approx(weighted.sum() / losses.size, rel=1e-5)
    with pytest.raises(UserError, match="found 3 weights, expected 4"):
        run(CrossEntropyLoss(weight=[1, 1, 1]), *batch)


@pytest.mark.parametrize("share", [0.3, 0.95])
def test_weighted_cross_entropy_of_the_hardest_pixels(batch, share):
    """As PaddleSeg: divided by the mean weight of these pixels; ignored ones have class 0's."""
    weights = WEIGHT[np.where(batch[1] != 255, batch[1], 0)].ravel()
    losses = pixel_losses(*batch).ravel() * weights
    hardest = np.argsort(losses)[::-1][: int(share * losses.size)]
    loss = CrossEntropyLoss(weight=WEIGHT.tolist(), top_k_percent_pixels=share)
    kept = losses[hardest].sum()
    if share < 0.5:
        assert run(loss, *batch) == pytest.approx(kept / weights[hardest].sum(), rel=1e-5)
    else:  # which of the pixels with a loss of 0 are taken is open
        bounds = kept / weights.sum(), kept / weights[losses > 0].sum()
        assert 0.9999 * bounds[0] <= run(loss, *batch) <= 1.0001 * bounds[1]


@pytest.mark.parametrize("weight", [None, WEIGHT.tolist()])
def test_dice_equals_paddlesegs(batch, weight):
    theirs = pytest.importorskip("paddleseg.models.losses").DiceLoss(weight=weight)
    expected = float(theirs(paddle.to_tensor(batch[0]), paddle.to_tensor(batch[1])))
    assert run(DiceLoss(weight=weight), *batch) == pytest.approx(expected, rel=1e-4)


def test_cross_entropy_of_the_hardest_pixels(batch):
    losses = np.sort(pixel_losses(*batch).ravel())[::-1]
    expected = losses[: int(0.3 * losses.size)].mean()
    assert run(CrossEntropyLoss(top_k_percent_pixels=0.3), *batch) == pytest.approx(
        expected, rel=1e-5
    )


def test_all_pixels_ignored_give_a_finite_zero(batch):
    label = np.full_like(batch[1], 255)
    for loss in (CrossEntropyLoss(), OhemCrossEntropyLoss(min_kept=5)):
        assert run(loss, batch[0], label) == 0.0


def test_ohem_keeps_hard_pixels_and_at_least_min_kept(batch):
    losses = pixel_losses(*batch)
    hard = losses[losses >= -np.log(0.7)]
    assert run(OhemCrossEntropyLoss(0.7, min_kept=3), *batch) == pytest.approx(
        hard.mean(), rel=1e-5
    )
    hardest = np.sort(losses.ravel())[::-1][:35]
    assert run(OhemCrossEntropyLoss(1e-9, min_kept=35), *batch) == pytest.approx(
        hardest.mean(), rel=1e-5
    )


def test_dice_equals_its_definition(batch):
    logits, label = batch
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    dice = []
    for image in range(2):
        valid = label[image] != 255
        for k in range(4):
            p, t = probabilities[image, k][valid], (label[image] == k)[valid]
            dice.append((2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1))
    assert run(DiceLoss(), *batch) == pytest.approx(1 - np.mean(dice), rel=1e-5)


def test_mixed_loss_sums_with_coefficients(batch):
    parts = [CrossEntropyLoss(), DiceLoss()]
    expected = 0.8 * run(parts[0], *batch) + 0.2 * run(parts[1], *batch)
    assert run(MixedLoss(parts, [0.8, 0.2]), *batch) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UserError, match="2 losses and 1 coef"):
        MixedLoss(parts, [1.0])
