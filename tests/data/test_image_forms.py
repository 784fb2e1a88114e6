"""Images and labels in the forms that people have, written by independent libraries."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest
from image_forms import image_forms, turned
from PIL import Image

from paddleseg_segformer.config.building import build_dataset
from paddleseg_segformer.data.datasets import Dataset
from paddleseg_segformer.data.io import decode_image, read_image, read_label
from paddleseg_segformer.data.values import ValueRange
from paddleseg_segformer.errors import UserError

tifffile = pytest.importorskip("tifffile")

RNG = np.random.default_rng(0)
LABEL = RNG.integers(0, 4, (24, 36)).astype(np.uint8)


def pixels(dtype: str, bands: int) -> np.ndarray:
    """Return (24, 36, bands) values over the type's range."""
    if dtype.startswith("f"):
        return RNG.normal(100, 300, (24, 36, bands)).astype(dtype)
    info = np.iinfo(dtype)
    return RNG.integers(info.min, info.max, (24, 36, bands), endpoint=True).astype(dtype)


@pytest.mark.parametrize(
    ("dtype", "bands", "planar", "options"),
    [
        *product(("u1", "u2", "i2", "f4"), (4, 5), ("contig", "separate"), ({},)),
        *product(("u2", "f4"), (5,), ("contig",), ({"tile": (16, 16)}, {"compression": "zlib"})),
        ("u2", 5, "contig", {"compression": "lzw", "predictor": 2}),
        ("f4", 4, "separate", {"compression": "lzw", "predictor": 3}),
        ("u2", 7, "contig", {"bigtiff": True, "byteorder": ">"}),
        ("f8", 4, "contig", {}),
        ("i2", 3, "contig", {}),
        ("f4", 3, "separate", {}),
    ],
)
def test_tiff_gives_the_samples_as_they_are_stored(tmp_path, dtype, bands, planar, options):
    if "compression" in options and options["compression"] != "zlib":
        pytest.importorskip("imagecodecs")
    image = pixels(dtype, bands)
    stored = image if planar == "contig" else image.transpose(2, 0, 1)
    path = tmp_path / "x.tif"
    is_rgb = bands in (3, 4) and dtype != "f8"
    tifffile.imwrite(
        path, stored, planarconfig=planar, photometric="rgb" if is_rgb else "minisblack", **options
    )
    found = read_image(path, bands)
    assert found.dtype == (np.uint8 if dtype == "u1" else np.float32)
    np.testing.assert_array_equal(found, image.astype(found.dtype))


def test_16_bits_are_scaled_alike_in_tiles_and_strips(tmp_path):
    image = RNG.integers(0, 2**16, (50, 70)).astype(np.uint16)
    for options in ({}, {"tile": (16, 16)}, {"tile": (32, 32)}, {"compression": "zlib"}):
        tifffile.imwrite(tmp_path / "x.tif", image, photometric="minisblack", **options)
        for channels in (1, 3):
            found = read_image(tmp_path / "x.tif", channels)
            np.testing.assert_array_equal(found, np.dstack([image >> 8] * channels))


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_bands_of_cmyk_files_are_the_stored_ones(tmp_path, planar):
    image = pixels("u1", 4)
    stored = image if planar == "contig" else image.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric="separated", planarconfig=planar)
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif", 4), image)


@pytest.mark.parametrize("extra", ["unspecified", "assocalpha", "unassalpha"])
@pytest.mark.parametrize("channels", [3, 4])
def test_a_fourth_band_of_8_bits_changes_no_other(tmp_path, extra, channels):
    image = pixels("u1", 4)
    tifffile.imwrite(tmp_path / "x.tif", image, photometric="rgb", extrasamples=[extra])
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif", channels), image[:, :, :channels])


