"""Boundary IoU and boundary F-score: how well the outlines of classes are met.

Both leave out the pixels that the label ignores; the prediction is taken as ignored there too.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

# shares of the image's diagonal: how wide a boundary is, and how far outlines may lie apart
BOUNDARY_RATIO = 0.02
TOLERANCE_RATIO = 0.0075
_IGNORED = 65535  # in the maps of ids here, 16 bits


class BoundaryCounts(NamedTuple):
    """What one image adds to the boundary metrics of each class, (K,) each.

    Sums over images give the data set's.
    """

    intersection: np.ndarray  # pixels near the outline in both label and prediction, equal class
    union: np.ndarray  # pixels of the class near its outline, in one of them at least
    f_score: np.ndarray  # of the class's outlines; 0 where it is neither labelled nor predicted
    num_images: np.ndarray  # 1 where the class is labelled or predicted and the outline known


def boundary_counts(
    label: np.ndarray, prediction: np.ndarray, num_classes: int, ignore_index: int
) -> BoundaryCounts:
    """Return the boundary metrics of one image as sums.

    The boundary IoU counts pixels of a class that are at most 2 % of the diagonal (at least 1 px)
    from another class or the image's edge, in label and prediction each, by steps in eight
    directions. The F-score compares outlines: pixels that have another class above, below, left or
    right of them. Precision is the share of the prediction's outline with the label's not more than
    0.75 % of the diagonal away, recall that of the label's; no outline at all is met by none. An
    edge to ignored pixels is no outline, since nobody knows where it is; a class that has no others
    in the label is not counted, and one that is not labelled scores 0.

    Args:
        label: Ids (H, W).
        prediction: Ids (H, W).
        num_classes: K.
        ignore_index: Of the label.

    Source: Cheng et al., "Boundary IoU", CVPR 2021; Csurka et al., "What is a good evaluation
    measure for semantic segmentation?", BMVC 2013.
    """
    is_ignored = label == ignore_index
    labelled, predicted = (masked(ids, is_ignored) for ids in (label, prediction))
    intersection, union = boundary_areas(label, prediction, num_classes, ignore_index)
    f_score, num_images = np.zeros(num_classes), np.zeros(num_classes, np.int64)
    outlines = [_outline(ids) for ids in (labelled, predicted)]
    tolerance = max(1.0, TOLERANCE_RATIO * float(np.hypot(*label.shape)))
    for class_id in classes_in(labelled, predicted):
        edges = [
            outline & (ids == class_id)
            for outline, ids in zip(outlines, (labelled, predicted), strict=True)
        ]
        is_labelled = bool((labelled == class_id).any())
        if is_labelled and not edges[0].any() and is_ignored.any():
            continue
        if is_labelled:
            f_score[class_id] = _f_score(edges[0], edges[1], tolerance)
        num_images[class_id] = 1
    return BoundaryCounts(intersection, union, f_score, num_images)


def boundary_areas(
    label: np.ndarray, prediction: np.ndarray, num_classes: int, ignore_index: int
) -> np.ndarray:
    """Return intersection and union of the boundary IoU, (2, K); see `boundary_counts`."""
    is_ignored = label == ignore_index
    labelled, predicted = (masked(ids, is_ignored) for ids in (label, prediction))
    width = margin_px(label.shape, BOUNDARY_RATIO)
    near = [near_boundary(ids, width) & ~is_ignored for ids in (labelled, predicted)]
    first, second = (
        np.bincount(ids[mask], minlength=num_classes)
        for ids, mask in zip((labelled, predicted), near, strict=True)
    )
    is_common = near[0] & near[1] & (labelled == predicted)
    intersection = np.bincount(labelled[is_common], minlength=num_classes)
    return np.stack([intersection, first + second - intersection])


def margin_px(shape: tuple[int, ...], ratio: float) -> int:
    """Return a share of the diagonal of an image (H, W) in whole pixels, at least 1."""
    return max(1, round(ratio * float(np.hypot(shape[0], shape[1]))))


def near_boundary(ids: np.ndarray, width_px: int, is_edge_one: bool = True) -> np.ndarray:
    """Return where another id is at most `width_px` away, (H, W) bool.

    Args:
        ids: (H, W) uint16.
        width_px: Steps in eight directions.
        is_edge_one: The image's edge is a boundary too.
    """
    kernel = np.ones((2 * width_px + 1,) * 2, np.uint8)
    below, above = (0, _IGNORED) if is_edge_one else (_IGNORED, 0)  # taken for what is outside
    lowest = cv2.erode(ids, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=below)
    highest = cv2.dilate(ids, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=above)
    return lowest != highest


def masked(ids: np.ndarray, is_ignored: np.ndarray) -> np.ndarray:
    """Return ids (H, W) as uint16, ignored pixels as an id that no class has."""
    return np.where(is_ignored, np.uint16(_IGNORED), ids.astype(np.uint16))


def classes_in(*maps: np.ndarray) -> np.ndarray:
    """Return the classes that occur in maps of `masked`, ascending."""
    counts = sum(np.bincount(ids.ravel(), minlength=_IGNORED + 1) for ids in maps)
    return np.flatnonzero(np.asarray(counts)[:_IGNORED])


def _outline(ids: np.ndarray) -> np.ndarray:
    """Return the pixels with a neighbour of another class; ignored ones are neither."""
    is_outline = np.zeros(ids.shape, bool)
    for axis in (0, 1):
        first = tuple(slice(None, -1) if axis == other else slice(None) for other in (0, 1))
        second = tuple(slice(1, None) if axis == other else slice(None) for other in (0, 1))
        one, two = ids[first], ids[second]
        is_edge = (one != two) & (one != _IGNORED) & (two != _IGNORED)
        is_outline[first] |= is_edge
        is_outline[second] |= is_edge
    return is_outline


def _f_score(label: np.ndarray, prediction: np.ndarray, tolerance: float) -> float:
    """Return the F-score of a predicted outline, (H, W) bool each."""
    if not label.any() or not prediction.any():
        return float(label.any() == prediction.any())  # the class fills the image in both
    left, top, width, height = cv2.boundingRect((label | prediction).astype(np.uint8))
    box = slice(top, top + height), slice(left, left + width)  # there is no outline outside
    label, prediction = label[box], prediction[box]
    precision = (_distance(label)[prediction] <= tolerance).mean()
    recall = (_distance(prediction)[label] <= tolerance).mean()
    total = precision + recall
    return float(2 * precision * recall / total) if total else 0.0


def _distance(outline: np.ndarray) -> np.ndarray:
    """Return the distance of each pixel to the outline in px."""
    away = (~outline).astype(np.uint8)
    distance: np.ndarray = cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return distance
