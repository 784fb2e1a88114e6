"""Kinds of errors and sizes of objects in hand-made maps."""

from __future__ import annotations

import numpy as np
import pytest

from paddleseg_segformer.evaluation.error_kinds import KINDS, error_counts

pytestmark = pytest.mark.check

SIDE = 200  # px: 0.75 % of the diagonal are 2 px, 0.1 % of the area 40 px


def kinds(label: np.ndarray, prediction: np.ndarray) -> dict[str, int]:
    counts = error_counts(label, prediction, 255).kinds.tolist()
    found = dict(zip(KINDS, counts, strict=True))
    is_wrong = (label != prediction) & (label != 255)
    assert sum(counts) == is_wrong.sum()
    return {name: count for name, count in found.items() if count}


def scene() -> np.ndarray:
    """Return ground (0) with a square object of class 1 and a strip at the right of class 2."""
    label = np.zeros((SIDE, SIDE), np.uint8)
    label[20:60, 20:60] = 1
    label[:, 150:] = 2
    return label


def test_no_error() -> None:
    assert kinds(scene(), scene()) == {}


def test_an_object_that_is_swallowed_is_missed() -> None:
    prediction = scene()
    prediction[20:60, 20:60] = 0
    assert kinds(scene(), prediction) == {"missed": 1600}


def test_an_object_in_nothing_is_invented() -> None:
    prediction = scene()
    prediction[100:110, 100:110] = 1
    assert kinds(scene(), prediction) == {"invented": 100}


def test_an_object_of_another_name_is_confused() -> None:
    prediction = scene()
    prediction[20:60, 20:60] = 3
    assert kinds(scene(), prediction) == {"confused": 1600}


def test_an_outline_that_is_off_is_a_boundary_error() -> None:
    prediction = scene()
    prediction[:, 149] = 2
    assert kinds(scene(), prediction) == {"boundary": SIDE}


def test_a_large_part_is_confused_but_near_the_boundary() -> None:
    prediction = scene()
    prediction[:, 130:150] = 2  # 20 px too far: 2 of them are near the boundary
    assert kinds(scene(), prediction) == {"boundary": 2 * SIDE, "confused": 18 * SIDE}


def test_ignored_pixels_count_nowhere() -> None:
    label = scene()
    label[90:120, 90:120] = 255
    prediction = scene()
    prediction[90:120, 90:120] = 1
    assert kinds(label, prediction) == {}
    assert error_counts(np.full((9, 9), 255), np.zeros((9, 9), int), 255).objects.sum() == 0


def test_objects_by_size() -> None:
    label = np.zeros((SIDE, SIDE), np.uint8)
    label[10:15, 10:15] = 1  # 25 px
    label[30:45, 10:25] = 1  # 225 px
    label[100:140, 100:140] = 1  # 1600 px
    prediction = label.copy()
    prediction[10:15, 10:15] = 0
    prediction[100:140, 100:115] = 0  # 25 of 40 columns are right
    rest = SIDE * SIDE - 25 - 225 - 1600
    wanted = [[1, 1, 1, 1], [0, 1, 1, 1], [25, 225, 1600, rest], [0, 225, 1000, rest]]
    np.testing.assert_array_equal(error_counts(label, prediction, 255).objects, wanted)
