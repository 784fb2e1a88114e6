"""Small image files in the forms that encoders write: format, depth, bands, layout, orientation."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")  # for tifffile's compression

HEIGHT, WIDTH = 13, 21
ORIENTATIONS = range(1, 9)
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGBA = 0, 2, 3, 4, 6  # colour types of PNG
_DEPTHS = {
    _GREY: (1, 2, 4, 8, 16),
    _RGB: (8, 16),
    _PALETTE: (1, 2, 4, 8),
    _GREY_ALPHA: (8, 16),
    _RGBA: (8, 16),
}
_SAMPLES = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGBA: 4}
_ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
_ADAM7 += [(1, 0, 2, 1)]  # first row and column, steps
_LOSSY = 20  # levels: quality 70, and colours at half the resolution
_RNG = np.random.default_rng(7)


class Form(NamedTuple):
    """A file and what it shows."""

    name: str
    content: bytes
    rgb: np.ndarray | None = None  # (H, W, 3) uint8 where the encoder's input tells it
    tolerance: int = 0  # levels that a decoder may differ by from `rgb`


def image_forms() -> list[Form]:
    """Return the files, always the same."""
    forms = [*_png(), *_bmp(), *_tiff(), *_jpeg(), *_webp(), *_others()]
    assert len({form.name for form in forms}) == len(forms)
    return forms


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """Return an image as EXIF's table of orientations shows it."""
    image = image.swapaxes(0, 1) if orientation > 4 else image
    image = image[:, ::-1] if orientation in (2, 3, 6, 7) else image
    return image[::-1] if orientation in (3, 4, 7, 8) else image


def _noise(bits: int, samples: int) -> np.ndarray:
    """Return (H, W, samples) values over the whole range."""
    shape = (HEIGHT, WIDTH, samples)
    return _RNG.integers(0, 2**bits, shape).astype(np.uint16 if bits > 8 else np.uint8)


def _smooth() -> np.ndarray:
    """Return (H, W, 3) colours that JPEG keeps."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.dstack([rows * 12 + 40, columns * 9 + 20, 230 - rows * 5 - columns * 4]).astype("u1")


def _in_8_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Return values spread over 0..255."""
    if bits == 16:
        return np.rint(values / 257).astype(np.uint8)
    return (values.astype(int) * 255 // (2**bits - 1)).astype(np.uint8)


def _as_rgb(values: np.ndarray) -> np.ndarray:
    """Return grey, grey and alpha, RGB or RGBA as RGB."""
    return np.repeat(values[:, :, :1], 3, axis=2) if values.shape[2] < 3 else values[:, :, :3]


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes().removeprefix(b"Exif\0\0")


def _packed(values: np.ndarray, bits: int) -> list[bytes]:
    """Return each row of (H, W, samples) as PNG, BMP and TIFF store it, to whole bytes."""
    if bits == 16:
        return [row.astype(">u2").tobytes() for row in values]
    digits = np.unpackbits(values[..., None], axis=3)[..., 8 - bits :]
    return [np.packbits(row.ravel()).tobytes() for row in digits]


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def make_png(
    values: np.ndarray,
    bits: int,
    color_type: int,
    chunks: tuple[tuple[bytes, bytes], ...] = (),
    is_interlaced: bool = False,
) -> bytes:
    """Return a PNG of (H, W, samples), written by hand."""
    parts = [(0, 0, 1, 1)] if not is_interlaced else _ADAM7
    height, width = values.shape[:2]
    rows = b"".join(
        b"\0" + row
        for top, left, down, right in parts
        if (part := values[top::down, left::right]).size
        for row in _packed(part, bits)
    )
    header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, is_interlaced)
    body = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*item) for item in body)


def _palette(bits: int, is_grey: bool = False) -> np.ndarray:
    colors = _RNG.integers(0, 256, (2**bits, 3)).astype(np.uint8)
    return np.repeat(colors[:, :1], 3, axis=1) if is_grey else colors


_COLOUR_CHUNKS: dict[str, tuple[tuple[bytes, bytes], ...]] = {
    "gamma": ((b"gAMA", struct.pack(">I", 22222)),),
    "linear": ((b"gAMA", struct.pack(">I", 100000)),),
    "srgb": ((b"sRGB", b"\0"),),
    "primaries": (
        (b"gAMA", struct.pack(">I", 45455)),
        (
            b"cHRM",
            struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000),
        ),
    ),
    "cicp": ((b"cICP", bytes([9, 16, 0, 1])),),
    "background": ((b"bKGD", b""),),
}


