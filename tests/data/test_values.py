"""`value_range`: stored values as 0..255, compared with NumPy on what other libraries read."""

from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest
from image_forms import make_png
from PIL import Image

from paddleseg_segformer.data.datasets import DATASETS, CamVid, Dataset
from paddleseg_segformer.data.io import read_image
from paddleseg_segformer.data.values import ValueRange
from paddleseg_segformer.errors import UserError

tifffile = pytest.importorskip("tifffile")

RNG = np.random.default_rng(0)
TWELVE_BITS = RNG.integers(100, 4096, (24, 36, 3)).astype(np.uint16)


def mapped(stored: np.ndarray, low: object, high: object) -> np.ndarray:
    """Return stored values (H, W, C) as 0..255, computed in float64."""
    return np.clip((stored.astype(np.float64) - low) / (np.asarray(high) - low) * 255, 0, 255)


@pytest.mark.check
@pytest.mark.parametrize("declared", [[0, 4095], [500, 3000.5], "dtype", "data"])
@pytest.mark.parametrize("name", ["x.png", "contig.tif", "separate.tif"])
def test_colour_files_of_12_bits_in_16(tmp_path, name, declared):
    path = tmp_path / name
    if name == "x.png":
        cv2.imwrite(str(path), TWELVE_BITS[:, :, ::-1])
        stored = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:, :, ::-1]
    else:
        planes = TWELVE_BITS if name == "contig.tif" else TWELVE_BITS.transpose(2, 0, 1)
        tifffile.imwrite(path, planes, photometric="rgb", planarconfig=path.stem)
        stored = tifffile.imread(path)
        stored = stored if name == "contig.tif" else stored.transpose(1, 2, 0)
    np.testing.assert_array_equal(stored, TWELVE_BITS)
    limits = {"dtype": (0, 65535), "data": (stored.min((0, 1)), stored.max((0, 1)))}
    low, high = declared if isinstance(declared, list) else limits[declared]
    found = read_image(path, 3, ValueRange.of(declared))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, mapped(stored, low, high), atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_files_of_16_bits_become_any_number_of_channels(tmp_path, suffix, channels):
    path = tmp_path / f"x{suffix}"
    Image.fromarray(TWELVE_BITS[:, :, 0]).save(path)
    found = read_image(path, channels, ValueRange.of([0, 4095]))
    expected = np.repeat(mapped(np.asarray(Image.open(path))[:, :, None], 0, 4095), channels, 2)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_orientation_is_obeyed_with_all_bits(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, TWELVE_BITS, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    found = read_image(path, 3, ValueRange.of([0, 4095]))
    np.testing.assert_allclose(found, mapped(np.rot90(TWELVE_BITS, -1), 0, 4095), atol=1e-4)


@pytest.mark.parametrize(
    ("dtype", "declared", "low", "high"),
    [
        ("i2", "dtype", -32768, 32767),
        ("i2", [-1024, 3071], -1024, 3071),
        ("i4", [-2_000_000_000, 2_000_000_000], -2_000_000_000, 2_000_000_000),
        ("f4", [-0.5, 1.5], -0.5, 1.5),
        ("f8", [1e9, 1e9 + 1], 1e9, 1e9 + 1),
    ],
)
def test_signed_and_floating_point_tiff(tmp_path, dtype, declared, low, high):
    spread = RNG.uniform(-0.2, 1.2, (24, 36, 2)) * (high - float(low)) + low
    bounds = np.iinfo(dtype) if dtype[0] == "i" else np.finfo(dtype)
    stored = np.clip(spread, bounds.min, bounds.max).astype(dtype)
    tifffile.imwrite(tmp_path / "x.tif", stored, planarconfig="contig", photometric="minisblack")
    found = read_image(tmp_path / "x.tif", 2, ValueRange.of(declared))
    expected = mapped(tifffile.imread(tmp_path / "x.tif"), low, high)
    assert expected.min() == 0 and expected.max() == 255 or declared == "dtype"
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.check
def test_percentiles_of_each_band_of_a_floating_point_tiff(tmp_path):
    scales = np.array([0.01, 1, 50, 3e4, 1e-3])
    stored = (RNG.normal(3, 1, (24, 36, 5)) * scales).astype(np.float32)
    tifffile.imwrite(tmp_path / "x.tif", stored, planarconfig="contig", photometric="minisblack")
    found = read_image(tmp_path / "x.tif", 5, ValueRange.of({"percentile": [2, 98]}))
    bands = tifffile.imread(tmp_path / "x.tif").astype(np.float64)
    for band in range(5):
        low, high = np.percentile(bands[:, :, band], [2, 98])
        np.testing.assert_allclose(
            found[:, :, band], mapped(bands[:, :, band], low, high), atol=0.01
        )
    assert (found == 0).any() and (found == 255).any()


@pytest.mark.check
@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp", "x.bmp", "x.npy"])
@pytest.mark.parametrize("declared", ["dtype", [0, 255]])
def test_8_bits_stay_as_they_are(tmp_path, name, declared):
    image = RNG.integers(0, 256, (24, 36, 3), np.uint8)
    np.save(tmp_path / name, image) if name == "x.npy" else Image.fromarray(image).save(
        tmp_path / name
    )
    found = read_image(tmp_path / name, 3, ValueRange.of(declared))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, read_image(tmp_path / name))


