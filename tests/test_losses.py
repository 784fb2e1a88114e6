"""Losses against numpy definitions; the caller's labels stay as they are."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.losses import (
    BoundaryLoss,
    CrossEntropyLoss,
    DiceLoss,
    LovaszSoftmaxLoss,
    MixedLoss,
    MultiClassFocalLoss,
    OhemCrossEntropyLoss,
    RMILoss,
    ScaledLoss,
    loss_of_network,
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


@pytest.mark.parametrize("pad_multiple", [1, 4])
@pytest.mark.parametrize("kind", [CrossEntropyLoss, OhemCrossEntropyLoss, MultiClassFocalLoss])
def test_losses_that_resize_equal_those_of_resized_logits(kind, pad_multiple):
    rng = np.random.default_rng(0)
    label = paddle.to_tensor(rng.integers(0, 4, (3, 18, 21)))
    label[:, :5] = 255
    logits = paddle.to_tensor(rng.normal(size=(3, 4, 5, 6)).astype("float32"))
    logits.stop_gradient = False
    padded = [-(-side // pad_multiple) * pad_multiple for side in label.shape[1:]]
    mixed = ScaledLoss(MixedLoss([kind(), kind()], [0.5, 1.0]), 2.0)
    assert mixed.resizes
    loss_of_network(mixed, logits, label, pad_multiple).backward()
    found = logits.grad.numpy()
    logits.clear_gradient()
    resized = paddle.nn.functional.interpolate(logits, padded, mode="bilinear")[:, :, :18, :21]
    (3 * kind()(resized, label)).backward()
    assert np.abs(found).max() > 1e-3
    np.testing.assert_allclose(found, logits.grad.numpy(), atol=1e-6)


def test_losses_of_all_classes_get_logits_at_the_labels_size():
    sizes = []

    def loss(logits, label):
        sizes.append(logits.shape)
        return logits.mean()

    label = paddle.zeros([1, 16, 24], "int64")
    loss_of_network(ScaledLoss(loss, 1.0), paddle.rand([1, 3, 4, 6]), label)
    assert sizes == [[1, 3, 16, 24]]
    assert not MixedLoss([CrossEntropyLoss(), DiceLoss()], [1.0, 1.0]).resizes


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


def test_ohem_keeps_hard_pixels_or_those_above_a_rank(batch):
    losses = pixel_losses(*batch)
    hard = losses[losses > -np.log(0.7)]
    assert run(OhemCrossEntropyLoss(0.7, min_kept=3), *batch) == pytest.approx(
        hard.mean(), rel=1e-5
    )
    hardest = np.sort(losses.ravel())[::-1][:34]  # as PaddleSeg: not the one of rank 35 itself
    assert run(OhemCrossEntropyLoss(1e-9, min_kept=35), *batch) == pytest.approx(
        hardest.mean(), rel=1e-5
    )


@pytest.mark.parametrize("min_kept", [0, 48, 1000])
def test_ohem_keeps_all_where_there_are_no_more(batch, min_kept):
    losses, valid = pixel_losses(*batch), batch[1] != 255
    assert valid.sum() == 48
    found = run(OhemCrossEntropyLoss(1e-9, min_kept=min_kept), *batch)
    assert found == pytest.approx(losses[valid].mean(), rel=1e-5)


def test_ohem_chooses_before_it_weights_classes(batch):
    losses = pixel_losses(*batch)
    is_hard = losses > -np.log(0.7)
    weights = WEIGHT[np.where(batch[1] != 255, batch[1], 0)]
    loss = OhemCrossEntropyLoss(0.7, min_kept=3, weight=WEIGHT.tolist())
    expected = (losses * weights)[is_hard].sum() / is_hard.sum()
    assert run(loss, *batch) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", [CrossEntropyLoss, OhemCrossEntropyLoss, DiceLoss])
def test_weights_that_are_not_as_many_as_the_classes_are_refused(batch, loss):
    with pytest.raises(UserError, match=f"{loss.__name__}: found 3 weights, expected 4"):
        run(loss(weight=[1, 1, 1]), *batch)


def test_focal_loss_equals_its_definition(batch):
    losses, valid = pixel_losses(*batch), batch[1] != 255
    expected = (0.5 * (1 - np.exp(-losses)) ** 3 * losses)[valid].mean()
    loss = MultiClassFocalLoss(alpha=0.5, gamma=3.0, num_class=4)
    assert run(loss, *batch) == pytest.approx(expected, rel=1e-5)


def regions(values: np.ndarray) -> np.ndarray:
    """Return the four values of each square of 2 px (4, L), each row without its mean."""
    height, width = values.shape
    rows = [
        values[y : y + height - 1, x : x + width - 1].ravel() for y in range(2) for x in range(2)
    ]
    return np.stack(rows) - np.mean(rows, axis=1, keepdims=True)


def test_region_mutual_information_equals_its_definition(batch):
    """Without pooling and with regions of 2 px, by NumPy."""
    logits, label = batch
    valid = (label != 255)[:, None]
    maps = np.stack([label == k for k in range(4)], 1) * valid, valid / (1 + np.exp(-logits)) + 1e-6
    total = 0.0
    for image in range(2):
        for k in range(4):
            y, p = (regions(m[image, k].astype(float)) for m in maps)
            noise = 5e-4 * np.eye(4)
            left = y @ y.T - y @ p.T @ np.linalg.inv(p @ p.T + noise) @ p @ y.T
            total += 0.5 * np.linalg.slogdet(left + noise)[1] / 4 / 2
    loss = RMILoss(num_classes=4, rmi_radius=2, rmi_pool_size=1, rmi_pool_stride=1)
    assert run(loss, logits, label) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rmi_pool_way": 3}, "rmi_pool_way: found 3"),
        ({"rmi_radius": 0}, "rmi_radius: found 0"),
        ({"rmi_pool_size": 2}, "Make them equal"),
        ({"num_classes": 5}, "num_classes is 5, but the model has 4"),
        ({}, "do not fit into a map of 2x2 px"),
    ],
)
def test_wrong_region_is_refused(batch, arguments, message):
    with pytest.raises(UserError, match=message):
        run(RMILoss(**{"num_classes": 4, **arguments}), *batch)


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


def jaccard_extension(errors: np.ndarray, target: np.ndarray) -> float:
    """Return the Lovász extension of the Jaccard loss by its definition over growing sets."""
    order, total, before, wrong = np.argsort(-errors, kind="stable"), 0.0, 0.0, set()
    for pixel in order:
        wrong.add(pixel)
        is_wrong = np.isin(np.arange(len(errors)), list(wrong))
        predicted = np.where(is_wrong, ~target, target)
        loss = 1 - (predicted & target).sum() / max((predicted | target).sum(), 1)
        total += errors[pixel] * (loss - before)
        before = loss
    return total


@pytest.mark.parametrize("classes", ["present", "all", [1, 3]])
def test_lovasz_softmax_equals_its_definition(batch, classes):
    logits, label = batch
    label = np.where(label == 2, 0, label)  # class 2 is absent
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    valid, losses = label != 255, []
    counted = {"present": [0, 1, 3], "all": [0, 1, 2, 3]}.get(str(classes), classes)
    for k in counted:
        target = label[valid] == k
        losses.append(jaccard_extension(np.abs(target - probabilities[:, k][valid]), target))
    loss = LovaszSoftmaxLoss(classes=classes)
    assert run(loss, logits, label) == pytest.approx(np.mean(losses), rel=1e-4)
    assert run(loss, logits, np.full_like(label, 255)) == 0


def test_lovasz_and_boundary_losses_lower_what_they_measure(batch):
    label = np.zeros((1, 8, 8), np.int64)
    label[0, 2:6, 2:6] = 1
    for loss in (LovaszSoftmaxLoss(), BoundaryLoss()):
        logits = paddle.zeros([1, 2, 8, 8])
        logits.stop_gradient = False
        for _ in range(60):
            loss(logits, paddle.to_tensor(label)).backward()
            logits = (logits - 20 * logits.grad).detach()
            logits.stop_gradient = False
        assert (logits.numpy().argmax(1) == label).mean() > 0.95, type(loss)


def test_boundary_loss_equals_its_definition_with_scipys_distances(batch):
    ndimage = pytest.importorskip("scipy.ndimage")
    logits, _ = batch
    label = np.zeros((2, 5, 6), np.int64)
    label[0, 1:4, 1:4], label[0, 2:, 5], label[1] = 1, 255, 3  # the second has no boundary
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    total = 0.0
    for k in (0, 1):
        mask = label[0] == k
        inside, outside = (ndimage.distance_transform_edt(part) for part in (mask, ~mask))
        distance = np.where(mask, -(inside - 1), outside)
        total += (probabilities[0, k] * distance)[label[0] != 255].sum()
    expected = total / (4 * (label != 255).sum())
    assert run(BoundaryLoss(), logits, label) == pytest.approx(expected, rel=1e-4)
