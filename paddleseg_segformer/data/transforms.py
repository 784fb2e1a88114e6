"""Random augmentation of training samples, with PaddleSeg's names where it has the transform.

A transform takes and returns a dictionary: `img` (H, W, C) RGB in 0..255, `label` (H, W),
`gt_fields`, the keys of the maps that are transformed with the image, and `trans_info`. Images stay
uint8. Random numbers come from `random` and `np.random`, which the data set seeds for each sample.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from paddleseg_segformer.data.color import PhotoMetricDistortion, RandomDistort
from paddleseg_segformer.data.normalize import Normalize
from paddleseg_segformer.data.resize import (
    SIZE_RULES,
    fitted_size_hw,
    pad_bottom_right,
    resize_image,
    resize_label,
    size_hw_of,
)
from paddleseg_segformer.errors import UserError

Data = dict[str, Any]


class RandomHorizontalFlip:
    """Mirror the sample left to right.

    Args:
        prob: Probability.
    """

    keeps_uint8 = True

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = prob

    def __call__(self, data: Data) -> Data:
        if random.random() < self.prob:
            height, width, channels = data["img"].shape
            data["img"] = cv2.flip(data["img"], 1).reshape(height, width, channels)
            for key in data.get("gt_fields", []):
                data[key] = cv2.flip(data[key], 1)
        return data


class RandomResizeKeepRatio:
    """Resize to fit into `scale` times a random ratio, keeping the aspect ratio, in uint8.

    Args:
        scale: Two numbers of pixels, for the long and for the short side.
        ratio_range: The ratio is uniform between them.

    Source: Xie et al., "SegFormer", 2021, section 4.1; `Resize(ratio_range=...)` of mmsegmentation.
    """

    keeps_uint8 = True

    def __init__(
        self, scale: Sequence[int] = (2048, 1024), ratio_range: Sequence[float] = (0.5, 2.0)
    ) -> None:
        self.scale_hw = size_hw_of(scale, "RandomResizeKeepRatio: scale")
        self.ratio_range = _range(ratio_range, "RandomResizeKeepRatio: ratio_range")

    def __call__(self, data: Data) -> Data:
        ratio = np.random.uniform(*self.ratio_range)
        height, width = data["img"].shape[:2]
        return _resize(data, fitted_size_hw(height, width, self.scale_hw, ratio))


class ResizeStepScaling:
    """Resize by a random one of evenly spaced factors.

    Args:
        min_scale_factor: The smallest.
        max_scale_factor: The largest.
        scale_step_size: Their distance; 0 for any factor between the two.
    """

    keeps_uint8 = True

    def __init__(
        self,
        min_scale_factor: float = 0.75,
        max_scale_factor: float = 1.25,
        scale_step_size: float = 0.25,
    ) -> None:
        limits = (min_scale_factor, max_scale_factor)
        self.limits = _range(limits, "ResizeStepScaling: min_scale_factor, max_scale_factor")
        self.scale_step_size = scale_step_size

    def __call__(self, data: Data) -> Data:
        low, high = self.limits
        if self.scale_step_size == 0:
            factor = np.random.uniform(low, high)
        else:
            num_steps = int((high - low) / self.scale_step_size + 1)
            factor = float(np.random.choice(np.linspace(low, high, num_steps)))
        height, width = data["img"].shape[:2]
        return _resize(data, (max(1, round(height * factor)), max(1, round(width * factor))))


class RandomCrop:
    """Cut out a random window, of the image's own size where that is smaller than the window.

    Args:
        crop_size: (width, height) in pixels.
        cat_max_ratio: A window in which one class has this share of the labelled pixels or more is
            drawn again, up to 10 times.
        ignore_index: Id of pixels that are not labelled.

    Source: mmsegmentation's transform of this name.
    """

    keeps_uint8 = True
    max_tries = 10

    def __init__(
        self, crop_size: Sequence[int], cat_max_ratio: float = 0.75, ignore_index: int = 255
    ) -> None:
        self.crop_hw = size_hw_of(crop_size, f"{type(self).__name__}: crop_size")
        if cat_max_ratio <= 0:
            raise UserError(
                f"{type(self).__name__}: a class may take a share of {cat_max_ratio}; "
                "expected more than 0, and 1 for any share."
            )
        self.cat_max_ratio = cat_max_ratio
        self.ignore_index = ignore_index

    def __call__(self, data: Data) -> Data:
        window = self._draw(data["label"])
        for key in ("img", *data.get("gt_fields", [])):
            data[key] = data[key][window]
        return data

    def _draw(self, label: np.ndarray) -> tuple[slice, slice]:
        """Return a window of the label (H, W)."""
        for _ in range(self.max_tries):
            window = random_window(label.shape, self.crop_hw)
            if self.cat_max_ratio >= 1 or self._is_mixed(label[window]):
                return window
        return random_window(label.shape, self.crop_hw)

    def _is_mixed(self, label: np.ndarray) -> bool:
        """Tell whether the label has two classes or more, and none with too large a share."""
        ids, counts = count_ids(label)
        counts = counts[ids != self.ignore_index]
        return len(counts) > 1 and counts.max() / counts.sum() < self.cat_max_ratio


class RandomPaddingCrop(RandomCrop):
    """Pad at the bottom and at the right up to the window's size where needed, then `RandomCrop`.

    Args:
        crop_size: (width, height) in pixels.
        im_padding_value: 0..255, one value or one per channel; rounded half to even.
        label_padding_value: Id of padded pixels.
        category_max_ratio: `cat_max_ratio` of `RandomCrop`.
        ignore_index: As in `RandomCrop`.
        loop_times: Upper limit of draws of a window.

    Source: PaddleSeg's transform of this name.
    """

    def __init__(
        self,
        crop_size: Sequence[int] = (512, 512),
        im_padding_value: float | Sequence[float] = 127.5,
        label_padding_value: int = 255,
        category_max_ratio: float = 1.0,
        ignore_index: int = 255,
        loop_times: int = 10,
    ) -> None:
        super().__init__(crop_size, category_max_ratio, ignore_index)
        self.im_padding_value = im_padding_value
        self.label_padding_value = label_padding_value
        self.max_tries = loop_times

    def __call__(self, data: Data) -> Data:
        height, width = data["img"].shape[:2]
        size_hw = (max(height, self.crop_hw[0]), max(width, self.crop_hw[1]))
        data["img"] = pad_bottom_right(data["img"], size_hw, self.im_padding_value)
        for key in data.get("gt_fields", []):
            data[key] = pad_bottom_right(data[key], size_hw, self.label_padding_value)
        return super().__call__(data)


class ScalePadding:
    """Pad to a square around the middle, then resize to `target_size`, bicubically.

    Args:
        target_size: (width, height) in pixels.
        im_padding_value: 0..255, one value or one per channel; rounded half to even.
        label_padding_value: Id of padded pixels.

    Source: PaddleSeg's transform of this name, with labels resized by nearest neighbour.
    """

    keeps_uint8 = True

    def __init__(
        self,
        target_size: Sequence[int] = (512, 512),
        im_padding_value: float | Sequence[float] = 127.5,
        label_padding_value: int = 255,
    ) -> None:
        self.target_hw = size_hw_of(target_size, "ScalePadding: target_size")
        self.im_padding_value = im_padding_value
        self.label_padding_value = label_padding_value

    def __call__(self, data: Data) -> Data:
        for key in ("img", *data.get("gt_fields", [])):
            value = self.im_padding_value if key == "img" else self.label_padding_value
            data[key] = _pad_to_square(data[key], value)
        return _resize(data, self.target_hw, cv2.INTER_CUBIC)


TRANSFORMS: dict[str, Callable[..., Any]] = {
    **SIZE_RULES,
    **{
        transform.__name__: transform
        for transform in (
            Normalize,
            RandomHorizontalFlip,
            RandomResizeKeepRatio,
            ResizeStepScaling,
            RandomCrop,
            RandomPaddingCrop,
            ScalePadding,
            RandomDistort,
            PhotoMetricDistortion,
        )
    },
}


def count_ids(label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids in a label map (H, W), and their numbers of pixels."""
    if label.dtype != np.uint8 or label.size > 2**24:  # the histogram below counts in float32
        return np.unique(label, return_counts=True)
    histogram = cv2.calcHist([label], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    ids = np.flatnonzero(histogram)
    return ids, histogram[ids]


def _range(values: Sequence[float], name: str) -> tuple[float, float]:
    """Return two factors above 0 in rising order."""
    is_pair = isinstance(values, Sequence) and len(values) == 2
    if not is_pair or not 0 < values[0] <= values[1]:
        raise UserError(
            f"{name}: found {values!r}, expected two factors above 0, the smaller first."
        )
    return float(values[0]), float(values[1])


def _resize(data: Data, size_hw: tuple[int, int], interpolation: int = cv2.INTER_LINEAR) -> Data:
    """Resize the image and the maps that go with it."""
    data["img"] = resize_image(data["img"], size_hw, interpolation=interpolation)
    for key in data.get("gt_fields", []):
        data[key] = resize_label(data[key], size_hw)
    return data


def random_window(size_hw: Sequence[int], crop_hw: tuple[int, int]) -> tuple[slice, slice]:
    """Return the slices of a random window of at most `crop_hw`."""
    top = np.random.randint(0, max(size_hw[0] - crop_hw[0], 0) + 1)
    left = np.random.randint(0, max(size_hw[1] - crop_hw[1], 0) + 1)
    return slice(top, top + crop_hw[0]), slice(left, left + crop_hw[1])


def _pad_to_square(array: np.ndarray, value: float | Sequence[float]) -> np.ndarray:
    """Return the array (H, W) or (H, W, C) in the middle of a square of its longer side."""
    height, width = array.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = pad_bottom_right(array[:0, :0], (side, side), value)
    square[top : top + height, left : left + width] = array
    return square
