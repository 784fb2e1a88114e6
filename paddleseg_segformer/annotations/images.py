"""What images of a data set have in common: bands, type, range of values, orientation."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from paddleseg_segformer.annotations.source import Conclusion, Options, spread
from paddleseg_segformer.data.headers import (
    check_array,
    check_image,
    check_pixels,
    in_time,
    open_image,
    orientation,
    tiff_layout,
)
from paddleseg_segformer.data.io import read_file
from paddleseg_segformer.data.tiffs import tiff_samples
from paddleseg_segformer.data.values import DeclaredRange, ValueRange
from paddleseg_segformer.errors import UserError

LOOK_VALUES = 25  # images of more than 8 bits whose values are looked at
ALPHA = (1, 2)  # of TIFF's ExtraSamples
PERCENTILES = (0.1, 99.9)
TURNS = (5, 6, 7, 8)  # orientations that exchange height and width


@dataclass(frozen=True)
class Header:
    """What an image file's header says.

    Args:
        size_hw: As it is stored.
        turn: Its EXIF orientation, 1 to 8.
        bands: Without alpha.
        dtype: Type of the stored values, as NumPy names it.
    """

    size_hw: tuple[int, int]
    turn: int
    bands: int
    dtype: str

    @property
    def turned_hw(self) -> tuple[int, int]:
        """Return (height, width) as the EXIF orientation turns it."""
        return self.size_hw[::-1] if self.turn in TURNS else self.size_hw


def read_header(path: Path) -> Header:
    """Read an image file's header.

    Raises:
        UserError: no such file, or none of the known formats.
    """
    suffix = path.suffix.lower()
    if suffix in (".jpg", ".jpeg", ".png", ".bmp", ".webp"):
        try:
            with Image.open(path) as file:  # of large files too, the header alone is read
                modes = {"L": 1, "1": 1, "I": 1, "LA": 1, "I;16": 1, "F": 1}
                is_wide = file.mode.startswith("I") or _is_wide_png(path)
                turn = file.getexif().get(274, 1) if _has_exif(path) else 1
                size_hw, bands = (file.height, file.width), modes.get(file.mode, 3)
                check_pixels(path, *size_hw)
                return Header(size_hw, int(turn), bands, "uint16" if is_wide else "uint8")
        except UserError:
            raise
        except Exception:  # of any type; see data.headers.open_image
            pass  # what follows says what is wrong
    content = read_file(path)
    if suffix == ".npy":
        shape = check_array(path, content)
        if len(shape) not in (2, 3):
            raise UserError(
                f"{path}: found an array of shape {shape}, expected (H, W) or (H, W, C)."
            )
        dtype = np.load(path, mmap_mode="r").dtype
        return Header((shape[0], shape[1]), 1, shape[2] if len(shape) == 3 else 1, dtype.name)
    size_hw = check_image(path, content)
    if layout := tiff_layout(content):
        kind = {1: "uint", 2: "int", 3: "float"}.get(layout.kind, "uint")
        bands = layout.num_pages if layout.num_pages > 1 else layout.samples - _num_alpha(content)
        return Header(size_hw, layout.orientation, bands, f"{kind}{max(layout.bits, 8)}")
    with open_image(content) as file:
        return Header(size_hw, orientation(content), 1 if file.mode == "L" else 3, "uint8")


def _has_exif(path: Path) -> bool:
    """Tell whether a file may hold EXIF; Pillow decodes a whole PNG to find none."""
    if path.suffix.lower() == ".png":
        return b"eXIf" in read_file(path)
    return path.suffix.lower() != ".bmp"


def _is_wide_png(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(25)
    return head.startswith(b"\x89PNG") and head[24] == 16


def _num_alpha(content: bytes) -> int:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(content)) as file:
        return sum(sample in ALPHA for sample in file.pages.first.extrasamples)


def stored_values(path: Path) -> np.ndarray:
    """Return the values of an image as they are stored, (H, W) or (H, W, C)."""
    return _stored_values(path, read_file(path))


@in_time
def _stored_values(path: Path, content: bytes) -> np.ndarray:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        check_array(path, content)
        return np.load(io.BytesIO(content), allow_pickle=False)
    check_image(path, content)
    if suffix in (".tif", ".tiff"):
        samples, axes = tiff_samples(path, content)
        return np.moveaxis(samples, (axes.index("Y"), axes.index("X")), (0, 1))
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise UserError(f"{path}: cannot be decoded as an image. Replace it or remove it.")
    return image


@dataclass(frozen=True)
class ImageFacts:
    """What the images have in common.

    Args:
        in_channels: Bands that a network is given.
        dtype: Type of the stored values.
        value_range: What they mean, as `data.Dataset` takes it.
        sizes_hw: How many of the images that were looked at have each size.
        conclusions: With their reasons.
    """

    in_channels: int
    dtype: str
    value_range: DeclaredRange | None
    sizes_hw: dict[tuple[int, int], int]
    conclusions: tuple[Conclusion, ...]


def look_at_images(paths: Sequence[Path], options: Options) -> ImageFacts:
    """Conclude bands and range of values from some of the images.

    Raises:
        UserError: an image cannot be read, or images differ in what they hold; two are named.
    """
    looked = [paths[index] for index in spread(len(paths))]
    headers = {path: read_header(path) for path in looked}
    kinds: dict[tuple[int, str], Path] = {}
    for path, header in headers.items():
        bands = 3 if header.bands == 1 else header.bands
        kinds.setdefault((bands, header.dtype), path)
    if len(kinds) > 1:
        (first, one), (second, other) = list(kinds.items())[:2]
        raise UserError(
            f"{one} has {first[0]} bands of {first[1]}, but {other} has {second[0]} of {second[1]};"
            " expected images of one kind. Convert those that differ."
        )
    [(bands, dtype)] = kinds
    if options.bands:
        if bands == 3 or not all(1 <= band <= bands for band in options.bands):
            expected = "all of three" if bands == 3 else f"numbers of 1 to {bands}"
            raise UserError(f"--bands: found {list(options.bands)}, expected {expected}.")
        bands = len(options.bands)
    are_grey = all(header.bands == 1 for header in headers.values())
    note = ", grey repeated in three" if are_grey else ""
    conclusions = [
        Conclusion(f"{bands} bands of {dtype}{note}", f"{len(looked)} images", "--bands")
    ]
    value_range, conclusion = _value_range(looked, dtype, bands, options)
    if conclusion:
        conclusions.append(conclusion)
    sizes = Counter(header.turned_hw for header in headers.values())
    return ImageFacts(bands, dtype, value_range, dict(sizes), tuple(conclusions))


def _value_range(
    paths: Sequence[Path], dtype: str, bands: int, options: Options
) -> tuple[DeclaredRange | None, Conclusion | None]:
    """Return what the values mean, and why."""
    if options.value_range == "none":
        return None, None
    if options.value_range != "auto":
        given = ValueRange.of(options.value_range)
        return given.declared if given else None, None
    if dtype == "uint8":
        return None, None
    looked = [paths[index] for index in spread(len(paths), LOOK_VALUES)]
    values = [stored_values(path) for path in looked]
    if not all(np.isfinite(image).all() for image in values):
        path = next(p for p, v in zip(looked, values, strict=True) if not np.isfinite(v).all())
        raise UserError(f"{path}: holds NaN or infinite values. Replace them.")
    low = min(float(image.min()) for image in values)
    high = max(float(image.max()) for image in values)
    found = f"values of {low:g} to {high:g} in {len(looked)} images"
    declared: DeclaredRange
    if dtype == "uint16" and high < 1 << 15:
        bits = max(int(high).bit_length(), 8)
        declared = [0, (1 << bits) - 1]
        return declared, Conclusion(
            f"{bits} bits in 16: value_range {declared}", found, "--value_range"
        )
    if dtype in ("uint16", "int8") or (dtype.startswith("float") and 0 <= low < high <= 1):
        return "dtype", Conclusion("value_range dtype", found, "--value_range")
    ends = np.percentile(np.concatenate([image.ravel()[::7] for image in values]), PERCENTILES)
    declared = [float(f"{end:.4g}") for end in ends]
    if not declared[0] < declared[1]:
        raise UserError(f"{looked[0]}: the images hold {found}. Say what they mean: --value_range.")
    reason = f"{found}; {PERCENTILES[0]} to {PERCENTILES[1]} % of them"
    return declared, Conclusion(f"value_range {declared}", reason, "--value_range")
