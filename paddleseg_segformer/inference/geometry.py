"""From a window's logits back to the original image, one axis at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.interpolation import LinearMap, bilinear, crop, flip, place
from paddleseg_segformer.inference.preprocess import SizeStep
from paddleseg_segformer.inference.windows import window_shares, windows_along


@dataclass(frozen=True)
class BackStep:
    """One step from the network's input size towards the original size, along one axis."""

    is_crop: bool
    length: int  # after the step


@dataclass(frozen=True)
class Axis:
    """One axis (rows or columns) of one view.

    Args:
        length: Samples of the view, as the network sees it.
        windows: (start, stop) of each window.
        is_flipped: Whether the view is mirrored along this axis.
        back: Steps from `length` to the original length.
        is_one_step: Resize from the logits straight to the original length.
        pad_multiple: The network pads a window at its end to a multiple of so many samples, and its
            logits stand for the padded window.
        align_corners: Of the first resize, that of the logits.
        blend: How windows are put together; see `windows.window_weights`.
    """

    length: int
    windows: tuple[tuple[int, int], ...]
    is_flipped: bool
    back: tuple[BackStep, ...]
    is_one_step: bool = False
    pad_multiple: int = 1
    align_corners: bool = False
    blend: str = "average"

    @property
    def original_length(self) -> int:
        """Return the length along this axis of the original image."""
        return self.back[-1].length if self.back else self.length

    def to_original(self, window: int, num_logits: int) -> LinearMap:
        """Return the map from a window's logits to its share of the original image's logits."""
        return _to_original(self, window, num_logits)

    def reach(self, window: int) -> tuple[int, int]:
        """Return first and last + 1 of the original samples that a window contributes to."""
        start, stop = self.windows[window]
        return _to_original(self, window, stop - start).output_range


@lru_cache(maxsize=2048)
def _to_original(axis: Axis, window: int, num_logits: int) -> LinearMap:
    start, stop = axis.windows[window]
    if axis.is_one_step:
        logits = flip(num_logits) if axis.is_flipped else crop(num_logits, num_logits)
        return logits.then(bilinear(num_logits, axis.original_length, axis.align_corners))
    length = stop - start
    padded = -(-length // axis.pad_multiple) * axis.pad_multiple
    path = bilinear(num_logits, padded, axis.align_corners)
    if padded != length:
        path = path.then(crop(padded, length))
    shares = _shares(axis.length, axis.windows, axis.blend)
    path = path.then(place(length, start, axis.length, shares[window]))
    if axis.is_flipped:
        path = path.reversed()
    for step in axis.back:
        resample = crop if step.is_crop else bilinear
        path = path.then(resample(path.num_outputs, step.length))
    return path


_shares = lru_cache(maxsize=16)(window_shares)


def back_steps(
    steps: Sequence[SizeStep], size_hw: tuple[int, int], view_hw: tuple[int, int]
) -> tuple[tuple[BackStep, ...], tuple[BackStep, ...]]:
    """Return the steps back to the original image for rows and for columns.

    Size rules that resize one after the other are undone by one resize.

    Args:
        steps: The size rules as they were applied.
        size_hw: The transformed image's size.
        view_hw: The size the network sees: `size_hw`, or scaled from it.
    """
    back = [] if view_hw == size_hw else [(False, size_hw)]
    for index in reversed(range(len(steps))):
        step = steps[index]
        is_inner_resize = index > 0 and not step.pads and not steps[index - 1].pads
        if not is_inner_resize:
            back.append((step.pads, step.before_hw))
    rows, columns = (
        tuple(BackStep(is_crop, length_hw[axis]) for is_crop, length_hw in back) for axis in (0, 1)
    )
    return rows, columns


def window_axis(
    length: int,
    window: tuple[int, int] | None,
    is_flipped: bool,
    back: tuple[BackStep, ...],
    is_one_step: bool,
    pad_multiple: int = 1,
    align_corners: bool = False,
    blend: str = "average",
) -> Axis:
    """Return an axis cut into windows of (length, stride), or whole where `window` is None.

    Raises:
        UserError: one-step resizing where padding has to be cropped off in between.
    """
    if is_one_step and any(step.is_crop for step in back):
        raise UserError(
            "is_one_step: the transforms pad the image, and padding is cropped off at the network's"
            " input size. Switch off is_one_step or remove Padding."
        )
    if is_one_step and pad_multiple > 1:
        raise UserError(
            "is_one_step: this network pads its input, and the padding is cropped off at the "
            "network's input size. Switch off is_one_step, or pad_input of the backbone."
        )
    windows = windows_along(length, *window) if window else [(0, length)]
    return Axis(
        length, tuple(windows), is_flipped, back, is_one_step, pad_multiple, align_corners, blend
    )
