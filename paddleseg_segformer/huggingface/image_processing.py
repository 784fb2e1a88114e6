"""`SegformerImageProcessor`: images and segmentation maps to arrays for the model, and back."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from PIL import Image

from paddleseg_segformer.data.labels import IGNORE_INDEX
from paddleseg_segformer.data.normalize import IMAGENET_MEAN, IMAGENET_STD
from paddleseg_segformer.data.resize import AntialiasResize, resize_map
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.huggingface.outputs import BatchFeature, LogitsOutput
from paddleseg_segformer.inference.upsample_argmax import upsampled_labels
from paddleseg_segformer.weights.sidecars.json_files import read_json, write_json

PROCESSOR_FILE = "preprocessor_config.json"
MAX_SIDE = 1 << 16
RETURN_TENSORS = ("pd", "np", None)


def _is_size(value: Any) -> bool:
    """Tell whether a value from a file is a height and a width."""
    if not isinstance(value, Mapping) or set(value) != {"height", "width"}:
        return False
    return all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in value.values())


def _is_filter(value: Any) -> bool:
    return isinstance(value, int) and value in set(Image.Resampling)


def _are_numbers(value: Any, dimensions: tuple[int, ...]) -> bool:
    """Tell whether a value from a file is one finite number, or a list of them."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of unequal lengths
        return False
    is_numeric = array.dtype.kind in "iuf" and array.ndim in dimensions and array.size > 0
    return is_numeric and bool(np.isfinite(array).all())


