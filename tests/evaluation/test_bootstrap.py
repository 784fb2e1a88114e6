"""Confidence intervals: their coverage and the level of the paired test, by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from paddleseg_segformer.evaluation.bootstrap import image_areas, iou_intervals, paired_difference

NUM_IMAGES = 60


def areas(rng: np.random.Generator, quality: np.ndarray, unions: np.ndarray) -> np.ndarray:
    """Return (N, 2, K): every image has its own difficulty, every class its quality."""
    share = np.clip(quality + rng.normal(0, 0.12, (len(unions), 1)), 0.02, 0.98)
    return np.stack([rng.binomial(unions, np.broadcast_to(share, unions.shape)), unions], axis=1)


def unions(rng: np.random.Generator) -> np.ndarray:
    found = rng.integers(200, 4000, (NUM_IMAGES, 2))
    found[:, 1] *= rng.random(NUM_IMAGES) < 0.5  # in half of the images there is no second class
    return found


QUALITY = np.array([0.6, 0.4])


@pytest.mark.check
def test_intervals_hold_the_true_value_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    held, held_mean = np.zeros(2), 0
    for _ in range(200):
        found = iou_intervals(areas(rng, QUALITY, unions(rng)))
        held += (found.low <= QUALITY) & (found.high >= QUALITY)
        held_mean += found.miou[0] <= QUALITY.mean() <= found.miou[1]
    # 95 %; two standard deviations of 200 draws are 3 %, and 60 images make percentiles narrow
    assert all(0.90 <= value / 200 <= 0.985 for value in (*held, held_mean)), (held, held_mean)


@pytest.mark.check
def test_paired_test_finds_no_difference_as_seldom_as_it_says() -> None:
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(200):
        of_images = unions(rng)
        pair = [areas(rng, QUALITY, of_images) for _ in range(2)]
        found += paired_difference(*pair).p[-1] < 0.05
    assert 0.01 <= found / 200 <= 0.1


def test_paired_test_finds_a_difference_that_single_intervals_hide() -> None:
    rng = np.random.default_rng(2)
    of_images = unions(rng)
    one = areas(rng, QUALITY, of_images)
    two = one.copy()
    two[:, 0] = np.minimum(two[:, 0] + of_images // 50, of_images)  # 2 % better in every image
    difference = paired_difference(one, two)
    assert (difference.p < 0.01).all() and (difference.low > 0).all()
    assert iou_intervals(one).high[0] > iou_intervals(two).low[0]
    ious = [item.sum(axis=0)[0] / item.sum(axis=0)[1] for item in (one, two)]
    np.testing.assert_allclose(difference.value[:2], ious[1] - ious[0])
    np.testing.assert_allclose(difference.value[2], (ious[1] - ious[0]).mean())


def test_equal_models_and_classes_that_do_not_occur() -> None:
    rng = np.random.default_rng(3)
    one = areas(rng, QUALITY, unions(rng))
    one = np.concatenate([one, np.zeros((NUM_IMAGES, 2, 1), int)], axis=2)
    difference = paired_difference(one, one)
    np.testing.assert_array_equal(difference.p[:2], 1)
    assert np.isnan(difference.p[2]) and difference.value[3] == 0
    found = iou_intervals(one)
    assert np.isnan(found.low[2]) and not np.isnan(found.miou[0])


def test_a_single_image_has_no_spread() -> None:
    counts = np.array([[5, 3], [1, 7]])
    found = iou_intervals(image_areas(counts)[None])
    np.testing.assert_allclose(found.low, [5 / 9, 7 / 11])
    np.testing.assert_allclose(found.high, [5 / 9, 7 / 11])
