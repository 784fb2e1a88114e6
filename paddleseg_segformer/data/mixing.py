"""Augmentation that takes pixels of other samples, and of the classes that are to be seen.

Each pixel keeps the label of the sample that it comes from, and pixels that come from none are
ignored: labels are exact at every seam. A transform with `mixes_samples` finds in
`data["draw_other"]` a function that returns another sample of the data set, drawn at random, after
the transforms before this one. See `transforms.py` for the rest of the contract.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from paddleseg_segformer.data.resize import pad_bottom_right, size_hw_of
from paddleseg_segformer.data.transforms import (
    Data,
    RandomPaddingCrop,
    count_ids,
    random_window,
)
from paddleseg_segformer.errors import UserError


class RareClassCrop(RandomPaddingCrop):
    """`RandomPaddingCrop` that often shows a class of the image, each class as often as the others.

    With probability `prob` one of the image's classes is drawn, then one of its pixels, then one of
    the windows that hold it.

    Args:
        crop_size: (width, height) in pixels.
        prob: Probability.
        class_ids: The classes to draw from; by default all.
        im_padding_value: 0..255, one value or one per channel; rounded half to even.
        label_padding_value: Id of padded pixels.
        category_max_ratio: `cat_max_ratio` of `RandomCrop`, for the other windows.
        ignore_index: As in `RandomCrop`.

    Source: Isensee et al., "nnU-Net", 2021 (oversampling of the foreground).
    """

    def __init__(
        self,
        crop_size: Sequence[int] = (512, 512),
        prob: float = 0.5,
        class_ids: Sequence[int] | None = None,
        im_padding_value: float | Sequence[float] = 127.5,
        label_padding_value: int = 255,
        category_max_ratio: float = 1.0,
        ignore_index: int = 255,
    ) -> None:
        super().__init__(
            crop_size, im_padding_value, label_padding_value, category_max_ratio, ignore_index
        )
        self.prob = _probability(prob, "RareClassCrop")
        self.class_ids = class_ids

    def _draw(self, label: np.ndarray) -> tuple[slice, slice]:
        ids = _classes_in(label, self.ignore_index, self.class_ids)
        if random.random() >= self.prob or not len(ids):
            return super()._draw(label)
        places = np.flatnonzero(label == np.random.choice(ids))
        pixel = np.unravel_index(np.random.choice(places), label.shape)
        window = []
        for place, side, crop in zip(pixel, label.shape, self.crop_hw, strict=True):
            start = np.random.randint(max(place - crop + 1, 0), min(place, side - crop) + 1)
            window.append(slice(start, start + crop))
        return window[0], window[1]


class _Mixing:
    keeps_uint8 = True
    mixes_samples = True

    def _other(self, data: Data) -> Data:
        """Return another sample of the same size and type."""
        other = _drawn(data, type(self).__name__)
        if other["img"].shape != data["img"].shape:
            raise UserError(
                f"{type(self).__name__}: found images of {_size(data)} and {_size(other)} px, "
                "expected one size. Put it after a crop of fixed size, such as RandomPaddingCrop."
            )
        return other


class CutMix(_Mixing):
    """Replace a random rectangle by the same rectangle of another sample.

    Args:
        prob: Probability.
        alpha: The share of the image that stays is of the beta distribution (alpha, alpha).

    Source: Yun et al., "CutMix", 2019; for segmentation French et al., 2020.
    """

    def __init__(self, prob: float = 0.5, alpha: float = 1.0) -> None:
        self.prob = _probability(prob, "CutMix")
        if not alpha > 0:
            raise UserError(f"CutMix: alpha is {alpha}, expected more than 0.")
        self.alpha = alpha

    def __call__(self, data: Data) -> Data:
        if random.random() >= self.prob:
            return data
        other = self._other(data)
        side_share = np.sqrt(1 - np.random.beta(self.alpha, self.alpha))
        window = []
        for side in data["label"].shape:
            length, middle = round(side * side_share), np.random.randint(side)
            start = middle - length // 2
            window.append(slice(max(start, 0), max(start + length, 0)))
        mask = np.zeros(data["label"].shape, bool)
        mask[tuple(window)] = True
        return _paste(data, other, mask)


class CopyPaste(_Mixing):
    """Paste all pixels of some classes of another sample, where they lie there.

    Half of the other sample's classes are drawn, at least one.

    Args:
        prob: Probability.
        class_ids: The classes that may be pasted; by default all.
        ignore_index: Id of pixels that are not labelled; they are never pasted.

    Source: Ghiasi et al., "Simple Copy-Paste", 2021; classes in place of instances as in Olsson et
        al., "ClassMix", 2021.
    """

    def __init__(
        self, prob: float = 0.5, class_ids: Sequence[int] | None = None, ignore_index: int = 255
    ) -> None:
        self.prob = _probability(prob, "CopyPaste")
        self.class_ids = class_ids
        self.ignore_index = ignore_index

    def __call__(self, data: Data) -> Data:
        if random.random() >= self.prob:
            return data
        other = self._other(data)
        ids = _classes_in(other["label"], self.ignore_index, self.class_ids)
        chosen = np.random.permutation(ids)[: max(len(ids) // 2, 1)]
        return _paste(data, other, np.isin(other["label"], chosen))


class Mosaic(_Mixing):
    """Put windows of four samples around a random point, in an image of `crop_size`.

    Args:
        crop_size: (width, height) in pixels, of the result.
        prob: Probability; other samples keep their size, so that a crop has to follow.
        im_padding_value: 0..255, one value or one per channel, where samples do not reach.
        label_padding_value: Id of such pixels.

    Source: Bochkovskiy et al., "YOLOv4", 2020.
    """

    def __init__(
        self,
        crop_size: Sequence[int] = (512, 512),
        prob: float = 0.5,
        im_padding_value: float | Sequence[float] = 127.5,
        label_padding_value: int = 255,
    ) -> None:
        self.crop_hw = size_hw_of(crop_size, "Mosaic: crop_size")
        self.prob = _probability(prob, "Mosaic")
        self.im_padding_value = im_padding_value
        self.label_padding_value = label_padding_value

    def __call__(self, data: Data) -> Data:
        if random.random() >= self.prob:
            return data
        samples = [data, *(_drawn(data, "Mosaic") for _ in range(3))]
        height, width = self.crop_hw
        middle_y = np.random.randint(height // 4, 3 * height // 4 + 1)
        middle_x = np.random.randint(width // 4, 3 * width // 4 + 1)
        keys = ("img", *data.get("gt_fields", []))
        values = dict.fromkeys(keys, self.label_padding_value) | {"img": self.im_padding_value}
        canvas = {
            key: pad_bottom_right(data[key][:0, :0], self.crop_hw, values[key]) for key in keys
        }
        for index, sample in enumerate(samples):  # row by row
            is_lower, is_right = index // 2, index % 2
            quarter_hw = (
                height - middle_y if is_lower else middle_y,
                width - middle_x if is_right else middle_x,
            )
            window = random_window(sample["label"].shape, quarter_hw)
            for key in keys:
                piece = sample[key][window]
                top = middle_y - (0 if is_lower else piece.shape[0])
                left = middle_x - (0 if is_right else piece.shape[1])
                canvas[key][top : top + piece.shape[0], left : left + piece.shape[1]] = piece
        return {**data, **canvas}


TRANSFORMS: dict[str, Callable[..., Any]] = {
    transform.__name__: transform for transform in (RareClassCrop, CutMix, CopyPaste, Mosaic)
}


def _drawn(data: Data, name: str) -> Data:
    """Return another sample, whose image holds numbers of the same type."""
    if "draw_other" not in data:
        raise UserError(
            f"{name}: this data set gives no other samples. Derive it from "
            "paddleseg_segformer.data.SegmentationDataset, or leave the transform out."
        )
    other: Data = data["draw_other"]()
    if other["img"].dtype != data["img"].dtype:
        raise UserError(
            f"{name}: found images of {data['img'].dtype} and {other['img'].dtype}, expected one "
            "type of values. Set value_range of the data set."
        )
    return other


def _paste(data: Data, other: Data, mask: np.ndarray) -> Data:
    """Return the sample with the pixels of `mask` (H, W) taken from the other."""
    pasted = {key: np.where(mask, other[key], data[key]) for key in data.get("gt_fields", [])}
    return {**data, **pasted, "img": np.where(mask[:, :, None], other["img"], data["img"])}


def _classes_in(
    label: np.ndarray, ignore_index: int, class_ids: Sequence[int] | None
) -> np.ndarray:
    """Return the ids of the classes in a label (H, W), of `class_ids` if given."""
    ids = count_ids(label)[0]
    wanted = ids if class_ids is None else np.asarray(class_ids)
    return ids[(ids != ignore_index) & np.isin(ids, wanted)]


def _size(data: Data) -> str:
    return "x".join(map(str, data["img"].shape[:2]))


def _probability(prob: float, name: str) -> float:
    if not 0 <= prob <= 1:
        raise UserError(f"{name}: prob is {prob}, expected 0 to 1.")
    return prob
