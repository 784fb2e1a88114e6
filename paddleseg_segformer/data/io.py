"""Reading of images and labels, and writing of label maps.

Images are RGB uint8 arrays (H, W, 3), labels are arrays of class ids (H, W).
"""

from __future__ import annotations

import io
import os
import stat
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from paddleseg_segformer.cpu import free_memory_mib
from paddleseg_segformer.data.findings import Fault
from paddleseg_segformer.data.headers import (
    JPEG_SCAN,
    JPEG_START,
    PNG_START,
    TiffLayout,
    check_array,
    check_image,
    check_pixels,
    in_time,
    num_frames,
    open_image,
    orientation,
    tiff_layout,
)
from paddleseg_segformer.data.tiffs import tiff_samples, wrong_bands
from paddleseg_segformer.data.values import ValueRange, check_finite, is_nodata
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import atomic_path

try:
    from zlib_ng import zlib_ng as deflate  # several times as fast
except ImportError:
    import zlib as deflate  # type: ignore[no-redef]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".npy")

_BITS_PER_SAMPLE = 258  # TIFF tag
_JPEG_END = b"\xff\xd9"
_PNG_GREY, _PNG_PALETTE = 0, 3  # colour types
_PNG_UP = 2  # the filter of a row: its difference from the one above
_INFLATED_BYTES = 1 << 20  # at a time
_QUICK_BYTES = 1 << 16  # of a PNG that inflates to 64 MiB at most
SMALL_MIB = 64  # for files above, the free memory is looked at
FREE_SHARE = 0.5  # of it, that a file may take


def read_image(
    path: str | os.PathLike[str], img_channels: int = 3, value_range: ValueRange | None = None
) -> np.ndarray:
    """Read an image as (H, W, `img_channels`).

    Image files of 1 or 3 channels are converted to that many channels and to 8 bits; three are in
    the order red, green, blue. Other numbers of channels are read as they are stored: from `.npy`
    (H, W, C), from TIFF files with a page per band, or from files of four channels.

    Args:
        value_range: With it all stored bits are read, and mapped to 0..255.

    Returns:
        uint8; float32 if the values are stored in any type but 8 bits. With `value_range`, see
        `ValueRange.apply`.

    Raises:
        UserError: the file is missing, cannot be decoded, is cut off, has other channels, or takes
            longer than `headers.max_decode_s`.
    """
    path = Path(path)
    return decode_image(path, read_file(path), img_channels, value_range)


@in_time
def decode_image(
    path: Path, content: bytes, img_channels: int = 3, value_range: ValueRange | None = None
) -> np.ndarray:
    """Decode a file's content as `read_image` does.

    Args:
        path: Its name, for messages; `.npy` and TIFF files are recognised by its suffix.
        content: The file, not empty.
        img_channels, value_range: As of `read_image`.

    Raises:
        UserError: it cannot be decoded, is cut off, has other channels, or takes too long.
    """
    layout = tiff_layout(content)
    if path.suffix.lower() == ".npy":
        image = _decode_array(path, content)
    elif layout and not layout.is_plain:
        image = _decode_tiff(path, content, layout, img_channels)
        if img_channels == 3 and image.ndim == 3 and image.shape[2] == 4:
            image = image[:, :, :3]
    else:
        if value_range:
            _refuse_changed_values(path, content, layout, value_range)
        image = _decode_channels(path, content, layout, img_channels, value_range)
    image = image[:, :, None] if image.ndim == 2 else image
    if image.ndim != 3 or image.shape[2] != img_channels:
        raise wrong_bands(path, image.shape, img_channels)
    if image.dtype.kind not in "buif":
        raise UserError(
            f"{path}: found {image.dtype} values, expected real numbers. Save them as bands."
        )
    nodata = layout.nodata if layout else None
    if value_range:
        return value_range.apply(image, path, nodata)
    if image.dtype == np.uint8:
        return image
    if nodata and (number := np.count_nonzero(is_nodata(image, nodata))):  # 0 is black
        raise Fault(
            f"{path}: {number} of {image.size} values are {nodata:g}, which the file calls nodata. "
            "Declare value_range of the data set, which makes them 0, or fill them.",
            "image-not-finite",
        )
    image = image.astype(np.float32)
    check_finite(image, path)
    return image


