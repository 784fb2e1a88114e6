from __future__ import annotations

import io
import os
import struct
import threading
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from paddleseg_segformer.data import rasters
from paddleseg_segformer.data.headers import MAX_DECODE_S, MAX_PIXELS, check_image
from paddleseg_segformer.data.io import read_image, read_label
from paddleseg_segformer.data.rasters import open_raster
from paddleseg_segformer.errors import UserError

SIDE = 60_000


def png(side: int) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def small(suffix: str) -> bytearray:
    return bytearray(cv2.imencode(suffix, np.zeros((16, 16), np.uint8))[1].tobytes())


def jpeg(side: int) -> bytes:
    content = small(".jpg")
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(content)


def bmp(side: int) -> bytes:
    content = small(".bmp")
    content[18:26] = struct.pack("<ii", side, side)
    return bytes(content)


def tiff(side: int, bits: int = 8) -> bytes:
    """Without an image mode of Pillow's where the samples have 64 bits."""
    tags = [(256, side), (257, side), (258, bits), (259, 1), (262, 1), (273, 8), (277, 1)]
    tags += [(278, side), (279, 100)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("read", [read_image, read_label])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("bomb.png", png(SIDE)),
        ("bomb.jpg", jpeg(SIDE)),
        ("bomb.bmp", bmp(SIDE)),
        ("bomb.tif", tiff(SIDE)),
        ("deep.tif", tiff(SIDE, bits=64)),
        ("png_in_disguise.jpg", png(SIDE)),
    ],
)
def test_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch, read, name, content):
    monkeypatch.setattr(cv2, "imdecode", lambda *args: pytest.fail("decoded"))
    monkeypatch.setattr(Image.Image, "__array_interface__", property(lambda _: pytest.fail("read")))
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: the header claims 60000x60000 px .*tiles") as e:
        read(path)
    assert MAX_PIXELS in str(e.value) and "\n" not in str(e.value)


def test_array_that_claims_more_than_it_holds(tmp_path):
    buffer = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (SIDE, SIDE, 3)}
    np.lib.format.write_array_header_1_0(buffer, header)
    path = tmp_path / "bomb.npy"
    path.write_bytes(buffer.getvalue() + bytes(100))
    with pytest.raises(UserError, match="bomb.npy: the header claims 10800000000 bytes"):
        read_image(path)


@pytest.mark.parametrize(
    "array", [np.array([{"x": 1}], object), np.zeros((2, 2), "M8[s]"), np.zeros(3, "i4,f4")]
)
def test_array_of_anything_but_numbers_is_refused(tmp_path, array):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match="expected numbers"):
        read_image(tmp_path / "x.npy")


def test_archive_of_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", np.zeros((2, 2)))
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    with pytest.raises(UserError, match="x.npy: cannot be read as a NumPy array"):
        read_label(tmp_path / "x.npy")


