"""Boundary IoU and F-score against hand-made cases and their published definitions, restated."""

from __future__ import annotations

import numpy as np
import pytest

from paddleseg_segformer.evaluation.boundaries import boundary_counts

pytestmark = pytest.mark.check

IGNORED = 255


def blocks(seed: int, height: int = 60, width: int = 83) -> np.ndarray:
    """Return a map of 4 classes in blocks of 8 px, one cut off."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 4, (-(-height // 8), -(-width // 8)))
    return np.kron(coarse, np.ones((8, 8), int))[:height, :width].astype(np.uint8)


def shifted(label: np.ndarray, by: int) -> np.ndarray:
    return np.roll(label, by, axis=1)


def eroded(mask: np.ndarray, steps: int) -> np.ndarray:
    """Erode with a 3x3 square `steps` times; outside the image there is nothing of the mask."""
    for _ in range(steps):
        padded = np.pad(mask, 1)
        height, width = mask.shape
        mask = np.logical_and.reduce(
            [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
        )
    return mask


def expected_iou(label: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return intersection and union by the definition of the Boundary IoU paper, by class."""
    prediction = np.where(label == IGNORED, IGNORED, prediction)
    steps = max(1, round(0.02 * np.hypot(*label.shape)))
    areas = []
    for class_id in range(4):
        edges = []
        for ids in (label, prediction):
            mask = ids == class_id
            edges.append(mask & ~eroded(mask, steps))
        areas.append(((edges[0] & edges[1]).sum(), (edges[0] | edges[1]).sum()))
    return tuple(np.array(areas).T)


def outline(ids: np.ndarray, class_id: int) -> list[tuple[int, int]]:
    height, width = ids.shape
    found = []
    for y, x in zip(*np.nonzero(ids == class_id), strict=True):
        for ny, nx in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= ny < height and 0 <= nx < width
            if inside and ids[ny, nx] not in (class_id, IGNORED):
                found.append((y, x))
                break
    return found


def expected_f(label: np.ndarray, prediction: np.ndarray, class_id: int) -> float:
    prediction = np.where(label == IGNORED, IGNORED, prediction)
    tolerance = max(1.0, 0.0075 * np.hypot(*label.shape))
    one, two = (np.array(outline(ids, class_id)) for ids in (label, prediction))
    distance = np.hypot(*(one[:, None] - two[None]).transpose(2, 0, 1))
    precision = (distance.min(axis=0) <= tolerance).mean()
    recall = (distance.min(axis=1) <= tolerance).mean()
    return 2 * precision * recall / (precision + recall)


def with_ignored(label: np.ndarray) -> np.ndarray:
    label = label.copy()
    label[10:30, 20:40] = IGNORED
    return label


@pytest.mark.parametrize("has_ignored", [False, True])
@pytest.mark.parametrize("size", [(60, 83), (120, 200)])
def test_equals_the_definitions(size, has_ignored) -> None:
    label, prediction = blocks(0, *size), shifted(blocks(0, *size), 2)
    prediction[:20, :20] = blocks(1)[:20, :20]
    label = with_ignored(label) if has_ignored else label
    counts = boundary_counts(label, prediction, 4, IGNORED)
    intersection, union = expected_iou(label, prediction)
    np.testing.assert_array_equal(counts.intersection, intersection)
    np.testing.assert_array_equal(counts.union, union)
    expected = [expected_f(label, prediction, class_id) for class_id in range(4)]
    np.testing.assert_allclose(counts.f_score, expected)
    assert min(expected) > 0.1 and max(expected) < 1
    np.testing.assert_array_equal(counts.num_images, 1)


def test_two_halves_by_hand() -> None:
    label = np.zeros((100, 100), np.uint8)
    label[:, 50:] = 1
    prediction = np.zeros((100, 100), np.uint8)
    prediction[:, 52:] = 1
    counts = boundary_counts(label, prediction, 3, IGNORED)
    # 2 % of the diagonal are 3 px: a frame of 3 px around each half
    assert counts.intersection[0] == 50 * 100 - 44 * 94 - 2 * (100 - 6)
    frames = [100 * width - 94 * (width - 6) for width in (50, 52)]
    assert counts.union[0] == sum(frames) - counts.intersection[0]
    # the tolerance is 1.06 px, the outlines are 2 px apart
    np.testing.assert_array_equal(counts.f_score, 0)
    np.testing.assert_array_equal(counts.num_images, [1, 1, 0])
    nearer = np.roll(label, 1, axis=1)
    nearer[:, 0] = 0
    np.testing.assert_array_equal(boundary_counts(label, nearer, 3, IGNORED).f_score, [1, 1, 0])


def test_perfect_and_missing() -> None:
    label = blocks(2)
    same = boundary_counts(label, label.copy(), 4, IGNORED)
    np.testing.assert_array_equal(same.intersection, same.union)
    np.testing.assert_array_equal(same.f_score, 1)
    whole = boundary_counts(np.zeros((9, 9), np.uint8), np.zeros((9, 9), np.uint8), 2, IGNORED)
    np.testing.assert_array_equal(whole.f_score, [1, 0])  # no outline in both; not there at all
    lost = boundary_counts(label, np.zeros_like(label), 4, IGNORED)
    np.testing.assert_array_equal(lost.f_score, 0)
    nothing = boundary_counts(np.full((9, 9), IGNORED, np.uint8), np.zeros((9, 9), int), 2, IGNORED)
    assert sum(map(np.sum, nothing)) == 0


def test_outline_against_ignored_pixels_alone_is_not_counted():
    """As polygons with gaps between them give: the prediction cannot meet such an outline."""
    label = np.full((60, 80), 255, np.uint8)
    label[5:25, 5:35] = 0
    label[30:55, 10:60] = 1
    label[30:55, 60:70] = 2  # touches class 1
    prediction = np.zeros((60, 80), np.uint8)
    prediction[27:] = 1
    prediction[27:, 60:] = 2
    prediction[8:12, 8:12] = 3  # never labelled
    counts = boundary_counts(label, prediction, 5, 255)
    np.testing.assert_array_equal(counts.num_images, [0, 1, 1, 1, 0])
    np.testing.assert_array_equal(counts.f_score, [0, 1, 1, 0, 0])
