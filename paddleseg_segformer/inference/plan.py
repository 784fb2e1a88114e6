"""What inference will compute for an image of a given size, in words."""

from __future__ import annotations

from collections import Counter

import numpy as np

from paddleseg_segformer.contracts import pad_multiple_of
from paddleseg_segformer.inference.augmentation import View, views_of
from paddleseg_segformer.inference.pipeline import ImageLogits, Pipeline, ViewOfImage


def describe_plan(pipeline: Pipeline, size_hw: tuple[int, int], num_channels: int = 3) -> str:
    """Return one line per view (its size and windows), then how the views are put together."""
    logits = pipeline(np.zeros((*size_hw, num_channels), np.uint8))
    views, settings = logits.views, pipeline.settings
    lines = [f"image {_by(size_hw)} (height x width in px)"]
    for index, (view, of_image) in enumerate(zip(views_of(settings), views, strict=True), 1):
        lines.append(f"view {index}: {_view_line(view, of_image)}")
    lines.append(f"network: {_calls_line(pipeline, logits)}")
    lines.append(f"then: {_combination(pipeline, len(views), size_hw)}")
    return "\n".join(lines)


def memory_line(pipeline: Pipeline, shape: tuple[int, ...]) -> str:
    """Return windows, calls and memory of an image (H, W, C) in one line; see `MemoryPlan`."""
    return _calls_line(pipeline, pipeline(np.zeros(shape, np.uint8)))


def _calls_line(pipeline: Pipeline, logits: ImageLogits) -> str:
    windows: Counter[tuple[int, int]] = Counter()
    for of_image in logits.views:
        windows.update(_window_sizes(of_image))
    held_mib = logits.held_mib
    steps = {size: pipeline.window_batch(size, held_mib) for size in windows}
    num_calls = sum(-(-count // steps[size]) for size, count in windows.items())
    sizes = ", ".join(f"{count} of {_by(size)}" for size, count in windows.items())
    line = (
        f"{_counted(sum(windows.values()), 'window')} ({sizes}) in about "
        f"{_counted(num_calls, 'call')} of up to {max(steps.values())}"
    )
    if not pipeline.memory:
        return line
    peak_mib = max(
        pipeline.memory.peak_mib(min(step, windows[size]), size) for size, step in steps.items()
    )
    return (
        f"{line}; memory beyond weights and image about {peak_mib:.0f} MiB and {held_mib:.0f} MiB "
        f"of logits, budget {pipeline.memory.budget_mib:.0f} MiB"
    )


def _view_line(view: View, of_image: ViewOfImage) -> str:
    flips = [
        name
        for name, is_on in (("horizontal", view.flip_horizontal), ("vertical", view.flip_vertical))
        if is_on
    ]
    rows, columns = of_image.axes
    tops, lefts = ([start for start, _ in axis.windows] for axis in of_image.axes)
    return (
        f"scale {view.scale:g}, {' and '.join(flips) or 'no'} flip: {rows.length}x{columns.length},"
        f" {len(tops) * len(lefts)} windows from rows {_listed(tops)} and columns {_listed(lefts)}"
    )


def _window_sizes(of_image: ViewOfImage) -> list[tuple[int, int]]:
    rows, columns = of_image.axes
    return [
        (bottom - top, right - left)
        for top, bottom in rows.windows
        for left, right in columns.windows
    ]


def _combination(pipeline: Pipeline, num_views: int, size_hw: tuple[int, int]) -> str:
    settings, multiple = pipeline.settings, pad_multiple_of(pipeline.network)
    resize = "bilinear with aligned corners" if settings.align_corners else "bilinear"
    steps = f"logits {resize} to {_by(size_hw)}"
    if not settings.is_one_step:
        padded = f" padded to a multiple of {multiple}, cropped" if multiple > 1 else ""
        steps = (
            f"logits {resize} to the window{padded}, windows averaged, padding cropped off, "
            f"bilinear to {_by(size_hw)}"
        )
    mean = f", average of {settings.average} over {num_views} views" if num_views > 1 else ""
    return f"{steps}{mean}, argmax"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _listed(numbers: list[int]) -> str:
    if len(numbers) > 6:
        return f"{numbers[0]}, {numbers[1]}, ... {numbers[-1]}"
    return ", ".join(str(number) for number in numbers)


def _by(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[0]}x{size_hw[1]}"
