from __future__ import annotations

from pathlib import Path

import cv2
import forms
import numpy as np
import pytest
import tifffile
from test_forms import labels_of

from paddleseg_segformer import UserError
from paddleseg_segformer.annotations import Options, detect, prepare
from paddleseg_segformer.data.datasets import Dataset

NAMES = ("a", "b", "c")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in NAMES:
        forms.png(np.eye(16, dtype=np.uint8), tmp_path / "data" / "labels" / f"{name}.png")
    (tmp_path / "data" / "images").mkdir()
    return tmp_path / "data"


def write(root: Path, shape: tuple[int, ...], dtype: str, low: float, high: float) -> None:
    """Write TIFF files that hold low and high."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        image = rng.uniform(low, high, shape)
        image[0, 0], image[-1, -1] = low, high
        save(root / "images" / f"{name}.tif", image.astype(dtype))


def save(path: Path, image: np.ndarray) -> None:
    is_rgb = image.ndim == 3 and image.shape[2] == 3
    how = {} if is_rgb else {"photometric": "minisblack", "planarconfig": "contig"}
    if len(image) == 5:
        how = {"photometric": "minisblack"}
    tifffile.imwrite(path, image, **how)


@pytest.mark.parametrize(
    ("shape", "dtype", "high", "channels", "value_range"),
    [
        ((16, 16, 3), "uint8", 255, 3, None),
        ((16, 16), "uint16", 4000, 3, [0, 4095]),
        ((16, 16), "uint16", 60000, 3, "dtype"),
        ((16, 16, 5), "uint16", 3000, 5, [0, 4095]),
        ((16, 16, 5), "uint8", 255, 5, None),
        ((16, 16, 4), "float32", 1, 4, "dtype"),
        ((5, 16, 16), "uint16", 3000, 5, [0, 4095]),  # a page for each band
    ],
)
def test_bands_type_and_range_are_concluded_and_the_images_read_by_them(
    shape: tuple[int, ...], dtype: str, high: float, channels: int, value_range: object, root: Path
) -> None:
    write(root, shape, dtype, 0, high)
    detected = detect(root, Options(val=0.34))
    assert (detected.in_channels, detected.dtype) == (channels, dtype)
    assert detected.value_range == value_range
    prepared = prepare(detected, root.parent / "out")
    section = prepared.section("train")
    del section["type"]
    sample = Dataset(transforms=[], **section).read(0)
    stored = tifffile.imread(sample.image_path).astype(float)
    stored = stored.transpose(1, 2, 0) if shape[0] == 5 else stored.reshape(16, 16, -1)
    limit = {"dtype": {"uint16": 65535, "float32": 1}.get(dtype, 255), None: 255}.get(
        value_range if value_range is None or isinstance(value_range, str) else "", 4095
    )
    expected = np.broadcast_to(stored * 255 / limit, sample.image.shape)
    np.testing.assert_allclose(sample.image, expected, atol=1e-3)
    assert len(labels_of(prepared)) == 3


def test_other_ranges_are_percentiles_of_what_is_stored_or_as_said(root: Path) -> None:
    write(root, (16, 16, 5), "float32", -10, 10)
    low, high = detect(root).value_range
    assert -10 <= low < -9 and 9 < high <= 10
    assert detect(root, Options(value_range=[-1, 1])).value_range == [-1, 1]
    assert detect(root, Options(value_range="none")).value_range is None
    image = tifffile.imread(root / "images" / "b.tif")
    image[3, 3, 3] = np.nan
    save(root / "images" / "b.tif", image)
    with pytest.raises(UserError, match="b.tif: holds NaN"):
        detect(root)


def test_chosen_bands_are_written_as_they_are_stored(root: Path) -> None:
    write(root, (16, 16, 5), "uint16", 0, 3000)
    detected = detect(root, Options(val=0.34, bands=(5, 1)))
    prepared = prepare(detected, root.parent / "out")
    assert prepared.in_channels == 2
    for name in NAMES:
        chosen = np.load(root.parent / "out" / "images" / "images" / f"{name}.npy")
        stored = tifffile.imread(root / "images" / f"{name}.tif")
        assert chosen.dtype == np.uint16
        np.testing.assert_array_equal(chosen, stored[:, :, [4, 0]])
    assert len(labels_of(prepared)) == 3
    with pytest.raises(UserError, match=r"--bands: found \[6\], expected numbers of 1 to 5"):
        detect(root, Options(bands=[6]))


def test_images_of_several_kinds_are_refused_and_grey_among_colours_is_not(root: Path) -> None:
    for name in NAMES:
        image = np.zeros((16, 16) if name == "b" else (16, 16, 3), np.uint8)
        cv2.imwrite(str(root / "images" / f"{name}.png"), image)
    assert detect(root).in_channels == 3
    cv2.imwrite(str(root / "images" / "c.png"), np.zeros((16, 16), np.uint16))
    with pytest.raises(UserError, match="3 bands of uint8, but .*c.png has 3 of uint16; expected"):
        detect(root)


def test_damaged_images_are_named(root: Path) -> None:
    write(root, (16, 16, 3), "uint8", 0, 255)
    (root / "images" / "b.tif").write_bytes(b"II*\0")
    with pytest.raises(UserError, match="b.tif: "):
        prepare(detect(root), root.parent / "out")