@dataclass
class SegformerImageProcessor:
    """Resize, rescale and normalise, in this order, each where it is switched on.

    Args:
        do_resize: Resize to `size`, whatever the aspect ratio.
        size: {"height": ..., "width": ...} in pixels; one number stands for both.
        resample: Pillow's number of the filter (2: bilinear); it widens where an image shrinks.
            Maps take the nearest pixel.
        do_rescale: Multiply images by `rescale_factor`.
        rescale_factor: Takes 0..255 to the range of `image_mean`.
        do_normalize: Subtract `image_mean` and divide by `image_std`, one number per channel.
        image_mean: By default ImageNet's.
        image_std: By default ImageNet's.
        do_reduce_labels: In maps, before they are resized: 0 becomes 255, other ids go down by
            one, 255 stays.
        reduce_labels: Old name of `do_reduce_labels`.
    """

    do_resize: bool = True
    size: Mapping[str, int] | int = field(default_factory=lambda: {"height": 512, "width": 512})
    resample: int = 2
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: Sequence[float] | float = IMAGENET_MEAN
    image_std: Sequence[float] | float = IMAGENET_STD
    do_reduce_labels: bool = False
    reduce_labels: InitVar[bool | None] = None

    def __post_init__(self, reduce_labels: bool | None) -> None:
        if isinstance(self.size, int):
            self.size = {"height": self.size, "width": self.size}
        if reduce_labels is not None:
            self.do_reduce_labels = reduce_labels
        for name, is_right, expected in (
            ("size", _is_size(self.size), "height and width in pixels"),
            ("resample", _is_filter(self.resample), "one of Pillow's numbers"),
            ("rescale_factor", _are_numbers(self.rescale_factor, (0,)), "a number"),
            ("image_mean", _are_numbers(self.image_mean, (0, 1)), "one number per channel"),
            ("image_std", _are_numbers(self.image_std, (0, 1)), "one number per channel"),
        ):
            if not is_right:
                raise UserError(f"{name}: found {getattr(self, name)!r}, expected {expected}.")
        for name in ("do_resize", "do_rescale", "do_normalize", "do_reduce_labels"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name}: found {getattr(self, name)!r}, expected true or false.")

    def __call__(
        self,
        images: Any,
        segmentation_maps: Any = None,
        return_tensors: str | None = "pd",
        **overrides: Any,
    ) -> BatchFeature:
        """Return `pixel_values` (N, C, h, w) float32 and, of maps, `labels` (N, h, w) int64.

        Args:
            images: An image or a list of them: PIL, or an array or tensor (H, W), (H, W, C) or
                (C, H, W) of 0..255, RGB; an array of four axes is a list.
            segmentation_maps: The same of maps (H, W) of class ids.
            return_tensors: "pd" for Paddle tensors, "np" for arrays, None for lists of arrays.
            overrides: Arguments of the constructor that hold for this call.

        Raises:
            UserError: something else than images, or images that do not fit into one array.
        """
        if return_tensors not in RETURN_TENSORS:
            raise UserError(f"return_tensors: found {return_tensors!r}, expected 'pd' or 'np'.")
        settings = dataclasses.replace(self, **overrides) if overrides else self
        listed = _as_list(images, 3)
        features = {"pixel_values": [settings._image(image) for image in listed]}
        if segmentation_maps is not None:
            maps = _as_list(segmentation_maps, 2)
            if len(maps) != len(listed):
                raise UserError(
                    f"segmentation_maps: found {len(maps)} for {len(listed)} images, expected one "
                    "each."
                )
            features["labels"] = [settings._map(item) for item in maps]
        if return_tensors is None:
            return BatchFeature(features)
        stacked = {name: _stacked(name, arrays) for name, arrays in features.items()}
        if return_tensors == "np":
            return BatchFeature(stacked)
        return BatchFeature({name: paddle.to_tensor(array) for name, array in stacked.items()})

    preprocess = __call__

    def post_process_semantic_segmentation(
        self,
        outputs: LogitsOutput,
        target_sizes: Sequence[Sequence[int]] | Tensor | None = None,
    ) -> list[Tensor]:
        """Return a map of class ids (h, w), int64, for each image.

        Args:
            outputs: Output of a segmentation model.
            target_sizes: (height, width) of each map: logits are resized to it in one bilinear
                step. Without it maps have the size of the logits.

        Raises:
            UserError: not one size for each image.
        """
        logits = outputs.logits
        if logits is None:
            raise UserError("outputs: no logits. Give the output of a segmentation model.")
        if target_sizes is None:
            return list(logits.argmax(axis=1))
        if len(target_sizes) != len(logits):
            raise UserError(
                f"target_sizes: found {len(target_sizes)} sizes for {len(logits)} images, "
                "expected (height, width) of each."
            )
        sizes = [(int(height), int(width)) for height, width in target_sizes]
        return [
            paddle.to_tensor(upsampled_labels(item, size_hw).astype(np.int64))
            for item, size_hw in zip(logits, sizes, strict=True)
        ]

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], **overrides: Any
    ) -> SegformerImageProcessor:
        """Read `preprocessor_config.json` of a folder.

        Raises:
            UserError: no such file, or not such a file.
        """
        path = Path(folder) / PROCESSOR_FILE
        content = read_json(path)
        known = {item.name for item in dataclasses.fields(cls)} | {"reduce_labels"}
        own = {key: content[key] for key in content if key in known and content[key] is not None}
        try:
            return cls(**{**own, **overrides})
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `preprocessor_config.json` into a folder."""
        write_json(Path(folder) / PROCESSOR_FILE, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        values = dataclasses.asdict(self)
        values = {key: list(x) if isinstance(x, tuple) else x for key, x in values.items()}
        kind = type(self).__name__
        return {**values, "resample": int(self.resample), "image_processor_type": kind}

    def _image(self, image: Any) -> np.ndarray:
        """Return one image (C, h, w) float32."""
        pixels = _pixels(image)
        if self.do_resize:
            rule = AntialiasResize(self._target_wh(), Image.Resampling(self.resample).name)
            pixels = rule.apply(pixels)
        x = pixels.astype(np.float32)
        if self.do_rescale:
            x = x * np.float32(self.rescale_factor)
        if self.do_normalize:
            mean, std = (np.asarray(x, np.float32) for x in (self.image_mean, self.image_std))
            x = (x - mean) / std
        return np.ascontiguousarray(x.transpose(2, 0, 1))

    def _map(self, segmentation_map: Any) -> np.ndarray:
        """Return one map of class ids (h, w) int64."""
        label = np.asarray(segmentation_map)
        if label.ndim == 3 and 1 in (label.shape[0], label.shape[2]):
            label = label[0] if label.shape[0] == 1 else label[:, :, 0]
        if label.ndim != 2 or label.dtype.kind not in "iub":
            raise UserError(
                f"segmentation_maps: found {label.dtype} of shape {label.shape}, expected class "
                "ids (height, width)."
            )
        label = label.astype(np.int32)
        if self.do_reduce_labels:
            is_ignored = (label == 0) | (label == IGNORE_INDEX)
            label = np.where(is_ignored, IGNORE_INDEX, label - 1)
        if self.do_resize:
            label = resize_map(label, self._target_wh()[::-1], "NEAREST")
        return label.astype(np.int64)

    def _target_wh(self) -> tuple[int, int]:
        assert isinstance(self.size, Mapping)
        return self.size["width"], self.size["height"]


def _as_list(given: Any, num_axes: int) -> list[Any]:
    """Return one image or map, or an array of one more axis than these have, as a list."""
    if isinstance(given, (list, tuple)):
        return list(given)
    is_one = isinstance(given, Image.Image) or given.ndim <= num_axes
    is_one_map = not is_one and num_axes == 2 and given.shape[-1] == 1
    return [given] if is_one or is_one_map else list(given)


def _pixels(image: Any) -> np.ndarray:
    """Return an image as (H, W, C)."""
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        return np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.ndim != 3 or pixels.dtype.kind not in "iuf":
        raise UserError(
            f"images: found {pixels.dtype} of shape {pixels.shape}, expected (height, width, 3) or "
            "(3, height, width)."
        )
    return pixels.transpose(1, 2, 0) if pixels.shape[0] in (1, 3) else pixels


def _stacked(name: str, arrays: list[np.ndarray]) -> np.ndarray:
    sizes = {array.shape for array in arrays}
    if len(sizes) != 1:
        raise UserError(
            f"{name}: found {len(sizes)} different shapes, which no tensor holds. Resize them "
            "(do_resize), or take return_tensors=None."
        )
    return np.stack(arrays)
