"""Tiles of large pictures against the same pictures read as a whole by other code."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from paddleseg_segformer.data import rasters
from paddleseg_segformer.data.audit import audit
from paddleseg_segformer.data.cache import FolderCache
from paddleseg_segformer.data.class_sampling import ClassSampler, class_presence
from paddleseg_segformer.data.datasets import Dataset
from paddleseg_segformer.data.loader import train_loader
from paddleseg_segformer.data.tiles import Tiles, split_name
from paddleseg_segformer.data.transforms import TRANSFORMS
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.evaluation.evaluate import evaluate
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings

SIZES_HW = [(150, 201), (64, 40), (96, 96)]


def write_pictures(root: Path, label_type="uint8", **layout) -> list[tuple[np.ndarray, np.ndarray]]:
    """Write pictures, their labels and lists; return them."""
    generator, made, lines = np.random.default_rng(0), [], []
    for index, (height, width) in enumerate(SIZES_HW):
        image = generator.integers(0, 256, (height, width, 3), np.uint8)
        label = generator.integers(0, 3, (height, width)).astype(label_type)
        label[: 10 * index] = 255
        tifffile.imwrite(root / f"{index}.tif", image, tile=(32, 32), photometric="rgb", **layout)
        tifffile.imwrite(root / f"{index}_l.tif", label, tile=(16, 48), **layout)
        made.append((image, label))
        lines.append(f"{index}.tif {index}_l.tif\n")
    (root / "list.txt").write_text("".join(lines))
    return made


def dataset_of(root: Path, mode: str = "train", **arguments) -> Dataset:
    paths = {f"{mode}_path": str(root / "list.txt")}
    given = {"num_classes": 3, "transforms": [], "tiles": {"size": 64}} | arguments
    return Dataset(mode, str(root), **paths, **given)


@pytest.fixture(params=["rasterio", "tifffile"])
def reader(request, monkeypatch):
    if request.param == "rasterio":
        pytest.importorskip("rasterio")
    else:
        monkeypatch.setattr(rasters, "find_spec", lambda name: None)


def place_of(name: str) -> tuple[int, tuple[slice, slice]]:
    path, (top, bottom, left, right) = split_name(name)
    return int(Path(path).stem.partition("_")[0]), (slice(top, bottom), slice(left, right))


@pytest.mark.parametrize("layout", [{}, {"compression": "zlib"}])
@pytest.mark.parametrize("stride", [64, 40, 23])
def test_tiles_for_training_are_crops_of_one_size(tmp_path, reader, layout, stride) -> None:
    pictures = write_pictures(tmp_path, **layout)
    dataset = dataset_of(tmp_path, tiles={"size": 64, "stride": stride})
    seen = [np.zeros(size_hw, int) for size_hw in SIZES_HW]
    step = max(1, len(dataset) // 50)
    for index in range(len(dataset)):
        picture, place = place_of(dataset.samples[index][0])
        assert place_of(dataset.samples[index][1]) == (picture, place)
        seen[picture][place] += 1
        if index % step == 0:
            sample = dataset.read(index)
            np.testing.assert_array_equal(sample.image, pictures[picture][0][place])
            np.testing.assert_array_equal(sample.label, pictures[picture][1][place])
            np.testing.assert_array_equal(dataset.read_label(index), sample.label)
            assert sample.image.shape[0] == 64 and sample.image.shape[1] in (64, 40)
    assert all(item.min() >= 1 for item in seen)
    for (height, width), item in zip(SIZES_HW, seen, strict=True):
        rows, columns = (len({*range(0, x - 64, stride), max(x - 64, 0)}) for x in (height, width))
        assert item.sum() == rows * columns * min(64, height) * min(64, width)


@pytest.mark.parametrize("margin", [0, 7, 1000])
def test_tiles_for_evaluation_count_each_pixel_once(tmp_path, reader, margin) -> None:
    pictures = write_pictures(tmp_path)
    dataset = dataset_of(tmp_path, "val", tiles={"size": 50, "margin": margin})
    counts: Counter[int] = Counter()
    for index in range(len(dataset)):
        sample = dataset.read(index)
        picture, (rows, columns) = place_of(sample.image_path)
        image, label = pictures[picture]
        top, left = max(rows.start - margin, 0), max(columns.start - margin, 0)
        around = slice(top, rows.stop + margin), slice(left, columns.stop + margin)
        np.testing.assert_array_equal(sample.image, image[around])
        expected = np.full_like(label, 255)
        expected[rows, columns] = label[rows, columns]
        np.testing.assert_array_equal(sample.label, expected[around])
        ids = sample.label[sample.label != 255]
        counts.update(dict(enumerate(np.bincount(ids, minlength=3).tolist())))
    whole = np.concatenate([label[label != 255].ravel() for _, label in pictures])
    assert [counts[class_id] for class_id in range(3)] == np.bincount(whole).tolist()


def test_scores_of_tiles_are_those_of_whole_pictures(tmp_path) -> None:
    write_pictures(tmp_path)

    class Pixels:
        takes_numpy = True

        def __call__(self, x: np.ndarray) -> np.ndarray:
            return np.ascontiguousarray(x)

    arguments = Preprocess(), InferenceSettings()
    tiled = dataset_of(tmp_path, "val", tiles={"size": 50, "margin": 9})
    scores = [
        evaluate(Pixels(), dataset, *arguments, num_workers=0).confusion
        for dataset in (tiled, dataset_of(tmp_path, "val", tiles=None))
    ]
    np.testing.assert_array_equal(*scores)


@pytest.mark.parametrize(
    ("stored", "arguments"),
    [
        (lambda ids: ids.astype(np.uint16) * 1000, {"label_values": None, "num_classes": 2001}),
        (lambda ids: ids.astype(np.float32), {}),
        (lambda ids: ids.astype(np.int16) - 1, {"ignore_index": -1}),
        (lambda ids: ids + 1, {"reduce_zero_label": True}),
        (lambda ids: np.array([7, 0, 90], np.uint8)[ids], {"label_values": [7, 0, 90]}),
        (lambda ids: np.repeat(ids[:, :, None], 3, axis=2), {}),
        (
            lambda ids: np.array([[9, 0, 0], [0, 9, 0], [0, 0, 9]], np.uint8)[ids],
            {"label_colors": [[9, 0, 0], [0, 9, 0], [0, 0, 9]]},
        ),
    ],
    ids=["16 bits", "float", "-1", "from 1", "values", "grey RGB", "colours"],
)
def test_labels_mean_what_they_mean_as_a_whole(tmp_path, reader, stored, arguments) -> None:
    write_pictures(tmp_path)
    for index, size_hw in enumerate(SIZES_HW):
        ids = np.random.default_rng(index).integers(0, 3, size_hw).astype(np.uint8)
        values = stored(ids)
        form = "rgb" if values.ndim == 3 else "minisblack"
        path = tmp_path / f"{index}_l.tif"
        tifffile.imwrite(path, values, tile=(32, 32), photometric=form)
    whole = dataset_of(tmp_path, tiles=None, **arguments)
    dataset = dataset_of(tmp_path, **arguments)
    for index in range(len(dataset)):
        picture, place = place_of(dataset.samples[index][0])
        expected = whole.read(picture).label[place]
        np.testing.assert_array_equal(dataset.read(index).label, expected)


def test_palettes_of_labels_are_their_indices(tmp_path) -> None:
    pytest.importorskip("rasterio")
    write_pictures(tmp_path)
    ids = np.random.default_rng(0).integers(0, 3, SIZES_HW[0]).astype(np.uint8)
    picture = Image.fromarray(ids)
    picture.putpalette([9, 8, 7, 200, 0, 0, 0, 100, 0])
    picture.save(tmp_path / "p.png")
    (tmp_path / "list.txt").write_text("0.tif p.png\n")
    np.testing.assert_array_equal(dataset_of(tmp_path).read(0).label, ids[:64, :64])
    picture.putpalette([5, 5, 5, 9, 9, 9, 30, 30, 30])
    picture.save(tmp_path / "p.png")
    with pytest.raises(UserError, match="p.png: its palette holds greys alone"):
        dataset_of(tmp_path).read(0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_and_class_balanced_sampling(tmp_path, num_workers) -> None:
    """Class 2 is in one tile alone; half of the samples are drawn by class."""
    pictures = write_pictures(tmp_path)
    for index, (_, label) in enumerate(pictures):
        label = np.zeros_like(label)
        label[-60:] = 1
        if index == 2:
            label[0, 0] = 2
        tifffile.imwrite(tmp_path / f"{index}_l.tif", label, tile=(16, 16))
    crop = TRANSFORMS["RandomPaddingCrop"](crop_size=(32, 32))
    dataset = dataset_of(tmp_path, transforms=[crop])
    presence = class_presence(dataset)
    assert presence.shape == (len(dataset), 3)
    assert presence[:, 2].sum() == 1
    tile = dataset.samples[int(np.argmax(presence[:, 2]))][0]
    assert tile.endswith("2.tif[0:64,0:64]")
    draw = ClassSampler(presence, 1.0)
    batches = train_loader(dataset, 4, num_workers, seed=1, draw=draw)
    indices = np.concatenate([batch.indices for batch in islice(batches, 25)])
    batches.close()
    assert 0.2 < presence[indices, 2].mean() < 0.6


def test_batches_are_the_same_for_any_number_of_workers(tmp_path) -> None:
    write_pictures(tmp_path)
    crop = TRANSFORMS["RandomPaddingCrop"](crop_size=(32, 32))
    found = []
    for num_workers in (0, 2):
        batches = train_loader(dataset_of(tmp_path, transforms=[crop]), 4, num_workers, seed=1)
        found.append([batch.img for batch in islice(batches, 3)])
        batches.close()
    np.testing.assert_array_equal(*found)


def test_cache_notices_that_a_picture_changed(tmp_path) -> None:
    pictures = write_pictures(tmp_path)
    dataset = dataset_of(tmp_path)
    dataset.cache = FolderCache(tmp_path / "cache", 1 << 24)
    first = dataset.make_sample(*dataset.samples[0], seed=0)
    again = dataset.make_sample(*dataset.samples[0], seed=0)
    np.testing.assert_array_equal(first[0], again[0])
    assert list((tmp_path / "cache").glob("*/*.sample"))
    other = 255 - pictures[0][0]
    tifffile.imwrite(tmp_path / "0.tif", other, photometric="rgb", rowsperstrip=8)
    changed = dataset.make_sample(*dataset.samples[0], seed=0)[0]
    np.testing.assert_array_equal(changed, other[:64, :64].transpose(2, 0, 1))


def test_fingerprint_is_of_pictures_and_tiles(tmp_path) -> None:
    write_pictures(tmp_path)
    found = {
        dataset_of(tmp_path, tiles={"size": 64, "stride": stride}).samples.fingerprint()
        for stride in (64, 64, 63)
    }
    assert len(found) == 2
    assert dataset_of(tmp_path).samples.fingerprint().startswith("17 tiles, ")


def test_audit_reads_tiles(tmp_path) -> None:
    write_pictures(tmp_path)
    found = audit(dataset_of(tmp_path))

    assert found.num_samples == 17


@pytest.mark.parametrize(
    ("tiles", "message"),
    [
        ({}, "tiles: found {}, expected keys with a `size`"),
        (512, "tiles: found 512, expected keys with a `size`"),
        ({"size": 0}, "tiles: size is 0, expected a number from 1"),
        ({"size": "64"}, "tiles: size is '64', expected a number from 1"),
        ({"size": 64, "stride": 65}, "tiles: stride 65 leaves out pixels between tiles of 64 px"),
        ({"size": 64, "strid": 6}, "tiles: 'strid' has no effect in training. Did you mean 'str"),
        ({"size": 64, "margin": 6}, "tiles: 'margin' has no effect in training"),
    ],
)
def test_wrong_tiles_are_refused(tmp_path, tiles, message) -> None:
    write_pictures(tmp_path)
    with pytest.raises(UserError, match=message):
        dataset_of(tmp_path, tiles=tiles)


def test_stride_is_for_training_alone() -> None:
    with pytest.raises(UserError, match="tiles: 'stride' has no effect in evaluation"):
        Tiles.of({"size": 64, "stride": 32}, is_training=False)


def test_wrong_pictures_are_one_line(tmp_path, reader) -> None:
    write_pictures(tmp_path)
    path = tmp_path / "0_l.tif"
    tifffile.imwrite(path, np.zeros((150, 200), np.uint8), tile=(16, 16))
    with pytest.raises(UserError, match="0_l.tif: the label is 150x200 .* is 150x201. Make them"):
        dataset_of(tmp_path).read(0)
    tifffile.imwrite(path, np.full((150, 201), 9, np.uint8), tile=(16, 16))
    with pytest.raises(UserError, match=r"0_l.tif\[0:64,0:64\]: found the class id 9"):
        dataset_of(tmp_path).read(0)
    write_pictures(tmp_path)
    content = (tmp_path / "1.tif").read_bytes()
    (tmp_path / "1.tif").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="1.tif: "):
        dataset = dataset_of(tmp_path)
        [dataset.read(index) for index in range(len(dataset))]
    (tmp_path / "1.tif").unlink()
    with pytest.raises(UserError, match="1.tif: no such file"):
        dataset_of(tmp_path)


def test_label_that_lies_elsewhere_is_refused(tmp_path) -> None:
    rasterio = pytest.importorskip("rasterio")
    write_pictures(tmp_path)
    for name, bands, left in (("0.tif", 3, 500.0), ("0_l.tif", 1, 510.0)):
        profile = {"driver": "GTiff", "height": 150, "width": 201, "count": bands}
        transform = rasterio.transform.from_origin(left, 900.0, 2.0, 2.0)
        profile |= {"dtype": "uint8", "crs": "EPSG:32633", "transform": transform, "tiled": True}
        with rasterio.open(tmp_path / name, "w", **profile, blockxsize=32, blockysize=32) as file:
            file.write(np.zeros((bands, 150, 201), np.uint8))
    with pytest.raises(UserError, match="0_l.tif: lies elsewhere than its image .*0.tif: their"):
        dataset_of(tmp_path).read(0)


def test_masks_of_two_classes_and_slow_formats_say_so(tmp_path, caplog) -> None:
    write_pictures(tmp_path)
    mask = np.where(np.random.default_rng(0).random(SIZES_HW[2]) < 0.5, 255, 0).astype(np.uint8)
    tifffile.imwrite(tmp_path / "m.tif", mask, tile=(16, 16))
    Image.new("RGB", (96, 96)).save(tmp_path / "i.png")
    (tmp_path / "list.txt").write_text("i.png m.tif\n")
    with pytest.raises(UserError, match=r"m.tif\[.*: the labels of two classes hold 0 and 255"):
        dataset_of(tmp_path, num_classes=2)
    assert "i.png: each of its tiles decodes what lies before it" in caplog.text