def as_stored(image: np.ndarray, content: bytes) -> np.ndarray:
    """Return an image (H, W, C), which `decode_image` turned as its EXIF says, as it is stored."""
    layout = tiff_layout(content)
    if layout and layout.num_pages > 1:  # which are not turned
        return image
    turn = orientation(content)
    return _turned(image, {6: 8, 8: 6}.get(turn, turn))


def read_label(
    path: str | os.PathLike[str], num_classes: int | None = None, colors: np.ndarray | None = None
) -> np.ndarray:
    """Read a label map of class ids (H, W) from an image file or from `.npy`.

    The ids are the stored values: of grey files of any depth; of palette files the indices, but
    where the whole palette is grey and its greys differ from their indices, as optimisers of PNG
    files leave it, the greys. Colour files have to be grey, and alpha opaque. Arrays may hold whole
    numbers of any type. Arrays, bands and the pages of a TIFF file may be one plane of 0 and 1 per
    class, (H, W, K) or (K, H, W).

    Args:
        num_classes: where it is above 2, files of 1 bit per pixel are refused.
        colors: RGB colours (K, 3) whose positions are the ids; image files are read by them.

    Returns:
        uint8, or int32 if an id is above 255 or below 0.

    Raises:
        UserError: the file is missing, cannot be decoded, or does not hold one id per pixel.
    """
    path = Path(path)
    return decode_label(path, read_file(path), num_classes, colors)


@in_time
def decode_label(
    path: Path, content: bytes, num_classes: int | None = None, colors: np.ndarray | None = None
) -> np.ndarray:
    """Decode a file's content, not empty, as `read_label` does."""
    is_array = path.suffix.lower() == ".npy"
    if is_array:
        label = _decode_array(path, content)
    elif colors is None:
        label = _decode_ids(path, content, num_classes)
    else:
        label = ids_of_colors(path, decode_rgb(path, content), colors)
    return label_of_values(path, label, is_array)


def label_of_values(path: Path, label: np.ndarray, is_array: bool = False) -> np.ndarray:
    """Return the ids (H, W), uint8 or int32, of stored values (H, W) or planes; see `read_label`.

    Args:
        is_array: They are of a `.npy` file.
    """
    if label.ndim == 3:
        label = _from_planes(label)
    if label.ndim == 3 and label.shape[2] <= 4 and not is_array:
        raise Fault(
            f"{path}: the label is a colour image ({label.shape[2]} bands), expected one class id "
            "per pixel. Convert it to a grey or palette PNG whose pixel values are class ids, or "
            "list its colours in label_colors.",
            "label-color",
        )
    if label.dtype.kind == "f" and label.size and np.isfinite(label).all():
        whole = np.rint(label)
        if (whole == label).all() and abs(whole).max() < 2**31:
            label = whole.astype(np.int32)
    if label.ndim != 2 or label.dtype.kind not in "bui":
        raise UserError(
            f"{path}: found a label of shape {label.shape} and type {label.dtype}, "
            "expected one whole-number class id per pixel, (height, width)."
        )
    if label.dtype == np.uint8:
        return label
    low, high = (int(label.min()), int(label.max())) if label.size else (0, 0)
    if not -(2**31) <= low <= high < 2**31:
        raise UserError(
            f"{path}: found ids in {low}..{high}, expected signed numbers of 32 bits. Pixels "
            "without a class may hold 255 or -1, say: set ignore_index."
        )
    return label.astype(np.uint8 if low >= 0 and high <= 255 else np.int32)


