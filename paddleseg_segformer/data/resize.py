"""Size rules: resizing and padding of images in training, evaluation, prediction and export.

Three families give different pixels on purpose. PaddleSeg's rules interpolate in float32 and round
sizes half to even; those of NVlabs and mmsegmentation interpolate in uint8 and round sizes half up;
that of Hugging Face filters before it downsamples.
Sizes in arguments (`target_size`) are (width, height) as in PaddleSeg's YAML; sizes inside are
(height, width).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

from paddleseg_segformer.errors import UserError, did_you_mean

INTERPOLATIONS = {
    "NEAREST": cv2.INTER_NEAREST,
    "LINEAR": cv2.INTER_LINEAR,
    "CUBIC": cv2.INTER_CUBIC,
    "AREA": cv2.INTER_AREA,
    "LANCZOS4": cv2.INTER_LANCZOS4,
}
RESAMPLES = ("NEAREST", "BOX", "BILINEAR", "HAMMING", "BICUBIC", "LANCZOS")  # Pillow's


class SizeRule:
    """A transform that computes an image's new size from its size.

    `data['img']` is (H, W, C); the labels in `data['gt_fields']` are (H, W), resized by nearest
    neighbour. The old size is appended to `data['trans_info']`, so that predictions can be resized
    back.
    """

    pads = False
    keeps_uint8 = True
    interpolates_float = True

    def new_size_hw(self, height: int, width: int, ratio: float = 1.0) -> tuple[int, int]:
        """Return the new (height, width) of an image of `height` x `width`.

        `ratio` is a factor on the rule's target, for multi-scale testing.
        """
        raise NotImplementedError

    def apply(self, image: np.ndarray, ratio: float = 1.0) -> np.ndarray:
        """Return the image (H, W, C) at its new size; `ratio` as in `new_size_hw`."""
        size_hw = self.new_size_hw(image.shape[0], image.shape[1], ratio)
        return resize_image(image, size_hw, as_float=self.interpolates_float)

    def _apply_label(self, label: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
        return resize_label(label, size_hw)

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Change the size of `data['img']` and of the labels in `data['gt_fields']`."""
        kind = "padding" if self.pads else "resize"
        data.setdefault("trans_info", []).append((kind, data["img"].shape[:2]))
        data["img"] = self.apply(data["img"])
        for key in data.get("gt_fields", []):
            data[key] = self._apply_label(data[key], data["img"].shape[:2])
        return data


class Resize(SizeRule):
    """Resize to `target_size`, or into it when `keep_ratio`.

    Args:
        target_size: (width, height) in pixels.
        keep_ratio: Keep the aspect ratio: the long side fits into the larger number of
            `target_size`, the short side into the smaller.
        size_divisor: Round both sides up to a multiple of it.
        interp: NEAREST, LINEAR, CUBIC, AREA, LANCZOS4, or RANDOM (a new draw for each image).

    Source: PaddleSeg's transform of this name.
    """

    def __init__(
        self,
        target_size: Sequence[int] = (512, 512),
        keep_ratio: bool = False,
        size_divisor: int | None = None,
        interp: str = "LINEAR",
    ) -> None:
        if interp != "RANDOM" and interp not in INTERPOLATIONS:
            hint = did_you_mean(interp, [*INTERPOLATIONS, "RANDOM"])
            raise UserError(f"Resize: unknown interp '{interp}'.{hint}")
        self.target_hw = size_hw_of(target_size, "Resize: target_size")
        self.keep_ratio = keep_ratio
        self.size_divisor = size_divisor
        self.interp = interp

    def new_size_hw(self, height: int, width: int, ratio: float = 1.0) -> tuple[int, int]:
        size_hw = _scaled(self.target_hw, ratio)
        if self.keep_ratio:
            factor = fit_factor(height, width, size_hw)
            size_hw = (round(height * factor), round(width * factor))
        return ceil_to_multiple(size_hw, self.size_divisor) if self.size_divisor else size_hw

    def apply(self, image: np.ndarray, ratio: float = 1.0) -> np.ndarray:
        """Return the image (H, W, C) at its new size with the interpolation `interp`."""
        name = random.choice(list(INTERPOLATIONS)) if self.interp == "RANDOM" else self.interp
        size_hw = self.new_size_hw(image.shape[0], image.shape[1], ratio)
        return resize_image(image, size_hw, as_float=True, interpolation=INTERPOLATIONS[name])


