"""Normalisation of images: `(image / 255 - mean) / std`, on the host or on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from paddleseg_segformer.errors import UserError

if TYPE_CHECKING:
    import paddle

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MIN_OFFSET = 16.0  # a normalisation that subtracts less may be meant for values of 0..1
MAX_DEVIATIONS = 8.0  # from the mean; an image of 0..255 has at most 3 with ImageNet's constants


class Normalize:
    """Turn an image of 0..255 into `(image / 255 - mean) / std`, float32.

    `apply`, `planes` (NumPy) and `on_device` (Paddle) use the same float32 operations and agree to
    the bit.

    Args:
        mean: One value, or one per channel (RGB), in 0..1. PaddleSeg's default is 0.5.
        std: The same, greater than 0.

    Raises:
        UserError: a std of 0 or less, or a wrong number of values.
    """

    keeps_uint8 = True

    def __init__(self, mean: Sequence[float] = (0.5,), std: Sequence[float] = (0.5,)) -> None:
        self.mean = _values(mean, "mean")
        self.std = _values(std, "std")
        if min(self.std) <= 0:
            raise UserError(
                f"Normalize: std is {list(self.std)}; every value must be greater than 0."
            )
        if len({len(self.mean), len(self.std)} - {1}) > 1:
            raise UserError(
                f"Normalize: mean has {len(self.mean)} values and std has {len(self.std)}; "
                "give one value, or one per channel."
            )
        self._offset = np.float32(255.0) * np.asarray(self.mean, np.float32)
        self._scale = np.float32(1.0) / (np.float32(255.0) * np.asarray(self.std, np.float32))

    @property
    def offset_and_scale(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the constants in (value - offset) * scale, float32, one or one per channel."""
        return self._offset, self._scale

    def misfit(self, image: np.ndarray) -> str:
        """Say why an image (H, W, C) is not of 0..255, which the constants are for; or "".

        Values of 0..1 are told by their fractions.
        """
        offset, scale = self._offset, self._scale
        if image.dtype == np.uint8 or not image.size or not MIN_OFFSET < offset.mean() <= 255:
            return ""  # or made for other values
        low, high = float(image.min()), float(image.max())
        is_unit = low >= 0 and 0 < high <= 1 and bool((image % 1).any())
        if not is_unit and (high <= 2 * 255 or ((high - offset) * scale).min() <= MAX_DEVIATIONS):
            return ""
        return (
            f"found values in {low:g}..{high:g}, expected 0..255 (Normalize subtracts "
            f"{offset.mean():.0f}). {'Multiply by 255' if is_unit else 'Scale them'}, or set "
            "value_range of the data set."
        )

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Normalise `data['img']` (H, W, C)."""
        data["img"] = self.apply(data["img"])
        return data

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Return the normalised float32 image (H, W, C) of a uint8 or float image (H, W, C)."""
        self._check(image.shape[-1], image.dtype == np.uint8)
        if image.dtype != np.uint8:
            return (image.astype(np.float32) - self._offset) * self._scale
        return cv2.LUT(image, self._table(image.shape[-1])[None]).reshape(image.shape)

    def planes(self, image: np.ndarray) -> np.ndarray:
        """Return the image of `apply` as planes (C, H, W), in one pass over an 8-bit image."""
        height, width, num_channels = image.shape
        if image.dtype != np.uint8:
            return np.ascontiguousarray(self.apply(image).transpose(2, 0, 1))
        self._check(num_channels, is_uint8=True)
        table = self._table(num_channels)
        planes = np.empty((num_channels, height, width), np.float32)
        for channel, values in enumerate(cv2.split(image)):
            cv2.LUT(values, np.ascontiguousarray(table[:, channel]), dst=planes[channel])
        return planes

    def _table(self, num_channels: int) -> np.ndarray:
        """Return the normalised values of 0..255, (256, C)."""
        levels = np.arange(256, dtype=np.float32)[:, None]
        table = np.broadcast_to((levels - self._offset) * self._scale, (256, num_channels))
        return np.ascontiguousarray(table)

    def on_device(self, images: paddle.Tensor) -> paddle.Tensor:
        """Return normalised float32 images (N, C, H, W) of uint8 or float32 images (N, C, H, W)."""
        import paddle

        self._check(images.shape[1], images.dtype == paddle.uint8)
        offset, scale = (
            paddle.to_tensor(value.reshape(1, -1, 1, 1)) for value in (self._offset, self._scale)
        )
        return (images.astype("float32") - offset) * scale

    def _check(self, num_channels: int, is_uint8: bool) -> None:
        """Refuse an image whose channels or range do not match the constants."""
        num_values = max(len(self.mean), len(self.std))
        if num_values not in (1, num_channels):
            raise UserError(
                f"Normalize: mean and std have {num_values} values, the image has {num_channels} "
                "channels; give one value, or one per channel."
            )
        if is_uint8 and max(self.mean) > 1:
            raise UserError(
                f"Normalize: mean is {list(self.mean)}, but 8-bit images are first divided by 255; "
                "give mean and std in 0..1, e.g. 123.675 / 255 = 0.485."
            )


def _values(value: Sequence[float], name: str) -> tuple[float, ...]:
    """Return the constants as floats; a single number stands for a sequence of one."""
    try:
        values = tuple(float(item) for item in np.atleast_1d(value))
    except (TypeError, ValueError):
        values = ()
    if not values or not np.isfinite(values).all():
        raise UserError(
            f"Normalize: {name} is {value!r}; expected a list of numbers, e.g. [0.5, 0.5, 0.5]."
        )
    return values
