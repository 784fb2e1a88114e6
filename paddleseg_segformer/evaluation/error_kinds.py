"""What kind of mistake each wrong pixel is, and how well objects are found by their size.

An object is a connected region of one class (in eight directions), in the label or in the
prediction. It is missed, or invented, where less than a tenth of it has the same class in the other
map.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from paddleseg_segformer.evaluation.boundaries import (
    TOLERANCE_RATIO,
    classes_in,
    margin_px,
    masked,
    near_boundary,
)

# kinds of wrong pixels, which exclude each other
KINDS = {
    "missed": "in a labelled object that is lost in what surrounds it",
    "invented": "in a predicted object where there is none",
    "boundary": "elsewhere, near a boundary in the label (0.75 % of the diagonal)",
    "confused": "the rest: a part or a whole object taken for another class",
}
SIZES = (0.001, 0.01, 0.1)  # shares of the image's pixels: bounds between sizes of objects
SIZE_NAMES = ("below 0.1 %", "0.1 to 1 %", "1 to 10 %", "10 % and more")
_POOR_SHARE, _FOUND_SHARE = 0.1, 0.5


class ErrorCounts(NamedTuple):
    """What one image adds; sums over images give the data set's."""

    kinds: np.ndarray  # wrong pixels of each of `KINDS`, (4,)
    # rows: labelled objects, those of which at least half is right, their pixels, the right ones;
    # columns: `SIZES` from small to large
    objects: np.ndarray  # (4, 4)


def error_counts(label: np.ndarray, prediction: np.ndarray, ignore_index: int) -> ErrorCounts:
    """Return kinds of errors and sizes of objects of one image.

    Args:
        label: Ids (H, W).
        prediction: Ids (H, W).
        ignore_index: Of the label; these pixels are left out of both.
    """
    is_ignored = label == ignore_index
    labelled, predicted = (masked(ids, is_ignored) for ids in (label, prediction))
    is_wrong = labelled != predicted
    is_missed, areas, right = _objects(labelled, predicted)
    is_invented, _, _ = _objects(predicted, labelled)
    is_near = near_boundary(labelled, margin_px(label.shape, TOLERANCE_RATIO), is_edge_one=False)
    kinds = [
        is_missed & ~is_invented,
        is_invented & ~is_missed,
        is_near & ~is_missed & ~is_invented,
    ]
    counts = [np.count_nonzero(mask & is_wrong) for mask in kinds]
    sizes = np.digitize(areas / label.size, SIZES)
    figures = (np.ones_like(areas), right >= _FOUND_SHARE * areas, areas, right)
    objects = [np.bincount(sizes, values, len(SIZE_NAMES)) for values in figures]
    return ErrorCounts(
        np.array([*counts, np.count_nonzero(is_wrong) - sum(counts)], np.int64),
        np.array(objects, np.int64),
    )


def _objects(ids: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where objects are met by less than a tenth, and area and met pixels of each."""
    is_poor = np.zeros(ids.shape, bool)
    areas, met = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for class_id in classes_in(ids):
        mask = (ids == class_id).astype(np.uint8)
        left, top, width, height = cv2.boundingRect(mask)
        box = slice(top, top + height), slice(left, left + width)
        num, objects, stats, _ = cv2.connectedComponentsWithStats(mask[box], connectivity=8)
        area = stats[:, cv2.CC_STAT_AREA].astype(np.int64)
        equal = np.bincount(objects[other[box] == class_id], minlength=num)
        is_poor_object = equal < _POOR_SHARE * area
        is_poor_object[0] = False  # not of the class
        is_poor[box] |= is_poor_object[objects]
        areas.append(area[1:])
        met.append(equal[1:])
    return is_poor, np.concatenate(areas), np.concatenate(met)