def test_geotiff_of_four_bands(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    image = pixels("u1", 4)
    profile = {"driver": "GTiff", "width": 36, "height": 24, "count": 4, "dtype": "uint8"}
    transform = rasterio.transform.from_origin(500000, 5000000, 10, 10)
    with rasterio.open(
        tmp_path / "x.tif", "w", crs="EPSG:32632", transform=transform, **profile
    ) as file:
        file.write(image.transpose(2, 0, 1))
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif", 4), image)
    np.testing.assert_array_equal(read_image(tmp_path / "x.tif", 3), image[:, :, :3])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_8_and_12_bits_in_16_are_refused(tmp_path, suffix, channels):
    image = (pixels("u2", 3) >> 4)[:, :, :channels].squeeze()
    path = tmp_path / f"x{suffix}"
    cv2.imwrite(str(path), image)
    with pytest.raises(UserError, match=r"16-bit values of at most 40\d\d; of 0..65535"):
        read_image(path, channels)
    cv2.imwrite(str(path), image >> 4)
    with pytest.raises(UserError, match="16-bit values of at most 2[0-9][0-9]; .* keep 1 levels"):
        read_image(path, channels)
    cv2.imwrite(str(path), image << 4)
    assert read_image(path, channels).max() > 250


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_values_that_are_no_numbers_are_refused(tmp_path, value, suffix):
    image = pixels("f4", 5)
    image[3, 4:8, 2] = value
    path = tmp_path / f"x{suffix}"
    if suffix == ".npy":
        np.save(path, image)
    else:
        tifffile.imwrite(path, image, photometric="minisblack", planarconfig="contig")
    with pytest.raises(UserError, match=f"x{suffix}: 4 of 4320 values are NaN or infinite"):
        read_image(path, 5)


@pytest.mark.parametrize("value_range", [None, ValueRange.of("data")])
def test_complex_values_are_refused(tmp_path, value_range):
    values = (pixels("f4", 2) * (1 + 2j)).astype(np.complex64)
    tifffile.imwrite(tmp_path / "x.tif", values, photometric="minisblack", planarconfig="contig")
    with pytest.raises(UserError, match=r"x.tif: found complex64 values, expected real numbers"):
        read_image(tmp_path / "x.tif", 2, value_range)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".webp", ".png", ".jpg", ".tif"])
def test_orientation_is_obeyed_in_every_format(tmp_path, orientation, suffix):
    corners = np.zeros((24, 36, 3), np.uint8)
    corners[:12, :18], corners[:12, 18:], corners[12:, :18] = 250, 160, 80
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(corners).save(tmp_path / f"x{suffix}", exif=exif, **options)
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    expected = Image.fromarray(corners)
    if orientation > 1:
        expected = expected.transpose(turn[orientation])
    found = read_image(tmp_path / f"x{suffix}").astype(int)
    np.testing.assert_allclose(found, np.asarray(expected).astype(int), atol=12)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".webp", ".png", ".tif"])
def test_orientation_is_obeyed_by_all_bands(tmp_path, orientation, suffix):
    image = pixels("u1", 4)
    if suffix == ".tif":
        options = {"photometric": "rgb", "extratags": [(274, 3, 1, orientation, True)]}
        tifffile.imwrite(tmp_path / "x.tif", image, metadata=None, **options)
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
        Image.fromarray(image).save(tmp_path / f"x{suffix}", exif=exif, **options)
    for channels in (3, 4):
        found = read_image(tmp_path / f"x{suffix}", channels)
        np.testing.assert_array_equal(found, turned(image, orientation)[:, :, :channels])


@pytest.mark.parametrize("form", image_forms(), ids=lambda form: form.name)
def test_every_form_is_read_as_it_was_written(form):
    """What the encoder was given, or for unusual forms an image, or a refusal in one line."""
    try:
        found = decode_image(Path(form.name), form.content)
    except UserError as error:
        assert "\n" not in str(error)
        assert form.rgb is None, str(error)
        return
    assert found.dtype in (np.uint8, np.float32)
    if form.rgb is not None:
        assert found.dtype == np.uint8
        np.testing.assert_allclose(found.astype(int), form.rgb, rtol=0, atol=form.tolerance)


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_labels_of_few_bits_hold_ids(tmp_path, bits):
    ids = LABEL
    rows = np.unpackbits(ids[:, :, None], axis=2)[:, :, 8 - bits :].reshape(24, -1)
    packed = np.packbits(rows, axis=1)
    write_png(tmp_path / "x.png", packed, 36, 24, bits)
    with Image.open(tmp_path / "x.png") as file:  # what a plain reader makes of it
        assert np.asarray(file).max() == 3 * 255 // (2**bits - 1)
    np.testing.assert_array_equal(read_label(tmp_path / "x.png"), ids)


