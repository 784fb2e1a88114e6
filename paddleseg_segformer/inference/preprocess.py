"""From image to network input: size rules on the host, normalisation on the device.

`value_range` belongs to it as well, but is applied where images are read.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from paddleseg_segformer.data.normalize import Normalize
from paddleseg_segformer.data.resize import SIZE_RULES, SizeRule
from paddleseg_segformer.data.values import ValueRange, check_finite
from paddleseg_segformer.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from paddleseg_segformer.config import Config

logger = logging.getLogger(__name__)


class SizeStep(NamedTuple):
    """One size rule as it was applied to an image."""

    pads: bool
    before_hw: tuple[int, int]


@dataclass(frozen=True)
class Preprocess:
    """Size rules in order, then normalisation.

    Args:
        size_rules: Each changes the image's size, on the host.
        normalize: Constants applied on the device, or None where the network takes 0..255.
        sections: The transforms as plain data, as they stand in a config.
        value_range: How images were read: with it the stored values were mapped to 0..255.
    """

    size_rules: tuple[SizeRule, ...] = ()
    normalize: Normalize | None = None
    sections: tuple[Mapping[str, Any], ...] = ()
    value_range: ValueRange | None = None

    @classmethod
    def from_config(cls, config: Config) -> Preprocess:
        """Build from the `transforms` and `value_range` of a config's `val_dataset`.

        Without one, `value_range` is that of its `train_dataset`.

        Raises:
            UserError: as `from_transforms`, or a wrong `value_range`.
        """
        preprocess = cls.from_transforms((config.val_dataset or {}).get("transforms"))
        section = config.val_dataset or config.train_dataset or {}
        return replace(preprocess, value_range=ValueRange.of(section.get("value_range")))

    @classmethod
    def from_transforms(cls, sections: Sequence[Mapping[str, Any]] | None) -> Preprocess:
        """Build from the `transforms` of a config's `val_dataset`.

        Raises:
            UserError: a transform that is neither a size rule nor `Normalize`, a wrong argument,
                or `Normalize` twice or before padding.
        """
        sections = tuple(sections or ())
        built = [_build(section) for section in sections]
        places = [index for index, item in enumerate(built) if isinstance(item, Normalize)]
        if places and places != [len(built) - 1]:
            place = places[0]
            after = built[place + 1 :]
            if len(places) > 1 or any(isinstance(rule, SizeRule) and rule.pads for rule in after):
                raise UserError(
                    "transforms: Normalize comes before another one, or before padding, which "
                    "would be in normalised values; put one Normalize last."
                )
            logger.warning(
                "transforms: Normalize is moved behind the size rules, which changes no more than "
                "rounding: images are resized as they were read"
            )
            sections = (*sections[:place], *sections[place + 1 :], sections[place])
            built = [*built[:place], *after, built[place]]
        last = built[-1] if built else None
        normalize = last if isinstance(last, Normalize) else None
        size_rules = tuple(item for item in built if isinstance(item, SizeRule))
        return cls(size_rules, normalize, sections)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """Return the preprocessing of `to_dict`'s plain data."""
        unknown = set(values) - {"transforms", "value_range"}
        if unknown:
            raise UserError(
                f"preprocess: unknown keys {sorted(unknown)}, expected `transforms` and "
                "`value_range`."
            )
        preprocess = cls.from_transforms(values.get("transforms"))
        return replace(preprocess, value_range=ValueRange.of(values.get("value_range")))

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data, which `from_dict` reads back; no `value_range` is left out."""
        transforms = {"transforms": [dict(section) for section in self.sections]}
        return transforms | ({"value_range": self.value_range.declared} if self.value_range else {})

    def check_values(self, image: np.ndarray) -> None:
        """Refuse values that the network cannot be meant for.

        Args:
            image: (H, W, C), as it was read.

        Raises:
            UserError: NaN or infinite values, which a network may pass over without a trace; or a
                range of 0..1, or far above 255, where `Normalize` is for 0..255.
        """
        if image.dtype == np.uint8 or not image.size:
            return
        check_finite(image, "image")
        is_mapped = self.value_range is not None
        if self.normalize and not is_mapped and (reason := self.normalize.misfit(image)):
            raise UserError(f"image: {reason}")

    def resize(self, image: Any, ratio: float = 1.0) -> tuple[Any, list[SizeStep]]:
        """Apply the size rules.

        Args:
            image: (H, W, C), RGB, 0..255; or without rules, anything.
            ratio: Factor on the rules' targets, in multi-scale testing of the source image.

        Returns:
            The image at the network's input size, and what was done to get there.
        """
        if not self.size_rules and ratio != 1.0:
            raise UserError(
                "scale_mode: source scales the targets of size rules, but the transforms have "
                "none. Add one, such as ResizeKeepRatio, or use scale_mode: transformed."
            )
        steps = []
        for rule in self.size_rules:
            steps.append(SizeStep(rule.pads, (image.shape[0], image.shape[1])))
            image = rule.apply(image, ratio)
        return image, steps


def _build(section: Mapping[str, Any]) -> SizeRule | Normalize:
    """Build one transform from plain data."""
    known: dict[str, type] = {**SIZE_RULES, "Normalize": Normalize}
    if not isinstance(section, Mapping) or "type" not in section:
        raise UserError(f"transforms: found {section!r}, expected keys with a `type`.")
    name = section["type"]
    if name not in known:
        raise UserError(
            f"transforms: '{name}' cannot be undone on predictions; evaluation and prediction take "
            f"size rules and Normalize.{did_you_mean(name, known)}"
        )
    arguments = {key: value for key, value in section.items() if key != "type"}
    parameters = inspect.signature(known[name]).parameters
    for key in arguments:
        if key not in parameters:
            raise UserError(
                f"transforms: {name} has no key '{key}'.{did_you_mean(key, parameters)}"
            )
    try:
        return known[name](**arguments)
    except TypeError as error:
        raise UserError(f"transforms: {name}: {error}") from None
