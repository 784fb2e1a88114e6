from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddleseg_segformer.inference.interpolation import bilinear
from paddleseg_segformer.inference.upsample_argmax import (
    NumpyArrays,
    Piece,
    Tile,
    tile_labels,
    tile_scores,
    upsampled_labels,
)


def piece(logits: np.ndarray) -> Piece:
    """(K, h, w) -> a piece four times as large."""
    _, h, w = logits.shape
    return Piece(logits.transpose(1, 0, 2).copy(), bilinear(h, 4 * h), bilinear(w, 4 * w))


def test_a_class_between_two_others_is_not_left_out() -> None:
    logits = np.array([[[10.0, 0.0]], [[0.0, 10.0]], [[6.5, 6.5]]], np.float32)  # (3, 1, 2)
    label = tile_labels([[piece(logits)]], Tile(0, 4, 0, 8), "logits", NumpyArrays)
    assert label[0].tolist() == [0, 0, 0, 2, 2, 1, 1, 1]


def test_leaving_out_classes_changes_no_label() -> None:
    rng = np.random.default_rng(0)
    num_left_out = 0
    for _ in range(50):
        views = [[piece(rng.normal(size=(12, 3, 4)).astype(np.float32) * 2)] for _ in range(2)]
        for view in views:
            view[0].logits[:, :4] += 6
        tile = Tile(*sorted(rng.choice(13, 2, replace=False)), 0, 16)
        scores = tile_scores(views, tile, "logits", NumpyArrays)
        label = tile_labels(views, tile, "logits", NumpyArrays)
        np.testing.assert_array_equal(label, scores.argmax(1))
        num_left_out += 12 - len(NumpyArrays.candidates([view[0].logits for view in views]))
    assert num_left_out > 50


def test_one_view_needs_no_softmax() -> None:
    views = [[piece(np.random.rand(5, 3, 3).astype(np.float32))]]
    tile = Tile(0, 12, 0, 12)
    np.testing.assert_array_equal(
        tile_labels(views, tile, "softmax", NumpyArrays),
        tile_labels(views, tile, "logits", NumpyArrays),
    )


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