def test_8_bits_follow_the_same_rule(tmp_path):
    image = RNG.integers(20, 200, (24, 36, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "x.png")
    found = read_image(tmp_path / "x.png", 3, ValueRange.of([50, 150]))
    np.testing.assert_allclose(found, mapped(image, 50, 150), atol=1e-4)


def test_16_bits_made_of_8_are_the_8_bits_again():
    image = RNG.integers(0, 256, (24, 36, 3)).astype(np.uint16)
    np.testing.assert_array_equal(ValueRange.of("dtype").apply(image * np.uint16(257), "x"), image)


@pytest.mark.parametrize("declared", ["data", {"percentile": [5, 95]}])
def test_a_band_of_one_value_becomes_0(declared):
    image = np.dstack([np.full((4, 5), 1000), np.arange(20).reshape(4, 5)]).astype(np.uint16)
    found = ValueRange.of(declared).apply(image, "x")
    assert (found[:, :, 0] == 0).all()
    assert found[:, :, 1].max() == 255


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2, 2, 1), np.int64), "found int64 values in 0..0; value_range: dtype is for"),
        (np.full((2, 2, 1), 70_000, np.uint32), "found uint32 values in 70000..70000"),
        (np.array([[[0.0], [255.0]]]), "found float64 values in 0..255; .* Give it as .LOW, HIGH"),
        (np.array([[[0.0], [np.inf]]]), "1 of 2 values are NaN or infinite"),
        (np.array([[[0.0], [np.nan]]], np.float16), "1 of 2 values are NaN or infinite"),
    ],
)
def test_values_without_a_range_are_refused(image, message):
    with pytest.raises(UserError, match=f"^a.npy: {message}"):
        ValueRange.of("dtype").apply(image, "a.npy")


@pytest.mark.parametrize(
    "declared",
    [
        *("type", "DATA", 255, True, [], [5], [5, 5], [6, 5], [0, 1, 2], [0, float("nan")]),
        *([0, float("inf")], [0, 10**400], ["0", "4095"], [False, True], {"percentile": [2, 101]}),
        *({"percentile": [-1, 50]}, {"percentile": 98}, {"percentiles": [2, 98]}, {}),
        {"percentile": [2, 98], "data": 1},
    ],
)
def test_wrong_declarations_are_one_line(declared):
    with pytest.raises(UserError, match="^value_range: found .*, expected ") as error:
        ValueRange.of(declared)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("declared", ["dtype", "data", [0, 4095.5], {"percentile": [0.5, 99]}])
def test_declarations_are_plain_data(declared):
    value_range = ValueRange.of(declared)
    assert value_range.declared == declared
    assert ValueRange.of(value_range.declared) == value_range
    assert pickle.loads(pickle.dumps(value_range)) == value_range
    assert ValueRange.of(None) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("white.tif", "holds grey whose 0 is white"),
        ("white8.tif", "holds grey whose 0 is white"),
        ("four.png", "holds grey of 4 bits"),
        ("one.tif", "holds grey of 1 bits"),
    ],
)
def test_files_whose_values_decoders_change_are_refused(tmp_path, name, message):
    path, grey = tmp_path / name, TWELVE_BITS[:, :, 0]
    if name == "four.png":
        path.write_bytes(make_png((grey >> 8).astype(np.uint8)[..., None], 4, color_type=0))
    elif name == "one.tif":
        Image.fromarray(grey > 2000).save(path)
    else:
        grey = grey if name == "white.tif" else (grey >> 4).astype(np.uint8)
        tifffile.imwrite(path, grey, photometric="miniswhite")
    with pytest.raises(UserError, match=f"{name}: {message}"):
        read_image(path, 1, ValueRange.of([0, 100]))
    if name != "white.tif":  # 8 bits are read as without it
        plain, found = read_image(path, 1), read_image(path, 1, ValueRange.of("dtype"))
        np.testing.assert_array_equal(found, plain)


def test_pages_whose_0_is_white_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "x.tif") as file:
        for band in range(2):
            file.write(TWELVE_BITS[:, :, band], photometric="miniswhite", metadata=None)
    with pytest.raises(UserError, match=r"x.tif: holds grey whose 0 is white"):
        read_image(tmp_path / "x.tif", 2, ValueRange.of("data"))


