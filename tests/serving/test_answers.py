from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from paddleseg_segformer.data.labels import make_label_set
from paddleseg_segformer.inference.overlay import overlay
from paddleseg_segformer.serving.answers import PredictQuery, describe, encode, run_lengths

LABEL_SET = make_label_set(4, ["road", "sky", "tree", "car"])


@pytest.fixture
def label() -> np.ndarray:
    return np.random.randint(0, 3, (13, 17)).astype(np.uint8)


def decoded(counts: list[int], height: int, width: int) -> np.ndarray:
    inside = np.repeat(np.arange(len(counts)) % 2, counts)
    return inside.reshape(width, height).T.astype(bool)


def test_run_lengths_give_every_mask_back(label: np.ndarray) -> None:
    label[0, 0], label[-1, -1] = 0, 2
    masks = run_lengths(label)
    assert sorted(masks) == [0, 1, 2]
    for index, counts in masks.items():
        np.testing.assert_array_equal(decoded(counts, 13, 17), label == index)
    assert masks[0][0] == 0
    assert all(count > 0 for counts in masks.values() for count in counts[1:])


@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (1, 7), (4, 6)])
def test_run_lengths_of_one_class(shape: tuple[int, int]) -> None:
    assert run_lengths(np.full(shape, 3, np.uint8)) == {3: [0, shape[0] * shape[1]]}


def test_run_lengths_are_those_of_coco(label: np.ndarray) -> None:
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    for index, counts in run_lengths(label).items():
        theirs = coco.encode(np.asfortranarray(label == index, dtype=np.uint8))
        ours = coco.frPyObjects({"size": [13, 17], "counts": counts}, 13, 17)
        assert ours["counts"] == theirs["counts"]


def test_description_counts_pixels_and_leaves_absent_classes_out(label: np.ndarray) -> None:
    confidence = np.random.rand(13, 17).astype(np.float32)
    found = describe(label, confidence, LABEL_SET)
    assert (found["height"], found["width"]) == (13, 17)
    assert [entry["name"] for entry in found["classes"]] == ["road", "sky", "tree"]
    for entry in found["classes"]:
        mask = label == entry["id"]
        assert entry["pixels"] == mask.sum()
        assert entry["share"] == pytest.approx(mask.mean(), abs=1e-6)
        assert entry["confidence"] == pytest.approx(confidence[mask].mean(), abs=1e-5)
    assert found["confidence"] == pytest.approx(confidence.mean(), abs=1e-5)


def test_forms_of_an_answer(label: np.ndarray) -> None:
    image = np.random.randint(0, 256, (13, 17, 3), dtype=np.uint8)
    answer = encode(PredictQuery(), image, label, None, LABEL_SET)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), label)
    query = PredictQuery(format="overlay", alpha=0.25)
    answer = encode(query, image, label, None, LABEL_SET)
    picture = np.asarray(Image.open(io.BytesIO(answer.content)))
    np.testing.assert_array_equal(picture, overlay(image, label, LABEL_SET, 0.25))
    answer = encode(PredictQuery(format="json", masks=True), image, label, None, LABEL_SET)
    classes = json.loads(answer.content)["classes"]
    assert classes[1]["mask"] == {"size": [13, 17], "counts": run_lengths(label)[1]}
    assert "confidence" not in classes[0]


def test_more_than_256_classes_are_told_apart() -> None:
    label = np.array([[0, 300], [299, 300]], np.int32)
    label_set = make_label_set(301)
    answer = encode(PredictQuery(), np.zeros((2, 2, 3), np.uint8), label, None, label_set)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), label)
    shares = {entry["id"]: entry["share"] for entry in describe(label, None, label_set)["classes"]}
    assert shares == {0: 0.25, 299: 0.25, 300: 0.5}
