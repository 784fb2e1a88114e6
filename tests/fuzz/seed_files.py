"""Sound small files of every format, to be damaged."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
from PIL import Image

HEIGHT, WIDTH, NUM_CLASSES = 33, 45, 3


def images() -> dict[str, tuple[bytes, int]]:
    """Return name with suffix -> (content, channels to read)."""
    rng = np.random.default_rng(0)
    rgb = cv2.GaussianBlur(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8), (0, 0), 2)
    rgba = np.dstack([rgb, rgb[:, :, :1]])
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    palette = Image.fromarray(rgb).convert("P", palette=Image.Palette.ADAPTIVE)
    bands = [Image.fromarray(rgb[:, :, i]) for i in (0, 1, 2, 0, 1)]
    files = {
        "plain.jpg": (_pillow(rgb, "JPEG"), 3),
        "progressive.jpg": (_pillow(rgb, "JPEG", progressive=True), 3),
        "turned.jpg": (_pillow(rgb, "JPEG", exif=exif), 3),
        "grey.jpg": (_pillow(rgb[:, :, 0], "JPEG"), 1),
        "plain.png": (_pillow(rgb, "PNG"), 3),
        "alpha.png": (_pillow(rgba, "PNG"), 4),
        "palette.png": (_pillow(palette, "PNG"), 3),
        "deep.png": (cv2.imencode(".png", rgb.astype(np.uint16) * 257)[1].tobytes(), 3),
        "plain.bmp": (_pillow(rgb, "BMP"), 3),
        "palette.bmp": (_pillow(palette, "BMP"), 3),
        "plain.webp": (_pillow(rgb, "WEBP"), 3),
        "lossless.webp": (_pillow(rgba, "WEBP", lossless=True), 3),
        "plain.tif": (_pillow(rgb, "TIFF"), 3),
        "lzw.tif": (_pillow(rgb, "TIFF", compression="tiff_lzw"), 3),
        "deflate.tif": (cv2.imencode(".tif", rgb.astype(np.float32))[1].tobytes(), 3),
        "pages.tif": (_pillow(bands[0], "TIFF", save_all=True, append_images=bands[1:]), 5),
        "plain.npy": (_npy(rgb), 3),
        "bands.npy": (_npy(rng.random((HEIGHT, WIDTH, 5))), 5),
    }
    return files


def labels() -> dict[str, bytes]:
    """Return name with suffix -> content."""
    ids = np.random.default_rng(1).integers(0, NUM_CLASSES, (HEIGHT, WIDTH)).astype(np.uint8)
    ids[:2] = 255
    palette = Image.fromarray(ids)
    palette.putpalette(bytes(range(256)) * 3)
    return {
        "grey.png": _pillow(ids, "PNG"),
        "palette.png": _pillow(palette, "PNG"),
        "deep.png": _pillow(ids.astype(np.uint16), "PNG"),
        "grey.bmp": _pillow(ids, "BMP"),
        "grey.tif": _pillow(ids, "TIFF"),
        "deflate.tif": _pillow(ids, "TIFF", compression="tiff_adobe_deflate"),
        "ids.npy": _npy(ids),
        "wide.npy": _npy(ids.astype(np.int64)),
    }


def _pillow(image: np.ndarray | Image.Image, name: str, **options: Any) -> bytes:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, format=name, **options)
    return buffer.getvalue()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
