from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from small_datasets import write_image

from paddleseg_segformer.data import io
from paddleseg_segformer.data.io import (
    decode_image,
    encode_label,
    read_image,
    read_label,
    write_label,
)
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.street_scenes.dataset import render_scene

pytestmark = pytest.mark.check


@pytest.fixture
def image() -> np.ndarray:
    return np.random.randint(0, 256, (12, 17, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff"])
def test_image_is_rgb_also_in_a_folder_with_unicode_name(
    tmp_path: Path, image: np.ndarray, suffix: str
) -> None:
    path = tmp_path / "фото 图片 ö" / f"bild ß{suffix}"
    write_image(path, image)
    result = read_image(path)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, image)


def test_grey_and_rgba_files_become_three_channels(tmp_path: Path, image: np.ndarray) -> None:
    Image.fromarray(image[:, :, 0]).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([image, image[:, :, :1]])).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png")[:, :, 2], image[:, :, 0])
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png"), image)
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png", 4)[:, :, :3], image)


def test_one_channel(tmp_path: Path, image: np.ndarray) -> None:
    Image.fromarray(image[:, :, 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png", 1), image[:, :, :1])


def test_exif_orientation_is_obeyed(tmp_path: Path, image: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(image).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (17, 12, 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_npy_with_many_bands(tmp_path: Path, dtype: type) -> None:
    bands = np.random.randint(0, 200, (6, 5, 10)).astype(dtype)
    np.save(tmp_path / "bands.npy", bands)
    result = read_image(tmp_path / "bands.npy", 10)
    assert result.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
    np.testing.assert_array_equal(result, bands)


def test_tif_with_a_page_per_band(tmp_path: Path) -> None:
    bands = np.random.randint(0, 60000, (5, 6, 7)).astype(np.uint16)
    pages = [Image.fromarray(band) for band in bands]
    pages[0].save(tmp_path / "bands.tif", save_all=True, append_images=pages[1:])
    result = read_image(tmp_path / "bands.tif", 5)
    np.testing.assert_array_equal(result, bands.transpose(1, 2, 0).astype(np.float32))


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.999])
def test_cut_jpeg_is_refused_by_name(tmp_path: Path, image: np.ndarray, keep: float) -> None:
    path = tmp_path / "cut.jpg"
    write_image(path, image)
    content = path.read_bytes()
    assert read_image(path).shape == image.shape
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(UserError, match=f"{path}: the JPEG file is cut off"):
        read_image(path)


def test_jpeg_with_bytes_after_its_end_is_read(tmp_path: Path, image: np.ndarray) -> None:
    path = tmp_path / "long.jpg"
    write_image(path, image)
    path.write_bytes(path.read_bytes() + b"\0" * 100)
    assert read_image(path).shape == image.shape


@pytest.mark.parametrize("read", [read_image, read_label])
@pytest.mark.parametrize("content", [None, b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 50])
def test_unreadable_files_are_refused_by_name(
    tmp_path: Path, read: object, content: bytes | None
) -> None:
    path = tmp_path / "größe.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=str(path)):
        read(path)


def test_cut_png_is_refused_by_name(tmp_path: Path, image: np.ndarray) -> None:
    path = tmp_path / "cut.png"
    write_image(path, image)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=str(path)):
        read_image(path)
    with pytest.raises(UserError, match=str(path)):
        read_label(path)


def test_wrong_number_of_channels_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 5, 6), np.uint8))
    with pytest.raises(UserError, match=r"a.npy: found an image of shape \(4, 5, 6\)"):
        read_image(tmp_path / "a.npy", 3)


def test_palette_label_gives_ids_not_colors(tmp_path: Path) -> None:
    label = np.random.randint(0, 19, (9, 11), dtype=np.uint8)
    label[0, 0] = 255
    colors = np.random.randint(0, 256, (256, 3), dtype=np.uint8)
    write_label(tmp_path / "label.png", label, colors)
    file = Image.open(tmp_path / "label.png")
    assert file.mode == "P"
    np.testing.assert_array_equal(np.asarray(file.convert("RGB")), colors[label])
    np.testing.assert_array_equal(read_label(tmp_path / "label.png"), label)


