from __future__ import annotations

import gc
import io
import lzma
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from paddleseg_segformer.data import headers, rasters, tiffs
from paddleseg_segformer.data.headers import MAX_DECODE_S, MAX_PIXELS, PNG_START, check_image
from paddleseg_segformer.data.io import check_inflated, read_image, read_label
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


@pytest.mark.parametrize("read", [read_label, lambda path: read_image(path, 1)])
def test_pages_of_numbers_are_counted_together(tmp_path, monkeypatch, read):
    pages = np.zeros((40, 30, 20), np.float32)
    tifffile.imwrite(tmp_path / "x.tif", pages, compression="zlib", photometric="minisblack")
    monkeypatch.setenv(MAX_PIXELS, "5999")  # of 16 bytes
    with pytest.raises(UserError, match="the header claims 30x20 px .* and 10 pages"):
        read(tmp_path / "x.tif")


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
    for read in (read_image, read_label):
        with pytest.raises(UserError, match=r"x.jpg: a JPEG of \d+ scans, expected at most 100"):
            read(path)


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


def test_scans_of_a_small_jpeg_count_as_images(tmp_path):
    buffer = io.BytesIO()
    Image.new("L", (1000, 1000), 120).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    last = content.rindex(b"\xff\xda")
    assert headers._is_quick(content)
    assert not headers._is_quick(content[:last] + 20 * content[last:-2] + content[-2:])


