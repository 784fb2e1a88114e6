"""Samples of TIFF files as they are stored, by tifffile, whose decoders need bounds of ours."""

from __future__ import annotations

import io
import lzma
import math
import zlib
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_segformer.data.findings import Fault
from paddleseg_segformer.data.headers import FORMATS, MAX_PAGES, check_image, check_pixels
from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError

MAX_SEGMENTS = 1 << 20  # of a TIFF: tiles of 16x16 px of the largest image
PIXEL_BYTES = 16  # of a TIFF; those with more, or with pages, count as several images
REPEATED_BYTES = 1 << 30  # of segments that share their bytes
# Compression of TIFF segments, by tag: those whose decoders make no more than there is room for;
# images in the image, whose own headers say how large they are; what tifffile inflates without end
# where imagecodecs is not installed.
BOUNDED = (1, 5, 8, 32773, 32946, 34925, 34926, 50000)
IMAGES = (6, 7, 33003, 33004, 33005, 33007, 34712, 34892, 34933, 50001)
IMAGE_FORMATS = (*FORMATS, "JPEG2000")
INFLATERS: dict[int, Callable[[], Any]] = {
    8: zlib.decompressobj,
    32946: zlib.decompressobj,
    34925: lzma.LZMADecompressor,
}


def tiff_samples(
    path: Path, content: bytes, img_channels: int | None = None
) -> tuple[np.ndarray, str]:
    """Return what a TIFF, whose header is checked, stores, and what tifffile calls its axes.

    Args:
        img_channels: Refuse other numbers of bands before they are decoded, but four, of which one
            may be alpha, for three.

    Raises:
        UserError: it cannot be decoded, or would become more than its header says.
    """
    try:
        with explained():
            import tifffile

            with tifffile.TiffFile(io.BytesIO(content)) as file:
                if len(file.pages) > MAX_PAGES:
                    raise UserError(f"{path}: found more than {MAX_PAGES} pages. Split the file.")
                series = file.series[0]
                size_hw = series.keyframe.imagelength, series.keyframe.imagewidth
                check_pixels(
                    path, *size_hw, -(-series.nbytes // (PIXEL_BYTES * math.prod(size_hw)))
                )
                bands = math.prod(series.shape) // math.prod(size_hw)
                if img_channels not in (None, bands) and (bands, img_channels) != (4, 3):
                    raise wrong_bands(path, (*size_hw, bands), img_channels)
                num_segments = math.prod(series.keyframe.chunked) * len(series.pages)
                if num_segments > MAX_SEGMENTS:
                    raise UserError(
                        f"{path}: a TIFF of {num_segments} tiles or strips, expected at most "
                        f"{MAX_SEGMENTS}. Save it with larger ones."
                    )
                _check_segments(path, content, series.pages)
                samples = series.asarray()
                if samples.shape != series.shape:  # of which tifffile leaves a remark alone
                    raise ValueError(f"samples of {samples.shape}, expected {series.shape}")
                return samples, series.axes
    except UserError:
        raise
    except Exception as error:  # of any type: it is not made for damaged files
        reason = " ".join(str(error).split())[:100]
        is_missing = "imagecodecs" in reason
        remedy = "Run: pip install imagecodecs" if is_missing else "Replace it or remove it."
        raise UserError(f"{path}: cannot be decoded as an image ({reason}). {remedy}") from None


def _check_segments(path: Path, content: bytes, pages: Iterable[Any]) -> None:
    """Refuse a TIFF whose segments would become more than its header says.

    Args:
        pages: Of tifffile; None where a page was never written.
    """
    num_bytes = 0
    for page in pages:
        if page is None:
            continue
        for start, size in zip(page.dataoffsets, page.databytecounts, strict=True):
            num_bytes += size
            if num_bytes > len(content) + REPEATED_BYTES:
                raise UserError(
                    f"{path}: cannot be decoded as an image: the TIFF names the same bytes again "
                    "and again. Replace it or remove it."
                )
            if page.keyframe.compression != 1:
                check_segment(path, page.keyframe, content[start : start + size])


def check_segment(path: Path, form: Any, segment: bytes) -> None:
    """Refuse a compressed tile or strip that would become more than the pixels that it holds.

    Args:
        form: The page of tifffile that says how it is stored.
    """
    kind, num_values = int(form.compression), math.prod(form.chunks)
    is_large = False
    if kind in IMAGES:
        height, width = check_image(path, segment, IMAGE_FORMATS)
        is_large = height * width > num_values
    elif kind not in BOUNDED:
        raise UserError(
            f"{path}: a TIFF compressed as {form.compression.name}, which is not read. Save it "
            "with another compression, such as DEFLATE."
        )
    elif kind in INFLATERS and find_spec("imagecodecs") is None:
        room = num_values * form.dtype.itemsize
        is_large = len(INFLATERS[kind]().decompress(segment, room + 1)) > room
    if is_large:
        raise UserError(
            f"{path}: cannot be decoded as an image: a part of the TIFF becomes more than its "
            "pixels. Replace it or remove it."
        )


def wrong_bands(path: Path, shape: tuple[int, ...], img_channels: int | None) -> Fault:
    """Return the error of an image (H, W, C) whose C is not `img_channels`."""
    return Fault(
        f"{path}: found an image of shape {shape}, expected (height, width, {img_channels}). Check "
        "the file, or set img_channels of the data set.",
        "image-bands",
    )
