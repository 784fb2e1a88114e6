"""Random colour augmentation in uint8.

Brightness and contrast map each value alone, and so do saturation and hue in HSV: they are look-up
tables of 256 entries.
"""

from __future__ import annotations

import random
from typing import Any

import cv2
import numpy as np

LEVELS = np.arange(256, dtype=np.float64)
GREY_WEIGHTS = np.array([0.299, 0.587, 0.114])  # of red, green, blue. Source: ITU-R BT.601
SMOOTHING = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13  # Pillow's SMOOTH


class PhotoMetricDistortion:
    """Shift brightness and scale contrast, saturation and hue, each with probability one half.

    Contrast is changed before or after the colours, with equal probability. Images that are not of
    three channels keep saturation and hue.

    Args:
        brightness_delta: The shift is uniform in plus or minus it, in grey levels.
        contrast_range: Factor of all values.
        saturation_range: Factor of the saturation (HSV).
        hue_delta: The shift is a whole number in plus or minus it, in steps of 2 degrees.

    Source: SSD; mmsegmentation's transform of this name. There colours are rounded between the
    changes of saturation and hue, here once.
    """

    keeps_uint8 = True

    def __init__(
        self,
        brightness_delta: float = 32,
        contrast_range: tuple[float, float] = (0.5, 1.5),
        saturation_range: tuple[float, float] = (0.5, 1.5),
        hue_delta: int = 18,
    ) -> None:
        self.brightness_delta = brightness_delta
        self.contrast_range = contrast_range
        self.saturation_range = saturation_range
        self.hue_delta = hue_delta

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        image = as_uint8(data["img"])
        shift = np.random.uniform(-1, 1) * self.brightness_delta if _coin() else 0.0
        contrast = np.random.uniform(*self.contrast_range) if _coin() else 1.0
        is_contrast_first = _coin()
        saturation = np.random.uniform(*self.saturation_range) if _coin() else 1.0
        hue = np.random.randint(-self.hue_delta, self.hue_delta + 1) if _coin() else 0

        table = to_uint8(LEVELS + shift)
        if is_contrast_first:
            table = to_uint8(table * contrast)
        image = look_up(image, table)
        if image.shape[2] == 3 and (saturation != 1.0 or hue != 0):
            image = change_hsv(image, saturation, hue)
        data["img"] = image if is_contrast_first else look_up(image, to_uint8(LEVELS * contrast))
        return data


class RandomDistort:
    """Change brightness, contrast, saturation, sharpness and hue in random order.

    Each factor is uniform in 1 plus or minus its range. Images that are not of three channels keep
    saturation and hue.

    Args:
        brightness_range: Factor of all values.
        brightness_prob: Probability of the change; so for the others.
        contrast_range: Factor of the difference to the image's mean grey.
        contrast_prob: See `brightness_prob`.
        saturation_range: Factor of the difference to the pixel's own grey.
        saturation_prob: See `brightness_prob`.
        hue_range: The shift is uniform in plus or minus it, in 256 steps to the circle.
        hue_prob: See `brightness_prob`.
        sharpness_range: Factor of the difference to the smoothed image.
        sharpness_prob: See `brightness_prob`.

    Source: PaddleSeg's transform of this name, which works through Pillow.
    """

    keeps_uint8 = True

    def __init__(
        self,
        brightness_range: float = 0.5,
        brightness_prob: float = 0.5,
        contrast_range: float = 0.5,
        contrast_prob: float = 0.5,
        saturation_range: float = 0.5,
        saturation_prob: float = 0.5,
        hue_range: float = 18,
        hue_prob: float = 0.5,
        sharpness_range: float = 0.5,
        sharpness_prob: float = 0,
    ) -> None:
        self.changes = [
            (scale_brightness, 1 - brightness_range, 1 + brightness_range, brightness_prob),
            (scale_contrast, 1 - contrast_range, 1 + contrast_range, contrast_prob),
            (scale_saturation, 1 - saturation_range, 1 + saturation_range, saturation_prob),
            (scale_sharpness, 1 - sharpness_range, 1 + sharpness_range, sharpness_prob),
            (shift_hue, -hue_range, hue_range, hue_prob),
        ]

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        image = as_uint8(data["img"])
        changes = list(self.changes)
        random.shuffle(changes)
        for change, low, high, probability in changes:
            needs_rgb = change in (scale_saturation, shift_hue)
            if np.random.uniform() < probability and (image.shape[2] == 3 or not needs_rgb):
                image = change(image, np.random.uniform(low, high))
        data["img"] = image
        return data


def scale_brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Return the image (H, W, C) with all its values times `factor`."""
    return look_up(image, to_uint8(LEVELS * factor))


def scale_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Return the image (H, W, C) with its difference to its mean grey times `factor`."""
    is_rgb = image.shape[2] == 3
    grey = GREY_WEIGHTS @ cv2.mean(image)[:3] if is_rgb else image.mean()
    return look_up(image, to_uint8(grey + (LEVELS - grey) * factor))


def scale_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Return the image (H, W, 3) with each pixel's difference to its own grey times `factor`."""
    to_grey = np.tile(GREY_WEIGHTS, (3, 1))
    return cv2.transform(image, to_grey + (np.eye(3) - to_grey) * factor)


def scale_sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Return the image (H, W, C) with its difference to a smoothed one times `factor`."""
    smooth = cv2.filter2D(image, -1, SMOOTHING).reshape(image.shape)
    return cv2.addWeighted(image, factor, smooth, 1 - factor, 0).reshape(image.shape)


def shift_hue(image: np.ndarray, shift: float) -> np.ndarray:
    """Return the image (H, W, 3) with its hue shifted, in 256 steps to the circle."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    table = np.stack([(LEVELS + round(shift)) % 256, LEVELS, LEVELS], axis=1)
    return cv2.cvtColor(look_up(hsv, table.astype(np.uint8)), cv2.COLOR_HSV2RGB_FULL)


def change_hsv(image: np.ndarray, saturation: float, hue: int) -> np.ndarray:
    """Return the image (H, W, 3) with its saturation times a factor and its hue shifted.

    Args:
        image: uint8 RGB.
        saturation: Factor of the saturation.
        hue: Steps of 2 degrees.
    """
    table = np.stack([(LEVELS + hue) % 180, to_uint8(LEVELS * saturation), LEVELS], axis=1)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    return cv2.cvtColor(look_up(hsv, table.astype(np.uint8)), cv2.COLOR_HSV2RGB)


def look_up(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return the uint8 image (H, W, C) mapped by a table (256,), or by one (256, C) per channel."""
    return cv2.LUT(image, table[None]).reshape(image.shape)


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Return values rounded and clipped to 0..255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def as_uint8(image: np.ndarray) -> np.ndarray:
    """Return an image of 0..255 as uint8; transforms before may have left it in float32."""
    return image if image.dtype == np.uint8 else to_uint8(image)


def _coin() -> bool:
    """Return True or False with equal probability."""
    return bool(np.random.randint(2))
