"""Reading of images and labels, and writing of label maps.

Images are RGB uint8 arrays (H, W, 3), labels are arrays of class ids (H, W).
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from paddleseg_segformer.data.headers import check_array, check_image, check_pixels, open_image
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import atomic_path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".npy")

_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"


def read_image(path: str | os.PathLike[str], img_channels: int = 3) -> np.ndarray:
    """Read an image as (H, W, `img_channels`).

    Image files of 1 or 3 channels are converted to that many channels and to 8 bits; three are in
    the order red, green, blue. Other numbers of channels are read as they are stored: from `.npy`
    (H, W, C), from TIFF files with a page per band, or from files of four channels.

    Returns:
        uint8; float32 if the values are stored in any type but 8 bits.

    Raises:
        UserError: the file is missing, cannot be decoded, is cut off, or has other channels.
    """
    path = Path(path)
    return decode_image(path, _read_bytes(path), img_channels)


def decode_image(path: Path, content: bytes, img_channels: int = 3) -> np.ndarray:
    """Decode a file's content as `read_image` does.

    Args:
        path: Its name, for messages; `.npy` and TIFF files are recognised by its suffix.
        content: The file, not empty.
        img_channels: As of `read_image`.

    Raises:
        UserError: it cannot be decoded, is cut off, or has other channels.
    """
    if path.suffix.lower() == ".npy":
        image = _decode_array(path, content)
    elif img_channels in (1, 3):
        flag = cv2.IMREAD_COLOR if img_channels == 3 else cv2.IMREAD_GRAYSCALE
        image = _decode(path, content, flag)
    else:
        image = _decode_bands(path, content)
    image = image[:, :, None] if image.ndim == 2 else image
    if image.ndim != 3 or image.shape[2] != img_channels:
        raise UserError(
            f"{path}: found an image of shape {image.shape}, expected (height, width, "
            f"{img_channels}). Check the file, or set img_channels of the data set."
        )
    return image if image.dtype == np.uint8 else image.astype(np.float32)


def read_label(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a label map of class ids (H, W) from a grey or palette image, or from `.npy`.

    Returns:
        uint8, or int32 if an id is above 255 or below 0.

    Raises:
        UserError: the file is missing, cannot be decoded, or does not hold one id per pixel.
    """
    path = Path(path)
    content = _read_bytes(path)
    decode = _decode_array if path.suffix.lower() == ".npy" else _decode_ids
    label = decode(path, content)
    if label.ndim != 2 or label.dtype.kind not in "bui":
        raise UserError(
            f"{path}: found a label of shape {label.shape} and type {label.dtype}, "
            "expected one whole-number class id per pixel, (height, width)."
        )
    if label.dtype == np.uint8:
        return label
    fits = label.size == 0 or (label.min() >= 0 and label.max() <= 255)
    return label.astype(np.uint8 if fits else np.int32)


def encode_label(label: np.ndarray, colors: np.ndarray | None = None) -> bytes:
    """Return a PNG of the class ids (H, W): 8 bits, or 16 bits for ids above 255.

    Args:
        label: Class ids in 0..65535.
        colors: RGB colours (256, 3) for the palette of an 8-bit PNG; the ids are unchanged.
    """
    if label.size and label.max() > 255:
        image = Image.fromarray(label.astype(np.uint16))
    else:
        image = Image.fromarray(label.astype(np.uint8))
        if colors is not None:
            image.putpalette(np.asarray(colors, np.uint8).tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def write_label(
    path: str | os.PathLike[str], label: np.ndarray, colors: np.ndarray | None = None
) -> None:
    """Write the class ids (H, W) as a PNG to `path`, atomically; see `encode_label`."""
    content = encode_label(label, colors)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _read_bytes(path: Path) -> bytes:
    """Return the file's content; pipes and devices, which might never end, are refused."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: not a file. Check the path or the list of samples.")
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Check the path or the list of samples.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None
    except ValueError as error:
        raise UserError(f"{str(path)!r}: not a path ({error}).") from None
    if not content:
        raise UserError(f"{path}: the file is empty. Replace it or remove it from the data set.")
    return content


def _decode(path: Path, content: bytes, flag: int) -> np.ndarray:
    """Return an image decoded by OpenCV with `flag`, colours in the order red, green, blue."""
    if _is_cut_jpeg(content):
        raise UserError(f"{path}: the JPEG file is cut off. Replace it or remove it.")
    check_image(path, content)
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    except (cv2.error, MemoryError):
        image = None
    if image is None:
        raise UserError(f"{path}: cannot be decoded as an image. Replace it or remove it.")
    if image.ndim == 3 and image.shape[2] in (3, 4):
        code = cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
        return cv2.cvtColor(image, code)
    return image


def _is_cut_jpeg(content: bytes) -> bool:
    """Tell whether a JPEG lacks its end, which the decoder would silently fill with grey.

    Neither marker occurs inside compressed data; a thumbnail's end comes before the scan's start.
    """
    if not content.startswith(_JPEG_START):
        return False
    end = content.rfind(_JPEG_END)
    return end < 0 or content.find(_JPEG_SCAN, end) >= 0


def _decode_array(path: Path, content: bytes) -> np.ndarray:
    """Return the array in a `.npy` file."""
    check_array(path, content)
    return np.load(io.BytesIO(content), allow_pickle=False)


def _decode_bands(path: Path, content: bytes) -> np.ndarray:
    """Return an image with all its bands (H, W, C): the pages of a TIFF file, or its channels."""
    is_tiff = path.suffix.lower() in (".tif", ".tiff")
    pages = _decode_pages(path, content) if is_tiff else []
    if len(pages) < 2:
        return _decode(path, content, cv2.IMREAD_UNCHANGED)
    if len({page.shape for page in pages}) > 1:
        raise UserError(f"{path}: the pages differ in size; expected one page per band.")
    return np.dstack(pages)


def _decode_pages(path: Path, content: bytes) -> list[np.ndarray]:
    """Return the pages of a TIFF file; none if its bands are not stored as pages."""
    pages = []
    try:
        with open_image(content) as file:
            num_pages = getattr(file, "n_frames", 1)
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


def _decode_ids(path: Path, content: bytes) -> np.ndarray:
    """Return the ids of an image file; the colours of a palette are ignored."""
    check_image(path, content)
    try:
        with open_image(content) as file:
            mode, ids = file.mode, np.asarray(file)
    except Exception:  # see open_image
        raise UserError(
            f"{path}: cannot be decoded as a label image. Replace it or remove it."
        ) from None
    if ids.ndim != 2:
        raise UserError(
            f"{path}: the label is a colour image (mode {mode}), expected one class id per pixel. "
            "Convert it to a grey or palette PNG whose pixel values are class ids."
        )
    return ids
