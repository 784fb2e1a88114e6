"""How predictions are made: whole image or sliding window, scales, flips, averaging."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paddleseg_segformer.errors import UserError, did_you_mean
from paddleseg_segformer.inference.windows import BLENDS

AVERAGES = ("logits", "softmax")
SCALE_MODES = ("transformed", "source")


@dataclass(frozen=True)
class InferenceSettings:
    """Settings of the inference pipeline; sizes are (height, width) in pixels.

    Args:
        is_slide: Sliding window instead of the whole image at once.
        crop_size_hw: Size of the sliding window; it stays the same at every scale.
        stride_hw: Step between windows; by default `crop_size_hw` (no overlap).
        scales: Factors of multi-scale testing; each is combined with each flip.
        flip_horizontal: Also predict the mirrored image; with both flips there are four views.
        flip_vertical: Also predict the image upside down.
        average: What is averaged over scales and flips: "logits" (PaddleSeg), or "softmax" of the
            logits at the original size (NVlabs, mmsegmentation).
        scale_mode: "transformed": the transformed image is scaled (PaddleSeg); "source": the size
            rules are applied to the original image with their target scaled (NVlabs).
        is_one_step: Resize logits from the network's output size to the original size at once
            (Hugging Face), not by way of the network's input size. Not with a sliding window.
        align_corners: The corner pixels lie on each other where the network's output is resized
            (segmentation_models.pytorch), not half a pixel inside.
        window_batch: The most windows that go through the network together; by default 4 on a GPU,
            and 1 on the CPU, where more take longer.
        temperatures: Calibrate probabilities: logits (logarithms of averaged probabilities) are
            divided by one number for all pixels, or by the one of the class that is predicted
            there (K numbers). Labels stay the same. Fitted by `evaluation.calibration`.
        blend: How the logits of windows are put together where they overlap: "none" (of the window
            with the nearest centre), "average", "cosine" or "gaussian" (weighted by how far from
            the window's edge).

    Raises:
        UserError: values that do not go together.
    """

    is_slide: bool = False
    crop_size_hw: tuple[int, int] | None = None
    stride_hw: tuple[int, int] | None = None
    scales: tuple[float, ...] = (1.0,)
    flip_horizontal: bool = False
    flip_vertical: bool = False
    average: str = "logits"
    scale_mode: str = "transformed"
    is_one_step: bool = False
    window_batch: int | None = None
    align_corners: bool = False
    temperatures: tuple[float, ...] = ()
    blend: str = "average"

    def __post_init__(self) -> None:
        self._check_windows()
        if not self.scales or not all(_is_positive(scale) for scale in self.scales):
            raise UserError(f"scales: found {list(self.scales)}, expected numbers above 0.")
        for name, known in (
            ("average", AVERAGES),
            ("scale_mode", SCALE_MODES),
            ("blend", BLENDS),
        ):
            value = getattr(self, name)
            if value not in known:
                raise UserError(
                    f"{name}: found {value!r}, expected one of {', '.join(known)}."
                    f"{did_you_mean(str(value), known)}"
                )
        if self.window_batch is not None and self.window_batch < 1:
            raise UserError(f"window_batch: found {self.window_batch}, expected 1 or more.")
        is_list = isinstance(self.temperatures, tuple)
        if not is_list or not all(_is_positive(value) for value in self.temperatures):
            found = list(self.temperatures) if is_list else self.temperatures
            raise UserError(f"temperatures: found {found!r}, expected numbers above 0.")

    def check_temperatures(self, num_classes: int) -> None:
        """Refuse temperatures that are not one for all, or one for each class.

        Raises:
            UserError: they are another number.
        """
        if len(self.temperatures) not in (0, 1, num_classes):
            raise UserError(
                f"temperatures: found {len(self.temperatures)}, expected 1, or one for each of "
                f"the {num_classes} classes."
            )

    def _check_windows(self) -> None:
        if not self.is_slide:
            return
        if self.crop_size_hw is None:
            raise UserError(
                "is_slide: a sliding window needs crop_size, e.g. crop_size: [1024, 1024]."
            )
        if self.is_one_step:
            raise UserError(
                "is_one_step: windows are put together at the network's input size, so a sliding "
                "window cannot be resized in one step. Switch off is_slide or is_one_step."
            )
        if self.stride_hw is None:
            object.__setattr__(self, "stride_hw", self.crop_size_hw)  # as frozen classes allow it
        _check_size("crop_size", self.crop_size_hw)
        _check_size("stride", self.stride_hw)
        assert self.stride_hw is not None
        if any(step > side for step, side in zip(self.stride_hw, self.crop_size_hw, strict=True)):
            raise UserError(
                f"stride {_by(self.stride_hw)} (height x width) is larger than crop_size "
                f"{_by(self.crop_size_hw)}: pixels between windows would get no prediction. "
                "Choose a stride of at most the crop size."
            )

    @property
    def num_views(self) -> int:
        """Return the number of scaled and flipped versions of an image."""
        return len(self.scales) * (1 + self.flip_horizontal) * (1 + self.flip_vertical)

    def describe(self) -> str:
        """Return one line that says what is computed."""
        parts = ["whole image"]
        if self.is_slide and self.crop_size_hw and self.stride_hw:
            blend = "" if self.blend == "average" else f", blend {self.blend}"
            size, step = _by(self.crop_size_hw), _by(self.stride_hw)
            parts = [f"windows {size} every {step} px (h x w){blend}"]
        if self.scales != (1.0,):
            scaled = "transformed image" if self.scale_mode == "transformed" else "source image"
            parts.append(f"scales {', '.join(f'{s:g}' for s in self.scales)} of the {scaled}")
        flips = [
            name
            for name, is_on in (
                ("horizontal", self.flip_horizontal),
                ("vertical", self.flip_vertical),
            )
            if is_on
        ]
        if flips:
            parts.append(f"{' and '.join(flips)} flip")
        if self.num_views > 1:
            parts.append(f"average of {self.average} over {self.num_views} views")
        if self.is_one_step:
            parts.append("logits resized in one step")
        if self.align_corners:
            parts.append("corners of the logits aligned")
        if self.temperatures:
            parts.append("confidence calibrated")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain data; `from_dict` reads them back."""
        values = dataclasses.asdict(self)
        later = (
            ("window_batch", None),
            ("align_corners", False),
            ("temperatures", ()),
            ("blend", "average"),
        )
        for key, default in later:
            if values[key] == default:  # keys that older programs do not know
                del values[key]
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in values.items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InferenceSettings:
        """Return the settings of `to_dict`'s plain data; raises as `replace` does."""
        return cls().replace(values)

    def replace(self, changes: Mapping[str, Any]) -> InferenceSettings:
        """Return the settings with some fields replaced; lists become tuples.

        Raises:
            UserError: an unknown field, or values that do not go together.
        """
        known = [field.name for field in dataclasses.fields(self)]
        for key in changes:
            if key not in known:
                raise UserError(f"inference: unknown key '{key}'.{did_you_mean(key, known)}")
        arguments: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in changes.items()
        }
        return dataclasses.replace(self, **arguments)


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e3


def _check_size(name: str, size_hw: tuple[int, int] | None) -> None:
    is_pair = isinstance(size_hw, tuple) and len(size_hw) == 2
    if not is_pair or not all(type(side) is int and side > 0 for side in size_hw or ()):
        raise UserError(f"{name}: found {size_hw!r}, expected two whole numbers of pixels above 0.")


def _by(size_hw: tuple[int, int] | None) -> str:
    return "x".join(str(side) for side in size_hw or ())
