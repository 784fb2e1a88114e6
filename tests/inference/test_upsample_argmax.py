from __future__ import annotations

import cv2
import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddleseg_segformer.inference.geometry import Axis, BackStep
from paddleseg_segformer.inference.interpolation import bilinear
from paddleseg_segformer.inference.upsample_argmax import (
    NumpyArrays,
    Piece,
    Tile,
    tile_scores,
    upsampled_labels,
    write_tile_labels,
)
from paddleseg_segformer.inference.windows import windows_along

pytestmark = pytest.mark.check


def piece(logits: np.ndarray) -> Piece:
    """(K, h, w) -> a piece four times as large."""
    _, h, w = logits.shape
    return NumpyArrays.piece(paddle.to_tensor(logits), bilinear(h, 4 * h), bilinear(w, 4 * w))


def labels_of(views: list[list[Piece]], tile: Tile, average: str = "logits") -> np.ndarray:
    label = np.full((tile.bottom - tile.top, tile.right - tile.left), 99, np.uint8)
    write_tile_labels(views, tile, average, NumpyArrays, label)
    return label


def test_a_class_between_two_others_is_found() -> None:
    logits = np.array([[[10.0, 0.0]], [[0.0, 10.0]], [[6.5, 6.5]]], np.float32)  # (3, 1, 2)
    label = labels_of([[piece(logits)]], Tile(0, 4, 0, 8))
    assert label[0].tolist() == [0, 0, 0, 2, 2, 1, 1, 1]


def test_views_equal_argmax_of_all_scores() -> None:
    rng = np.random.default_rng(0)
    num_shared = 0
    for _ in range(50):
        views = [[piece(rng.normal(size=(12, 3, 4)).astype(np.float32) * 2)] for _ in range(2)]
        for view in views:
            view[0].logits[:, 1:, 4] += 6  # one class wins on a side of the tile
        views = [[view[0]._replace(best=view[0].logits.argmax(2))] for view in views]
        tile = Tile(*sorted(rng.choice(13, 2, replace=False)), 0, 16)
        scores = tile_scores(views, tile, "logits", NumpyArrays)
        label = labels_of(views, tile)
        np.testing.assert_array_equal(label, scores.argmax(1))
        num_shared += (label == 4).sum()
    assert num_shared > 500


@pytest.mark.parametrize("num_classes", [1, 2, 19])
@pytest.mark.parametrize("size_hw", [(80, 101), (23, 40), (200, 6)])
def test_windows_equal_argmax_of_all_scores(num_classes: int, size_hw: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    smooth = cv2.resize(rng.normal(size=(4, 5, num_classes)).astype(np.float32), (22, 17))
    smooth = smooth.reshape(17, 22, num_classes).transpose(2, 0, 1)
    axes = [
        Axis(length, tuple(windows_along(length, 40, 28)), is_flipped, (BackStep(False, size),))
        for length, is_flipped, size in ((68, False, size_hw[0]), (88, True, size_hw[1]))
    ]
    pieces = [
        NumpyArrays.piece(
            paddle.to_tensor(smooth[:, top // 4 : bottom // 4, left // 4 : right // 4]),
            axes[0].to_original(row, 10),
            axes[1].to_original(column, 10),
        )
        for row, (top, bottom) in enumerate(axes[0].windows)
        for column, (left, right) in enumerate(axes[1].windows)
    ]
    whole = Tile(0, size_hw[0], 0, size_hw[1])
    scores = tile_scores([pieces], whole, "logits", NumpyArrays)
    label = labels_of([pieces], whole)
    at_label = np.take_along_axis(scores, label[:, None].astype(np.int64), 1)[:, 0]
    assert (scores.max(1) - at_label).max() < 1e-5  # ties within rounding may go either way
    assert (label == scores.argmax(1)).mean() > 0.999
    inner = Tile(size_hw[0] // 3, size_hw[0], 1, size_hw[1] - 1)
    np.testing.assert_array_equal(labels_of([pieces], inner), label[inner.top :, 1:-1])


def test_equal_logits_of_several_windows_go_to_the_lowest_id() -> None:
    logits = np.random.default_rng(2).normal(size=(1, 9, 9)).astype(np.float32)
    pieces = [piece(np.concatenate([logits - 1, logits, logits, logits - 2, logits]))] * 3
    assert (labels_of([pieces], Tile(0, 36, 0, 36)) == 1).all()


def test_one_view_needs_no_softmax() -> None:
    views = [[piece(np.random.rand(5, 3, 3).astype(np.float32))]]
    tile = Tile(0, 12, 0, 12)
    np.testing.assert_array_equal(labels_of(views, tile, "softmax"), labels_of(views, tile))


@pytest.mark.parametrize("num_classes", [1, 19, 300])
@pytest.mark.parametrize("size_hw", [(97, 131), (24, 33), (11, 200)])
def test_one_step_equals_resizing_then_argmax(num_classes: int, size_hw: tuple[int, int]) -> None:
    logits = paddle.randn([num_classes, 25, 33])
    resized = F.interpolate(logits.unsqueeze(0), size=size_hw, mode="bilinear")[0].numpy()
    label = upsampled_labels(logits, size_hw)
    assert label.shape == size_hw and label.dtype == (np.int32 if num_classes > 256 else np.uint8)
    at_label = np.take_along_axis(resized, label[None].astype(np.int64), 0)[0]
    assert (resized.max(0) - at_label).max() < 1e-5  # ties within rounding may go either way
    assert (label == resized.argmax(0)).mean() > 0.999
