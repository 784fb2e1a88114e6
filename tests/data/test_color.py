from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from paddleseg_segformer.data import color
from paddleseg_segformer.data.color import PhotoMetricDistortion, RandomDistort


@pytest.fixture
def image() -> np.ndarray:
    return np.random.randint(0, 256, (23, 31, 3), dtype=np.uint8)


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4])
@pytest.mark.parametrize(
    ("change", "enhancer"),
    [
        (color.scale_brightness, ImageEnhance.Brightness),
        (color.scale_contrast, ImageEnhance.Contrast),
        (color.scale_saturation, ImageEnhance.Color),
        (color.scale_sharpness, ImageEnhance.Sharpness),
    ],
)
def test_changes_equal_pillow(image: np.ndarray, change: Any, enhancer: Any, factor: float) -> None:
    result = change(image, factor)
    expected = np.asarray(enhancer(Image.fromarray(image)).enhance(factor)).astype(int)
    inner = (slice(1, -1), slice(1, -1))  # Pillow leaves the border unsmoothed
    assert result.dtype == np.uint8
    assert np.abs(result.astype(int) - expected)[inner].max() <= 2


@pytest.mark.parametrize(
    ("saturation", "hue"), [(1.0, 0), (0.5, 0), (1.5, 0), (1.0, 18), (1.3, -18)]
)
def test_hsv_change_equals_colorsys(image: np.ndarray, saturation: float, hue: int) -> None:
    result = color.change_hsv(image, saturation, hue)
    expected = np.empty(image.shape)
    for place in np.ndindex(*image.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*(image[place] / 255))
        expected[place] = colorsys.hsv_to_rgb((h + hue / 180) % 1, min(1, s * saturation), v)
    assert np.abs(result - expected * 255).mean() < 1.5  # hue has 180 steps of 2 degrees
    assert np.abs(result - expected * 255).max() <= 8


def test_hue_shift_of_a_full_circle_is_none(image: np.ndarray) -> None:
    difference = color.shift_hue(image, 256).astype(int) - image
    assert np.abs(difference).max() <= 10 and np.abs(difference).mean() < 1.5


@pytest.mark.parametrize("transform", [PhotoMetricDistortion(), RandomDistort(sharpness_prob=1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_image_changes_and_label_does_not(transform: Any, dtype: type, image: np.ndarray) -> None:
    label = np.zeros(image.shape[:2], np.uint8)
    results = []
    for _ in range(20):
        data = transform({"img": image.astype(dtype), "label": label, "gt_fields": ["label"]})
        assert data["img"].dtype == np.uint8 and data["img"].shape == image.shape
        assert data["label"] is label
        results.append(data["img"])
    assert len({result.tobytes() for result in results}) > 10


def test_distortion_stays_within_its_ranges() -> None:
    grey = np.full((4, 4, 3), 100, np.uint8)
    levels = [int(PhotoMetricDistortion()({"img": grey})["img"][0, 0, 0]) for _ in range(2000)]
    assert min(levels) >= (100 - 32) * 0.5 - 1 and max(levels) <= (100 + 32) * 1.5 + 1
    assert min(levels) < 50 and max(levels) > 170
    assert 0.2 < np.mean([level == 100 for level in levels]) < 0.3  # neither of the two happens


def test_contrast_comes_before_or_after_the_clipping_of_colors() -> None:
    transform = PhotoMetricDistortion(brightness_delta=0, contrast_range=(1.5, 1.5), hue_delta=0)
    bright = np.array([[[250, 100, 100]]], np.uint8)
    results = {tuple(transform({"img": bright})["img"].ravel().tolist()) for _ in range(300)}
    assert (255, 150, 150) in results and (250, 100, 100) in results
    assert len(results) > 100  # saturation


def test_zero_probabilities_change_nothing(image: np.ndarray) -> None:
    transform = RandomDistort(
        brightness_prob=0, contrast_prob=0, saturation_prob=0, hue_prob=0, sharpness_prob=0
    )
    np.testing.assert_array_equal(transform({"img": image})["img"], image)


def test_grey_levels_keep_their_order() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 256, 1)
    for _ in range(50):
        for transform in (PhotoMetricDistortion(), RandomDistort()):
            result = transform({"img": ramp})["img"].astype(int)
            assert result.shape == ramp.shape and (np.diff(result.ravel()) >= 0).all()
