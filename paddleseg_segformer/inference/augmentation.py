"""Views of an image in test-time augmentation: every scale combined with every flip."""

from __future__ import annotations

from dataclasses import dataclass

from paddleseg_segformer.inference.settings import InferenceSettings


@dataclass(frozen=True)
class View:
    """One scaled and flipped version of an image."""

    scale: float = 1.0
    flip_horizontal: bool = False
    flip_vertical: bool = False


def views_of(settings: InferenceSettings) -> list[View]:
    """Return the views that the settings ask for, the unflipped one of each scale first."""
    horizontal = (False, True) if settings.flip_horizontal else (False,)
    vertical = (False, True) if settings.flip_vertical else (False,)
    return [View(scale, h, v) for scale in settings.scales for v in vertical for h in horizontal]


def scaled_size(size_hw: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return (height, width) times `scale`, rounded half up, at least 1."""
    return max(1, int(size_hw[0] * scale + 0.5)), max(1, int(size_hw[1] * scale + 0.5))
