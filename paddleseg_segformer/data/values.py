"""`value_range`: what the values that are stored in images mean, and their map to 0..255."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paddleseg_segformer.data.findings import Fault
from paddleseg_segformer.errors import UserError

DeclaredRange = str | Sequence[float] | Mapping[str, Sequence[float]]  # as it stands in a config

FORMS = "dtype, data, [LOW, HIGH] or {percentile: [LOW, HIGH]}"
MAX_VALUE = 1e35  # of a limit: 255 times it is still a float32


@dataclass(frozen=True)
class ValueRange:
    """A linear map of stored values: LOW becomes 0, HIGH 255; what lies beyond them is clipped.

    Args:
        form: What LOW and HIGH are. "dtype": the least and greatest value of the stored type, 0 and
            1 of floats. "data": the least and greatest value of each image, per band.
            "percentile": these percentiles of each image, per band. "values": these values.
        limits: LOW and HIGH of "percentile" (0..100) and "values".
    """

    form: str
    limits: tuple[float, float] | None = None

    @classmethod
    def of(cls, declared: Any) -> ValueRange | None:
        """Return the map that a config declares; None where it declares none.

        Raises:
            UserError: not one of the `FORMS`.
        """
        if declared is None:
            return None
        if declared in ("dtype", "data"):
            return cls(declared)
        if isinstance(declared, Mapping) and set(declared) == {"percentile"}:
            return cls("percentile", _limits(declared["percentile"], "percentile", 0, 100))
        if isinstance(declared, (list, tuple)):
            return cls("values", _limits(declared, "LOW, HIGH", -MAX_VALUE, MAX_VALUE))
        raise UserError(f"value_range: found {declared!r}, expected {FORMS}.")

    @property
    def declared(self) -> DeclaredRange:
        """Return it as plain data, which `of` reads back."""
        if self.limits is None:
            return self.form
        return list(self.limits) if self.form == "values" else {self.form: list(self.limits)}

    @property
    def keeps_uint8(self) -> bool:
        """Return whether images of 8 bits stay as they are."""
        return self.form == "dtype" or (self.form == "values" and self.limits == (0, 255))

    def apply(self, image: np.ndarray, name: str | os.PathLike[str]) -> np.ndarray:
        """Map an image (H, W, C) of stored values to 0..255; bands without a range become 0.

        Args:
            name: of the image, for messages.

        Returns:
            float32; uint8 images as they are where they stay so.

        Raises:
            UserError: NaN or infinite values, or values whose type has no range.
        """
        check_finite(image, name)
        if not image.size or (image.dtype == np.uint8 and self.keeps_uint8):
            return image
        mapped = image.astype(np.result_type(image, np.float32))
        low, high = np.asarray(self._low_and_high(mapped, image.dtype, name), mapped.dtype)
        mapped -= low
        mapped *= 255
        mapped /= np.where(high > low, high - low, np.inf)
        return np.clip(mapped, 0, 255, out=mapped).astype(np.float32, copy=False)

    def _low_and_high(
        self, image: np.ndarray, stored: np.dtype, name: str | os.PathLike[str]
    ) -> Any:
        """Return LOW and HIGH, each one value or one for each band."""
        if self.limits is not None:
            is_share = self.form == "percentile"
            return np.percentile(image, self.limits, axis=(0, 1)) if is_share else self.limits
        if self.form == "data":
            return image.min(axis=(0, 1)), image.max(axis=(0, 1))
        if stored.kind in "iu" and stored.itemsize <= 2:
            return np.iinfo(stored).min, np.iinfo(stored).max
        if stored.kind in "iu" or image.min() < 0 or image.max() > 1:
            raise UserError(
                f"{name}: found {stored} values in {image.min():g}..{image.max():g}; value_range: "
                "dtype is for 8 and 16 bits and for floats in 0..1. Give it as [LOW, HIGH]."
            )
        return 0, 1


def check_finite(image: np.ndarray, name: str | os.PathLike[str]) -> None:
    """Refuse NaN and infinite values, which a network may pass over without a trace.

    Args:
        name: of the image, for messages.
    """
    if image.dtype.kind != "f" or np.isfinite(image).all():
        return
    wrong = image.size - int(np.isfinite(image).sum())
    raise Fault(
        f"{name}: {wrong} of {image.size} values are NaN or infinite. Replace them, such as by the "
        "mean of the band.",
        "image-not-finite",
    )


def _limits(given: Any, name: str, least: float, greatest: float) -> tuple[float, float]:
    """Return two ascending numbers within bounds."""
    is_pair = isinstance(given, (list, tuple)) and len(given) == 2
    if is_pair and all(type(value) in (int, float) for value in given):
        low, high = given
        if least <= low < high <= greatest:
            return low, high
    raise UserError(
        f"value_range: found {name} {given!r}, expected two ascending numbers in "
        f"{least:g}..{greatest:g}."
    )
