"""Uploaded files as images, within the limits on pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from paddleseg_segformer.data.headers import (
    ARRAY_START,
    TooManyPixels,
    check_array,
    check_image,
    num_frames,
    open_image,
)
from paddleseg_segformer.data.io import check_inflated, decode_image
from paddleseg_segformer.data.values import ValueRange
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.augmentation import scaled_size
from paddleseg_segformer.inference.pipeline import Pipeline
from paddleseg_segformer.serving.batcher import Job
from paddleseg_segformer.serving.settings import Refusal

TIFF_STARTS = (b"II", b"MM")
ANIMATIONS = ("PNG", "WEBP")  # formats whose frames are moments; a TIFF's pages may be bands


def decode_upload(
    content: bytes, img_channels: int, max_pixels: int, value_range: ValueRange | None = None
) -> np.ndarray:
    """Return an uploaded image (H, W, C) as `read_image` would return the same file.

    Raises:
        Refusal: no image, a damaged one, or one of more pixels than `max_pixels`.
    """
    suffix = ".npy" if content.startswith(ARRAY_START) else ""
    suffix = ".tif" if content.startswith(TIFF_STARTS) else suffix
    path = Path(f"image{suffix}")  # for messages; `decode_image` tells these formats by it
    try:
        _check_size(path, content, max_pixels)
        return decode_image(path, content, img_channels, value_range)
    except TooManyPixels:  # more than any program of this package decodes
        raise _too_many_pixels("very many px", max_pixels) from None
    except UserError as error:
        raise Refusal(422, str(error)) from None


def network_size(pipeline: Pipeline, size_hw: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) of an image's largest view, without making it."""
    settings = pipeline.settings
    scale = max(settings.scales)
    is_source_scale = settings.scale_mode == "source"
    for rule in pipeline.preprocess.size_rules:
        size_hw = rule.new_size_hw(*size_hw, scale if is_source_scale else 1.0)
    return size_hw if is_source_scale else scaled_size(size_hw, scale)


def make_job(pipeline: Pipeline, image: np.ndarray, max_pixels: int, wants_confidence: bool) -> Job:
    """Return an image as a job of the batcher.

    Raises:
        Refusal: the size rules would enlarge the image beyond `max_pixels`, as they do with long
            strips.
    """
    height, width = image.shape[:2]
    size_hw = network_size(pipeline, (height, width))
    num_pixels = size_hw[0] * size_hw[1]
    if num_pixels > max_pixels:
        raise Refusal(
            413,
            f"image of {height}x{width} px (height x width): the model's size rules make it "
            f"{size_hw[0]}x{size_hw[1]} px, expected at most {max_pixels} px. Send it in parts.",
        )
    kind = None if pipeline.settings.is_slide else size_hw
    return Job(image, max(num_pixels, height * width), kind, wants_confidence)


def _check_size(path: Path, content: bytes, max_pixels: int) -> None:
    """Refuse images by what their header claims: more pixels than allowed, or several frames."""
    if path.suffix == ".npy":
        height, width = (*check_array(path, content), 1, 1)[:2]
        num_pages = 1
    else:
        height, width = check_image(path, content)
        check_inflated(path, content, height * width)
        num_pages = _num_pages(path, content)
    if height * width * num_pages > max_pixels:
        pages = f" and {num_pages} pages" if num_pages > 1 else ""
        raise _too_many_pixels(f"{height}x{width} px (height x width){pages}", max_pixels)


def _too_many_pixels(found: str, max_pixels: int) -> Refusal:
    return Refusal(
        413,
        f"image: the header claims {found}, expected at most {max_pixels} px. Make it smaller, or "
        "send it in parts.",
    )


def _num_pages(path: Path, content: bytes) -> int:
    """Return the pages of a file.

    Raises:
        Refusal: it is animated.
        UserError: it has too many.
    """
    try:
        with open_image(content) as image:
            num_pages, format = num_frames(path, image), image.format
    except UserError:
        raise
    except Exception:  # a TIFF that Pillow does not read; OpenCV takes its first page
        return 1
    if num_pages > 1 and format in ANIMATIONS:
        raise Refusal(422, f"image: animated, {num_pages} frames. Send one frame.")
    return num_pages