def test_bound_is_set_by_the_environment(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    cv2.imwrite(str(path), np.zeros((10, 20), np.uint8))
    monkeypatch.setenv(MAX_PIXELS, "200")
    assert read_image(path).shape == (10, 20, 3)
    monkeypatch.setenv(MAX_PIXELS, "199")
    with pytest.raises(UserError, match="claims 10x20 px .* at most 199 px"):
        read_image(path)
    monkeypatch.setenv(MAX_PIXELS, "many")
    with pytest.raises(UserError, match=f"{MAX_PIXELS}: found 'many'"):
        read_image(path)


def test_pages_are_counted_together(tmp_path, monkeypatch):
    pages = [Image.new("L", (20, 10)) for _ in range(5)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    monkeypatch.setenv(MAX_PIXELS, "999")
    with pytest.raises(UserError, match="10x20 px .* and 5 pages"):
        read_image(tmp_path / "x.tif", 5)


def test_size_of_a_tiff_without_a_pillow_mode_is_known(tmp_path):
    check_image(Path("x.tif"), tiff(100, bits=64))
    with pytest.raises(UserError, match="0x0 px"):
        check_image(Path("x.tif"), tiff(0, bits=64))


def test_postscript_is_not_run(tmp_path):
    path = tmp_path / "label.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage")
    with pytest.raises(UserError, match="label.png: cannot be decoded"):
        read_label(path)


def test_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    start = time.perf_counter()
    with pytest.raises(UserError, match="x.png: not a file"):
        read_image(tmp_path / "x.png")
    assert time.perf_counter() - start < 5


def test_file_that_takes_the_memory_is_refused(tmp_path):
    """It may hold nothing: 200 GB of zeros take no space on the disk."""
    path = tmp_path / "x.png"
    path.touch()
    os.truncate(path, 200 << 30)
    for read in (read_image, read_label):
        with pytest.raises(UserError, match=r"x.png: 204800 MiB, more than 50% of the free memory"):
            read(path)


def test_path_with_a_zero_byte_is_refused():
    with pytest.raises(UserError, match="not a path"):
        read_image("a\0b.png")


def test_pillows_own_limit_stays_for_others(tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((10, 20), np.uint8))
    before = Image.MAX_IMAGE_PIXELS
    threads = [
        threading.Thread(target=lambda: [read_label(tmp_path / "x.png") for _ in range(50)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Image.MAX_IMAGE_PIXELS == before is not None


def test_jpeg_of_many_scans_is_refused(tmp_path):
    """A refinement scan of 15 bytes costs as much as a pass over the whole image."""
    path = tmp_path / "x.jpg"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(path, progressive=True, quality=95)
    content = path.read_bytes()
    assert read_image(path).shape == (64, 64, 3)
    last = content.rindex(b"\xff\xda")
    path.write_bytes(content[:last] + 2000 * content[last:-2] + content[-2:])
    with pytest.raises(UserError, match=r"x.jpg: a JPEG of \d+ scans, expected at most 100"):
        read_image(path)


@pytest.mark.parametrize("read", [read_image, read_label])
def test_decoding_that_takes_too_long_is_left(tmp_path, monkeypatch, read):
    """Few bytes, and no more pixels and scans than are allowed: some seconds."""
    path = tmp_path / "slow.jpg"
    Image.new("L", (8192, 8192), 120).save(path, progressive=True)
    content = path.read_bytes()
    last = content.rindex(b"\xff\xda")
    path.write_bytes(content[:last] + 90 * content[last:-2] + content[-2:])
    assert path.stat().st_size < 1 << 19
    monkeypatch.setenv(MAX_DECODE_S, "1")
    with pytest.raises(UserError, match=r"slow.jpg: decoding it takes more than 1 s. Save"):
        read(path)
    cv2.imwrite(str(tmp_path / "x.png"), np.ones((10, 20), np.uint8))
    assert read(tmp_path / "x.png").max() == 1
    monkeypatch.setenv(MAX_DECODE_S, "0")
    with pytest.raises(UserError, match=f"{MAX_DECODE_S}: found '0', expected a number of seconds"):
        read(path)


def test_window_of_a_picture_that_takes_too_long_is_named(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "x.tif", np.ones((64, 64, 3), np.uint8), tile=(16, 16))
    with open_raster(tmp_path / "x.tif") as raster:
        assert raster.read(0, 64, 0, 64).all()
        monkeypatch.setattr(rasters, "max_decode_s", lambda: -1)
        with pytest.raises(UserError, match="x.tif: rows 0 to 15: decoding it takes more than"):
            raster.read(0, 16, 0, 64)


def test_png_that_claims_more_than_it_holds_is_refused(tmp_path):
    """OpenCV 5 makes room for all that a chunk claims: 44 bytes cost 2 GiB and a second."""
    path = tmp_path / "x.png"
    Image.fromarray(np.zeros((33, 45, 3), np.uint8)).save(path)
    content = path.read_bytes()
    assert read_image(path).shape == (33, 45, 3)
    path.write_bytes(content[:33] + b"\x7f\xff\xff\xffIDAT")
    for read in (read_image, read_label):
        with pytest.raises(UserError, match=r"chunk b'IDAT' claims 2147483647 bytes, found 0"):
            read(path)
    chunk = b"\0\0\0\0teST" + zlib.crc32(b"teST").to_bytes(4, "big")
    path.write_bytes(content[:33] + chunk * 100 + content[33:])
    assert read_image(path).shape == (33, 45, 3)
    path.write_bytes(content[:33] + chunk * 100_001 + content[33:])
    with pytest.raises(UserError, match="a PNG of more than 100000 chunks"):
        read_image(path)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt"])
def test_png_whose_texts_would_fill_the_memory_is_refused(tmp_path, name):
    """After the pixels Pillow's own bound does not see them; OpenCV unpacks all: 8 MB of each."""
    path = tmp_path / "x.png"
    Image.fromarray(np.zeros((33, 45, 3), np.uint8)).save(path)
    content = path.read_bytes()
    packed = zlib.compress(b"a" * 7_900_000, 9)
    text = chunk(name, (b"k\0\0" if name == b"zTXt" else b"k\0\1\0\0\0") + packed)
    path.write_bytes(content[:-12] + text + content[-12:])
    assert read_image(path).shape == (33, 45, 3)
    path.write_bytes(content[:-12] + text * 40 + content[-12:])
    with pytest.raises(UserError, match="a PNG with packed texts of 3[0-9]{5} bytes"):
        read_image(path)
    plain = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"<x/>" * 100_000)
    path.write_bytes(content[:-12] + plain + content[-12:])
    assert read_image(path).shape == (33, 45, 3)


@pytest.mark.parametrize("is_interlaced", [False, True])
def test_png_with_more_pixels_than_its_size_is_refused(tmp_path, is_interlaced):
    """OpenCV unpacks them too: 4 MB took 7 s, and each MB more 1.7 s."""
    path = tmp_path / "x.png"
    rng = np.random.default_rng(0)
    image = rng.integers(0, 65535, (500, 400, 3), np.uint16, endpoint=True)
    rows = image.astype(">u2").tobytes()
    lines = b"".join(b"\0" + rows[start : start + 2400] for start in range(0, len(rows), 2400))
    if is_interlaced:
        passes = [
            (0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2),
            (1, 2, 0, 1),
        ]  # fmt: skip
        lines = b"".join(
            b"\0" + line.astype(">u2").tobytes()
            for top, down, left, right in passes
            for line in image[top::down, left::right]
        )
    header = struct.pack(">IIBBBBB", 400, 500, 16, 2, 0, 0, int(is_interlaced))

    def save(pixels: bytes) -> None:
        parts = [(b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")]
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))

    save(lines)
    assert path.stat().st_size > 1 << 20
    np.testing.assert_array_equal(read_image(path), image >> 8)
    save(lines + bytes(1 << 24))
    with pytest.raises(UserError, match="holds more pixels than the 500x400"):
        read_image(path)


@pytest.mark.parametrize("channels", [4, 3])
def test_tiff_of_many_pages_is_refused(tmp_path, channels):
    pages = [Image.fromarray(np.zeros((2, 2), np.float32)) for _ in range(1100)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match="more than 1000 pages"):
        read_image(tmp_path / "x.tif", channels)
