"""Samples of TIFF files that OpenCV does not read as they are stored: by tifffile, in bounds."""

from __future__ import annotations

import io
import lzma
import math
import re
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_segformer.data.findings import Fault
from paddleseg_segformer.data.headers import MAX_PAGES, TiffLayout, check_image, check_pixels
from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError

MAX_BLOCKS = 1 << 20  # strips or tiles of a page; those of 16x16 px of the largest image
BYTES_PER_PIXEL = 16  # of all bands, on average of the largest image
# Numbers of the forms that are unpacked to a known size: none, fax, LZW, JPEG (whose blocks are
# looked at), Deflate, PackBits, LZMA, Zstandard. Blocks of others say themselves how large they
# become: 28 kB of JPEG XL take 40 s.
BOUNDED = frozenset({1, 2, 3, 4, 5, 7, 8, 32773, 32946, 34925, 34926, 50000})
JPEG = 7
JPEG_SIZE = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]...(..)(..)", re.DOTALL)
UNPACKERS: dict[int, Any] = {  # used in place of imagecodecs, which bounds what a block becomes
    8: zlib.decompressobj,
    32946: zlib.decompressobj,
    34925: lzma.LZMADecompressor,
}


def read_tiff(
    path: Path, content: bytes, layout: TiffLayout, img_channels: int | None = None
) -> np.ndarray:
    """Return the samples of a TIFF, (H, W) or (H, W, C), turned as it says.

    Args:
        path: Its name, for messages.
        content: The file.
        layout: Of its first page.
        img_channels: Refuse other numbers of bands before they are decoded, but one more than
            three, which may be alpha.

    Raises:
        UserError: it cannot be decoded, or would cost more than its image is worth.
    """
    size_hw = check_image(path, content)
    try:
        with explained():
            import tifffile

            with tifffile.TiffFile(io.BytesIO(content)) as file:
                if len(file.pages) > MAX_PAGES:
                    raise UserError(f"{path}: found more than {MAX_PAGES} pages. Split the file.")
                series = file.series[0]
                _check_series(path, content, series, size_hw, img_channels)
                image, axes = series.asarray(), series.axes
    except UserError:
        raise
    except Exception as error:  # of any type: it is not made for damaged files
        reason = " ".join(str(error).split())[:100]
        is_missing = "imagecodecs" in reason
        remedy = "Run: pip install imagecodecs" if is_missing else "Replace it or remove it."
        raise UserError(f"{path}: cannot be decoded as an image ({reason}). {remedy}") from None
    if image.ndim == 3:
        order = (axes.index("Y"), axes.index("X"))
        [other] = {0, 1, 2} - set(order)
        image = image.transpose(*order, other)
    return turned(image, layout.orientation)


def turned(image: np.ndarray, turn: int) -> np.ndarray:
    """Return an image (H, W) or (H, W, C) turned as EXIF counts, 1 to 8."""
    if turn in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    rows, columns = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(
        turn, (1, 1)
    )
    return np.ascontiguousarray(image[::rows, ::columns])


def _check_series(
    path: Path, content: bytes, series: Any, size_hw: tuple[int, int], img_channels: int | None
) -> None:
    """Refuse bands and blocks that would take much more than the image, before it is decoded."""
    height, width = size_hw
    num_bands = math.prod(series.shape) // (height * width)
    if img_channels and num_bands != img_channels and (num_bands, img_channels) != (4, 3):
        raise Fault(
            f"{path}: found an image of shape {(height, width, num_bands)}, expected (height, "
            f"width, {img_channels}). Check the file, or set img_channels of the data set.",
            "image-bands",
        )
    bytes_per_pixel = num_bands * series.dtype.itemsize
    check_pixels(path, height, width, -(-bytes_per_pixel // BYTES_PER_PIXEL))
    pages = [page for page in series.pages if page is not None]
    num_blocks = math.prod(series.keyframe.chunked) * len(pages)
    block_bytes = math.prod(series.keyframe.chunks) * series.dtype.itemsize
    stored = sum(sum(page.databytecounts) for page in pages)
    if num_blocks > MAX_BLOCKS or stored > len(content):
        raise UserError(
            f"{path}: cannot be decoded as an image: {num_blocks} strips or tiles of {stored} "
            f"bytes, expected at most {MAX_BLOCKS}, and {len(content)} bytes. Save it again."
        )
    compression = int(series.keyframe.compression)
    if compression not in BOUNDED:
        name = getattr(series.keyframe.compression, "name", compression)
        raise UserError(
            f"{path}: packed as {name}, which has no bound on what it becomes. Save it with "
            "Deflate, LZW, Zstandard or none."
        )
    unpacker = UNPACKERS.get(compression) if not find_spec("imagecodecs") else None
    if not unpacker and compression != JPEG:
        return
    for page in pages:
        for start, length in zip(page.dataoffsets, page.databytecounts, strict=True):
            packed = content[start : start + length]
            if unpacker:
                becomes = len(unpacker().decompress(packed, block_bytes + 1))
            else:
                sizes = JPEG_SIZE.findall(packed)  # height and width
                becomes = max(
                    (int.from_bytes(h, "big") * int.from_bytes(w, "big") for h, w in sizes),
                    default=0,
                )
            if becomes > block_bytes:
                raise UserError(
                    f"{path}: cannot be decoded as an image: a strip or tile becomes larger than "
                    f"its {block_bytes} bytes. Save it again."
                )
