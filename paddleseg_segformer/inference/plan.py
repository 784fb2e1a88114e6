"""What inference will compute for an image of a given size, in words."""

from __future__ import annotations

from collections import Counter

import numpy as np

from paddleseg_segformer.inference.augmentation import View, views_of
from paddleseg_segformer.inference.pipeline import Pipeline, ViewOfImage


def describe_plan(pipeline: Pipeline, size_hw: tuple[int, int], num_channels: int = 3) -> str:
    """Return one line per view (its size and windows), then how the views are put together."""
    settings = pipeline.settings
    views = pipeline(np.zeros((*size_hw, num_channels), np.uint8)).views
    lines = [f"image {_by(size_hw)} (height x width in px)"]
    windows: Counter[tuple[int, int]] = Counter()
    for index, (view, of_image) in enumerate(zip(views_of(settings), views, strict=True), 1):
        lines.append(f"view {index}: {_view_line(view, of_image)}")
        windows.update(_window_sizes(of_image))
    num_batches = sum(-(-count // settings.window_batch) for count in windows.values())
    sizes = ", ".join(f"{count} of {_by(size)}" for size, count in windows.items())
    lines.append(
        f"network: {sum(windows.values())} windows ({sizes}) in about {num_batches} calls of up to "
        f"{settings.window_batch}"
    )
    lines.append(f"then: {_combination(pipeline, len(views), size_hw)}")
    return "\n".join(lines)


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
    settings, multiple = pipeline.settings, getattr(pipeline.network, "pad_multiple", 1)
    way = f"logits bilinear to {_by(size_hw)}"
    if not settings.is_one_step:
        padded = f" padded to a multiple of {multiple}, cropped" if multiple > 1 else ""
        way = (
            f"logits bilinear to the window{padded}, windows averaged, padding cropped off, "
            f"bilinear to {_by(size_hw)}"
        )
    mean = f", average of {settings.average} over {num_views} views" if num_views > 1 else ""
    return f"{way}{mean}, argmax"


def _listed(numbers: list[int]) -> str:
    if len(numbers) > 6:
        return f"{numbers[0]}, {numbers[1]}, ... {numbers[-1]}"
    return ", ".join(str(number) for number in numbers)


def _by(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[0]}x{size_hw[1]}"
