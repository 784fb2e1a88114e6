from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from paddleseg_segformer.data.resize import (
    RESAMPLES,
    SIZE_RULES,
    AlignedResize,
    AntialiasResize,
    LimitLong,
    Padding,
    Resize,
    ResizeByLong,
    ResizeByShort,
    ResizeKeepRatio,
    ResizeToMultiple,
)
from paddleseg_segformer.errors import UserError

pytestmark = pytest.mark.check


def bilinear(image: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Return the image (H, W, C) at another size, pixel by pixel, with half-pixel centres."""
    height, width = image.shape[:2]
    result = np.empty((*size_hw, image.shape[2]))
    for row, column in np.ndindex(*size_hw):
        y = np.clip((row + 0.5) * height / size_hw[0] - 0.5, 0, height - 1)
        x = np.clip((column + 0.5) * width / size_hw[1] - 0.5, 0, width - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        upper = image[top, left] * (1 - (x - left)) + image[top, right] * (x - left)
        lower = image[bottom, left] * (1 - (x - left)) + image[bottom, right] * (x - left)
        result[row, column] = upper * (1 - (y - top)) + lower * (y - top)
    return result


@pytest.mark.parametrize(
    ("before_hw", "fitted_hw", "aligned_hw"),
    [
        ((375, 500), (512, 683), (512, 704)),
        ((300, 1400), (439, 2048), (448, 2048)),
        ((600, 901), (512, 769), (512, 800)),
    ],
)
def test_aligned_resize_sizes(
    before_hw: tuple[int, int], fitted_hw: tuple[int, int], aligned_hw: tuple[int, int]
) -> None:
    image = np.random.randint(0, 256, (*before_hw, 3), dtype=np.uint8)
    fitted = ResizeKeepRatio((2048, 512)).apply(image)
    aligned = AlignedResize((2048, 512)).apply(image)
    assert fitted.shape[:2] == fitted_hw and fitted.dtype == np.uint8
    assert aligned.shape[:2] == aligned_hw and aligned.dtype == np.uint8
    np.testing.assert_array_equal(aligned, ResizeToMultiple(32).apply(fitted))
    assert AlignedResize((2048, 512)).new_size_hw(*before_hw) == aligned_hw


@pytest.mark.parametrize(
    ("rule", "size_hw"),
    [
        (Resize((30, 20)), (20, 30)),
        (Resize((30, 20), keep_ratio=True), (15, 30)),  # 24x48: the long side decides
        (Resize((33, 20), keep_ratio=True, size_divisor=8), (16, 40)),
        (ResizeByShort(11), (11, 22)),
        (ResizeByShort(20, max_size=30), (15, 30)),
        (ResizeByLong(30), (15, 30)),
        (LimitLong(max_long=40), (20, 40)),
        (LimitLong(min_long=60), (30, 60)),
        (LimitLong(max_long=60, min_long=40), (24, 48)),
    ],
)
def test_float_rules_interpolate_in_float(rule: object, size_hw: tuple[int, int]) -> None:
    image = np.random.randint(0, 256, (24, 48, 3), dtype=np.uint8)
    label = np.random.randint(0, 19, (24, 48), dtype=np.uint8)
    data = rule({"img": image, "label": label, "gt_fields": ["label"], "trans_info": []})
    assert data["img"].shape == (*size_hw, 3) and data["label"].shape == size_hw
    assert data["trans_info"] == [("resize", (24, 48))]
    np.testing.assert_allclose(data["img"], bilinear(image, size_hw), atol=1e-3)
    rows = np.arange(size_hw[0]) * 24 // size_hw[0]
    columns = np.arange(size_hw[1]) * 48 // size_hw[1]
    np.testing.assert_array_equal(data["label"], label[rows][:, columns])


def test_uint8_rules_round_to_whole_values() -> None:
    image = np.random.randint(0, 256, (24, 48, 3), dtype=np.uint8)
    result = ResizeKeepRatio((30, 30)).apply(image)
    assert result.dtype == np.uint8
    np.testing.assert_allclose(result, bilinear(image, (15, 30)), atol=1)


def test_short_size_is_not_changed_by_a_wide_image() -> None:
    rule = ResizeByShort(100, max_size=200)
    assert rule.new_size_hw(50, 500) == (20, 200)
    assert rule.new_size_hw(50, 60) == (100, 120)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.75])
def test_ratio_scales_the_target(ratio: float) -> None:
    assert Resize((32, 16)).new_size_hw(9, 9, ratio) == (16 * ratio, 32 * ratio)
    assert ResizeByShort(16).new_size_hw(8, 16, ratio) == (16 * ratio, 32 * ratio)
    assert ResizeKeepRatio((64, 16)).new_size_hw(8, 16, ratio) == (16 * ratio, 32 * ratio)
    assert ResizeToMultiple(8).new_size_hw(16, 32, ratio) == (
        -(-16 * ratio // 8) * 8,
        32 * ratio,
    )


@pytest.mark.parametrize("channels", [1, 4, 10])
def test_any_number_of_channels(channels: int) -> None:
    image = np.random.randint(0, 256, (10, 20, channels), dtype=np.uint8)
    for rule in (Resize((8, 6)), ResizeKeepRatio((16, 16)), Padding((32, 32), 0)):
        assert rule.apply(image).ndim == 3 and rule.apply(image).shape[2] == channels


def test_labels_with_ids_above_255_keep_them() -> None:
    label = np.array([[300, 2], [70000, 255]], np.int32)
    data = {"img": np.zeros((2, 2, 3), np.uint8), "label": label, "gt_fields": ["label"]}
    result = Resize((4, 4))(data)["label"]
    np.testing.assert_array_equal(result, label.repeat(2, axis=0).repeat(2, axis=1))


def test_padding_goes_to_the_bottom_and_the_right() -> None:
    image = np.full((2, 3, 3), 7, np.uint8)
    data = {"img": image, "label": image[:, :, 0], "gt_fields": ["label"], "trans_info": []}
    data = Padding((5, 4), [1, 2, 3])(data)
    assert data["trans_info"] == [("padding", (2, 3))]
    assert data["img"].dtype == np.uint8 and data["img"].shape == (4, 5, 3)
    assert (data["img"][:2, :3] == 7).all() and (data["label"][:2, :3] == 7).all()
    assert (data["img"][2:] == [1, 2, 3]).all() and (data["img"][:, 3:] == [1, 2, 3]).all()
    assert (data["label"][2:] == 255).all() and (data["label"][:, 3:] == 255).all()


def test_padding_keeps_the_middle_grey_exact() -> None:
    result = Padding((4, 4)).apply(np.zeros((2, 2, 3), np.uint8))
    assert result.dtype == np.float32 and result[3, 3, 0] == 127.5


def test_padding_refuses_a_larger_image() -> None:
    with pytest.raises(UserError, match="the image is 10x20 .* larger than the target 16x16"):
        Padding((16, 16)).apply(np.zeros((10, 20, 3), np.uint8))


@pytest.mark.parametrize("name", sorted(SIZE_RULES))
def test_rules_say_whether_they_pad(name: str) -> None:
    assert SIZE_RULES[name].pads == (name == "Padding")


@pytest.mark.parametrize("interp", ["NEAREST", "LINEAR", "CUBIC", "AREA", "LANCZOS4"])
def test_resize_takes_opencv_interpolations(interp: str) -> None:
    image = np.random.randint(0, 256, (12, 16, 3), dtype=np.uint8)
    expected = cv2.resize(
        image.astype(np.float32), (8, 6), interpolation=getattr(cv2, f"INTER_{interp}")
    )
    np.testing.assert_array_equal(Resize((8, 6), interp=interp).apply(image), expected)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Resize(512), r"expected \[width, height\]"),
        (lambda: Resize((0, 5)), "above 0"),
        (lambda: Resize((8, 8), interp="LINEER"), "Did you mean 'LINEAR'"),
        (lambda: ResizeByShort(0), "above 0"),
        (lambda: LimitLong(max_long=3, min_long=4), "larger than max_long"),
    ],
)
def test_wrong_arguments_are_refused(build: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()


@pytest.mark.parametrize("resample", RESAMPLES)
def test_antialias_resize_is_pillows(resample: str) -> None:
    image = np.random.randint(90, 160, (61, 97, 3), dtype=np.uint8)
    rule = AntialiasResize((40, 25), resample)
    expected = np.asarray(Image.fromarray(image).resize((40, 25), Image.Resampling[resample]))
    np.testing.assert_array_equal(rule.apply(image), expected)
    as_float = rule.apply(image.astype(np.float32))
    assert as_float.dtype == np.float32
    assert np.abs(as_float - expected).max() <= 1.01  # rounded after each axis
    four = np.concatenate([image, image[:, :, :1]], axis=2)
    np.testing.assert_array_equal(rule.apply(four)[:, :, 3], expected[:, :, 0])


def test_antialias_resize_of_a_label_takes_nearest_centres() -> None:
    label = np.arange(6 * 9).reshape(6, 9)
    data = {"img": np.zeros((6, 9, 3), np.uint8), "label": label, "gt_fields": ["label"]}
    resized = AntialiasResize((3, 2)).__call__(data)["label"]
    np.testing.assert_array_equal(resized, label[[1, 4]][:, [1, 4, 7]])


def test_unknown_resample_is_refused() -> None:
    with pytest.raises(UserError, match="unknown resample 'bilinear'"):
        AntialiasResize(resample="bilinear")