def write_png(path: Path, packed: np.ndarray, width: int, height: int, bits: int) -> None:
    """Write a grey PNG from packed rows."""
    import struct
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def test_1_bit_labels_are_ids_of_two_classes_and_refused_for_more(tmp_path):
    Image.fromarray(LABEL > 1).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_label(tmp_path / "x.png", 2), LABEL > 1)
    with pytest.raises(UserError, match="1 bit per pixel, which may stand for the ids 0 and 1, or"):
        read_label(tmp_path / "x.png", 3)


def with_palette(path: Path, indices: np.ndarray, colors: list[list[int]]) -> None:
    image = Image.fromarray(indices)
    image.putpalette(np.asarray(colors, np.uint8).tobytes())
    image.save(path)


def test_palette_of_greys_that_an_optimiser_left_holds_the_greys(tmp_path):
    greys = np.asarray([3, 0, 255, 1], np.uint8)
    with_palette(tmp_path / "x.png", LABEL, [[grey] * 3 for grey in greys])
    np.testing.assert_array_equal(read_label(tmp_path / "x.png"), greys[LABEL])
    with Image.open(tmp_path / "x.png") as file:
        np.testing.assert_array_equal(np.asarray(file.convert("L")), greys[LABEL])


def test_other_palettes_hold_indices(tmp_path):
    for colors in (
        [[0, 0, 0], [128, 0, 0], [70, 70, 70], [153, 153, 153]],  # one colour
        [[index] * 3 for index in range(4)],
        [[255 - index] * 3 for index in range(256)],  # a whole palette, to be looked at
    ):
        with_palette(tmp_path / "x.png", LABEL, colors)
        np.testing.assert_array_equal(read_label(tmp_path / "x.png"), LABEL)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: np.dstack([x, x, x]),
        lambda x: np.dstack([x, np.full_like(x, 255)]),
        lambda x: np.dstack([x, x, x, np.full_like(x, 255)]),
    ],
)
def test_grey_labels_with_more_channels(tmp_path, change):
    Image.fromarray(change(LABEL)).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_label(tmp_path / "x.png"), LABEL)
    Image.fromarray(change(LABEL) // 2 * np.uint8(2)).save(tmp_path / "x.png")
    if change(LABEL).shape[2] != 3:
        with pytest.raises(UserError, match="colour image"):
            read_label(tmp_path / "x.png")


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.astype(np.float32),
        lambda x: x.astype(np.int64),
        lambda x: np.eye(4, dtype=bool)[x],
        lambda x: np.eye(4, dtype=np.float32)[x].transpose(2, 0, 1),
    ],
)
def test_arrays_of_whole_numbers_and_planes(tmp_path, change):
    np.save(tmp_path / "x.npy", change(LABEL))
    np.testing.assert_array_equal(read_label(tmp_path / "x.npy"), LABEL)


@pytest.mark.parametrize("change", [lambda x: x + 0.5, lambda x: x * np.float32("nan")])
def test_arrays_of_other_numbers_are_refused(tmp_path, change):
    np.save(tmp_path / "x.npy", change(LABEL.astype(np.float32)))
    with pytest.raises(UserError, match="expected one whole-number class id"):
        read_label(tmp_path / "x.npy")


COLORS = [[9, 9, 9], [200, 0, 0], [0, 200, 0], [0, 0, 200], [255, 255, 255]]


