"""Pictures of any size, read by windows: what lies outside a window is not decoded.

rasterio (GDAL) reads nearly all formats by windows, where it is installed; without it, and for
microscopes' pyramids that GDAL does not know, tifffile reads tiled TIFF. What neither reads, and
JPEG and WebP, whose decoders differ, is decoded whole by OpenCV within `headers.MAX_PIXELS`.
"""

from __future__ import annotations

import os
import re
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paddleseg_segformer.data.findings import Fault
from paddleseg_segformer.data.headers import (
    max_decode_s,
    max_pixels,
    open_image,
    orientation,
    slow,
    tiff_layout,
)
from paddleseg_segformer.data.io import decode_image, read_file
from paddleseg_segformer.data.tiffs import check_segment
from paddleseg_segformer.data.values import ValueRange, check_finite, is_nodata
from paddleseg_segformer.dependencies import REMEDIES, MissingDependency, explained
from paddleseg_segformer.errors import UserError, one_line

PYRAMID_SUFFIXES = (".svs", ".ndpi", ".scn", ".qptiff")  # microscopes'
RASTER_SUFFIXES = (".vrt", ".jp2", ".img", *PYRAMID_SUFFIXES)  # beside those of images
MAX_BLOCK_BYTES = 1 << 29  # what is decoded together in a file: a tile, or a strip of rows
GDAL_CACHE_MIB = 128
_CHANNELS = {"1": 1, "L": 1, "P": 3, "RGB": 3, "LA": 4, "PA": 4, "RGBA": 4}  # by Pillow's mode
_DRIVERS = ("GTiff", "VRT", "PNG", "JPEG", "WEBP", "BMP", "JP2OpenJPEG", "HFA")  # no network's


class Georeference(NamedTuple):
    """Where a raster lies.

    Args:
        crs: Coordinate system, of rasterio; None where the file names none.
        transform: From (column, row) to its coordinates, of rasterio (affine).
    """

    crs: Any
    transform: Any


class Raster(ABC):
    """Stored values (H, W, C) of a file; `with` closes it.

    `nodata` is the value that stands for none, or None; `band_names` has C names, "" for none;
    `block_hw` is what the file holds together; `colors` (N, 3) is the palette of its one band.
    """

    path: Path
    shape: tuple[int, int, int]
    dtype: np.dtype
    nodata: float | None = None
    band_names: tuple[str, ...] = ()
    has_alpha: bool = False  # as its last band
    block_hw: tuple[int, int]
    georeference: Georeference | None = None
    is_lossy: bool = False  # a JPEG or WebP file
    num_pages: int = 1  # each of the whole size, of which this is the first
    colors: np.ndarray | None = None
    _file: Any = None

    def read(self, top: int, bottom: int, left: int, right: int) -> np.ndarray:
        """Return rows top .. bottom - 1 and columns left .. right - 1, (h, w, C).

        Raises:
            UserError: a tile there is damaged or cut off, or took too long.
        """
        height, width, _ = self.shape
        if not (0 <= top < bottom <= height and 0 <= left < right <= width):
            raise ValueError(f"rows {top}..{bottom}, columns {left}..{right} of {self.shape}")
        start_s = time.thread_time()
        try:
            pixels = self._read(top, bottom, left, right)
        except Exception as error:  # of any type: decoders are not made for damaged files
            reason = one_line(error.__cause__ or error)[:200]
            raise UserError(
                f"{self.path}: rows {top} to {bottom - 1}, columns {left} to {right - 1} cannot be "
                f"decoded ({reason}). Replace the file, or remove it."
            ) from error
        if time.thread_time() - start_s > max_decode_s():
            raise slow(f"{self.path}: rows {top} to {bottom - 1}")
        return pixels

    def is_valid(self, top: int, bottom: int, left: int, right: int) -> np.ndarray | None:
        """Return which pixels of a window have a value in any band, (h, w); None: all."""
        if self.nodata is None:
            return None
        return np.any(~is_nodata(self.read(top, bottom, left, right), self.nodata), axis=2)

    @abstractmethod
    def _read(self, top: int, bottom: int, left: int, right: int) -> np.ndarray: ...

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Raster:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_raster(path: str | os.PathLike[str]) -> Raster:
    """Open a picture to read windows of it; see the module.

    Not for several threads or processes at once: each opens it for itself.

    Raises:
        UserError: no such file, no picture, or one whose parts cannot be read alone: a whole
            compressed picture in one strip, or one that EXIF says to turn.
    """
    path = Path(path)
    if not path.is_file():
        raise Fault(f"{path}: no such file. Check the path or the list of samples.", "file-missing")
    if path.suffix.lower() == ".npy":
        return _ArrayRaster(path)
    with path.open("rb") as file:
        is_tiff = file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    is_pyramid = is_tiff and path.suffix.lower() in PYRAMID_SUFFIXES
    if find_spec("rasterio") and not is_pyramid:
        raster: Raster = _GdalRaster(path)
        if is_tiff and raster.num_pages > 1:
            raster.close()
            raster = _TiffRaster(path)
        elif raster.is_lossy and raster.shape[0] * raster.shape[1] <= max_pixels():
            raster.close()
            georeference, raster = raster.georeference, _WholeRaster(path)  # decoders differ
            if not georeference:
                return raster
            raster.georeference = georeference
    elif is_tiff:
        raster = _TiffRaster(path)
    elif path.suffix.lower() in RASTER_SUFFIXES:
        raise MissingDependency(f"{path}: {REMEDIES['rasterio']} to read {path.suffix} files.")
    else:
        return _WholeRaster(path)
    block = int(np.prod(raster.block_hw)) * raster.shape[2] * raster.dtype.itemsize
    if block > MAX_BLOCK_BYTES:
        raster.close()
        raise UserError(
            f"{path}: holds {raster.block_hw[0]} rows in one compressed strip ({block >> 20} MiB), "
            "which can only be decoded together. Save it in tiles: gdal_translate -co TILED=YES."
        )
    if (turn := orientation(path)) != 1:
        raster.close()
        raise UserError(
            f"{path}: EXIF says to turn it ({turn}), which windows cannot. Save it upright."
        )
    return raster


