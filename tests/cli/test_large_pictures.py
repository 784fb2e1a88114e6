"""Pictures in strips: seamless, georeferenced, resumable; vectors rasterised again."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import tifffile

from paddleseg_segformer.cli import main
from paddleseg_segformer.data import rasters
from paddleseg_segformer.data.io import read_label
from paddleseg_segformer.inference import geodata, image_sources
from paddleseg_segformer.inference.strips import StripFolder
from paddleseg_segformer.predictor import Predictor

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("onnxruntime")

EXPORT = Path(__file__).parents[1] / "artefacts/export"
HEIGHT, WIDTH = 530, 300
CRS = "EPSG:32633"
TRANSFORM = rasterio.Affine(0.5, 0, 500000, 0, -0.5, 5400000)
WINDOWS = ["--is_slide", "--crop_size", "128", "96", "--stride", "96", "64"]
SETTINGS = {"is_slide": True, "crop_size_hw": (96, 128), "stride_hw": (64, 96)}


def blocks(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (HEIGHT // 25 + 1, WIDTH // 25, 3))
    return np.kron(coarse, np.ones((25, 25, 1)))[:HEIGHT].astype(np.uint8)


def write(path: Path, image: np.ndarray, **options) -> Path:
    height, width, count = image.shape
    options = {"crs": CRS, "transform": TRANSFORM, "dtype": image.dtype} | options
    size = {"height": height, "width": width, "count": count}
    with rasterio.open(path, "w", driver="GTiff", tiled=True, blockxsize=64, blockysize=64,
                       compress="DEFLATE", **size, **options) as file:  # fmt: skip
        file.write(image.transpose(2, 0, 1))
        file.descriptions = tuple(f"B{index + 2:02d}" for index in range(count))
    return path


@pytest.fixture
def infer(tmp_path, monkeypatch):
    """Run `infer`; every picture counts as large."""
    monkeypatch.setattr(image_sources, "max_pixels", lambda: 1)

    def run(path: Path, *flags: str) -> tuple[int, Path]:
        out = tmp_path / "out"
        fixed = ["--config", str(EXPORT), "--backend", "onnxruntime", "--cpu_threads", "1"]
        where = ["--image_path", str(path), "--save_dir", str(out)]
        return main(["infer", *fixed, *where, *flags]) or 0, out

    return run


def labels_of(image: np.ndarray, **settings) -> np.ndarray:
    return Predictor.from_export(EXPORT, backend="onnxruntime", **{**SETTINGS, **settings})(
        image
    ).label


@pytest.mark.parametrize("blend", ["average", "gaussian"])
def test_strips_give_the_labels_of_the_whole_with_its_georeference(tmp_path, infer, blend) -> None:
    image = blocks()
    status, out = infer(
        write(tmp_path / "a.tif", image), *WINDOWS, "--blend", blend, "--outputs", "label,geotiff"
    )
    assert status == 0
    assert not (out / ".strips").exists()
    expected = labels_of(image, blend=blend)
    with rasterio.open(out / "geodata/a.tif") as file:
        np.testing.assert_array_equal(file.read(1), expected)
        assert (file.crs, file.transform) == (rasterio.CRS.from_string(CRS), TRANSFORM)
        assert file.nodata == 255
        assert file.overviews(1) == [2]
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.tags()["input_bands"] == "B02,B03,B04"
        predictor = Predictor.from_export(EXPORT, backend="onnxruntime")
        assert file.colormap(1)[1][:3] == predictor.label_set.palette[1]
    entries = ElementTree.parse(out / "geodata/a.qml").iter("paletteEntry")
    assert [entry.get("label") for entry in entries] == list(predictor.label_set.classes)


def test_a_killed_run_goes_on_where_it_was(tmp_path, infer, monkeypatch) -> None:
    path = write(tmp_path / "a.tif", blocks())
    save = StripFolder.save

    def save_or_end(self, top, label, confidence):
        save(self, top, label, confidence)
        if top == 256:
            raise SystemExit(9)

    monkeypatch.setattr(StripFolder, "save", save_or_end)
    with pytest.raises(SystemExit):
        infer(path, *WINDOWS)
    monkeypatch.setattr(StripFolder, "save", save)
    saved = []
    monkeypatch.setattr(
        StripFolder, "save", lambda self, top, *maps: (saved.append(top), save(self, top, *maps))
    )
    status, out = infer(path, *WINDOWS)
    assert (status, saved) == (0, [512])
    np.testing.assert_array_equal(
        tifffile.imread(out / "pseudo_color_prediction/a.tif"), labels_of(blocks())
    )
    # strips of another picture or option are not taken
    monkeypatch.setattr(StripFolder, "save", save_or_end)
    with pytest.raises(SystemExit):
        infer(path, *WINDOWS)
    saved.clear()
    monkeypatch.setattr(
        StripFolder, "save", lambda self, top, *maps: (saved.append(top), save(self, top, *maps))
    )
    assert infer(path, *WINDOWS, "--blend", "none")[0] == 0
    assert saved == [0, 256, 512]


def test_pixels_without_data_have_none_in_the_label(tmp_path, infer) -> None:
    image = blocks()
    image[100:300, 50:120] = 0
    image[400, 7, 0] = 0  # in one band alone
    _, out = infer(write(tmp_path / "a.tif", image, nodata=0), *WINDOWS)
    expected = labels_of(image)
    expected[(image == 0).all(axis=2)] = 255
    np.testing.assert_array_equal(tifffile.imread(out / "pseudo_color_prediction/a.tif"), expected)


def test_without_rasterio_a_plain_picture_becomes_a_tiled_tiff(
    tmp_path, infer, monkeypatch
) -> None:
    image = blocks()
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", tile=(64, 64))
    for module in (rasters, geodata):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    _, out = infer(tmp_path / "a.tif", *WINDOWS, "--outputs", "label,confidence")
    path = out / "pseudo_color_prediction/a.tif"
    np.testing.assert_array_equal(tifffile.imread(path), labels_of(image))
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].is_tiled
        assert file.pages[0].colormap is not None
    predictor = Predictor.from_export(EXPORT, backend="onnxruntime", **SETTINGS)
    confidence = np.rint(255 * predictor(image).confidence)
    np.testing.assert_array_equal(tifffile.imread(out / "confidence/a.tif"), confidence)


def test_vectors_rasterised_again_are_the_label(tmp_path, infer) -> None:
    pyogrio = pytest.importorskip("pyogrio")
    shapely = pytest.importorskip("shapely")
    from rasterio.features import rasterize
    from rasterio.warp import transform_geom

    image = blocks()
    _, out = infer(
        write(tmp_path / "a.tif", image), *WINDOWS, "--outputs", "vectors,polygons,geotiff"
    )
    label = labels_of(image)
    found = []
    for name, _ in pyogrio.list_layers(out / "geodata/a.gpkg"):
        meta, _, shapes, fields = pyogrio.raw.read(out / "geodata/a.gpkg", layer=name)
        assert meta["crs"] == CRS
        shapes = shapely.from_wkb(shapes)
        np.testing.assert_allclose(shapely.area(shapes), fields[2] / 4)  # pixels of 0.5 m
        found += zip(shapes, fields[0].tolist(), strict=True)
    drawn = rasterize(found, out_shape=label.shape, transform=TRANSFORM, fill=255)
    np.testing.assert_array_equal(drawn, label)
    features = json.loads((out / "geodata/a.geojson").read_text())["features"]
    assert len(features) == len(found)
    found = [
        (transform_geom("EPSG:4326", CRS, each["geometry"]), each["properties"]["class_id"])
        for each in features
    ]
    drawn = rasterize(found, out_shape=label.shape, transform=TRANSFORM, fill=255)
    assert (drawn == label).mean() > 0.9999  # longitudes are rounded
    features = json.loads((out / "polygons/a.geojson").read_text())["features"]
    found = [(each["geometry"], each["properties"]["class_id"]) for each in features]
    np.testing.assert_array_equal(rasterize(found, out_shape=label.shape, fill=255), label)
    from pycocotools.coco import COCO

    coco, drawn = COCO(out / "polygons/coco.json"), np.full(label.shape, 255)
    for each in coco.loadAnns(coco.getAnnIds()):
        if isinstance(each["segmentation"], dict):  # with holes
            assert (label[coco.annToMask(each) > 0] == each["category_id"] - 1).all()
            assert coco.annToMask(each).sum() == each["area"]


def test_polygons_of_some_classes_above_an_area_simplified(tmp_path, infer) -> None:
    pytest.importorskip("pyogrio")
    shapely = pytest.importorskip("shapely")
    path = write(tmp_path / "a.tif", blocks())
    flags = ["--polygon_min_px", "40", "--polygon_classes", "3", "sky", "road"]
    _, out = infer(path, *WINDOWS, "--outputs", "polygons", *flags)
    exact = json.loads((out / "polygons/a.geojson").read_text())["features"]
    areas = [each["properties"]["area_px"] for each in exact]
    assert exact
    assert min(areas) >= 40
    assert {each["properties"]["class"] for each in exact} <= {"wall", "sky", "road"}
    _, out = infer(path, *WINDOWS, "--outputs", "polygons", *flags, "--polygon_simplify_px", "2")
    simple = json.loads((out / "polygons/a.geojson").read_text())["features"]
    for one, other in zip(exact, simple, strict=True):
        distance = shapely.hausdorff_distance(
            *(shapely.geometry.shape(each["geometry"]) for each in (one, other))
        )
        assert distance <= 2 + 1e-9
    exact_corners, simple_corners = (
        sum(len(ring) for each in features for ring in each["geometry"]["coordinates"])
        for features in (exact, simple)
    )
    assert simple_corners < exact_corners


def test_small_pictures_get_the_same_geodata(tmp_path, infer, monkeypatch) -> None:
    image = blocks()
    path = write(tmp_path / "a.tif", image)
    _, out = infer(path, *WINDOWS, "--outputs", "geotiff")
    large = (out / "geodata/a.tif").read_bytes()
    monkeypatch.undo()
    shutil.rmtree(out)
    infer(path, *WINDOWS, "--outputs", "label,geotiff")
    assert (out / "geodata/a.tif").read_bytes() == large
    np.testing.assert_array_equal(
        read_label(out / "pseudo_color_prediction/a.png"), labels_of(image)
    )


def tiles_of(folder: Path, image: np.ndarray, **options) -> Path:
    """Write an image as 4 overlapping tiles, without its right lower corner."""
    folder.mkdir()
    for row, column in ((0, 0), (0, 160), (250, 0)):
        part = image[row : row + 280, column : column + 170]
        place = TRANSFORM * rasterio.Affine.translation(column, row)
        write(folder / f"{row}-{column}.tif", part, transform=place, **options)
    return folder


def test_a_folder_of_tiles_is_one_seamless_picture(tmp_path, infer) -> None:
    image = blocks()
    folder = tiles_of(tmp_path / "tiles", image)
    status, out = infer(folder, *WINDOWS, "--mosaic")
    assert status == 0
    image[280:, 170:] = 0
    expected = labels_of(image)
    expected[280:, 170:] = 255
    with rasterio.open(out / "pseudo_color_prediction/tiles.tif") as file:
        np.testing.assert_array_equal(file.read(1), expected)
        assert (file.crs, file.transform) == (rasterio.CRS.from_string(CRS), TRANSFORM)
    # the virtual raster is a picture too
    shutil.copy(out / "tiles.vrt", tmp_path / "again.vrt")
    infer(tmp_path / "again.vrt", *WINDOWS)
    found = tifffile.imread(out / "pseudo_color_prediction/again.tif")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crs": None}, "names no coordinate system"),
        ({"crs": "EPSG:32634"}, "coordinate system EPSG:32634, but EPSG:32633"),
        ({"transform": TRANSFORM * rasterio.Affine.rotation(10)}, "is turned"),
        ({"transform": TRANSFORM * rasterio.Affine.scale(1.1)}, "pixel size (0.55, -0.55), but"),
        ({"transform": TRANSFORM * rasterio.Affine.translation(0.3, 0)}, "0.30 pixels right"),
        ({"nodata": 3}, "nodata 3.0, but None"),
        ({"bands": 4}, "number of bands 4, but 3"),
        ({"dtype": "uint16"}, "type uint16, but uint8"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_tiles_that_differ_are_refused(tmp_path, infer, capsys, change, message) -> None:
    folder = tiles_of(tmp_path / "tiles", blocks())
    image = np.zeros((50, 50, change.pop("bands", 3)), change.get("dtype", "uint8"))
    write(folder / "z.tif", image, **change)
    status, out = infer(folder, *WINDOWS, "--mosaic")
    assert status == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "z.tif: " in line
    assert message in line
    assert not list(out.glob("*.vrt"))


def failure(capsys, infer, path: Path, *flags: str) -> str:
    capsys.readouterr()
    status, _ = infer(path, *flags)
    lines = capsys.readouterr().err.strip().splitlines()
    assert status == 1
    failed = [line for line in lines if str(path) in line]
    assert len(failed) == 1
    return failed[0]


def test_bad_pictures_are_one_line_each(tmp_path, infer, capsys) -> None:
    image, path = blocks(), tmp_path / "a.tif"
    write(path, image, crs=None)
    pytest.importorskip("pyogrio")
    message = "names no coordinate system, which GeoPackage and GeoJSON need"
    assert message in failure(capsys, infer, path, *WINDOWS, "--outputs", "vectors")
    assert "scales need the picture" in failure(capsys, infer, path, *WINDOWS, "--scales", "1", "2")
    write(path, image)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert "cannot be" in failure(capsys, infer, path, *WINDOWS)
    path = write(tmp_path / "b.tif", np.dstack([image, image[..., :2]]))
    assert "found 5 bands of uint8, expected 3" in failure(capsys, infer, path, *WINDOWS)


def test_a_turned_picture_keeps_its_georeference(tmp_path, infer) -> None:
    turned = TRANSFORM * rasterio.Affine.rotation(30)
    _, out = infer(write(tmp_path / "a.tif", blocks(), transform=turned), *WINDOWS)
    with rasterio.open(out / "pseudo_color_prediction/a.tif") as file:
        assert file.transform.almost_equals(turned)


def test_overlap_is_chosen_by_its_seams(tmp_path, infer, capsys) -> None:
    image = blocks()
    path = write(tmp_path / "a.tif", image)
    flags = [*WINDOWS[:4], "--blend", "cosine"]
    _, out = infer(path, *flags, "--overlap", "auto")
    printed = capsys.readouterr().out
    shares = re.search(r"agreement with whole samples \((\d)\).*: 0: ([\d.]+)%", printed)
    chosen = re.search(r"chosen: ([\d.]+)", printed)
    assert shares
    assert chosen
    # the first figure, by hand
    sides = (192, 256)
    agreeing = []
    for share in (0.25, 0.5, 0.75)[: int(shares[1])]:
        top, left = (int(share * (a - b)) for a, b in zip(image.shape, sides, strict=False))
        sample = np.ascontiguousarray(image[top : top + sides[0], left : left + sides[1]])
        whole = labels_of(sample, is_slide=False, crop_size_hw=None, stride_hw=None)
        agreeing.append((labels_of(sample, stride_hw=(96, 128), blend="cosine") == whole).mean())
    assert abs(float(shares[2]) - 100 * np.mean(agreeing)) < 1e-3
    found = tifffile.imread(out / "pseudo_color_prediction/a.tif")
    stride_hw = tuple(round(side * (1 - float(chosen[1]))) for side in (96, 128))
    np.testing.assert_array_equal(found, labels_of(image, blend="cosine", stride_hw=stride_hw))


def test_overlap_is_chosen_for_pictures_that_fit_into_memory_too(tmp_path, capsys) -> None:
    image = blocks()
    path = write(tmp_path / "a.tif", image)
    fixed = ["--config", str(EXPORT), "--backend", "onnxruntime", "--cpu_threads", "1"]
    where = ["--image_path", str(path), "--save_dir", str(tmp_path / "out"), "--outputs", "label"]
    assert not main(["infer", *fixed, *where, *WINDOWS[:4], "--overlap", "auto"])
    chosen = re.search(r"chosen: ([\d.]+)", capsys.readouterr().out)
    assert chosen
    stride_hw = tuple(round(side * (1 - float(chosen[1]))) for side in (96, 128))
    found = read_label(tmp_path / "out/pseudo_color_prediction/a.png")
    np.testing.assert_array_equal(found, labels_of(image, stride_hw=stride_hw))


def test_windows_are_chosen_where_none_are_asked_for(tmp_path, infer) -> None:
    image = blocks()
    _, out = infer(write(tmp_path / "a.tif", image))
    expected = labels_of(image, is_slide=False, crop_size_hw=None, stride_hw=None)
    found = tifffile.imread(out / "pseudo_color_prediction/a.tif")
    np.testing.assert_array_equal(found, expected)  # one window of 1024 px holds it
