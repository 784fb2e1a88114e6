"""Calibration against slow restatements of its definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from paddleseg_segformer.evaluation.calibration import (
    MAX_SAMPLE_PIXELS,
    Calibration,
    PixelSample,
    calibrate,
    fit_temperature,
)

pytestmark = pytest.mark.check

NUM_CLASSES = 4


def softmax(z: np.ndarray) -> np.ndarray:
    exp = np.exp(z - z.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def drawn(temperatures: list[float], count: int = 20_000, seed: int = 0):
    """Return scores, and labels drawn as scores / temperature of the likeliest class say."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 2, (count, NUM_CLASSES)).astype(np.float32)
    true = softmax(scores / np.array(temperatures)[scores.argmax(axis=1)][:, None])
    labels = (rng.random((count, 1)) > true.cumsum(axis=1)).sum(axis=1)
    return scores, np.minimum(labels, NUM_CLASSES - 1), np.arange(count) % 10


def expected(p: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the figures of probabilities (n, K), each by its definition, bin by bin."""
    one_hot = np.eye(p.shape[1])[labels]

    def error(probability: np.ndarray, is_right: np.ndarray) -> float:
        total = 0.0
        for index in range(15):
            low, high = index / 15, (index + 1) / 15
            inside = (probability >= low) & ((probability < high) | (index == 14))
            if inside.any():
                gap = abs(is_right[inside].mean() - probability[inside].mean())
                total += inside.mean() * gap
        return total

    return {
        "ece": error(p.max(axis=1), p.argmax(axis=1) == labels),
        "classwise_ece": float(np.mean([error(p[:, k], labels == k) for k in range(p.shape[1])])),
        "brier": float(((p - one_hot) ** 2).sum(axis=1).mean()),
        "nll": float(-np.log(p[np.arange(len(p)), labels]).mean()),
    }


def test_quality_equals_the_definitions() -> None:
    scores, labels, images = drawn([2.0] * 4)
    quality = calibrate(scores, labels, images).qualities["none"]
    wanted = expected(softmax(scores.astype(np.float64)), labels)
    for name, value in wanted.items():
        assert getattr(quality, name) == pytest.approx(value, abs=1e-9), name
    assert wanted["ece"] > 0.1


def test_temperature_is_the_best_of_a_grid() -> None:
    scores, labels, _ = drawn([1.7] * 4)
    found = fit_temperature(scores, labels)
    grid = np.arange(1.5, 1.9, 0.01)
    losses = [expected(softmax(scores / value), labels)["nll"] for value in grid]
    assert found == pytest.approx(grid[int(np.argmin(losses))], abs=0.0101)


@pytest.mark.parametrize("start", [0.15, 0.5, 8.0])
def test_far_temperatures_are_found(start) -> None:
    scores, labels, _ = drawn([start] * 4)
    assert fit_temperature(scores, labels) == pytest.approx(start, rel=0.05)


def test_no_error_at_all_ends_at_the_limit() -> None:
    scores, _, _ = drawn([1.0] * 4)
    assert fit_temperature(scores, scores.argmax(axis=1)) == 0.1


def test_each_class_gets_its_temperature_and_unseen_images_gain() -> None:
    temperatures = [0.6, 1.0, 2.0, 3.0]
    calibration = calibrate(*drawn(temperatures, 60_000))
    assert calibration.best == "per_class"
    np.testing.assert_allclose(calibration.temperatures["per_class"], temperatures, rtol=0.1)
    before, after = (calibration.qualities[name] for name in ("none", "per_class"))
    assert after.ece < 0.01 < 0.05 < before.ece
    assert after.brier < before.brier and after.nll < before.nll


def test_what_raises_the_calibration_error_is_not_chosen() -> None:
    quality = calibrate(*drawn([1.0] * 4, 2_000)).qualities["none"]
    qualities = {
        "none": replace(quality, ece=0.09, nll=0.50),
        "one": replace(quality, ece=0.11, nll=0.40),
        "per_class": replace(quality, ece=0.08, nll=0.45),
    }
    assert Calibration(qualities, {}, 1, 2).best == "per_class"
    qualities["per_class"] = replace(quality, ece=0.10, nll=0.45)
    assert Calibration(qualities, {}, 1, 2).best == "none"


def test_a_class_with_few_pixels_gets_the_temperature_of_all() -> None:
    scores, labels, images = drawn([2.0] * 4)
    scores[:, 3] -= 100  # hardly ever predicted
    scores[:100, 3] += 200
    found = calibrate(scores, labels, images).temperatures
    assert found["per_class"][3] == found["one"][0]


def test_figures_after_calibration_are_of_images_that_were_not_fitted_on() -> None:
    scores, labels, images = drawn([2.0] * 4)
    labels[images % 2 == 1] = scores[images % 2 == 1].argmax(axis=1)  # odd images: no error
    quality = calibrate(scores, labels, images).qualities["one"]
    halves = [images % 2 == half for half in (0, 1)]
    divisors = np.where(
        halves[0], *(fit_temperature(scores[half], labels[half]) for half in halves[::-1])
    )
    wanted = expected(softmax(scores.astype(np.float64) / divisors[:, None]), labels)
    assert quality.ece == pytest.approx(wanted["ece"], abs=1e-6)


def test_risk_and_coverage() -> None:
    scores, labels, images = drawn([2.0] * 4)
    calibration = calibrate(scores, labels, images)
    quality = calibration.qualities["one"]
    is_wrong = scores.argmax(axis=1) != labels
    assert quality.coverage[-1] == 1 and quality.risk[-1] == pytest.approx(is_wrong.mean())
    threshold, coverage, risk = quality.kept(0.2)
    divisors = {
        half: fit_temperature(scores[images % 2 != half], labels[images % 2 != half])
        for half in (0, 1)
    }
    by_pixel = np.array([divisors[half] for half in images % 2])
    confidence = softmax(scores.astype(np.float64) / by_pixel[:, None]).max(axis=1)
    kept = confidence >= threshold
    assert kept.mean() == pytest.approx(coverage, abs=1e-4)
    assert is_wrong[kept].mean() == pytest.approx(risk, abs=1e-3) and risk <= 0.2
    assert quality.kept(-1.0) is None


def test_sample_is_of_labelled_pixels_of_every_image_and_bounded() -> None:
    sample = PixelSample(100, 3)
    assert sample.per_image == MAX_SAMPLE_PIXELS // 100
    label = np.full((80, 90), 255)
    label[10:20, 30:50] = 1
    rows, columns = sample.choose(label, 255)
    assert len(rows) == 200  # all there are
    assert set(zip(rows, columns, strict=True)) == set(zip(*np.nonzero(label == 1), strict=True))
    assert PixelSample(10_000_000, 3).per_image == 1
    assert PixelSample(100, 150).per_image * 100 * 150 * 4 <= 32 * 2**20
    assert PixelSample(1, 3).calibration() is None
