"""Metrics by hand-computed values, and against scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.evaluation.metrics import ConfusionMatrix, Metrics, image_row

pytestmark = pytest.mark.check

# labelled class 0: 3 px right, 1 px taken for 1; class 1: 2 right, 2 taken for 0; class 2: absent
HAND = np.array([[3, 1, 0], [2, 2, 0], [0, 0, 0]])


def test_hand_computed_values() -> None:
    metrics = Metrics(HAND, ("a", "b", "c"), num_images=1)
    np.testing.assert_allclose(metrics.iou, [3 / 6, 2 / 5, np.nan])
    np.testing.assert_allclose(metrics.f1, [6 / 9, 4 / 7, np.nan])
    np.testing.assert_allclose(metrics.precision, [3 / 5, 2 / 3, np.nan])
    np.testing.assert_allclose(metrics.recall, [3 / 4, 2 / 4, np.nan])
    assert metrics.miou == pytest.approx(0.45)
    assert metrics.accuracy == pytest.approx(5 / 8)
    assert metrics.class_accuracy == pytest.approx(0.625)
    assert metrics.kappa == pytest.approx((5 / 8 - (4 * 5 + 4 * 3) / 64) / (1 - 32 / 64))


@pytest.mark.parametrize(("absent", "expected"), [("nan", 0.45), (0, 0.3), ("1", 1.9 / 3)])
def test_absent_class_conventions(absent, expected) -> None:
    metrics = Metrics(HAND, ("a", "b", "c"), num_images=1, absent_class=absent)
    assert metrics.miou == pytest.approx(expected)


def test_unknown_absent_class_convention_is_refused() -> None:
    with pytest.raises(UserError, match="absent_class: found 'none', expected nan, 0 or 1"):
        Metrics(HAND, ("a", "b", "c"), 1, absent_class="none")


def test_a_class_predicted_but_never_labelled_has_iou_zero() -> None:
    metrics = Metrics(np.array([[1, 1], [0, 0]]), ("a", "b"), 1)
    np.testing.assert_allclose(metrics.iou, [0.5, 0.0])
    assert np.isnan(metrics.recall[1])


def test_no_labelled_pixel_gives_nan() -> None:
    metrics = Metrics(np.zeros((2, 2), np.int64), ("a", "b"), 1)
    assert np.isnan([metrics.miou, metrics.accuracy, metrics.kappa]).all()
    assert metrics.to_dict()["mIoU"] is None
    assert "-" in metrics.table()


def test_against_scikit_learn() -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    label = rng.integers(0, 6, (40, 50)).astype(np.uint8)
    prediction = np.where(rng.random(label.shape) < 0.6, label, rng.integers(0, 6, label.shape))
    label[rng.random(label.shape) < 0.1] = 255
    matrix = ConfusionMatrix(6)
    for rows in (slice(0, 15), slice(15, 40)):
        matrix.add(label[rows], prediction[rows], "a.png")
    y, p = label[label != 255], prediction[label != 255]
    metrics = Metrics(matrix.counts, tuple("abcdef"), 2)
    np.testing.assert_array_equal(matrix.counts, sklearn_metrics.confusion_matrix(y, p))
    np.testing.assert_allclose(metrics.iou, sklearn_metrics.jaccard_score(y, p, average=None))
    np.testing.assert_allclose(metrics.f1, sklearn_metrics.f1_score(y, p, average=None))
    np.testing.assert_allclose(metrics.recall, sklearn_metrics.recall_score(y, p, average=None))
    precision = sklearn_metrics.precision_score(y, p, average=None)
    np.testing.assert_allclose(metrics.precision, precision)
    assert metrics.accuracy == pytest.approx(sklearn_metrics.accuracy_score(y, p))
    assert metrics.class_accuracy == pytest.approx(sklearn_metrics.balanced_accuracy_score(y, p))
    assert metrics.kappa == pytest.approx(sklearn_metrics.cohen_kappa_score(y, p))


def test_wide_labels_and_predictions() -> None:
    matrix = ConfusionMatrix(300, ignore_index=65535)
    label = np.array([[299, 65535, 3]], np.int32)
    counts = matrix.add(label, np.array([[299, 1, 298]], np.int32), "a.png")
    assert counts[299, 299] == counts[3, 298] == 1
    assert counts.sum() == 2


def test_label_out_of_range_names_the_file() -> None:
    label = np.array([[0, 204, 204]], np.uint8)
    with pytest.raises(UserError, match=r"a/b\.png: .* id 204 \(2 pixels\), expected 0 to 18"):
        ConfusionMatrix(19).add(label, label, "a/b.png")


def test_label_of_another_size_names_the_file() -> None:
    with pytest.raises(UserError, match=r"a\.png: the label is 4x5 .* image is 4x6"):
        ConfusionMatrix(2).add(np.zeros((4, 5), np.uint8), np.zeros((4, 6), np.uint8), "a.png")


def test_table_and_json() -> None:
    metrics = Metrics(HAND, ("road", "sky", "train"), num_images=7)
    lines = metrics.table().splitlines()
    assert lines[1].split() == ["road", "50.00", "66.67", "60.00", "75.00", "50.00"]
    assert "7 images" in lines[-1]
    assert "mIoU 45.00" in lines[-1]
    assert "1 absent classes left out" in lines[-1]
    plain = json.loads(json.dumps(metrics.to_dict(), allow_nan=False))
    assert plain["classes"]["sky"]["iou"] == pytest.approx(0.4)
    assert plain["classes"]["train"]["iou"] is None
    assert plain["confusion"] == HAND.tolist()


def test_image_row() -> None:
    row = image_row(HAND)
    assert row["mIoU"] == pytest.approx(0.45)
    assert row["2"] is None