@pytest.mark.parametrize("module", ["zlib", "zlib_ng.zlib_ng"])
@pytest.mark.parametrize("highest", [3, 255, 256, 65535])
@pytest.mark.parametrize("size_hw", [(1, 1), (1, 7), (8, 1), (37, 300)])
def test_label_png_is_read_by_pillow_and_opencv(
    monkeypatch: pytest.MonkeyPatch, module: str, highest: int, size_hw: tuple[int, int]
) -> None:
    monkeypatch.setattr(io, "deflate", pytest.importorskip(module))
    label = np.random.default_rng(highest).integers(0, highest, size_hw[::-1], np.int32).T
    label[0, -1] = highest
    colors = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
    for content in (encode_label(label), encode_label(label, colors)):
        with Image.open(BytesIO(content)) as file:
            file.verify()  # checksums
        found = np.asarray(Image.open(BytesIO(content)))
        assert found.dtype == (np.uint8 if highest < 256 else np.uint16)
        np.testing.assert_array_equal(found, label)
    if highest > 255:
        assert encode_label(label, colors) == encode_label(label)
        found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(found, label)
    else:
        found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(found[:, :, ::-1], colors[label])


def test_label_png_of_a_scene_is_as_small_as_pillows() -> None:
    label = render_scene(3, (256, 512))[1]
    expected = BytesIO()
    Image.fromarray(label).save(expected, "PNG", compress_level=6)
    assert len(encode_label(label)) < 1.1 * len(expected.getvalue())


def test_label_of_two_colours_is_read_as_0_and_1(tmp_path: Path) -> None:
    label = np.random.randint(0, 2, (9, 11)).astype(bool)
    Image.fromarray(label).save(tmp_path / "label.png")
    result = read_label(tmp_path / "label.png")
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, label)


@pytest.mark.parametrize(("highest", "dtype"), [(200, np.uint8), (999, np.int32)])
def test_16_bit_label(tmp_path: Path, highest: int, dtype: type) -> None:
    label = np.full((4, 5), highest, np.uint16)
    label[0] = 3
    path = tmp_path / "label.png"
    path.write_bytes(cv2.imencode(".png", label)[1].tobytes())
    assert read_label(path).dtype == dtype
    np.testing.assert_array_equal(read_label(path), label)
    np.testing.assert_array_equal(read_label(_write(path, encode_label(label))), label)


def test_colour_label_is_refused_with_the_remedy(tmp_path: Path, image: np.ndarray) -> None:
    write_image(tmp_path / "mask.png", image)
    with pytest.raises(UserError, match=r"mask.png: the label is a colour image .* palette PNG"):
        read_label(tmp_path / "mask.png")


def test_label_of_fractions_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "label.npy", np.full((4, 5), 0.5, np.float32))
    with pytest.raises(UserError, match="label.npy: .*float32"):
        read_label(tmp_path / "label.npy")


def test_thumbnail_does_not_hide_a_cut(tmp_path: Path, image: np.ndarray) -> None:
    path = tmp_path / "photo.jpg"
    write_image(path, image)
    content = path.read_bytes()
    segment = b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content  # a whole JPEG inside
    path.write_bytes(content[:2] + segment + content[2:])
    assert read_image(path).shape == image.shape
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match="cut off"):
        read_image(path)


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_decoding_a_file_s_content_is_reading_it(tmp_path: Path, image: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image).save(tmp_path / "turned.jpg", exif=exif)
    np.save(tmp_path / "array.npy", image)
    for path in (tmp_path / "turned.jpg", tmp_path / "array.npy"):
        decoded = decode_image(Path(path.name), path.read_bytes())
        np.testing.assert_array_equal(decoded, read_image(path))
    with pytest.raises(UserError, match=r"^x\.png: cannot be decoded"):
        decode_image(Path("x.png"), b"no image")
