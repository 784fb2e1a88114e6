from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from paddleseg_segformer.data.labels import LABEL_SETS, LabelSet, generic_label_set
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.overlay import (
    color_label,
    draw_confusion,
    overlay,
    side_by_side,
    write_image,
)

CITYSCAPES = LABEL_SETS["cityscapes"]


def test_colors_of_classes() -> None:
    colors = color_label(np.array([[0, 18, 255]], np.uint8), CITYSCAPES)
    assert colors.tolist() == [[[128, 64, 128], [119, 11, 32], [0, 0, 0]]]


def test_colors_of_ids_above_255() -> None:
    label_set = LabelSet("many", ("x",) * 400, tuple((i % 256, i // 256, 7) for i in range(400)))
    colors = color_label(np.array([[399, 500]], np.int32), label_set)
    assert colors.tolist() == [[[143, 1, 7], [0, 0, 0]]]


@pytest.mark.parametrize(("alpha", "expected"), [(0, [100, 0, 50]), (1, [128, 64, 128])])
def test_overlay_between_image_and_colors(alpha, expected) -> None:
    image = np.full((2, 3, 3), [100, 0, 50], np.uint8)
    mixed = overlay(image, np.zeros((2, 3), np.uint8), CITYSCAPES, alpha)
    assert (mixed == expected).all()


def test_overlay_refuses_an_impossible_opacity() -> None:
    with pytest.raises(UserError, match="alpha: found 1.5"):
        overlay(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8), CITYSCAPES, 1.5)


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (3, np.float32), (6, np.uint8)])
def test_overlay_shows_other_images_too(channels, dtype) -> None:
    image = np.full((4, 5, channels), 300 if dtype == np.float32 else 9, dtype)
    mixed = overlay(image, np.zeros((4, 5), np.uint8), CITYSCAPES, alpha=0)
    assert mixed.shape == (4, 5, 3)
    assert (mixed == min(image.max(), 255)).all()


def test_side_by_side() -> None:
    image = np.full((20, 30, 3), 9, np.uint8)
    label = np.full((20, 30), 255, np.uint8)
    label[:10] = 0
    picture = side_by_side(image, label, np.zeros_like(label), CITYSCAPES)
    assert picture.shape == (20, 90, 3)
    assert picture[5, [5, 35, 65]].tolist() == [[9, 9, 9], [128, 64, 128], [128, 64, 128]]
    assert picture[15, [35, 65]].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert side_by_side(image, None, np.zeros_like(label), CITYSCAPES).shape == (20, 60, 3)
    assert (
        side_by_side(
            *[np.zeros((4000, 10, 3), np.uint8), None], np.zeros((4000, 10), int), CITYSCAPES
        ).shape[0]
        == 1024
    )


@pytest.mark.parametrize("num_classes", [2, 19, 150])
def test_confusion_picture_has_its_diagonal(num_classes) -> None:
    classes = generic_label_set(num_classes).classes
    picture = draw_confusion(np.eye(num_classes, dtype=np.int64) * 7, classes)
    cell = picture.shape[0] // num_classes
    matrix = picture[:, -picture.shape[0] :]
    assert (matrix[0, 0] == matrix[-1, -1]).all()
    assert (matrix[0, 0] != matrix[0, -1]).any()
    assert matrix.shape[0] == cell * num_classes <= 1024


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_images_are_written_in_rgb_to_any_path(tmp_path, suffix) -> None:
    path = tmp_path / "Straße 道路" / f"x{suffix}"
    write_image(path, np.full((8, 8, 3), [200, 100, 50], np.uint8))
    assert np.allclose(np.asarray(Image.open(path)), [200, 100, 50], atol=6)


def test_unknown_format_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"x\.xyz: unknown image format"):
        write_image(tmp_path / "x.xyz", np.zeros((8, 8, 3), np.uint8))
    assert not (tmp_path / "x.xyz").exists()