@pytest.mark.parametrize("has_alpha", [False, True])
def test_grey_labels_of_16_bits_keep_them(tmp_path, has_alpha):
    ids = LABEL.astype(np.uint16) * 300
    alpha = [np.full_like(ids, 65535)] * has_alpha
    cv2.imwrite(str(tmp_path / "x.png"), np.dstack([ids] * 3 + alpha))
    np.testing.assert_array_equal(read_label(tmp_path / "x.png"), ids)
    tifffile.imwrite(tmp_path / "x.tif", np.dstack([ids] * 3), photometric="rgb")
    np.testing.assert_array_equal(read_label(tmp_path / "x.tif"), ids)


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4"])
def test_signed_labels_keep_their_sign(tmp_path, dtype):
    ids = LABEL.astype(dtype) - 1
    tifffile.imwrite(tmp_path / "x.tif", ids)
    np.save(tmp_path / "x.npy", ids)
    for name in ("x.tif", "x.npy"):
        np.testing.assert_array_equal(read_label(tmp_path / name), ids)


def test_planes_in_the_pages_of_a_tiff(tmp_path):
    planes = np.eye(4, dtype=np.uint8)[LABEL].transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "x.tif", planes, photometric="minisblack")
    np.testing.assert_array_equal(read_label(tmp_path / "x.tif"), LABEL)
    planes[3] = 1  # of several classes
    tifffile.imwrite(tmp_path / "x.tif", planes, photometric="minisblack")
    with pytest.raises(UserError, match="4 bands"):
        read_label(tmp_path / "x.tif")


def test_overviews_of_a_tiff_label_are_no_planes(tmp_path):
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        file.write(LABEL, photometric="minisblack")
        file.write(LABEL[::2, ::2], photometric="minisblack", subfiletype=1)
    np.testing.assert_array_equal(read_label(tmp_path / "x.tif"), LABEL)


def test_animated_labels_are_refused(tmp_path):
    frames = [Image.fromarray(LABEL), Image.fromarray(LABEL[::-1])]
    frames[0].save(tmp_path / "x.png", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match="an animation of 2 images"):
        read_label(tmp_path / "x.png")


def test_ids_beyond_32_bits_are_refused_and_one_plane_is_read(tmp_path):
    np.save(tmp_path / "x.npy", LABEL.astype(np.int64) + 2**32)
    with pytest.raises(UserError, match="found ids in 4294967296..4294967299"):
        read_label(tmp_path / "x.npy")
    for shape in ((24, 36, 1), (1, 24, 36)):
        np.save(tmp_path / "x.npy", LABEL.reshape(shape))
        np.testing.assert_array_equal(read_label(tmp_path / "x.npy"), LABEL)


@pytest.mark.parametrize("form", ["rgb", "rgba", "palette"])
def test_colours_of_a_table_are_ids(tmp_path, form):
    if form == "palette":
        with_palette(tmp_path / "x.png", LABEL, COLORS[:4])
    else:
        rgb = np.asarray(COLORS, np.uint8)[LABEL]
        Image.fromarray(rgb).convert(form.upper()).save(tmp_path / "x.png")
    found = read_label(tmp_path / "x.png", 4, np.asarray(COLORS[::-1], np.uint8))
    np.testing.assert_array_equal(found, 4 - LABEL)
    with pytest.raises(UserError, match=r"x.png: found the colour \[9, 9, 9\] in \d+ pixels"):
        read_label(tmp_path / "x.png", 4, np.asarray(COLORS[1:], np.uint8))


def colored(tmp_path: Path, **options) -> Dataset:
    """Return a data set whose label has the colours of `COLORS`."""
    Image.fromarray(np.zeros((24, 36, 3), np.uint8)).save(tmp_path / "0.png")
    Image.fromarray(np.asarray(COLORS, np.uint8)[LABEL]).save(tmp_path / "0_mask.png")
    (tmp_path / "train.txt").write_text("0.png 0_mask.png")
    where = {"dataset_root": str(tmp_path), "train_path": str(tmp_path / "train.txt")}
    return Dataset("train", transforms=[], **where, **options)