class ResizeByShort(SizeRule):
    """Resize the short side to `short_size`, keeping the aspect ratio; the long side is capped.

    Args:
        short_size: Pixels, or a list of which one is drawn for each image.
        max_size: Upper limit of the long side in pixels; the short side is then smaller.
    """

    def __init__(self, short_size: int | Sequence[int], max_size: float = 1e10) -> None:
        self.short_sizes = [short_size] if isinstance(short_size, int) else list(short_size)
        self.max_size = max_size
        if not self.short_sizes or min(self.short_sizes) <= 0 or max_size <= 0:
            raise UserError(
                f"ResizeByShort: short_size is {short_size} and max_size {max_size}; "
                "expected pixels above 0."
            )

    def new_size_hw(self, height: int, width: int, ratio: float = 1.0) -> tuple[int, int]:
        short, long = sorted((height, width))
        target = round(random.choice(self.short_sizes) * ratio)
        if target / short * long > self.max_size * ratio:
            target = max(1, int(self.max_size * ratio / long * short))
        return _scaled((height, width), target / short)


class ResizeByLong(SizeRule):
    """Resize the long side, keeping the aspect ratio.

    Args:
        long_size: Pixels of the long side.
    """

    def __init__(self, long_size: int) -> None:
        if long_size <= 0:
            raise UserError(f"ResizeByLong: long_size is {long_size}; expected pixels above 0.")
        self.long_size = long_size

    def new_size_hw(self, height: int, width: int, ratio: float = 1.0) -> tuple[int, int]:
        return _scaled((height, width), round(self.long_size * ratio) / max(height, width))


class LimitLong(SizeRule):
    """Resize the long side into `min_long`..`max_long` pixels, keeping the aspect ratio.

    An image within the range is unchanged.

    Args:
        max_long: Upper limit of the long side in pixels; None for none.
        min_long: Lower limit of the long side in pixels; None for none.
    """

    def __init__(self, max_long: int | None = None, min_long: int | None = None) -> None:
        if max_long is not None and min_long is not None and min_long > max_long:
            raise UserError(f"LimitLong: min_long {min_long} is larger than max_long {max_long}.")
        self.max_long = max_long
        self.min_long = min_long

    def new_size_hw(self, height: int, width: int, ratio: float = 1.0) -> tuple[int, int]:
        long = max(height, width)
        target = long if self.max_long is None else min(long, self.max_long)
        target = target if self.min_long is None else max(target, self.min_long)
        return _scaled((height, width), round(target * ratio) / long)


class ResizeKeepRatio(SizeRule):
    """Resize to fit into `scale`, keeping the aspect ratio, in uint8.

    The factor is min(larger of scale / long side, smaller of scale / short side): the order of the
    two numbers is free.

    Args:
        scale: Two numbers of pixels, for the long and for the short side.

    Source: `Resize(img_scale=scale, keep_ratio=True)` of NVlabs and mmsegmentation.
    """

    interpolates_float = False

    def __init__(self, scale: Sequence[int] = (2048, 512)) -> None:
        self.scale_hw = size_hw_of(scale, f"{type(self).__name__}: scale")

    def new_size_hw(self, height: int, width: int, ratio: float = 1.0) -> tuple[int, int]:
        return fitted_size_hw(height, width, self.scale_hw, ratio)


class AlignedResize(ResizeKeepRatio):
    """`ResizeKeepRatio`, then a second resize up to the next multiples of `size_divisor`.

    Both resizes interpolate in uint8, one after the other, which slightly changes the aspect ratio.

    Args:
        scale: Two numbers of pixels, for the long and for the short side.
        size_divisor: Both sides become multiples of it.

    Source: `AlignedResize` of NVlabs, its evaluation on ADE20K.
    """

    def __init__(self, scale: Sequence[int] = (2048, 512), size_divisor: int = 32) -> None:
        super().__init__(scale)
        self.size_divisor = size_divisor

    def apply(self, image: np.ndarray, ratio: float = 1.0) -> np.ndarray:
        """Return the image (H, W, C) after both resizes."""
        fitted_hw = super().new_size_hw(image.shape[0], image.shape[1], ratio)
        fitted = resize_image(image, fitted_hw)
        return resize_image(fitted, ceil_to_multiple(fitted_hw, self.size_divisor))

    def new_size_hw(self, height: int, width: int, ratio: float = 1.0) -> tuple[int, int]:
        return ceil_to_multiple(super().new_size_hw(height, width, ratio), self.size_divisor)


