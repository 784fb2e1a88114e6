"""Headers of image files, checked before anything is decoded, and the time that decoding may take.

A file of a few bytes can claim billions of pixels, so untrusted files are bounded by their headers;
formats whose header is not understood are not decoded at all.
"""

from __future__ import annotations

import concurrent.futures
import functools
import io
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import numpy as np
from PIL import Image

from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError

MAX_PIXELS = "PADDLESEG_SEGFORMER_MAX_PIXELS"  # environment variable
DEFAULT_MAX_PIXELS = 1 << 28  # 16,384 x 16,384: 0.8 GB as RGB
MAX_DECODE_S = "PADDLESEG_SEGFORMER_MAX_DECODE_S"  # environment variable
DEFAULT_MAX_DECODE_S = 120  # the largest image takes about 20 s
QUICK_PIXELS = 1 << 24  # times scans: decoded in a second
QUICK_PNG_BYTES = 1 << 20  # inflated in a second, whatever they become
MAX_SCANS = 100  # of a progressive JPEG; encoders write about 10
MAX_CHUNKS = 100_000  # of a PNG; the usual ones hold 8 KiB or more
MAX_TEXTS = 100  # compressed ones of a PNG; encoders write one or two
MAX_PAGES = 1000  # of a TIFF file
_ORIENTATION = 274  # tag of EXIF and TIFF
_GDAL_NODATA = 42113  # tag of GeoTIFF
ARRAY_START = b"\x93NUMPY"
PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START, JPEG_SCAN = b"\xff\xd8", b"\xff\xda"  # the second is not in compressed data
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")  # no PostScript: Pillow runs a program to read it

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
_pillow_limit = threading.Lock()

P = ParamSpec("P")
R = TypeVar("R")


class TooManyPixels(UserError):
    """An image that claims more pixels than `max_pixels`."""


def picture_size(path: Path) -> tuple[int, int] | None:
    """Return (height, width) that a file's header claims; None where none is understood."""
    if not path.is_file():  # pipes would be waited for
        return None
    if path.suffix.lower() == ".npy":
        try:
            shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
        except Exception:  # the header is a Python literal: parsing it may raise anything
            return None
        return (shape[0], shape[1]) if len(shape) in (2, 3) else None
    size_hw = _pillow_size(path)
    if size_hw is None and (layout := tiff_layout(path)):
        size_hw = layout.height, layout.width
    return size_hw


def max_pixels() -> int:
    """Return the bound on height x width x pages of an image.

    Raises:
        UserError: the environment variable is not a number above 0.
    """
    return _bound(MAX_PIXELS, DEFAULT_MAX_PIXELS, "pixels")


def max_decode_s() -> int:
    """Return the bound on the time that decoding an image takes, in seconds.

    Raises:
        UserError: the environment variable is not a number above 0.
    """
    return _bound(MAX_DECODE_S, DEFAULT_MAX_DECODE_S, "seconds")


def _bound(name: str, default: int, unit: str) -> int:
    found = os.environ.get(name, str(default))
    if not found.isdecimal() or not int(found):
        raise UserError(f"{name}: found {found!r}, expected a number of {unit} above 0.")
    return int(found)


def in_time(
    decode: Callable[Concatenate[Path, bytes, P], R],
) -> Callable[Concatenate[Path, bytes, P], R]:
    """Make a function that decodes a file's content stop after `max_decode_s`.

    Decoders cannot be told to stop: what claims much runs in a thread of its own, and one that is
    late is left to its end, which the bounds on pixels, scans, pages and chunks set.
    """

    @functools.wraps(decode)
    def decode_in_time(path: Path, content: bytes, *args: P.args, **kwargs: P.kwargs) -> R:
        if _is_quick(content):
            return decode(path, content, *args, **kwargs)

        def run(made: Future[R]) -> None:
            try:
                made.set_result(decode(path, content, *args, **kwargs))
            except BaseException as error:
                made.set_exception(error)
                del made  # else the error holds itself, and with it the image

        made: Future[R] = Future()
        threading.Thread(target=run, args=(made,), daemon=True).start()
        try:
            for _ in range(max_decode_s()):  # by seconds, so that a stopped process loses one
                if concurrent.futures.wait([made], timeout=1).done:
                    return made.result()
            raise slow(path)
        finally:
            del made

    return decode_in_time


def slow(path: str | os.PathLike[str]) -> UserError:
    """Return the error of a file that takes longer than `max_decode_s`."""
    return UserError(
        f"{path}: decoding it takes more than {max_decode_s()} s. Save it again, or raise "
        f"{MAX_DECODE_S}."
    )