def test_colours_without_a_class_come_last(tmp_path):
    label = colored(tmp_path, num_classes=2, label_colors=COLORS).read(0).label
    np.testing.assert_array_equal(label, np.asarray([0, 1, 255, 255], np.uint8)[LABEL])
    with pytest.raises(UserError, match="list its colours in label_colors"):
        colored(tmp_path, num_classes=2, label_values=[0, 1]).read(0)
    for options, message in (
        ({"label_colors": COLORS[:1]}, "found 1 colours for 2 classes"),
        ({"label_colors": [*COLORS, COLORS[0]]}, "and none twice"),
        ({"label_colors": [[0, 0], [1, 1]]}, "expected red, green and blue"),
        ({"label_colors": COLORS, "ignore_index": 0}, "found ignore_index 0"),
        ({"label_colors": COLORS, "label_values": [0, 1]}, "exclude each other"),
    ):
        with pytest.raises(UserError, match=message):
            colored(tmp_path, num_classes=2, **options)


def test_a_negative_id_names_both_readings(tmp_path):
    masks(tmp_path, (0, 1))
    tifffile.imwrite(tmp_path / "0_mask.png", LABEL[:8, :8].astype(np.int16) - 1)
    section = {"dataset_root": str(tmp_path), "train_path": str(tmp_path / "train.txt")}
    with pytest.raises(UserError, match="found the class id -1, .* set ignore_index: -1"):
        Dataset("train", transforms=[], num_classes=3, **section).read(0)
    found = Dataset("train", transforms=[], num_classes=3, ignore_index=-1, **section).read(0)
    np.testing.assert_array_equal(found.label, LABEL[:8, :8].astype(int) - 1)


def masks(tmp_path: Path, values: tuple[int, ...], **options) -> Dataset:
    """Return a data set of two classes whose labels hold these values."""
    lines = []
    for index in range(6):
        label = RNG.choice(np.asarray(values, np.uint8), (8, 8))
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / f"{index}.png")
        Image.fromarray(label).save(tmp_path / f"{index}_mask.png")
        lines.append(f"{index}.png {index}_mask.png")
    (tmp_path / "train.txt").write_text("\n".join(lines))
    where = {"dataset_root": str(tmp_path), "train_path": str(tmp_path / "train.txt")}
    return Dataset("train", transforms=[], num_classes=2, **where, **options)


def test_masks_of_0_and_255_are_refused_with_both_readings(tmp_path):
    with pytest.raises(UserError, match=r"hold 0 and 255 alone.*\[0, 255\].*\[0, 1\]"):
        masks(tmp_path, (0, 255))
    assert set(np.unique(masks(tmp_path, (0, 255), label_values=[0, 255]).read(0).label)) == {0, 1}
    ignored = masks(tmp_path, (0, 255), label_values=[0, 1]).read(0).label
    assert set(np.unique(ignored)) == {0, 255}
    assert set(np.unique(masks(tmp_path, (0, 1, 255)).read(0).label)) == {0, 1, 255}
    with pytest.raises(UserError, match="found the class id 7, expected one of the label_values"):
        masks(tmp_path, (0, 7), label_values=[0, 255]).read(0)
    with pytest.raises(UserError, match="expected 2 different values"):
        masks(tmp_path, (0, 255), label_values=[0, 0])


@pytest.mark.parametrize("ignore_index", [0, 7, 254, -1, 65535])
def test_transforms_pad_with_the_data_sets_ignored_id(tmp_path, ignore_index):
    masks(tmp_path, (0, 1, 255))
    for path in tmp_path.glob("*_mask.png"):
        Image.fromarray(np.ones((8, 8), np.uint8)).save(path)
    section = {
        "type": "Dataset",
        "mode": "train",
        "num_classes": 2,
        "dataset_root": str(tmp_path),
        "train_path": str(tmp_path / "train.txt"),
        "ignore_index": ignore_index,
        "transforms": [{"type": "RandomPaddingCrop", "crop_size": [12, 12]}, {"type": "Normalize"}],
    }
    _, label, _ = build_dataset(section)[0, 1]
    assert label.shape == (12, 12)
    assert set(np.unique(label)) == {1, ignore_index}
    assert (label == 1).sum() == 64


def test_class_names_from_a_file(tmp_path):
    (tmp_path / "classes.txt").write_text("\ufeffground\n\nfield of wheat\n", encoding="utf-8")
    found = masks(tmp_path, (0, 1), classes=str(tmp_path / "classes.txt")).label_set.classes
    assert found == ("ground", "field of wheat")
