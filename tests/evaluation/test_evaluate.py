"""Evaluation over a small data set in memory."""

from __future__ import annotations

import csv

import numpy as np
import paddle
import pytest
from paddle import nn

from paddleseg_segformer.data.datasets import RawSample
from paddleseg_segformer.data.labels import generic_label_set
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.evaluation import evaluate
from paddleseg_segformer.inference.pipeline import Pipeline, predict_label
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings

pytestmark = pytest.mark.check

SIZES_HW = [(64, 64), (40, 72), (64, 64), (33, 51), (48, 48)]


class InMemory:
    """Noise images with noise labels of 3 classes and some ignored pixels."""

    num_classes, ignore_index = 3, 255
    label_set = generic_label_set(3)

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.images = [rng.integers(0, 256, (*hw, 3), dtype=np.uint8) for hw in SIZES_HW]
        self.labels = [rng.choice([0, 1, 2, 255], hw).astype(np.uint8) for hw in SIZES_HW]
        self.reads: list[int] = []

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> RawSample:
        self.reads.append(index)
        name = f"{index}.png"
        return RawSample(self.images[index], self.labels[index], name, f"label/{name}")


class Network(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        paddle.seed(1)
        self.conv = nn.Conv2D(3, 3, 4, stride=4)
        self.was_training: list[bool] = []

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        self.was_training.append(self.training)
        return self.conv(x)


PREPROCESS = Preprocess.from_transforms([{"type": "Normalize"}])


def expected_counts(network: Network, data: InMemory, settings: InferenceSettings) -> np.ndarray:
    counts = np.zeros((3, 3), np.int64)
    for image, label in zip(data.images, data.labels, strict=True):
        prediction = predict_label(network, image, PREPROCESS, settings)
        for true, predicted in zip(label.ravel(), prediction.ravel(), strict=True):
            if true != 255:
                counts[true, predicted] += 1
    return counts


@pytest.mark.parametrize("batch_size", [1, 3])
def test_counts_every_pixel_once(batch_size) -> None:
    data, network, settings = InMemory(), Network(), InferenceSettings(flip_horizontal=True)
    metrics = evaluate(network, data, PREPROCESS, settings, batch_size=batch_size)
    np.testing.assert_array_equal(metrics.confusion, expected_counts(network, data, settings))
    assert metrics.num_images == 5
    assert sorted(data.reads) == [0, 1, 2, 3, 4]


def test_processes_share_the_images() -> None:
    network, settings = Network(), InferenceSettings()
    parts = []
    for rank in range(3):
        data = InMemory()
        part = evaluate(network, data, PREPROCESS, settings, rank=rank, world_size=3)
        assert data.reads == list(range(rank, 5, 3))
        parts.append(part)
    whole = evaluate(network, InMemory(), PREPROCESS, settings)
    np.testing.assert_array_equal(sum(part.confusion for part in parts), whole.confusion)
    assert sum(part.num_images for part in parts) == 5


def test_all_reduce_is_applied_to_counts() -> None:
    metrics = evaluate(
        Network(), InMemory(), PREPROCESS, InferenceSettings(), all_reduce=lambda array: 2 * array
    )
    single = evaluate(Network(), InMemory(), PREPROCESS, InferenceSettings())
    np.testing.assert_array_equal(metrics.confusion, 2 * single.confusion)
    assert metrics.num_images == 10


def test_areas_under_roc_curves_are_those_of_all_valid_pixels() -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    network, data, settings = Network(), InMemory(), InferenceSettings()
    pipeline = Pipeline(network, PREPROCESS, settings)
    values = [pipeline(image).probabilities().reshape(3, -1) for image in data.images]
    label = np.concatenate([label.ravel() for label in data.labels])
    is_valid = label != 255
    metrics = evaluate(network, data, PREPROCESS, settings, batch_size=2, with_auc=True)
    assert metrics.auc is not None
    for index, found in enumerate(metrics.auc):
        scores = np.concatenate(values, axis=1)[index, is_valid]
        expected = sklearn_metrics.roc_auc_score(label[is_valid] == index, scores)
        assert found == pytest.approx(expected, abs=2e-4)
    assert metrics.summary["AUC"] == pytest.approx(metrics.auc.mean())
    assert "AUC" not in evaluate(network, data, PREPROCESS, settings).summary


@pytest.mark.parametrize("is_training", [True, False])
def test_network_is_evaluated_and_gets_its_mode_back(is_training) -> None:
    network = Network()
    network.train() if is_training else network.eval()
    evaluate(network, InMemory(), PREPROCESS, InferenceSettings())
    assert not any(network.was_training)
    assert network.training == is_training


def test_per_image_csv(tmp_path) -> None:
    path = tmp_path / "images.csv"
    metrics = evaluate(
        Network(), InMemory(), PREPROCESS, InferenceSettings(), per_image_csv=path, num_workers=0
    )
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [f"{index}.png" for index in range(5)]
    assert set(rows[0]) == {"image", "accuracy", "mIoU", "class_0", "class_1", "class_2"}
    labelled = [(label != 255).sum() for label in InMemory().labels]
    accuracies = [float(row["accuracy"]) for row in rows]
    assert np.average(accuracies, weights=labelled) == pytest.approx(metrics.accuracy, abs=1e-6)


def test_wrong_label_names_its_file() -> None:
    data = InMemory()
    data.labels[3][5, 5] = 17
    with pytest.raises(UserError, match=r"label/3\.png: found label id 17"):
        evaluate(Network(), data, PREPROCESS, InferenceSettings())


def test_class_counts_that_differ_are_refused() -> None:
    data = InMemory()
    data.num_classes = 4
    with pytest.raises(UserError, match="predicts 3 classes, the data set has 4"):
        evaluate(Network(), data, PREPROCESS, InferenceSettings())


def test_broken_network_names_the_image() -> None:
    network = Network()
    network.conv.bias.set_value(np.full(3, np.nan, np.float32))
    with pytest.raises(UserError, match=r"^0\.png: .*not finite"):
        evaluate(network, InMemory(), PREPROCESS, InferenceSettings())


def test_empty_data_set_is_refused() -> None:
    data = InMemory()
    data.images = []
    with pytest.raises(UserError, match="no images"):
        evaluate(Network(), data, PREPROCESS, InferenceSettings())