def test_small_png_that_inflates_for_long_is_given_up(tmp_path, monkeypatch):
    compressor = zlib.compressobj(9, wbits=-15)
    piece = compressor.compress(bytes(1 << 20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    form = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", b"\x78\x01" + 6000 * piece)
    (tmp_path / "x.png").write_bytes(PNG_START + chunk(b"IHDR", form) + data + chunk(b"IEND", b""))
    monkeypatch.setenv(MAX_DECODE_S, "1")
    with pytest.raises(UserError, match="x.png: decoding it takes more than 1 s"):
        read_image(tmp_path / "x.png")


def test_a_file_that_was_refused_is_not_kept():
    """An error that holds itself would hold the file and what was decoded of it."""

    @headers.in_time
    def refuse(path: Path, content: bytes) -> None:
        raise UserError(f"{path}: {len(content)}")

    content = tiff(0)
    held = sys.getrefcount(content)
    gc.disable()
    try:
        with suppress(UserError):
            refuse(Path("x.tif"), content)
        end = time.monotonic() + 10  # of the thread
        while sys.getrefcount(content) != held and time.monotonic() < end:
            time.sleep(0.01)
        assert sys.getrefcount(content) == held
    finally:
        gc.enable()


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


@pytest.mark.parametrize(
    ("name", "start"), [(b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0"), (b"iCCP", b"a\0\0")]
)
def test_png_of_many_texts_is_refused(tmp_path, name, start):
    """Each inflates to 8 MB, after the pixels too, where Pillow does not look."""
    path = tmp_path / "x.png"
    content = small(".png")
    text = chunk(name, start + zlib.compress(bytes(7 << 20)))
    path.write_bytes(content[:-12] + 2 * text + content[-12:])
    assert read_image(path).shape == (16, 16, 3)
    path.write_bytes(content[:-12] + 101 * text + content[-12:])
    for read in (read_image, read_label):
        with pytest.raises(UserError, match="x.png: a PNG of more than 100 texts"):
            read(path)


def zeros(num_bytes: int, compressor: Any) -> bytes:
    parts = [compressor.compress(bytes(1 << 20)) for _ in range(num_bytes >> 20)]
    return b"".join([*parts, compressor.flush()])


@pytest.mark.parametrize("is_interlaced", [0, 1])
@pytest.mark.parametrize("num_parts", [1, 3])
def test_png_that_inflates_to_more_than_its_pixels_is_refused(is_interlaced, num_parts):
    form = struct.pack(">IIBBBBB", 40, 30, 16, 6, 0, 0, is_interlaced)
    data = zeros(200 << 20, zlib.compressobj(9))
    cuts = [len(data) * i // num_parts for i in range(num_parts + 1)]
    parts = b"".join(chunk(b"IDAT", data[i:j]) for i, j in pairwise(cuts))
    content = PNG_START + chunk(b"IHDR", form) + parts + chunk(b"IEND", b"")
    with pytest.raises(UserError, match="x: .* the PNG inflates to more than its pixels"):
        check_inflated(Path("x"), content, 40 * 30)
    rng = np.random.default_rng(0)
    for shape, dtype in (((300, 200, 4), np.uint16), ((70_000, 1), np.uint16), ((300, 300), "u1")):
        image = rng.integers(0, 1 << 16, shape).astype(dtype)
        sound = cv2.imencode(".png", image)[1].tobytes()
        check_inflated(Path("x"), sound, shape[0] * shape[1])
    check_inflated(Path("x"), content[:-5000], 1 << 30)  # cut off: decoding says it


def test_bytes_after_the_pixels_of_a_png_are_passed_over_at_once():
    """zlib keeps them all, and copies them for each chunk."""
    form = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    more = chunk(b"IDAT", zlib.compress(bytes(200))) + chunk(b"IDAT", bytes(200)) * 60_000
    content = PNG_START + chunk(b"IHDR", form) + more + chunk(b"IEND", b"")
    start = time.process_time()
    check_inflated(Path("x"), content, 64)
    assert time.process_time() - start < 4


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [4, 3])
def test_tiff_of_many_pages_is_refused(tmp_path, channels, dtype):
    pages = [Image.fromarray(np.zeros((2, 2), dtype)) for _ in range(1100)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    if channels == 3 and dtype == np.uint8:  # the first page alone is looked at
        assert read_image(tmp_path / "x.tif", channels).shape == (2, 2, 3)
        return
    with pytest.raises(UserError, match="more than 1000 pages"):
        read_image(tmp_path / "x.tif", channels)


def one_segment(data: bytes, compression: int, bits: int, kind: int, samples: int = 1) -> bytes:
    """Return a TIFF of 8x8 pixels in one segment, whatever it holds."""
    tags = [(256, 8), (257, 8), (258, bits), (259, compression), (262, 1), (273, 0), (277, samples)]
    tags += [(278, 8), (279, len(data)), (339, kind)]
    start = 8 + 2 + 12 * len(tags) + 4
    entries = (struct.pack("<HHII", tag, 4, 1, start if tag == 273 else x) for tag, x in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return head + b"".join(entries) + bytes(4) + data


@pytest.mark.parametrize("kind", ["deflate", "lzma"])
@pytest.mark.parametrize("is_bare", [False, True], ids=["imagecodecs", "tifffile alone"])
def test_tiff_that_inflates_to_more_than_its_pixels_costs_little(tmp_path, kind, is_bare):
    """tifffile's own decoders would inflate it all: 20 MB hold 20 GB."""
    whole, compressor, tag = {
        "deflate": (zlib.compress, zlib.compressobj(9), 8),
        "lzma": (lzma.compress, lzma.LZMACompressor(preset=0), 34925),
    }[kind]
    script = tmp_path / "read.py"
    script.write_text(BARE if is_bare else MEASURED)
    sound, bomb = whole(np.arange(64, dtype="<f4").tobytes()), zeros(300 << 20, compressor)
    for name, data in (("sound", sound), ("bomb", bomb)):
        (tmp_path / f"{name}.tif").write_bytes(one_segment(data, tag, 32, 3))
    for read in ("image", "label"):
        command = [sys.executable, script, read, tmp_path / "sound.tif", tmp_path / "bomb.tif"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        largest, said, memory_mib = done.stdout.splitlines()
        assert largest == "63.0" and float(memory_mib) < 150
        assert "cannot be decoded as an image" in said or said == "0.0"


MEASURED = """
import resource, sys
from pathlib import Path
from paddleseg_segformer.data.io import read_image, read_label
from paddleseg_segformer.errors import UserError
read = read_label if sys.argv[1] == "label" else lambda path: read_image(path, 1)
print(float(read(sys.argv[2]).max()))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(float(read(sys.argv[3]).max()))
except UserError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
BARE = f"import sys\nsys.modules['imagecodecs'] = None\n{MEASURED}"


def test_images_in_a_tiff_are_bounded_as_others(tmp_path):
    """Their own headers may claim more than the TIFF: 216 bytes of LERC became 1 GiB."""
    imagecodecs = pytest.importorskip("imagecodecs")
    path, rng = tmp_path / "x.tif", np.random.default_rng(0)
    rgba = rng.integers(0, 256, (8, 8, 4)).astype(np.uint8)

    def read(content: bytes, compression: int, bits: int = 8, kind: int = 1) -> np.ndarray:
        path.write_bytes(one_segment(content, compression, bits, kind, 4 if bits == 8 else 1))
        return read_image(path, 4 if bits == 8 else 1)

    webp = imagecodecs.webp_encode(rgba, lossless=True)
    np.testing.assert_array_equal(read(webp, 50001), rgba)
    np.testing.assert_array_equal(read(imagecodecs.jpeg2k_encode(rgba, level=0), 34712), rgba)
    large = np.zeros((900, 800, 4), np.uint8)
    for content, kind in (
        (imagecodecs.webp_encode(large, lossless=True), 50001),
        (imagecodecs.jpeg2k_encode(large), 34712),
        (imagecodecs.png_encode(large), 34933),
    ):
        with pytest.raises(UserError, match="a part of the TIFF becomes more than its pixels"):
            read(content, kind)
    jpeg = io.BytesIO()
    Image.fromarray(large[..., 0]).save(jpeg, "JPEG", progressive=True)
    content = jpeg.getvalue()
    last = content.rindex(b"\xff\xda")
    with pytest.raises(UserError, match="a JPEG of .* scans"):
        read(content[:last] + 200 * content[last:-2] + content[-2:], 7)
    lerc = imagecodecs.lerc_encode(np.zeros((4000, 4000), np.float32))
    with pytest.raises(UserError, match="a TIFF compressed as LERC, .* such as DEFLATE"):
        read(lerc, 34887, 32, 3)


def test_segments_that_share_their_bytes_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(tiffs, "REPEATED_BYTES", 10_000)
    for num_strips, is_sound in ((2, True), (300, False)):
        data = zlib.compress(np.random.default_rng(0).bytes(64))
        entries = [(256, 16), (257, num_strips), (258, 32), (259, 8), (262, 1), (273, 0), (277, 1)]
        entries += [(278, 1), (279, len(data)), (339, 3)]
        end = 8 + 2 + 12 * len(entries) + 4
        where = {273: end, 279: end + 4 * num_strips}
        ifd = b"".join(
            struct.pack("<HHII", tag, 4, num_strips if tag in where else 1, where.get(tag, value))
            for tag, value in entries
        )
        at = end + 8 * num_strips
        lists = struct.pack(f"<{num_strips}I", *[at] * num_strips)
        lists += struct.pack(f"<{num_strips}I", *[len(data)] * num_strips)
        head = b"II*\0" + struct.pack("<IH", 8, len(entries))
        (tmp_path / "x.tif").write_bytes(head + ifd + bytes(4) + lists + data)
        if is_sound:
            assert read_image(tmp_path / "x.tif", 1).shape == (2, 16, 1)
        else:
            with pytest.raises(UserError, match="the TIFF names the same bytes again and"):
                read_image(tmp_path / "x.tif", 1)


def test_tiff_of_other_bands_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    """1 MB may hold 60 bands of 2048x2048 px, 1 GB."""
    path = tmp_path / "x.tif"
    form = {"photometric": "minisblack", "planarconfig": "contig", "compression": "zlib"}
    tifffile.imwrite(path, np.zeros((16, 16, 60), np.float32), **form)
    assert read_image(path, 60).shape == (16, 16, 60)
    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", None)
    with pytest.raises(UserError, match=r"shape \(16, 16, 60\), expected \(height, width, 3\)"):
        read_image(path)


def test_tiff_of_tiles_without_end_is_refused(tmp_path):
    """184 bytes that claim 4 million tiles of 1x1 px took 8 s and 711 MiB."""
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.zeros((2048, 2048, 4), np.float32), tile=(1024, 1024))
    with tifffile.TiffFile(path, mode="r+b") as file:
        for name in ("TileWidth", "TileLength"):
            file.pages.first.tags[name].overwrite(1)
    with pytest.raises(UserError, match="a TIFF of 4194304 tiles or strips, expected at most"):
        read_image(path, 4)