def test_12_bits_without_it_are_refused_with_the_line_to_write(tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), TWELVE_BITS)
    with pytest.raises(UserError, match=r"such as value_range: \[0, 4095\] for 12 bits"):
        read_image(tmp_path / "x.png")


def test_data_sets_read_with_it(tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), TWELVE_BITS[:, :, ::-1])
    Image.fromarray(np.zeros((24, 36), np.uint8)).save(tmp_path / "label.png")
    (tmp_path / "val.txt").write_text("x.png label.png\n")
    paths = {"dataset_root": str(tmp_path), "val_path": str(tmp_path / "val.txt")}
    data = Dataset("val", transforms=[], num_classes=2, value_range=[0, 4095], **paths)
    expected = mapped(TWELVE_BITS, 0, 4095)
    np.testing.assert_allclose(data.read(0).image, expected, atol=1e-4)
    image, _ = data.make_sample(*data.samples[0], seed=0)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, expected.transpose(2, 0, 1), atol=1e-4)
    with pytest.raises(UserError, match="value_range: found 'type', expected dtype, data"):
        Dataset("val", transforms=[], num_classes=2, value_range="type", **paths)


def test_camvid_takes_it(tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), TWELVE_BITS[:, :, ::-1])
    Image.fromarray(np.zeros((24, 36), np.uint8)).save(tmp_path / "label.png")
    (tmp_path / "val.txt").write_text("x.png label.png\n")
    image = CamVid([], str(tmp_path), "val", value_range=[0, 4095]).read(0).image
    np.testing.assert_allclose(image, mapped(TWELVE_BITS, 0, 4095), atol=1e-4)


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"Dataset", "SegDataset", "CamVid"}))
def test_folders_take_it(tmp_path, name):
    layout = DATASETS[name].LAYOUT
    split = layout.splits["val"]
    for folder in (layout.images, layout.labels):
        (tmp_path / folder.format(split=split)).mkdir(parents=True)
    suffix = layout.image_suffixes[0]
    path = tmp_path / layout.images.format(split=split) / f"a{suffix}"
    cv2.imwrite(str(path), RNG.integers(0, 200, (8, 9, 3), np.uint8))
    labels = tmp_path / layout.labels.format(split=split)
    Image.fromarray(np.ones((8, 9), np.uint8)).save(labels / f"a{layout.label_suffixes[0]}")
    data = DATASETS[name]([], str(tmp_path), "val", value_range=[0, 200])
    np.testing.assert_allclose(data.read(0).image, mapped(read_image(path), 0, 200), atol=1e-4)


@pytest.mark.parametrize(("dtype", "nodata"), [("f4", "-9999"), ("f4", "nan"), ("i2", "-32768")])
def test_pixels_without_a_value_become_0_and_do_not_count(tmp_path, dtype, nodata) -> None:
    stored = RNG.integers(100, 900, (24, 36, 5)).astype(dtype)
    is_missing = RNG.random(stored.shape) < 0.2
    stored[is_missing] = float(nodata)
    path, tags = tmp_path / "a.tif", [(42113, "s", 0, nodata, True)]
    tifffile.imwrite(path, stored, planarconfig="contig", photometric="minisblack", extratags=tags)
    with pytest.raises(UserError, match=f"{is_missing.sum()} of 4320 values are {nodata}, which"):
        read_image(path, 5)
    valid = np.where(is_missing, np.nan, stored.astype(np.float64))
    for declared, (low, high) in {
        "data": (np.nanmin(valid, (0, 1)), np.nanmax(valid, (0, 1))),
        "percentile": np.nanpercentile(valid, (2, 98), axis=(0, 1)),
        "values": (0, 1000),
    }.items():
        forms = {"percentile": {"percentile": [2, 98]}, "values": [0, 1000]}
        image = read_image(path, 5, ValueRange.of(forms.get(declared, declared)))
        expected = np.nan_to_num((valid - low) / (high - low)).clip(0, 1) * 255
        np.testing.assert_allclose(image, expected, atol=1e-3)


def test_a_whole_band_without_values_becomes_0(tmp_path) -> None:
    stored = np.full((8, 8, 4), -1, np.int16)
    stored[..., 0] = 7
    tags = [(42113, "s", 0, "-1", True)]
    options = {"planarconfig": "contig", "photometric": "minisblack", "extratags": tags}
    tifffile.imwrite(tmp_path / "a.tif", stored, **options)
    assert not read_image(tmp_path / "a.tif", 4, ValueRange.of("data")).any()
    assert (read_image(tmp_path / "a.tif", 4, ValueRange.of([0, 7]))[0, 0] == [255, 0, 0, 0]).all()


def test_black_as_nodata_of_8_bits_is_black(tmp_path) -> None:
    stored = RNG.integers(0, 3, (24, 36, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", stored, extratags=[(42113, "s", 0, "0", True)])
    assert np.array_equal(read_image(tmp_path / "a.tif"), stored)