class ResizeToMultiple(SizeRule):
    """Resize both sides up to the next multiple of `size_divisor`, in uint8.

    Args:
        size_divisor: Both sides become multiples of it.

    Source: mmsegmentation's transform of this name.
    """

    interpolates_float = False

    def __init__(self, size_divisor: int = 32) -> None:
        self.size_divisor = size_divisor

    def new_size_hw(self, height: int, width: int, ratio: float = 1.0) -> tuple[int, int]:
        scaled_hw = (int(height * ratio + 0.5), int(width * ratio + 0.5))
        return ceil_to_multiple(scaled_hw, self.size_divisor)


class AntialiasResize(SizeRule):
    """Resize to `target_size` with Pillow, whose filters are antialiased, in uint8.

    Args:
        target_size: (width, height) in pixels.
        resample: NEAREST, BOX, BILINEAR, HAMMING, BICUBIC or LANCZOS.

    Source: the image processors of Hugging Face's transformers.
    """

    interpolates_float = False

    def __init__(self, target_size: Sequence[int] = (512, 512), resample: str = "BILINEAR") -> None:
        name = type(self).__name__
        if resample not in RESAMPLES:
            hint = did_you_mean(resample, RESAMPLES)
            raise UserError(f"{name}: unknown resample '{resample}'.{hint}")
        self.target_hw = size_hw_of(target_size, f"{name}: target_size")
        self.resample = resample

    def new_size_hw(self, height: int, width: int, ratio: float = 1.0) -> tuple[int, int]:
        return _scaled(self.target_hw, ratio)

    def apply(self, image: np.ndarray, ratio: float = 1.0) -> np.ndarray:
        """Return the image (H, W, C) at its new size; float32 unless it is uint8."""
        size_hw = self.new_size_hw(image.shape[0], image.shape[1], ratio)
        return np.stack(
            [resize_map(channel, size_hw, self.resample) for channel in cv2.split(image)], axis=2
        )

    def _apply_label(self, label: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
        return resize_map(label, size_hw, "NEAREST")


class AntialiasResizeByShort(AntialiasResize):
    """`AntialiasResize` of the short side to `short_size`, keeping the aspect ratio.

    Args:
        short_size: Pixels.
        max_size: Upper limit of the long side in pixels, or null; the short side is then smaller.
        resample: As of `AntialiasResize`.

    Source: `shortest_edge` and `longest_edge` of Hugging Face's image processors, whose long side
    is rounded down.
    """

    def __init__(
        self, short_size: int = 512, max_size: int | None = None, resample: str = "BILINEAR"
    ) -> None:
        super().__init__([short_size] * 2, resample)
        if max_size is not None and not (isinstance(max_size, int) and max_size > 0):
            raise UserError(f"{type(self).__name__}: max_size is {max_size!r}, expected pixels.")
        self.max_size = max_size

    def new_size_hw(self, height: int, width: int, ratio: float = 1.0) -> tuple[int, int]:
        short_side, long_side = sorted((height, width))
        new_short, _ = _scaled(self.target_hw, ratio)
        exact = float(new_short)
        limit = float("inf") if self.max_size is None else max(1, round(self.max_size * ratio))
        if long_side / short_side * new_short > limit:
            exact = limit * short_side / long_side
            new_short = max(1, round(exact))
        if new_short == short_side:
            return height, width
        new_long = max(1, int(exact * long_side / short_side))
        return (new_short, new_long) if height <= width else (new_long, new_short)


class Padding(SizeRule):
    """Pad at the bottom and at the right to `target_size`.

    Args:
        target_size: (width, height) in pixels.
        im_padding_value: 0..255, one value or one per channel. A fraction turns a padded image
            into float32.
        label_padding_value: The id that padded label pixels get.

    Raises:
        UserError: an image larger than `target_size`.
    """

    pads = True

    def __init__(
        self,
        target_size: Sequence[int],
        im_padding_value: float | Sequence[float] = 127.5,
        label_padding_value: int = 255,
    ) -> None:
        self.target_hw = size_hw_of(target_size, "Padding: target_size")
        self.im_padding_value = im_padding_value
        self.label_padding_value = label_padding_value

    def new_size_hw(self, height: int, width: int, ratio: float = 1.0) -> tuple[int, int]:
        target_hw = _scaled(self.target_hw, ratio)
        if height > target_hw[0] or width > target_hw[1]:
            raise UserError(
                f"Padding: the image is {height}x{width} (height x width), larger than the target "
                f"{target_hw[0]}x{target_hw[1]}. Resize or crop it first, or raise target_size."
            )
        return target_hw

    def apply(self, image: np.ndarray, ratio: float = 1.0) -> np.ndarray:
        """Return the padded image (H, W, C)."""
        size_hw = self.new_size_hw(image.shape[0], image.shape[1], ratio)
        is_whole = np.all(np.asarray(self.im_padding_value) % 1 == 0)
        if not is_whole and size_hw != image.shape[:2]:
            image = image.astype(np.float32)
        return pad_bottom_right(image, size_hw, self.im_padding_value)

    def _apply_label(self, label: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
        return pad_bottom_right(label, size_hw, self.label_padding_value)


SIZE_RULES: dict[str, type[SizeRule]] = {
    rule.__name__: rule
    for rule in (
        Resize,
        ResizeByShort,
        ResizeByLong,
        LimitLong,
        ResizeKeepRatio,
        AlignedResize,
        ResizeToMultiple,
        AntialiasResize,
        AntialiasResizeByShort,
        Padding,
    )
}


def resize_image(
    image: np.ndarray,
    size_hw: tuple[int, int],
    *,
    as_float: bool = False,
    interpolation: int = cv2.INTER_LINEAR,
) -> np.ndarray:
    """Return the image (H, W, C) at `size_hw`; with `as_float` in float32."""
    if image.shape[:2] == tuple(size_hw):
        return image
    if as_float:
        image = image.astype(np.float32, copy=False)
    resized = cv2.resize(image, (size_hw[1], size_hw[0]), interpolation=interpolation)
    return resized.reshape(*size_hw, image.shape[2])  # OpenCV drops a single channel


def resize_label(label: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Return the label (H, W) at `size_hw` by nearest neighbour."""
    if label.shape == tuple(size_hw):
        return label
    return cv2.resize(label, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_NEAREST)


def resize_map(values: np.ndarray, size_hw: tuple[int, int], resample: str) -> np.ndarray:
    """Return one channel or label map (H, W) at `size_hw`, by Pillow.

    uint8 stays uint8, labels of more bits become int32, other values float32.
    """
    if values.dtype != np.uint8:
        values = values.astype(np.int32 if values.dtype.kind in "iu" else np.float32)
    resized = Image.fromarray(np.ascontiguousarray(values)).resize(
        (size_hw[1], size_hw[0]), Image.Resampling[resample]
    )
    return np.asarray(resized)


def pad_bottom_right(
    array: np.ndarray, size_hw: tuple[int, int], value: float | Sequence[float]
) -> np.ndarray:
    """Return the array (H, W) or (H, W, C) padded to `size_hw`.

    For arrays of integers `value` is rounded half to even.
    """
    height, width = array.shape[:2]
    if (height, width) == tuple(size_hw):
        return array
    fill = np.asarray(value)
    if np.issubdtype(array.dtype, np.integer):
        fill = np.rint(fill)
    padded = np.empty((*size_hw, *array.shape[2:]), array.dtype)
    padded[:height, :width] = array
    padded[height:] = fill
    padded[:height, width:] = fill
    return padded


def fit_factor(height: int, width: int, limits: tuple[int, int]) -> float:
    """Return the factor that fits the long side into the larger limit, the short into the other."""
    return min(max(limits) / max(height, width), min(limits) / min(height, width))


def fitted_size_hw(
    height: int, width: int, scale_hw: tuple[int, int], ratio: float
) -> tuple[int, int]:
    """Return the size that fits into `scale_hw` times `ratio`, rounded half up."""
    factor = fit_factor(height, width, (int(scale_hw[0] * ratio), int(scale_hw[1] * ratio)))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def ceil_to_multiple(size_hw: tuple[int, int], divisor: int) -> tuple[int, int]:
    """Return both sides rounded up to a multiple of `divisor`."""
    return math.ceil(size_hw[0] / divisor) * divisor, math.ceil(size_hw[1] / divisor) * divisor


def size_hw_of(size_wh: Sequence[int], name: str) -> tuple[int, int]:
    """Return (height, width) of a (width, height) pair as written in PaddleSeg's YAML.

    Raises:
        UserError: not two whole numbers above 0; `name` says which argument.
    """
    is_pair = isinstance(size_wh, Sequence) and len(size_wh) == 2
    if not is_pair or not all(isinstance(side, int) and side > 0 for side in size_wh):
        raise UserError(f"{name} is {size_wh!r}; expected [width, height] in whole pixels above 0.")
    return size_wh[1], size_wh[0]


def _scaled(size_hw: tuple[int, int], factor: float) -> tuple[int, int]:
    """Return both sides times `factor`, rounded half to even, at least 1."""
    return max(1, round(size_hw[0] * factor)), max(1, round(size_hw[1] * factor))