class Picture:
    """An image file (H, W, C) whose pixels are read when it is sliced, `picture[0:512, 0:512]`.

    A slice holds what `io.read_image` would give there: RGB, 0..255, uint8 or float32.

    Args:
        raster: The file's stored values.
        img_channels: C.
        value_range: As of `io.read_image`.

    Raises:
        UserError: the file has other channels, or values whose meaning needs the whole picture.
    """

    def __init__(
        self, raster: Raster, img_channels: int = 3, value_range: ValueRange | None = None
    ) -> None:
        self.raster = raster
        self.value_range = value_range
        self.bands = _bands(raster, img_channels)
        self.colors = np.zeros((256, 3), np.uint8) if raster.colors is None else raster.colors
        height, width, _ = raster.shape
        self.shape = (height, width, img_channels)
        self.ndim = 3
        is_kept = raster.dtype == np.uint8 and (not value_range or value_range.keeps_uint8)
        self.dtype = np.dtype(np.uint8 if is_kept else np.float32)
        if value_range and value_range.form in ("data", "percentile"):
            raise UserError(
                f"{raster.path}: value_range: {value_range.form} needs the whole picture, which is "
                "read by windows. Give it as [LOW, HIGH]."
            )
        if raster.dtype == np.uint16 and not value_range and img_channels in (1, 3):
            raise UserError(
                f"{raster.path}: found 16-bit values, whose meaning windows do not tell. Declare "
                "value_range of the data set, such as [0, 65535], or [0, 4095] for 12 bits."
            )
        if raster.dtype.kind not in "buif":
            raise UserError(
                f"{raster.path}: found {raster.dtype} values, expected real numbers. Save them as "
                "bands."
            )

    def __getitem__(self, place: tuple[slice, slice]) -> np.ndarray:
        (top, bottom, _), (left, right, _) = (
            part.indices(length) for part, length in zip(place, self.shape, strict=False)
        )
        raster = self.raster
        image = raster.read(top, bottom, left, right)
        image = self.colors[image[..., 0]] if self.bands is None else image[..., self.bands]
        if self.value_range:
            return self.value_range.apply(image, raster.path, raster.nodata)
        if image.dtype == np.uint8:
            return np.ascontiguousarray(image)
        if raster.nodata is not None and is_nodata(image, raster.nodata).any():
            raise Fault(
                f"{raster.path}: holds {raster.nodata:g}, which the file calls nodata. Declare "
                "value_range of the data set, which makes them 0, or fill them.",
                "image-not-finite",
            )
        image = image.astype(np.float32)
        check_finite(image, raster.path)
        return image


def _bands(raster: Raster, img_channels: int) -> list[int] | None:
    """Return which bands make the image's channels; None for those of the palette."""
    num_bands = raster.shape[2]
    if num_bands == img_channels and not (img_channels == 1 and raster.colors is not None):
        return list(range(num_bands))
    num_colors = num_bands - raster.has_alpha
    if img_channels == 3 and num_colors == 1 and raster.dtype == np.uint8:
        return None if raster.colors is not None else [0, 0, 0]
    if num_colors == img_channels or (img_channels, num_bands) == (3, 4):
        return list(range(img_channels))
    palette = " with a palette" if raster.colors is not None else ""
    raise Fault(
        f"{raster.path}: found {num_bands} bands of {raster.dtype}{palette}, expected "
        f"{img_channels}. Check the file, or set img_channels of the data set.",
        "image-bands",
    )