def _png() -> Iterator[Form]:
    for color_type, depths in _DEPTHS.items():
        for bits, is_interlaced in product(depths, (False, True)):
            values = _noise(bits, _SAMPLES[color_type])
            name = f"png-{color_type}-{bits}{'-adam7' if is_interlaced else ''}"
            before: tuple[tuple[bytes, bytes], ...] = ()
            rgb = _as_rgb(_in_8_bits(values, bits))
            if color_type == _PALETTE:
                colors = _palette(bits)
                before = ((b"PLTE", colors.tobytes()),)
                rgb = colors[values[:, :, 0]]
            variants: dict[str, tuple[tuple[bytes, bytes], ...]] = {"": ()}
            if color_type == _PALETTE:
                variants["-trns"] = ((b"tRNS", bytes([0, 128][: 2**bits])),)
            elif color_type in (_GREY, _RGB):
                clear = values[0, 0].astype(">u2").tobytes()
                variants["-trns"] = ((b"tRNS", clear),)
            for suffix, chunks in variants.items():
                content = make_png(values, bits, color_type, before + chunks, is_interlaced)
                yield Form(f"{name}{suffix}.png", content, rgb, bits // 16)
            if is_interlaced:
                continue
            for turn in (3, 6) if bits != 8 else ORIENTATIONS:
                content = make_png(values, bits, color_type, (*before, (b"eXIf", _exif(turn))))
                yield Form(f"{name}-turn{turn}.png", content, turned(rgb, turn), bits // 16)
            for label, chunks in _COLOUR_CHUNKS.items() if bits == 8 else ():
                if label == "background":
                    size = {_PALETTE: 1, _GREY: 2, _GREY_ALPHA: 2}.get(color_type, 6)
                    chunks = ((b"bKGD", bytes(size)),)
                order = (*before, *chunks) if label == "background" else (*chunks, *before)
                yield Form(f"{name}-{label}.png", make_png(values, bits, color_type, order), rgb)
    for color_type, highest in product((_GREY, _RGB, _GREY_ALPHA, _RGBA), (255, 1023, 4095)):
        values = _noise(16, _SAMPLES[color_type]) % np.uint16(highest + 1)
        values[0, 0] = highest
        if color_type in (_GREY_ALPHA, _RGBA):
            values[:, :, -1] = 65535  # opaque
        yield Form(f"png-{color_type}-up to {highest}.png", make_png(values, 16, color_type))
    rgb = _noise(8, 3)
    content = make_png(rgb, 8, _RGB)
    yield Form("png-cut.png", content[: len(content) * 2 // 3])
    yield Form("png-without end.png", content[:-12])
    values, colors = _noise(8, 1), _palette(8, is_grey=True)
    content = make_png(values, 8, _PALETTE, ((b"PLTE", colors.tobytes()),))
    yield Form("png-grey palette.png", content, colors[values[:, :, 0]])
    content = make_png(rgb, 8, _RGB)
    yield Form("png-profile.png", _saved(rgb, "PNG", icc_profile=_profile()), rgb)
    text = b"\nexif\n%8d\n" % len(_exif(6)) + _exif(6).hex().encode() + b"\n"
    chunk = (b"tEXt", b"Raw profile type exif\0" + text)
    yield Form("png-orientation in text.png", make_png(rgb, 8, _RGB, (chunk,)))
    yield Form("png as jpeg.jpg", content, rgb)
    yield Form("png as tiff.tif", content, rgb)
    frames = [Image.fromarray(_noise(8, 3)) for _ in range(3)]
    for first in (True, False):  # whether the still image is the first frame
        buffer = io.BytesIO()
        image = frames[0]
        image.save(buffer, "PNG", save_all=True, append_images=frames[1:], default_image=not first)
        expected = np.asarray(frames[0]) if first else None
        yield Form(f"png-animated-{first}.png", buffer.getvalue(), expected)


def _profile() -> bytes:
    """Return a colour profile whose red and green are those of sRGB swapped."""
    content = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return content.replace(b"rXYZ", b"?XYZ").replace(b"gXYZ", b"rXYZ").replace(b"?XYZ", b"gXYZ")


def _saved(values: np.ndarray, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, form, **options)
    return buffer.getvalue()


def make_bmp(
    rows: list[bytes],
    bits: int,
    width: int,
    *,
    palette: bytes = b"",
    masks: bytes = b"",
    compression: int = 0,
    is_top_down: bool = False,
) -> bytes:
    """Return a BMP of rows from the top, padded here to four bytes."""
    height = len(rows) if compression not in (1, 2) else HEIGHT
    order = rows if is_top_down or compression in (1, 2) else rows[::-1]
    pad = 1 if compression in (1, 2) else 4
    body = b"".join(row + bytes(-len(row) % pad) for row in order)
    info = struct.pack(
        "<IiiHHIIiiII",
        40,
        width,
        -height if is_top_down else height,
        1,
        bits,
        compression,
        len(body),
        2835,
        2835,
        len(palette) // 4,
        0,
    )
    start = 14 + len(info) + len(masks) + len(palette)
    return struct.pack("<2sIHHI", b"BM", start + len(body), 0, 0, start) + (
        info + masks + palette + body
    )


def _bmp() -> Iterator[Form]:
    for bits, is_top_down, is_grey in product((1, 4, 8), (False, True), (False, True)):
        colors = _palette(bits, is_grey)
        if is_grey and bits == 8:
            colors = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
        palette = np.dstack([colors[None, :, ::-1], np.zeros((1, 2**bits, 1), "u1")]).tobytes()
        values = _noise(bits, 1)
        content = make_bmp(
            _packed(values, bits), bits, WIDTH, palette=palette, is_top_down=is_top_down
        )
        name = f"bmp-{bits}{'-grey' if is_grey else ''}{'-top down' if is_top_down else ''}.bmp"
        yield Form(name, content, colors[values[:, :, 0]])
    for samples, is_top_down in product((3, 4), (False, True)):
        values = _noise(8, samples)
        order = values[:, :, [2, 1, 0, 3][:samples]]
        rows = [row.tobytes() for row in order]
        content = make_bmp(rows, 8 * samples, WIDTH, is_top_down=is_top_down)
        yield Form(
            f"bmp-{8 * samples}{'-top down' if is_top_down else ''}.bmp", content, values[:, :, :3]
        )
    masks = struct.pack("<3I", 0xFF0000, 0xFF00, 0xFF)
    values = _noise(8, 4)
    rows = [row.tobytes() for row in values[:, :, [2, 1, 0, 3]]]
    content = make_bmp(rows, 32, WIDTH, masks=masks, compression=3)
    yield Form("bmp-32-masks.bmp", content, values[:, :, :3])
    masks = struct.pack("<3I", 0xFF, 0xFF00, 0xFF0000)
    content = make_bmp(rows, 32, WIDTH, masks=masks, compression=3)
    yield Form("bmp-32-other masks.bmp", content)
    for name, masks in (
        ("555", b""),
        ("565", struct.pack("<3I", 0xF800, 0x7E0, 0x1F)),
        ("444", struct.pack("<3I", 0xF00, 0xF0, 0xF)),
    ):
        rows = [row.tobytes() for row in _RNG.integers(0, 2**15, (HEIGHT, WIDTH)).astype("<u2")]
        compression = 3 if masks else 0
        yield Form(
            f"bmp-{name}.bmp", make_bmp(rows, 16, WIDTH, masks=masks, compression=compression)
        )
    values = _noise(8, 3)
    padded = b"".join(row.tobytes() + bytes(-3 * WIDTH % 4) for row in values[::-1, :, ::-1])
    info = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 24)
    content = struct.pack("<2sIHHI", b"BM", 26 + len(padded), 0, 0, 26) + info + padded
    yield Form("bmp-os2.bmp", content, values)
    colors = _palette(8)
    palette = np.dstack([colors[None, :, ::-1], np.zeros((1, 256, 1), "u1")]).tobytes()
    values = _noise(8, 1)
    rows = [b"".join(bytes([1, value]) for value in row) + b"\0\0" for row in values[::-1, :, 0]]
    rows[-1] = rows[-1][:-1] + b"\1"
    content = make_bmp(rows, 8, WIDTH, palette=palette, compression=1)
    yield Form("bmp-rle8.bmp", content, colors[values[:, :, 0]])
    rgb = _noise(8, 3)
    yield Form("bmp-pillow.bmp", _saved(rgb, "BMP"), rgb)
    rgba = _noise(8, 4)
    yield Form("bmp-pillow-alpha.bmp", _saved(rgba, "BMP"), rgba[:, :, :3])
    content = _saved(rgb, "BMP")
    yield Form("bmp-cut.bmp", content[: len(content) // 2])


def _tiff_of(values: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, metadata=None, **options)
    return buffer.getvalue()


def _stored(dtype: str, samples: int) -> np.ndarray:
    shape = (HEIGHT, WIDTH, samples)
    if dtype == "f4":
        return _RNG.normal(100, 90, shape).astype(dtype)
    info = np.iinfo(dtype)
    return _RNG.integers(info.min, info.max, shape, endpoint=True).astype(dtype)


def _tiff() -> Iterator[Form]:
    for dtype, samples, planar in product(
        ("u1", "u2", "i1", "i2", "u4", "f4"), (1, 2, 3, 4, 5), ("contig", "separate")
    ):
        values = _stored(dtype, samples)
        rgb = None
        if dtype in ("u1", "u2") and samples in (1, 3):
            rgb = _as_rgb(_in_8_bits(values, 8 * np.dtype(dtype).itemsize))
        if dtype == "u1" and (samples == 4 or (samples == 2 and planar == "contig")):
            rgb = _as_rgb(values)
        stored = values if planar == "contig" else values.transpose(2, 0, 1)
        stored = stored.squeeze() if samples == 1 else stored
        photometric = "rgb" if samples in (3, 4) else "minisblack"
        content = _tiff_of(
            stored,
            photometric=photometric,
            planarconfig=planar if samples > 1 else None,
        )
        if samples > 1 or planar == "contig":
            keeps = planar == "contig" or dtype == "u1"  # others stay as they are stored
            name = f"tiff-{dtype}-{samples}-{planar}.tif"
            yield Form(name, content, rgb if keeps else None, int(dtype == "u2"))
    options: list[tuple[str, dict[str, Any]]] = [
        ("lzw", {"compression": "lzw"}),
        ("lzw-predictor", {"compression": "lzw", "predictor": 2}),
        ("deflate", {"compression": "zlib"}),
        ("packbits", {"compression": "packbits"}),
        ("big-endian", {"byteorder": ">"}),
        ("bigtiff", {"bigtiff": True}),
        ("tiles", {"tile": (32, 32)}),
        ("strips", {"rowsperstrip": 4}),
    ]
    for (name, option), dtype, samples in product(options, ("u1", "u2"), (1, 3, 4)):
        values = _stored(dtype, samples)
        photometric = "minisblack" if samples == 1 else "rgb"
        content = _tiff_of(values.squeeze(), photometric=photometric, **option)
        rgb = _as_rgb(_in_8_bits(values, 8 * np.dtype(dtype).itemsize))
        yield Form(
            f"tiff-{name}-{dtype}-{samples}.tif",
            content,
            rgb if samples != 4 or dtype == "u1" else None,
            int(dtype == "u2"),
        )
    for turn, samples, bits in product(ORIENTATIONS, (1, 3, 4), (8, 16)):
        values = _noise(bits, samples)
        content = _tiff_of(
            values.squeeze(),
            photometric="minisblack" if samples == 1 else "rgb",
            extratags=[(274, 3, 1, turn, True)],
        )
        rgb = turned(_as_rgb(_in_8_bits(values, bits)), turn)
        is_kept = (samples, bits) == (4, 16)
        name = f"tiff-turn{turn}-{samples}-{bits}.tif"
        yield Form(name, content, None if is_kept else rgb, bits // 16)
    for bits, samples in product((1, 2, 4, 10, 12), (1, 3)):
        values = _noise(bits, samples)
        photometric = "minisblack" if samples == 1 else "rgb"
        packs = {"bitspersample": bits} if bits > 1 else {}
        stored = values.squeeze() if bits > 1 else values.squeeze().astype(bool)
        if bits == 1 and samples > 1:
            continue
        try:
            content = _tiff_of(stored, photometric=photometric, **packs)
        except NotImplementedError:  # Python 3.10's imagecodecs cannot pack them
            continue
        yield Form(
            f"tiff-{bits} bits-{samples}.tif",
            content,
            _as_rgb(_in_8_bits(values, bits)) if (bits, samples) == (1, 1) else None,
        )
    for dtype in ("u1", "u2", "?"):
        values = _noise(1, 1) if dtype == "?" else _stored(dtype, 1)
        bits = {"u1": 8, "u2": 16, "?": 1}[dtype]
        yield Form(
            f"tiff-white is zero-{bits}.tif",
            _tiff_of(values.squeeze().astype(dtype), photometric="miniswhite"),
            255 - _as_rgb(_in_8_bits(values, bits)),
            bits // 16,
        )
    colors = _RNG.integers(0, 256, (3, 256)).astype(np.uint16)
    values = _noise(8, 1)
    content = _tiff_of(values.squeeze(), photometric="palette", colormap=colors * np.uint16(257))
    yield Form("tiff-palette.tif", content, colors.T[values[:, :, 0]].astype(np.uint8))
    values = _noise(8, 4)
    yield Form("tiff-cmyk.tif", _tiff_of(values, photometric="separated"))
    for extra in ("assocalpha", "unassalpha", "unspecified"):
        content = _tiff_of(values, photometric="rgb", extrasamples=[extra])
        yield Form(f"tiff-{extra}.tif", content, values[:, :, :3])
        grey = values[:, :, :2]
        content = _tiff_of(
            grey, photometric="minisblack", planarconfig="contig", extrasamples=[extra]
        )
        yield Form(f"tiff-grey-{extra}.tif", content, _as_rgb(grey))
    rgb = _smooth()
    yield Form("tiff-jpeg.tif", _saved(rgb, "TIFF", compression="jpeg"), rgb, tolerance=_LOSSY)
    pages = _noise(8, 4).transpose(2, 0, 1)
    for count in (2, 3, 4):
        content = _tiff_of(pages[:count], photometric="minisblack")
        yield Form(f"tiff-{count} pages.tif", content, _as_rgb(pages[0][:, :, None]))
    content = _tiff_of(pages.astype(np.uint16) * 257, photometric="minisblack")
    yield Form("tiff-pages of 16 bits.tif", content)
    values = _stored("f4", 3)
    values[3, 4] = np.nan
    yield Form("tiff-nan.tif", _tiff_of(values, photometric="rgb"))
    for samples, highest in product((1, 3), (255, 1023, 4095)):
        values = _noise(16, samples) % np.uint16(highest + 1)
        values[0, 0] = highest
        photometric = "minisblack" if samples == 1 else "rgb"
        content = _tiff_of(values.squeeze(), photometric=photometric)
        yield Form(f"tiff-{samples}-up to {highest}.tif", content)
    rgb = _noise(8, 3)
    content = _tiff_of(rgb, photometric="rgb")
    yield Form("tiff as png.png", content, rgb)
    yield Form("tiff as jpeg.jpg", content, rgb)
    yield Form("tiff-cut.tif", content[: len(content) // 2])


def _jpeg() -> Iterator[Form]:
    rgb = _smooth()
    grey = rgb[:, :, 1]
    for is_progressive, quality in product((False, True), (70, 95)):
        kind = f"jpeg-{'progressive' if is_progressive else 'baseline'}-{quality}"
        options = {"progressive": is_progressive, "quality": quality}
        for sampling in (0, 1, 2):
            content = _saved(rgb, "JPEG", subsampling=sampling, **options)
            yield Form(f"{kind}-{sampling}.jpg", content, rgb, tolerance=_LOSSY)
        expected = _as_rgb(grey[:, :, None])
        yield Form(f"{kind}-grey.jpg", _saved(grey, "JPEG", **options), expected, tolerance=_LOSSY)
    for turn in ORIENTATIONS:
        exif = Image.Exif()
        exif[0x0112] = turn
        content = _saved(rgb, "JPEG", quality=95, subsampling=0, exif=exif)
        yield Form(f"jpeg-turn{turn}.jpg", content, turned(rgb, turn), tolerance=_LOSSY)
    content = _saved(rgb, "JPEG", quality=95, subsampling=0)
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='3'/>"
    for order, layout in product("<>", ("short", "long", "xmp first", "filled")):
        tag = struct.pack(f"{order}HHI", 0x0112, 4 if layout == "long" else 3, 1)
        value = struct.pack(f"{order}I" if layout == "long" else f"{order}Hxx", 6)
        head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, 1)
        exif = b"Exif\0\0" + head + tag + value + bytes(4)
        parts = [xmp, exif] if layout == "xmp first" else [exif]
        filling = b"\xff" if layout == "filled" else b""
        segments = [struct.pack(">2sH", b"\xff\xe1", len(part) + 2) + part for part in parts]
        start = content[:2] + filling + filling.join(segments)
        expected = None if layout == "long" else turned(rgb, 6)
        name = f"jpeg-exif {layout} {'little' if order == '<' else 'big'}.jpg"
        yield Form(name, start + content[2:], expected, tolerance=_LOSSY)
    content = _saved(rgb, "JPEG", quality=95, subsampling=0, keep_rgb=True)
    yield Form("jpeg-stored as rgb.jpg", content, rgb, tolerance=_LOSSY)
    content = _saved(rgb, "JPEG", quality=95, subsampling=0, icc_profile=_profile())
    yield Form("jpeg-profile.jpg", content, rgb, tolerance=_LOSSY)
    buffer = io.BytesIO()
    Image.fromarray(rgb).convert("CMYK").save(buffer, "JPEG", quality=95)
    yield Form("jpeg-cmyk.jpg", buffer.getvalue(), tolerance=_LOSSY)
    content = _saved(rgb, "JPEG", quality=95, subsampling=0)
    yield Form("jpeg-bytes after the end.jpg", content + bytes(100), rgb, tolerance=_LOSSY)
    yield Form("jpeg-cut.jpg", content[: len(content) * 2 // 3])
    yield Form("jpeg as png.png", content, rgb, tolerance=_LOSSY)
    size = content.index(b"\xff\xc0") + 4
    yield Form("jpeg-12 bits.jpg", content[:size] + b"\x0c" + content[size + 1 :])
    many = _saved(rgb, "JPEG", progressive=True)
    last = many.rindex(b"\xff\xda")
    yield Form("png-endless chunk.png", _saved(rgb, "PNG")[:33] + b"\x7f\xff\xff\xffIDAT")
    yield Form("jpeg-101 scans.jpg", many[:-2] + many[last:-2] * 100 + many[-2:])
    ok, encoded = cv2.imencode(".jpg", rgb[:, :, ::-1])
    assert ok
    yield Form("jpeg-opencv.jpg", encoded.tobytes(), rgb, tolerance=_LOSSY)


def _webp() -> Iterator[Form]:
    for turn, samples in product(ORIENTATIONS, (3, 4)):
        values = _noise(8, samples)
        exif = Image.Exif()
        exif[0x0112] = turn
        content = _saved(values, "WEBP", lossless=True, exact=True, exif=exif)
        yield Form(f"webp-turn{turn}-{samples}.webp", content, turned(values[:, :, :3], turn))
    for samples in (3, 4):
        values = _noise(8, samples)
        content = _saved(values, "WEBP", lossless=True, exact=True)
        yield Form(f"webp-lossless-{samples}.webp", content, values[:, :, :3])
    rgb = _smooth()
    content = _saved(rgb, "WEBP", quality=95)
    yield Form("webp-lossy.webp", content, rgb, tolerance=_LOSSY)
    alpha = np.dstack([rgb, np.full((HEIGHT, WIDTH), 99, "u1")])
    yield Form("webp-lossy-alpha.webp", _saved(alpha, "WEBP", quality=95), rgb, tolerance=_LOSSY)
    yield Form("webp-cut.webp", content[: len(content) // 2])
    yield Form("webp-profile.webp", _saved(rgb, "WEBP", lossless=True, icc_profile=_profile()), rgb)
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    content = _saved(rgb, "WEBP", lossless=True, xmp=xmp)
    yield Form("webp-orientation in xmp.webp", content, rgb)  # EXIF alone is obeyed
    buffer = io.BytesIO()
    frames = [Image.fromarray(_noise(8, 3)) for _ in range(2)]
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    yield Form("webp-animated.webp", buffer.getvalue(), np.asarray(frames[0]))


def _others() -> Iterator[Form]:
    rgb = _noise(8, 3)
    for form in ("GIF", "PPM", "TGA", "ICO", "JPEG2000", "AVIF"):
        size = rgb if form != "ICO" else _RNG.integers(0, 256, (16, 16, 3)).astype(np.uint8)
        content = _saved(size, form)
        yield Form(f"other-{form}.png", content)
        yield Form(f"other-{form}.jpg", content)
    svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"></svg>'
    yield Form("other-svg.png", svg)
    yield Form("other-text.png", b"no image")
    yield Form("other-empty.png", b"")
    buffer = io.BytesIO()
    np.save(buffer, rgb)
    yield Form("other-array as png.png", buffer.getvalue())
