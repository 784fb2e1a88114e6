"""Areas under ROC curves, against scikit-learn's and PaddleSeg's own function."""

from __future__ import annotations

import numpy as np
import pytest

from paddleseg_segformer.evaluation.roc import RocCounts, areas_under_curves


def softmax(logits: np.ndarray, axis: int) -> np.ndarray:
    values = np.exp(logits - logits.max(axis, keepdims=True))
    return (values / values.sum(axis, keepdims=True)).astype(np.float32)


def batch(num_classes: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (N, H, W), and probabilities (N, K, H, W) that know something of them."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, num_classes, (3, 20, 30)).astype(np.uint8)
    logits = rng.normal(size=(3, num_classes, 20, 30)) + (
        label[:, None] == np.arange(num_classes)[:, None, None]
    )
    return label, softmax(sharpness * logits, 1)


def areas(label: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the areas, from counts of tiles of the images."""
    counts = RocCounts(probabilities.shape[1])
    for image, values in zip(label, probabilities, strict=True):
        for columns in (slice(0, 7), slice(7, None)):
            counts.add(image[:, columns], values[:, :, columns].transpose(1, 0, 2))
    return areas_under_curves(counts.counts)


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 12.0])  # flat to nearly 0 and 1
@pytest.mark.parametrize("num_classes", [2, 5])
def test_areas_equal_scikit_learns(num_classes: int, sharpness: float) -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    label, probabilities = batch(num_classes, sharpness)
    found = areas(label, probabilities)
    for index in range(num_classes):
        expected = sklearn_metrics.roc_auc_score(
            (label == index).ravel(), probabilities[:, index].ravel()
        )
        assert found[index] == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_mean_equals_paddlesegs(num_classes: int) -> None:
    metrics = pytest.importorskip("paddleseg.utils.metrics")
    label, probabilities = batch(num_classes, 1.0)
    expected = metrics.auc_roc(probabilities, label[:, None], num_classes)
    assert areas(label, probabilities).mean() == pytest.approx(expected, abs=1e-4)


def test_ties_certain_and_ignored_pixels() -> None:
    """By hand: pairs of (own, other) pixels, 1 where own is higher and 1/2 where equal."""
    own = np.array([1.0, 0.5, 0.5, 0.0], np.float32)
    label = np.array([[1, 1, 0, 0, 255]])
    probabilities = np.stack([1 - own, own])[:, None]  # (K, 1, 4)
    probabilities = np.concatenate([probabilities, np.ones((2, 1, 1))], 2).transpose(1, 0, 2)
    counts = RocCounts(2)
    counts.add(label, probabilities.astype(np.float32))
    assert areas_under_curves(counts.counts) == pytest.approx([3.5 / 4, 3.5 / 4])


def test_class_that_does_not_occur_has_no_area() -> None:
    counts = RocCounts(3)
    counts.add(np.array([[0, 1]]), np.full((1, 3, 2), 1 / 3, np.float32))
    assert areas_under_curves(counts.counts) == pytest.approx([0.5, 0.5, np.nan], nan_ok=True)