@in_time
def decode_rgb(path: Path, content: bytes) -> np.ndarray:
    """Decode a label image as it is seen, RGB uint8 (H, W, 3).

    Raises:
        UserError: it cannot be decoded, or has transparent pixels.
    """
    check_image(path, content)
    try:
        with open_image(content) as file:
            rgba = np.asarray(file.convert("RGBA"))
    except Exception:  # see open_image
        raise UserError(
            f"{path}: cannot be decoded as a label image. Replace it or remove it."
        ) from None
    if (rgba[:, :, 3] != 255).any():
        raise UserError(f"{path}: has transparent pixels, expected an opaque colour for each id.")
    return rgba[:, :, :3]


def color_codes(rgb: np.ndarray) -> np.ndarray:
    """Return the number 0xRRGGBB, int32, of each colour (..., 3)."""
    red, green, blue = np.moveaxis(rgb.astype(np.int32), -1, 0)
    return (red << 16) | (green << 8) | blue


def encode_label(label: np.ndarray, colors: np.ndarray | None = None) -> bytes:
    """Return a PNG of the class ids (H, W): 8 bits, or 16 bits for ids above 255.

    Each row is stored as its difference from the one above, and runs of equal bytes as lengths: of
    a label map hardly more is left, so this is smaller than by other filters, and fast.

    Args:
        label: Class ids in 0..65535.
        colors: RGB colours (256, 3) for the palette of an 8-bit PNG; the ids are unchanged.

    Source: the PNG specification, W3C Recommendation, third edition.
    """
    is_wide = label.max(initial=0) > 255
    has_palette = colors is not None and not is_wide
    values = label.astype(">u2" if is_wide else np.uint8, order="C", copy=False)
    rows = values.view(np.uint8)
    filtered = np.empty((rows.shape[0], 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = _PNG_UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    form = _PNG_PALETTE if has_palette else _PNG_GREY
    header = struct.pack(">IIBBBBB", *label.shape[::-1], 16 if is_wide else 8, form, 0, 0, 0)
    palette = np.asarray(colors, np.uint8).tobytes() if has_palette else b""
    compressor = deflate.compressobj(1, deflate.DEFLATED, strategy=zlib.Z_RLE)
    pixels = compressor.compress(filtered) + compressor.flush()
    chunks = [(b"IHDR", header), (b"PLTE", palette), (b"IDAT", pixels), (b"IEND", b"")]
    return PNG_START + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
        if data or kind == b"IEND"
    )


def write_label(
    path: str | os.PathLike[str], label: np.ndarray, colors: np.ndarray | None = None
) -> None:
    """Write the class ids (H, W) as a PNG to `path`, atomically; see `encode_label`."""
    content = encode_label(label, colors)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def read_file(path: Path) -> bytes:
    """Return the file's content.

    Pipes and devices, which might never end, and files that take most of the memory are refused.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: not a file. Check the path or the list of samples.")
        size_mib = status.st_size / 2**20
        if size_mib > SMALL_MIB and size_mib > FREE_SHARE * free_memory_mib():
            raise UserError(
                f"{path}: {size_mib:.0f} MiB, more than {FREE_SHARE:.0%} of the free memory "
                f"({free_memory_mib():.0f} MiB). Cut it into parts."
            )
        content = path.read_bytes()
    except UserError:
        raise
    except FileNotFoundError:
        raise Fault(
            f"{path}: no such file. Check the path or the list of samples.", "file-missing"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise UserError(f"{str(path)!r}: not a path ({error}).") from None
    if not content:
        raise Fault(
            f"{path}: the file is empty. Replace it or remove it from the data set.", "file-empty"
        )
    return content


def check_inflated(path: Path, content: bytes, num_pixels: int) -> None:
    """Refuse a PNG that inflates to more than its pixels: OpenCV would inflate all of it.

    It costs half as much as decoding the image, so that it is for files of strangers who send many.
    """
    if not content.startswith(PNG_START) or len(content) < _QUICK_BYTES:
        return
    inflater, num_bytes = deflate.decompressobj(), 0
    position = len(PNG_START)
    while name := content[position + 4 : position + 8]:
        end = position + 8 + int.from_bytes(content[position : position + 4], "big")
        data = content[position + 8 : end] if name == b"IDAT" else b""
        while data and not inflater.eof:
            try:
                num_bytes += len(inflater.decompress(data, _INFLATED_BYTES))
            except Exception:  # of either library; decoding says more
                return
            data = inflater.unconsumed_tail
            if num_bytes > 16 * num_pixels + _INFLATED_BYTES:  # 8 bytes at most, and filters
                raise UserError(
                    f"{path}: cannot be decoded as an image: the PNG inflates to more than its "
                    "pixels. Replace it or remove it."
                )
        position = end + 4


def _decode(path: Path, content: bytes, flag: int) -> np.ndarray:
    """Return an image decoded by OpenCV with `flag`, colours in the order red, green, blue."""
    if _is_cut_jpeg(content):
        raise Fault(f"{path}: the JPEG file is cut off. Replace it or remove it.", "image-cut")
    if _hides_a_still_image(content):
        raise UserError(
            f"{path}: an animated PNG with a still image that is none of its frames, of which "
            "decoders show one or the other. Save one image."
        )
    check_image(path, content)
    # versions of OpenCV differ in whether they turn a WebP as its EXIF says; all turn other formats
    is_webp = content[8:12] == b"WEBP"
    if is_webp and flag != cv2.IMREAD_UNCHANGED:
        flag |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    except (cv2.error, MemoryError):
        image = None
    if image is None:
        raise UserError(f"{path}: cannot be decoded as an image. Replace it or remove it.")
    if is_webp:
        image = _turned(image, orientation(content))
    if image.ndim == 3 and image.shape[2] in (3, 4):
        code = cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
        return cv2.cvtColor(image, code)
    return image


def _decode_channels(
    path: Path,
    content: bytes,
    layout: TiffLayout | None,
    img_channels: int,
    value_range: ValueRange | None,
) -> np.ndarray:
    """Return an image of 1 or 3 channels, whatever the file has; with another number, all of it.

    With a value range, those of 16 bits keep them.
    """
    if img_channels not in (1, 3):
        return _decode_bands(path, content, layout, img_channels)
    if layout and layout.bits == 16 and not value_range:
        return _decode_wide_tiff(path, content, layout, img_channels)
    if content.startswith(PNG_START) and content[24:25] == b"\x10" and not value_range:
        _refuse_few_bits(path, _decode(path, content, cv2.IMREAD_UNCHANGED))
    flag = cv2.IMREAD_COLOR if img_channels == 3 else cv2.IMREAD_GRAYSCALE
    return _decode(path, content, flag | cv2.IMREAD_ANYDEPTH if value_range else flag)


def _turned(image: np.ndarray, turn: int) -> np.ndarray:
    """Return an image (H, W) or (H, W, C) turned as EXIF counts, 1 to 8."""
    if turn in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    rows, columns = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}.get(
        turn, (1, 1)
    )
    return np.ascontiguousarray(image[::rows, ::columns])


def _is_cut_jpeg(content: bytes) -> bool:
    """Tell whether a JPEG lacks its end, which the decoder would silently fill with grey.

    Neither marker occurs inside compressed data; a thumbnail's end comes before the scan's start.
    """
    if not content.startswith(JPEG_START):
        return False
    end = content.rfind(_JPEG_END)
    return end < 0 or content.find(JPEG_SCAN, end) >= 0


def _hides_a_still_image(content: bytes) -> bool:
    """Tell whether the first frame of an animated PNG is another image than its still one."""
    if not content.startswith(PNG_START):
        return False
    head = content[: content.find(b"IDAT")]
    return b"acTL" in head and b"fcTL" not in head


def _decode_array(path: Path, content: bytes) -> np.ndarray:
    """Return the array in a `.npy` file."""
    check_array(path, content)
    return np.load(io.BytesIO(content), allow_pickle=False)


def _refuse_few_bits(path: Path, image: np.ndarray) -> None:
    """Refuse values of 8 to 12 bits in 16, of which 8-bit images would keep a few levels."""
    highest = int(image[..., :3].max() if image.ndim == 3 else image.max())  # alpha is opaque
    if 0 < highest < 4096:
        raise Fault(
            f"{path}: found 16-bit values of at most {highest}; of 0..65535, as is assumed, they "
            f"would keep {highest // 256 + 1} levels. Say what they mean in the data set, such as "
            "value_range: [0, 4095] for 12 bits.",
            "image-few-bits",
        )


def _refuse_changed_values(
    path: Path, content: bytes, layout: TiffLayout | None, value_range: ValueRange
) -> None:
    """Refuse files whose decoded values are not the stored ones, which `value_range` is about."""
    is_grey_png = content.startswith(PNG_START) and content[25:26] == b"\0"
    bits = content[24] if is_grey_png else layout.bits if layout else 8
    if bits <= 8 and value_range.keeps_uint8:
        return
    if bits < 8 or (layout and layout.is_white_zero):
        found = f"grey of {bits} bits" if bits < 8 else "grey whose 0 is white (MinIsWhite)"
        raise UserError(
            f"{path}: holds {found}, which decoders change; value_range needs values as they are "
            "stored. Save it with 8 or 16 bits and 0 as black."
        )


def _decode_wide_tiff(
    path: Path, content: bytes, layout: TiffLayout, img_channels: int
) -> np.ndarray:
    """Return a TIFF of 16 bits and 1 or 3 bands in 8 bits, their upper ones as of other formats.

    OpenCV scrambles the tiles at the edges where it makes 8 bits of 16 itself.
    """
    stored = _decode(path, content, cv2.IMREAD_UNCHANGED)
    _refuse_few_bits(path, stored)
    image = (stored >> 8).astype(np.uint8)
    image = ~image if layout.is_white_zero else image
    if image.ndim == 2:
        return image if img_channels == 1 else cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    return image if img_channels == 3 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def _decode_tiff(
    path: Path, content: bytes, layout: TiffLayout, img_channels: int | None = None
) -> np.ndarray:
    """Return the samples of a TIFF, (H, W) or (H, W, C), turned as it says."""
    check_image(path, content)
    image, axes = tiff_samples(path, content, img_channels)
    if image.ndim == 3:
        order = (axes.index("Y"), axes.index("X"))
        [other] = {0, 1, 2} - set(order)
        image = image.transpose(*order, other)
    return _turned(image, layout.orientation)


def _decode_bands(
    path: Path, content: bytes, layout: TiffLayout | None, img_channels: int
) -> np.ndarray:
    """Return an image with all its bands (H, W, C): the pages of a TIFF file, or its channels."""
    is_tiff = path.suffix.lower() in (".tif", ".tiff")
    pages = _decode_pages(path, content) if is_tiff else []
    if len(pages) < 2 and layout:
        return _decode_tiff(path, content, layout, img_channels)
    if len(pages) < 2:
        image = _decode(path, content, cv2.IMREAD_UNCHANGED)
        is_turned = content.startswith(PNG_START)  # OpenCV does not turn what it reads unchanged
        return _turned(image, orientation(content)) if is_turned else image
    if len({page.shape for page in pages}) > 1:
        raise UserError(f"{path}: the pages differ in size; expected one page per band.")
    return np.dstack(pages)


def _decode_pages(path: Path, content: bytes) -> list[np.ndarray]:
    """Return the pages of a TIFF file; none if its bands are not stored as pages."""
    pages = []
    try:
        with open_image(content) as file:
            num_pages = num_frames(path, file)
            if num_pages < 2:
                return []
            check_pixels(path, file.height, file.width, num_pages)
            for index in range(num_pages):
                file.seek(index)
                check_pixels(path, file.height, file.width, num_pages)
                pages.append(np.asarray(file))
    except UserError:
        raise
    except Exception:  # see open_image
        return []
    return pages


def _from_planes(planes: np.ndarray) -> np.ndarray:
    """Return the ids (H, W) of one plane of 0 and 1 per class; other arrays as they are."""
    if planes.dtype.kind in "buif" and planes.size and ((planes == 0) | (planes == 1)).all():
        for axis in (2, 0):
            if planes.shape[axis] > 1 and (planes.sum(axis=axis) == 1).all():
                return planes.argmax(axis=axis)
    for axis in (2, 0):
        if planes.shape[axis] == 1:
            return planes.squeeze(axis)
    return planes


def ids_of_colors(path: Path, rgb: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Return the position in `colors` (K, 3) of the colour of each pixel (H, W, 3)."""
    codes, known = color_codes(rgb), color_codes(colors)
    order = np.argsort(known)
    places = order[np.searchsorted(known, codes, sorter=order).clip(max=len(known) - 1)]
    is_unknown = known[places] != codes
    if is_unknown.any():
        raise Fault(
            f"{path}: found the colour {rgb[is_unknown][0].tolist()} in {is_unknown.sum()} pixels, "
            "expected one of label_colors. Add it; colours without a class come last, and colours "
            "between others are of lossy files or smoothed edges.",
            "label-color",
        )
    return places


def _decode_ids(path: Path, content: bytes, num_classes: int | None) -> np.ndarray:
    """Return what an image file stores, ids (H, W) or bands (H, W, C); see `read_label`."""
    check_image(path, content)
    layout = tiff_layout(content)
    if layout and (
        not layout.is_plain or layout.bits * layout.samples > 24 or layout.num_pages > 1
    ):
        ids = _decode_tiff(path, content, layout)
        return grey_of(ids) if layout.num_pages == 1 else ids
    if content.startswith(b"\x89PNG") and content[24] == 16 and content[25]:  # colour or alpha
        return grey_of(_decode(path, content, cv2.IMREAD_UNCHANGED))  # Pillow keeps 8 bits
    try:
        with open_image(content) as file:
            num_images = num_frames(path, file)
            mode, ids = file.mode, np.asarray(file)
            depth = _grey_depth(file, content)
            palette = file.palette.palette if mode == "P" and file.palette else b""
    except UserError:
        raise
    except Exception:  # see open_image
        raise UserError(
            f"{path}: cannot be decoded as a label image. Replace it or remove it."
        ) from None
    if num_images > 1:
        raise UserError(f"{path}: an animation of {num_images} images, expected one label.")
    if mode == "1" and num_classes and num_classes > 2:
        raise UserError(
            f"{path}: holds 1 bit per pixel, which may stand for the ids 0 and 1, or 0 and 255. "
            "Save it with 8 bits per pixel."
        )
    if depth in (2, 4):  # Pillow spreads them over 0..255
        ids = ids // np.uint8(255 // (2**depth - 1))
    if palette:
        ids = _with_grey_palette(ids, np.frombuffer(palette, np.uint8))
    return grey_of(ids) if mode in ("LA", "RGB", "RGBA") else ids


def grey_of(bands: np.ndarray) -> np.ndarray:
    """Return the plane (H, W) of grey bands (H, W, C), alpha being opaque; others as they are."""
    if bands.ndim != 3 or bands.dtype.kind != "u":
        return bands
    is_opaque = bands.shape[2] in (2, 4) and (bands[:, :, -1] == np.iinfo(bands.dtype).max).all()
    grey = bands[:, :, :-1] if is_opaque else bands
    is_grey = grey.shape[2] in (1, 3) and (grey == grey[:, :, :1]).all()
    return grey[:, :, 0] if is_grey else bands


def _grey_depth(file: Image.Image, content: bytes) -> int:
    """Return the bits per pixel of a grey PNG or TIFF, 8 of others."""
    if file.mode != "L":
        return 8
    if file.format == "PNG":
        return content[24]  # in the header, which comes first
    return int(getattr(file, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,))[0])


def _with_grey_palette(ids: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Return the greys of a palette that holds nothing else, where they are not the indices.

    Optimisers keep the entries in use alone; palettes of 256 entries are for looking at.
    """
    colors = palette[: len(palette) // 3 * 3].reshape(-1, 3)
    greys = colors[:, 0]
    if len(greys) in (0, 256) or (colors != colors[:, :1]).any():
        return ids
    used = np.unique(ids)
    if used.max(initial=0) >= len(greys) or (greys[used] == used).all():
        return ids
    return greys[ids]