def _is_quick(content: bytes) -> bool:
    """Tell whether a file is decoded in about a second, by what its header claims."""
    if content.startswith((ARRAY_START, *_TIFF_STARTS)):  # whose blocks may say anything
        return content.startswith(ARRAY_START)
    if content.startswith(PNG_START) and len(content) > QUICK_PNG_BYTES:
        return False
    height, width = _pillow_size(content) or (0, 0)
    return height * width * _num_scans(content) <= QUICK_PIXELS


def _num_scans(content: bytes) -> int:
    """Return the scans of a JPEG, 1 of other files; each may cost as much as a whole image."""
    return content.count(JPEG_SCAN) if content.startswith(JPEG_START) else 1


def check_pixels(path: str | os.PathLike[str], height: int, width: int, num_pages: int = 1) -> None:
    """Refuse an image of more pixels than `max_pixels`, or of none."""
    if height < 1 or width < 1:
        raise UserError(
            f"{path}: found {height}x{width} px (height x width), expected at least one."
        )
    if height * width * num_pages > max_pixels():
        pages = f" and {num_pages} pages" if num_pages > 1 else ""
        raise TooManyPixels(
            f"{path}: the header claims {height}x{width} px (height x width){pages}, expected at "
            f"most {max_pixels()} px. Cut the image into tiles, or raise {MAX_PIXELS}."
        )


def check_image(path: Path, content: bytes, formats: Sequence[str] = FORMATS) -> tuple[int, int]:
    """Refuse a file whose header is of no known image format, or claims too many pixels.

    Args:
        formats: Pillow's names of those that are known.

    Returns:
        The claimed (height, width), before an orientation in the file is applied.

    Raises:
        UserError: the file is named, and what was found.
    """
    size_hw = _pillow_size(content, formats)
    if size_hw is None and (layout := tiff_layout(content)):  # bands that Pillow has no mode for
        size_hw = layout.height, layout.width
    if size_hw is None:
        raise UserError(
            f"{path}: cannot be decoded as an image. Replace it or remove it; known formats: "
            f"{', '.join(formats)}, and NumPy arrays as .npy."
        )
    check_pixels(path, *size_hw)
    if (num_scans := _num_scans(content)) > MAX_SCANS:
        raise UserError(
            f"{path}: a JPEG of {num_scans} scans, expected at most {MAX_SCANS}, since each may "
            "cost as much as a whole image. Save it again."
        )
    if content.startswith(PNG_START):
        _check_chunks(path, content)
    return size_hw


def _check_chunks(path: Path, content: bytes) -> None:
    """Refuse a PNG whose chunks claim more bytes than follow: OpenCV makes room for all of them.

    What comes after the last chunk is not looked at.
    """
    position, num_texts = len(PNG_START), 0
    for _ in range(MAX_CHUNKS):
        length = int.from_bytes(content[position : position + 4], "big")
        name = content[position + 4 : position + 8]
        if name == b"IEND" or not name:
            return
        num_texts += name in (b"zTXt", b"iTXt", b"iCCP")
        if num_texts > MAX_TEXTS:
            raise UserError(
                f"{path}: a PNG of more than {MAX_TEXTS} texts, each of which may cost as much as "
                "a whole image. Save it again."
            )
        position += 8 + length
        if position > len(content):
            raise UserError(
                f"{path}: cannot be decoded as an image: the PNG's chunk {name!r} claims {length} "
                f"bytes, found {max(0, len(content) - position + length)}. Replace it or remove it."
            )
        position += 4  # its checksum
    raise UserError(f"{path}: a PNG of more than {MAX_CHUNKS} chunks. Save it again.")