class _GdalRaster(Raster):
    """A file that GDAL reads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.suffix.lower() == ".vrt":
            _check_vrt(path)
        os.environ.setdefault("GDAL_CACHEMAX", str(GDAL_CACHE_MIB))  # else a share of the memory
        with explained():
            import rasterio
            from rasterio.enums import ColorInterp
        with _gdal_errors(path):
            self._file = rasterio.DatasetReader(str(path), driver=list(_DRIVERS))
        file = self._file
        if len(set(file.dtypes)) != 1 or len(set(file.nodatavals)) != 1:
            raise UserError(
                f"{path}: its bands differ in type or nodata ({', '.join(file.dtypes)}), expected "
                "one for all. Bring them to one: gdal_translate -ot ... -a_nodata ..."
            )
        self.shape = (file.height, file.width, file.count)
        self.dtype = np.dtype(file.dtypes[0])
        self.is_lossy = file.driver in ("JPEG", "WEBP")
        self.num_pages = max(1, len(file.subdatasets))
        self.nodata = file.nodata
        self.band_names = tuple(name or "" for name in file.descriptions)
        self.block_hw = file.block_shapes[0]
        kinds = file.colorinterp
        self.has_alpha = kinds[-1] == ColorInterp.alpha
        if ColorInterp.cyan in kinds:
            raise UserError(f"{path}: found CMYK, expected RGB. Convert it.")
        if ColorInterp.palette in kinds:
            table = file.colormap(1)
            self.colors = np.zeros((256, 3), np.uint8)
            self.colors[list(table)] = [color[:3] for color in table.values()]
        if file.crs or not file.transform.is_identity:
            self.georeference = Georeference(file.crs, file.transform)

    def _read(self, top: int, bottom: int, left: int, right: int) -> np.ndarray:
        planes = self._file.read(window=((top, bottom), (left, right)))
        return np.ascontiguousarray(planes.transpose(1, 2, 0))

    def is_valid(self, top: int, bottom: int, left: int, right: int) -> np.ndarray | None:
        from rasterio.enums import MaskFlags

        if all(MaskFlags.all_valid in flags for flags in self._file.mask_flag_enums):
            return None
        with _gdal_errors(self.path):
            mask: np.ndarray = self._file.dataset_mask(window=((top, bottom), (left, right)))
        return mask > 0


class _TiffRaster(Raster):
    """The full resolution of a TIFF file, read by tifffile: bands in one page, or a page each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with explained():
            import tifffile
        try:
            self._file = tifffile.TiffFile(path)
            series = self._file.series[0].levels[0]
            self._pages = [page for page in series.pages if page is not None]
            first = self._pages[0].keyframe
        except Exception as error:  # of any type: it is not made for damaged files
            raise _not_opened(path, error) from None
        height, width, samples = first.imagelength, first.imagewidth, first.samplesperpixel
        self.shape = (height, width, samples * len(self._pages))
        if int(np.prod(series.shape)) != int(np.prod(self.shape)) or first.imagedepth > 1:
            raise UserError(
                f"{path}: found a TIFF of axes {series.axes}, expected rows, columns and bands. "
                "Save one plane."
            )
        self.dtype = first.dtype
        layout = tiff_layout(path)
        if not layout or layout.is_cmyk or layout.is_white_zero:
            raise UserError(
                f"{path}: CMYK, or grey whose 0 is white, is not read by windows without rasterio. "
                "Run: pip install rasterio"
            )
        if first.colormap is not None and self.dtype == np.uint8:
            self.colors = (first.colormap >> 8).T.astype(np.uint8)
        self.nodata = layout.nodata
        self.has_alpha = bool(first.extrasamples) and first.extrasamples[-1] in (1, 2)
        self.band_names = ("",) * self.shape[2]
        self.block_hw = (
            (first.tilelength, first.tilewidth)
            if first.is_tiled
            else (min(first.rowsperstrip, height), width)
        )

    def _read(self, top: int, bottom: int, left: int, right: int) -> np.ndarray:
        out = np.zeros((bottom - top, right - left, self.shape[2]), self.dtype)
        for index, page in enumerate(self._pages):
            samples = page.keyframe.samplesperpixel
            part = out[..., index * samples : (index + 1) * samples]
            for segment, row, column, band in self._segments(page, top, bottom, left, right):
                height, width, bands = segment.shape
                high, low = max(row, top), min(row + height, bottom)
                start, end = max(column, left), min(column + width, right)
                part[high - top : low - top, start - left : end - left, band : band + bands] = (
                    segment[high - row : low - row, start - column : end - column]
                )
        return out

    def _segments(
        self, page: Any, top: int, bottom: int, left: int, right: int
    ) -> Iterator[tuple[np.ndarray, int, int, int]]:
        """Yield the tiles or strips that reach into a window, and their first row, column, band."""
        frame = page.keyframe
        height, width = self.block_hw
        down, across = -(-self.shape[0] // height), -(-self.shape[1] // width)
        planes = frame.samplesperpixel if int(frame.planarconfig) == 2 else 1
        wanted = [
            (plane * down + row) * across + column
            for plane in range(planes)
            for row in range(top // height, -(-bottom // height))
            for column in range(left // width, -(-right // width))
        ]
        tables = {}
        if frame.compression in (6, 7, 34892, 33007):  # JPEG
            tables = {"jpegtables": page.jpegtables, "jpegheader": frame.jpegheader}
        offsets = [page.dataoffsets[index] for index in wanted]
        counts = [page.databytecounts[index] for index in wanted]
        size = self._file.filehandle.size
        if any(offset + count > size for offset, count in zip(offsets, counts, strict=True)):
            raise ValueError("the file is cut off")
        file = self._file.filehandle
        for index, offset, count in zip(wanted, offsets, counts, strict=True):
            file.seek(offset)
            data = file.read(count) if offset and count else None
            if data and frame.compression != 1:
                check_segment(self.path, frame, data)
            segment, (band, _, row, column, _), _ = frame.decode(data, index, **tables)
            if segment is not None:  # those that were never written hold 0
                yield segment[0], row, column, band


class _ArrayRaster(Raster):
    """A `.npy` file (H, W) or (H, W, C), mapped into memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # the header is a Python literal: parsing it may raise anything
            raise _not_opened(path, error) from None
        if array.ndim not in (2, 3) or not array.size:
            raise Fault(
                f"{path}: found an array of shape {array.shape}, expected (height, width, "
                "channels).",
                "image-bands",
            )
        self._array = array if array.ndim == 3 else array[:, :, None]
        height, width, channels = self._array.shape
        self.shape, self.dtype = (height, width, channels), array.dtype
        self.block_hw, self.band_names = (1, width), ("",) * channels

    def _read(self, top: int, bottom: int, left: int, right: int) -> np.ndarray:
        return np.array(self._array[top:bottom, left:right])


class _WholeRaster(_ArrayRaster):
    """A file of 8 bits that is decoded whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        content = read_file(path)
        try:
            with open_image(content) as file:
                channels = _CHANNELS.get(file.mode, 0)
        except Exception as error:  # see open_image
            raise _not_opened(path, error) from None
        if not channels:
            raise UserError(
                f"{path}: holds more than 8 bits, which are not read by windows without rasterio. "
                "Run: pip install rasterio"
            )
        self._array = decode_image(path, content, channels)
        self.shape, self.dtype = self._array.shape, self._array.dtype
        self.block_hw, self.band_names = (1, self.shape[1]), ("",) * channels
        self.has_alpha = channels == 4


@contextmanager
def not_georeferenced() -> Iterator[None]:
    """Let files without a georeference be opened without a warning, in rasterio's settings."""
    with explained():
        from rasterio import Env
        from rasterio.errors import NotGeoreferencedWarning
    with warnings.catch_warnings(), Env():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@contextmanager
def _gdal_errors(path: Path) -> Iterator[None]:
    """Turn GDAL's errors into one line."""
    try:
        with not_georeferenced():
            yield
    except UserError:
        raise
    except Exception as error:  # rasterio's have no common base
        raise _not_opened(path, error) from None


def _not_opened(path: Path, error: Exception) -> UserError:
    reason = one_line(error.__cause__ or error)[:200].removeprefix(f"{path}: ")
    return UserError(f"{path}: cannot be read by windows ({reason}). Replace it or remove it.")


def _check_vrt(path: Path) -> None:
    """Refuse a virtual raster that reaches into the network, or into GDAL's other file systems."""
    for source in re.findall(r"<SourceFilename[^>]*>([^<]*)<", path.read_text("utf-8", "replace")):
        if "/vsi" in source or "://" in source or not source.strip():
            raise UserError(
                f"{path}: names the source {one_line(source)!r}, expected files of this machine. "
                "Download them, and build the VRT again."
            )
