"""`preprocessor_config.json` of a Hugging Face folder: how images are prepared."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from paddleseg_segformer.data.normalize import IMAGENET_MEAN, IMAGENET_STD
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.weights.sidecars.hub_config import (
    JsonFile,
    read_json,
    without_download,
    write_json,
)

Processor = TypeVar("Processor", bound="HubProcessor")

PROCESSOR_FILE = "preprocessor_config.json"
MAX_SIDE = 1 << 16
IMAGE_PROCESSOR_TYPE = "SegformerImageProcessor"  # in transformers
LAYOUTS = ("channels_first", "channels_last")


_SIZES = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"})


def _is_size(value: Any) -> bool:
    """Return whether a value from a file names the sides of an image that it has to."""
    if not isinstance(value, Mapping) or set(value) not in _SIZES:
        return False
    return all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in value.values())


def _is_filter(value: Any) -> bool:
    return isinstance(value, int) and value in set(Image.Resampling)


def _are_numbers(value: Any, dimensions: tuple[int, ...]) -> bool:
    """Return whether a value from a file is one finite number, or a list of them."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of unequal lengths
        return False
    is_numeric = array.dtype.kind in "iuf" and array.ndim in dimensions and array.size > 0
    return is_numeric and bool(np.isfinite(array).all())


@dataclass
class HubProcessor(JsonFile):
    """What to do with images: resize, rescale and normalise, in this order.

    Args:
        do_resize: Resize to `size`.
        size: {"height": ..., "width": ...} in pixels, whatever the aspect ratio; or both as a pair,
            or one number for both. {"shortest_edge": ...} keeps the ratio, with "longest_edge" as
            an upper limit beside it, if need be.
        resample: Pillow's number of the filter (2: bilinear, antialiased where an image shrinks).
            Maps take the nearest pixel.
        do_rescale: Multiply images by `rescale_factor`.
        rescale_factor: Maps 0..255 to the range of `image_mean`.
        do_normalize: Subtract `image_mean` and divide by `image_std`, one number per channel.
        image_mean: By default ImageNet's.
        image_std: By default ImageNet's.
        do_reduce_labels: In maps, before they are resized: 0 becomes 255, other ids go down by
            one, 255 stays.
        reduce_labels: Old name of `do_reduce_labels`.
        do_convert_rgb: Pillow's images of other modes are turned into RGB, but for False. True, as
            in transformers, puts transparent ones on white, and does so with arrays of 0..255 too.
        input_data_format: Layout of arrays, of `LAYOUTS`; by default told by their shape.
        data_format: Layout of what is returned.
    """

    do_resize: bool = True
    size: Mapping[str, int] | Sequence[int] | int = field(
        default_factory=lambda: {"height": 512, "width": 512}
    )
    resample: int = 2
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: Sequence[float] | float = IMAGENET_MEAN
    image_std: Sequence[float] | float = IMAGENET_STD
    do_reduce_labels: bool = False
    reduce_labels: InitVar[bool | None] = None
    do_convert_rgb: bool | None = None
    input_data_format: str | None = None
    data_format: str = "channels_first"

    def __post_init__(self, reduce_labels: bool | None) -> None:
        if isinstance(self.size, int):
            self.size = {"height": self.size, "width": self.size}
        elif isinstance(self.size, Sequence) and len(self.size) == 2:
            self.size = dict(zip(("height", "width"), self.size, strict=True))
        if reduce_labels is not None:
            self.do_reduce_labels = reduce_labels
        for name, is_right, expected in (
            (
                "size",
                _is_size(self.size),
                "height and width, or shortest_edge, in pixels",
            ),
            ("resample", _is_filter(self.resample), "one of Pillow's numbers"),
            ("rescale_factor", _are_numbers(self.rescale_factor, (0,)), "a number"),
            ("image_mean", _are_numbers(self.image_mean, (0, 1)), "one number per channel"),
            (
                "image_std",
                _are_numbers(self.image_std, (0, 1)) and np.all(self.image_std),
                "one number per channel, not 0",
            ),
        ):
            if not is_right:
                raise UserError(f"{name}: found {getattr(self, name)!r}, expected {expected}.")
        for name in ("input_data_format", "data_format"):
            if getattr(self, name) not in (*LAYOUTS, None):
                raise UserError(
                    f"{name}: found {getattr(self, name)!r}, expected {' or '.join(LAYOUTS)}."
                )
        for name in ("do_resize", "do_rescale", "do_normalize", "do_reduce_labels"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name}: found {getattr(self, name)!r}, expected true or false.")
        assert isinstance(self.size, Mapping)
        self.size = dict(self.size)  # changed in place, these are no other processor's
        for name in ("image_mean", "image_std"):
            if isinstance(getattr(self, name), Sequence):
                setattr(self, name, list(getattr(self, name)))

    def transforms(self) -> list[dict[str, Any]]:
        """Return the settings as the `transforms` of a config."""
        transforms: list[dict[str, Any]] = []
        if self.do_resize:
            transforms.append(self.resizing())
        # (x * factor - mean) / std of theirs is (x / 255 - mean / unit) / (std / unit) of ours
        factor = self.rescale_factor if self.do_rescale else 1.0
        unit = 1.0 if abs(255 * factor - 1) < 1e-6 else 255 * factor
        mean, std = (self.image_mean, self.image_std) if self.do_normalize else (0.0, 1.0)
        constants = {
            name: [x / unit for x in ([values] if isinstance(values, (int, float)) else values)]
            for name, values in (("mean", mean), ("std", std))
        }
        return [*transforms, {"type": "Normalize", **constants}]

    def resizing(self) -> dict[str, Any]:
        """Return `size` and `resample` as the section of a transform."""
        assert isinstance(self.size, Mapping)
        rule = {"resample": Image.Resampling(self.resample).name}
        if "height" in self.size:
            size = [self.size["width"], self.size["height"]]
            return {"type": "AntialiasResize", "target_size": size, **rule}
        sides = {
            "short_size": self.size["shortest_edge"],
            "max_size": self.size.get("longest_edge"),
        }
        return {"type": "AntialiasResizeByShort", **sides, **rule}

    @classmethod
    def from_dict(cls: type[Processor], content: Mapping[str, Any], **overrides: Any) -> Processor:
        """Return the processor of plain data such as files hold; unknown keys are ignored."""
        known = {item.name for item in dataclasses.fields(cls)} | {"reduce_labels"}
        own = {key: content[key] for key in content if key in known and content[key] is not None}
        return cls(**{**own, **overrides})

    @classmethod
    def from_pretrained(
        cls: type[Processor],
        folder: str | os.PathLike[str],
        subfolder: str = "",
        **overrides: Any,
    ) -> Processor:
        """Read `preprocessor_config.json` of a folder.

        Raises:
            UserError: no such file, or not the settings of an image processor.
        """
        path = Path(folder, subfolder) / PROCESSOR_FILE
        content = read_json(path)
        try:
            return cls.from_dict(content, **without_download(overrides))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def save_pretrained(self, folder: str | os.PathLike[str]) -> list[str]:
        """Write `preprocessor_config.json` into a folder; return its path, in a list."""
        path = Path(folder) / PROCESSOR_FILE
        write_json(path, self.to_dict())
        return [str(path)]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        values = dataclasses.asdict(self)
        values = {
            key: list(x) if isinstance(x, tuple) else x
            for key, x in values.items()
            if x is not None
        }
        resample = int(self.resample)
        return {**values, "resample": resample, "image_processor_type": IMAGE_PROCESSOR_TYPE}
