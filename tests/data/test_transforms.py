from __future__ import annotations

import pickle
from typing import Any

import cv2
import numpy as np
import pytest

from paddleseg_segformer.data.transforms import (
    TRANSFORMS,
    RandomCrop,
    RandomHorizontalFlip,
    RandomPaddingCrop,
    RandomResizeKeepRatio,
    ResizeStepScaling,
    ScalePadding,
    count_ids,
)
from paddleseg_segformer.errors import UserError

pytestmark = pytest.mark.check

REQUIRED = {
    "RandomCrop": {"crop_size": [8, 8]},
    "Padding": {"target_size": [64, 64]},
    "ResizeByShort": {"short_size": 20},
    "ResizeByLong": {"long_size": 20},
}


def make_data(height: int = 20, width: int = 30, channels: int = 3) -> dict[str, Any]:
    """Return a sample whose label holds the image's first channel."""
    image = np.random.randint(0, 256, (height, width, channels), dtype=np.uint8)
    return {
        "img": image,
        "label": image[:, :, 0].copy(),
        "gt_fields": ["label"],
        "trans_info": [],
    }


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_every_transform_keeps_the_contract(name: str, channels: int) -> None:
    transform = TRANSFORMS[name](**REQUIRED.get(name, {}))
    for _ in range(5):
        before = make_data(channels=channels)
        image = before["img"].copy()
        data = pickle.loads(pickle.dumps(transform))(dict(before))
        assert data["img"].ndim == 3 and data["img"].shape[2] == channels
        assert data["img"].shape[:2] == data["label"].shape
        assert data["label"].dtype == np.uint8
        np.testing.assert_array_equal(before["img"], image)  # the caller's array is not written to


@pytest.mark.parametrize("prob", [0.0, 1.0])
def test_flip_mirrors_image_and_label(prob: float) -> None:
    before = make_data()
    after = RandomHorizontalFlip(prob)(dict(before))
    step = -1 if prob else 1
    np.testing.assert_array_equal(after["img"], before["img"][:, ::step])
    np.testing.assert_array_equal(after["label"], before["label"][:, ::step])


def test_flip_happens_in_half_of_the_cases() -> None:
    before = make_data(4, 6)
    flips = [
        not np.array_equal(RandomHorizontalFlip()(dict(before))["label"], before["label"])
        for _ in range(400)
    ]
    assert 160 < sum(flips) < 240


def test_step_scaling_draws_the_seven_factors_of_cityscapes() -> None:
    transform = ResizeStepScaling(0.5, 2.0, 0.25)
    sizes = {transform(make_data(20, 40))["label"].shape for _ in range(200)}
    assert sizes == {(5 * n, 10 * n) for n in range(2, 9)}


def test_step_scaling_without_steps_draws_any_factor() -> None:
    transform = ResizeStepScaling(0.5, 2.0, 0)
    heights = {transform(make_data(100, 10))["label"].shape[0] for _ in range(200)}
    assert len(heights) > 60 and min(heights) >= 50 and max(heights) <= 200


def test_resize_keep_ratio_covers_its_range_evenly() -> None:
    transform = RandomResizeKeepRatio((200, 100), (0.5, 2.0))
    sizes = [transform(make_data(50, 100))["label"].shape for _ in range(300)]
    heights = np.array([size[0] for size in sizes])
    assert heights.min() >= 50 and heights.max() <= 200
    assert abs(heights.mean() - 125) < 8  # a ratio of 1.25 in the mean
    assert all(abs(width - 2 * height) <= 1 for height, width in sizes)


def test_crop_takes_one_window_of_image_and_label() -> None:
    seen = set()
    for _ in range(300):
        before = make_data(7, 9)
        after = RandomCrop((4, 5), cat_max_ratio=1.0)(dict(before))
        assert after["label"].shape == (5, 4)
        np.testing.assert_array_equal(after["label"], after["img"][:, :, 0])
        windows = np.lib.stride_tricks.sliding_window_view(before["label"], (5, 4))
        places = np.argwhere((windows == after["label"]).all(axis=(2, 3)))
        assert len(places) == 1
        seen.add(tuple(places[0]))
    assert len(seen) == 3 * 6  # every place occurs


def test_crop_of_a_smaller_image_is_the_image() -> None:
    before = make_data(7, 9)
    after = RandomCrop((16, 5), cat_max_ratio=1.0)(dict(before))
    assert after["img"].shape == (5, 9, 3)


