"""TIFF files of a few bytes that would cost time or memory without end."""

from __future__ import annotations

import lzma
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from cv2 import imencode

from paddleseg_segformer.data import tiffs
from paddleseg_segformer.data.headers import MAX_PAGES, MAX_PIXELS, num_frames, open_image
from paddleseg_segformer.data.io import read_image, read_label
from paddleseg_segformer.errors import UserError

SIDE = 64
FLOAT = 3


def tiff(
    blocks: list[bytes],
    *,
    side: int = SIDE,
    samples: int = 3,
    bits: int = 32,
    kind: int = FLOAT,
    packed: int = 1,
    lengths: list[int] | None = None,
    tile: int = 0,
) -> bytes:
    """Return a TIFF of one page, of one strip or of tiles, whatever its blocks hold."""
    blocks_at = 4096
    lengths = lengths or [len(block) for block in blocks]
    starts = [blocks_at + sum(map(len, blocks[:index])) for index in range(len(blocks))]
    starts = (starts * len(lengths))[: len(lengths)]
    tags = {256: [side], 257: [side], 258: [bits] * samples, 259: [packed], 262: [2]}
    tags |= {277: [samples], 284: [1], 339: [kind] * samples}
    tags |= (
        {322: [tile], 323: [tile], 324: starts, 325: lengths}
        if tile
        else {273: starts, 278: [side], 279: lengths}
    )
    entries, more = b"", b""
    for tag, values in sorted(tags.items()):
        data = struct.pack(f"<{len(values)}I", *values)
        place = data if len(data) == 4 else struct.pack("<I", 10 + 12 * len(tags) + 4 + len(more))
        more += data if len(data) > 4 else b""
        entries += struct.pack("<HHI", tag, 4, len(values)) + place
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + more
    assert len(head) <= blocks_at
    return head.ljust(blocks_at, b"\0") + b"".join(blocks)


SOUND = np.arange(SIDE * SIDE * 3, dtype=np.float32).reshape(SIDE, SIDE, 3)
FOUR = {"samples": 4, "bits": 8, "kind": 1}
WIDE = np.zeros((1024, 1024, 4), np.uint8)


@pytest.mark.parametrize(
    ("packed", "pack"), [(1, bytes), (8, zlib.compress), (34925, lzma.compress)]
)
@pytest.mark.parametrize("has_imagecodecs", [True, False])
def test_sound_ones_are_read(tmp_path, monkeypatch, packed, pack, has_imagecodecs):
    if not has_imagecodecs:
        monkeypatch.setattr(tiffs, "find_spec", lambda name: None)
    path = tmp_path / "x.tif"
    path.write_bytes(tiff([pack(SOUND.tobytes())], packed=packed))
    np.testing.assert_array_equal(read_image(path), SOUND)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tiff([zlib.compress(bytes(1 << 24))], packed=8), "larger than its 49152 bytes"),
        (tiff([lzma.compress(bytes(1 << 24))], packed=34925), "larger than its 49152 bytes"),
        (tiff([b""], side=2048, tile=1), "4194304 strips or tiles of 0 bytes"),
        (
            tiff([bytes(16 * 16 * 12)], tile=16, lengths=[3072] * 16),
            "16 strips or tiles of 49152 bytes, expected at most",
        ),
        (
            tiff([zlib.compress(bytes(1 << 16))], packed=8, samples=60),
            r"shape \(64, 64, 60\), expected \(height, width, 3\)",
        ),
        (
            tiff([imencode(".jpg", WIDE)[1].tobytes()], packed=7, **FOUR),
            "larger than its 16384 bytes",
        ),
    ],
    ids=["deflate", "lzma", "tiles", "shared", "bands", "jpeg"],
)
def test_blocks_that_cost_more_than_the_image_are_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(tiffs, "find_spec", lambda name: None)  # without imagecodecs
    path = tmp_path / "x.tif"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_image(path)


@pytest.mark.parametrize("form", ["jpeg2k", "jpegxl", "webp", "png"])
def test_blocks_that_say_themselves_how_large_they_become_are_refused(tmp_path, form):
    """28 kB of JPEG XL in a file of 64x64 px took 40 s, and its first 64x64 px were read."""
    imagecodecs = pytest.importorskip("imagecodecs")
    block = getattr(imagecodecs, f"{form}_encode")(WIDE)
    packed = {"jpeg2k": 34712, "jpegxl": 50002, "webp": 50001, "png": 34933}[form]
    path = tmp_path / "x.tif"
    path.write_bytes(tiff([block], packed=packed, **FOUR))
    with pytest.raises(UserError, match="packed as .* no bound on what it becomes"):
        read_image(path, 4)


def test_pages_of_floats_count_together(tmp_path, monkeypatch):
    pages = np.zeros((12, 64, 64), np.float32)
    tifffile.imwrite(tmp_path / "x.tif", pages, photometric="minisblack", compression="zlib")
    assert read_image(tmp_path / "x.tif", 12).shape == (64, 64, 12)
    monkeypatch.setenv(MAX_PIXELS, str(64 * 64 * 2))  # 16 bytes each
    with pytest.raises(UserError, match="64x64 px"):
        read_image(tmp_path / "x.tif", 12)


def chain(num_pages: int) -> bytes:
    """Return a TIFF whose pages are all of one grey block of 8x8 px."""
    tags = [(256, 8), (257, 8), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (279, 64)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    size = 2 + len(entries) + 4
    content = b"II*\0" + struct.pack("<I", 72) + bytes(64)
    for index in range(num_pages):
        following = 72 + (index + 1) * size if index + 1 < num_pages else 0
        content += struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)
    return content


@pytest.mark.parametrize(("pages", "counted"), [(1, 1), (7, 7), (3000, MAX_PAGES + 1)])
def test_pages_are_counted_to_a_bound(tmp_path: Path, pages: int, counted: int) -> None:
    """Pillow compares each page with each: a file of 10 MB took 89 s to be counted."""
    content = chain(pages)
    with open_image(content) as image:
        assert num_frames(image) == counted
        assert image.tell() == 0
    path = tmp_path / "x.tif"
    path.write_bytes(content)
    if pages == 3000:
        with pytest.raises(UserError, match="more than 1000 pages"):
            read_label(path)