@contextmanager
def open_image(content: bytes | Path, formats: Sequence[str] = FORMATS) -> Iterator[Image.Image]:
    """Open an image with Pillow, which reads its header; `check_pixels` is its only bound.

    Args:
        content: of a file, or its path.
        formats: Pillow's names of those that are known.

    Raises:
        Exception: of any type; Pillow's readers are not made for damaged files.
    """
    with _pillow_limit:  # Pillow's own bound is lower, and a global
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            source = io.BytesIO(content) if isinstance(content, bytes) else content
            image = Image.open(source, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with image:
        yield image


def num_frames(path: Path, image: Image.Image) -> int:
    """Return the pages or frames of an open image.

    Raises:
        UserError: a TIFF of more than `MAX_PAGES`, which Pillow would take a minute to count.
    """
    if image.format == "TIFF":
        with suppress(EOFError):
            for page in range(MAX_PAGES + 1):
                image.seek(page)
            raise UserError(f"{path}: found more than {MAX_PAGES} pages. Split the file.")
        image.seek(0)
    return int(getattr(image, "n_frames", 1))


def orientation(content: bytes | Path) -> int:
    """Return how an image is to be turned, 1 to 8 as EXIF counts; 1 where nothing says it."""
    try:
        with open_image(content) as file:
            file.info.pop("xmp", None)  # Pillow would look there too; OpenCV does in no format
            return int(file.getexif().get(_ORIENTATION, 1))
    except Exception:  # see open_image
        return 1


def is_transparent(content: bytes) -> bool:
    """Return whether an image has alpha, and pixels that are not opaque."""
    try:
        with open_image(content) as file:
            has_alpha = file.mode in ("LA", "PA", "RGBA") or "transparency" in file.info
            return has_alpha and bool((np.asarray(file.convert("RGBA"))[:, :, 3] < 255).any())
    except Exception:  # see open_image
        return False


def check_array(path: Path, content: bytes) -> tuple[int, ...]:
    """Refuse a `.npy` of another size than its header claims, of objects, or of too many pixels.

    Returns:
        The claimed shape.

    Raises:
        UserError: the file is named, and what was found.
    """
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read_header = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read_header(file)
    except Exception as error:  # the header is a Python literal: parsing it may raise anything
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot be read as a NumPy array ({reason}).") from None
    if dtype.kind not in "buif":
        raise UserError(f"{path}: found an array of {dtype}, expected numbers.")
    claimed, found = math.prod(shape) * dtype.itemsize, len(content) - file.tell()
    if claimed != found or min(shape, default=1) < 0:
        raise UserError(
            f"{path}: the header claims {claimed} bytes of shape {shape}, the file holds {found}. "
            "Replace it or remove it."
        )
    if len(shape) in (2, 3):
        check_pixels(path, shape[0], shape[1])
    return tuple(shape)


def _pillow_size(content: bytes | Path, formats: Sequence[str] = FORMATS) -> tuple[int, int] | None:
    """Return (height, width) if Pillow understands the header."""
    try:
        with open_image(content, formats) as image:
            return image.height, image.width
    except Exception:  # see open_image
        return None


class TiffLayout(NamedTuple):
    """How the first page of a TIFF file holds its pixels."""

    height: int
    width: int
    samples: int  # per pixel
    bits: int  # per sample
    kind: int  # 1 unsigned, 2 signed, 3 floating point
    is_planar: bool  # band by band
    is_cmyk: bool
    is_white_zero: bool  # 0 is white
    orientation: int  # 1 to 8 as EXIF counts
    num_pages: int
    nodata: float | None  # the value that GDAL says pixels without one have

    @property
    def is_plain(self) -> bool:
        """Return whether Pillow and OpenCV read it as it is stored."""
        if self.kind != 1 or (self.is_planar and self.samples > 1):
            return False
        if self.bits <= 8:
            return self.samples < 4 or (self.samples == 4 and self.is_cmyk)
        return self.bits == 16 and self.samples in (1, 3)


def _nodata(stated: Any) -> float | None:
    try:
        return float(stated)
    except (TypeError, ValueError):
        return None


def tiff_layout(content: bytes | Path) -> TiffLayout | None:
    """Return the layout of a TIFF file; None for other files, and where the header is damaged.

    Args:
        content: of the file, or its path.
    """
    if isinstance(content, bytes) and not content.startswith(_TIFF_STARTS):
        return None
    with explained():
        import tifffile  # it takes a while to import
    try:
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        with tifffile.TiffFile(source) as file:
            page = file.pages.first
            return TiffLayout(
                int(page.imagelength),
                int(page.imagewidth),
                int(page.samplesperpixel),
                int(page.bitspersample),
                int(page.sampleformat),
                page.planarconfig == tifffile.PLANARCONFIG.SEPARATE,
                page.photometric == tifffile.PHOTOMETRIC.SEPARATED,
                page.photometric == tifffile.PHOTOMETRIC.MINISWHITE,
                int(page.tags.valueof(_ORIENTATION, 1)),
                len(file.pages),
                _nodata(page.tags.valueof(_GDAL_NODATA)),
            )
    except Exception:  # of any type: it is not made for damaged files
        return None