def test_crop_avoids_windows_of_one_class() -> None:
    label = np.zeros((20, 100), np.uint8)
    label[:, 90:] = 1
    data = {"img": np.zeros((20, 100, 3), np.uint8), "label": label, "gt_fields": ["label"]}

    def share_of_mixed(transform: RandomCrop) -> float:
        crops = [transform(dict(data))["label"] for _ in range(200)]
        return np.mean([0.25 < (crop == 1).mean() < 0.75 for crop in crops])

    assert share_of_mixed(RandomCrop((20, 20), cat_max_ratio=1.0)) < 0.2
    assert share_of_mixed(RandomCrop((20, 20), cat_max_ratio=0.75)) > 0.5


def test_crop_does_not_count_ignored_pixels() -> None:
    crop = RandomCrop((4, 4), cat_max_ratio=0.75)
    label = np.full((4, 4), 255, np.uint8)
    assert not crop._is_mixed(label)
    label[0] = [0, 0, 1, 1]
    assert crop._is_mixed(label)
    label[0] = [0, 0, 0, 1]  # 3 of 4 labelled pixels: a share of 0.75 is too much
    assert not crop._is_mixed(label)


def test_padding_crop_pads_at_the_bottom_and_the_right() -> None:
    before = make_data(5, 6)
    after = RandomPaddingCrop((8, 7))(dict(before))
    assert after["img"].dtype == np.uint8 and after["img"].shape == (7, 8, 3)
    np.testing.assert_array_equal(after["img"][:5, :6], before["img"])
    np.testing.assert_array_equal(after["label"][:5, :6], before["label"])
    assert (after["img"][5:] == 128).all() and (after["img"][:, 6:] == 128).all()
    assert (after["label"][5:] == 255).all() and (after["label"][:, 6:] == 255).all()


def test_padding_crop_with_category_ratio_keeps_the_image() -> None:
    data = make_data(12, 12)
    after = RandomPaddingCrop((8, 8), category_max_ratio=0.5)(data)
    np.testing.assert_array_equal(after["img"][:, :, 0], after["label"])


def test_scale_padding_invents_no_ids() -> None:
    data = make_data(10, 30)
    data["label"] = np.where(data["label"] > 127, np.uint8(18), np.uint8(2))
    after = ScalePadding((16, 16))(data)
    assert after["img"].shape == (16, 16, 3)
    assert set(np.unique(after["label"])) == {2, 18, 255}
    assert (after["label"][:5] == 255).all() and (after["label"][-5:] == 255).all()


def test_scale_padding_resizes_bicubically() -> None:
    data = make_data(20, 20)
    expected = cv2.resize(data["img"], (16, 16), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(ScalePadding((16, 16))(data)["img"], expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_count_ids_equals_unique(dtype: type) -> None:
    label = np.random.randint(0, 7, (13, 17)).astype(dtype)
    label[3:5] = 255
    ids, counts = count_ids(label[:, ::2])
    expected_ids, expected_counts = np.unique(label[:, ::2], return_counts=True)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(counts, expected_counts)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandomCrop(512), r"RandomCrop: crop_size is 512; expected \[width, height\]"),
        (lambda: RandomPaddingCrop((8, 8), category_max_ratio=0), "a share of 0"),
        (lambda: RandomResizeKeepRatio((8, 8), (2.0, 0.5)), "the smaller first"),
        (lambda: ResizeStepScaling(0, 2), "factors above 0"),
    ],
)
def test_wrong_arguments_are_refused(build: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Resize", {"target_size": [300, 200]}),
        ("Resize", {"target_size": [300, 201], "keep_ratio": True, "size_divisor": 32}),
        ("ResizeByShort", {"short_size": 217}),
        ("ResizeByShort", {"short_size": 217, "max_size": 250}),
        ("ResizeByLong", {"long_size": 333}),
        ("LimitLong", {"max_long": 333}),
        ("LimitLong", {"min_long": 633}),
        ("Padding", {"target_size": [500, 400]}),
        ("Normalize", {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}),
    ],
)
def test_size_rules_equal_paddleseg(name: str, arguments: dict[str, Any]) -> None:
    theirs = pytest.importorskip("paddleseg.transforms")
    before = make_data(360, 480)
    expected = {**before, "img": before["img"].astype(np.float32), "trans_info": []}
    expected = getattr(theirs, name)(**arguments)(expected)
    result = TRANSFORMS[name](**arguments)(before)
    np.testing.assert_allclose(result["img"], expected["img"], atol=1e-6)
    np.testing.assert_array_equal(result["label"], expected["label"])
    assert result["trans_info"] == expected["trans_info"]
