"""Windows of rasters against the whole picture as other code reads it."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from paddleseg_segformer.data import rasters
from paddleseg_segformer.data.io import read_image
from paddleseg_segformer.data.rasters import Picture, open_raster
from paddleseg_segformer.data.values import ValueRange
from paddleseg_segformer.errors import UserError

HEIGHT, WIDTH = 75, 101
WINDOWS = [(0, 75, 0, 101), (0, 16, 0, 16), (13, 50, 31, 99), (74, 75, 100, 101), (16, 32, 48, 64)]


def values(channels: int, dtype: str = "uint8") -> np.ndarray:
    rng = np.random.default_rng(channels)
    shape = (HEIGHT, WIDTH, channels) if channels > 1 else (HEIGHT, WIDTH)
    if dtype.startswith("f"):
        return rng.random(shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


@pytest.fixture(params=["rasterio", "tifffile"])
def reader(request, monkeypatch):
    if request.param == "rasterio":
        pytest.importorskip("rasterio")
    else:
        monkeypatch.setattr(rasters, "find_spec", lambda name: None)
    return request.param


def assert_windows(path, stored: np.ndarray) -> None:
    stored = stored.reshape(HEIGHT, WIDTH, -1)
    with open_raster(path) as raster:
        assert raster.shape == stored.shape
        assert raster.dtype == stored.dtype
        for top, bottom, left, right in WINDOWS:
            found = raster.read(top, bottom, left, right)
            np.testing.assert_array_equal(found, stored[top:bottom, left:right])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("channels", [1, 3, 5, 16])
@pytest.mark.parametrize(
    "layout",
    [
        {"tile": (16, 32)},
        {"tile": (16, 16), "compression": "zlib", "predictor": True},
        {"rowsperstrip": 7},
        {"rowsperstrip": 7, "compression": "zlib", "planarconfig": "separate"},
        {"tile": (32, 16), "bigtiff": True, "planarconfig": "separate"},
    ],
    ids=lambda layout: ",".join(map(str, layout.values())),
)
def test_windows_of_tiff_hold_what_was_written(tmp_path, reader, layout, channels, dtype):
    stored = values(channels, dtype)
    if channels == 1:
        layout = {key: value for key, value in layout.items() if key != "planarconfig"}
    separate = layout.get("planarconfig") == "separate"
    written = stored.transpose(2, 0, 1) if separate else stored
    photometric = "rgb" if channels == 3 and dtype != "float32" else "minisblack"
    layout = {"planarconfig": None if channels == 1 else "contig", **layout}
    tifffile.imwrite(tmp_path / "a.tif", written, photometric=photometric, **layout)
    assert_windows(tmp_path / "a.tif", stored)


def test_pages_are_bands(tmp_path, reader):
    stored = values(4, "uint16")
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(stored.transpose(2, 0, 1), photometric="minisblack", tile=(16, 16))
    assert_windows(tmp_path / "a.tif", stored)


def test_a_pyramid_is_read_at_full_resolution(tmp_path):
    stored = values(3)
    with tifffile.TiffWriter(tmp_path / "slide.svs") as file:
        options = {"tile": (16, 16), "photometric": "rgb", "metadata": None}
        file.write(stored, subifds=1, **options)
        file.write(stored[::2, ::2], subfiletype=1, **options)
    assert_windows(tmp_path / "slide.svs", stored)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_slices_of_a_picture_are_those_of_the_whole(tmp_path, reader, mode, suffix):
    shape = values(len(mode) if mode != "P" else 3)
    image = Image.fromarray(shape).convert(mode)
    path = tmp_path / f"a{suffix}"
    image.save(path)
    whole = read_image(path)
    with open_raster(path) as raster:
        picture = Picture(raster)
        assert picture.shape == whole.shape
        assert picture.dtype == whole.dtype
        for top, bottom, left, right in WINDOWS:
            np.testing.assert_array_equal(
                picture[top:bottom, left:right], whole[top:bottom, left:right]
            )
        np.testing.assert_array_equal(picture[60:200, :], whole[60:])


@pytest.mark.parametrize("quality", [75, 95])
def test_slices_of_a_jpeg_are_those_of_the_whole(tmp_path, reader, quality):
    smooth = np.asarray(Image.fromarray(values(3)).resize((640, 480), Image.Resampling.BICUBIC))
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=quality)
    whole = read_image(tmp_path / "a.jpg")
    with open_raster(tmp_path / "a.jpg") as raster:
        np.testing.assert_array_equal(Picture(raster)[100:333, 17:555], whole[100:333, 17:555])


@pytest.mark.parametrize("declared", [[0, 4095], "dtype"])
def test_a_value_range_maps_slices_as_the_whole(tmp_path, reader, declared):
    tifffile.imwrite(tmp_path / "a.tif", values(3, "uint16"), photometric="rgb", tile=(16, 16))
    value_range = ValueRange.of(declared)
    whole = read_image(tmp_path / "a.tif", 3, value_range)
    with open_raster(tmp_path / "a.tif") as raster:
        picture = Picture(raster, 3, value_range)
        np.testing.assert_array_equal(picture[13:50, 31:99], whole[13:50, 31:99])


def test_nodata_and_alpha_tell_which_pixels_are_valid(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    stored = values(2, "int16")
    stored[10:20, 5:9] = -9999
    stored[30, 30, 0] = -9999  # of one band alone
    profile = {"driver": "GTiff", "height": HEIGHT, "width": WIDTH, "count": 2, "dtype": "int16"}
    with rasterio.open(tmp_path / "a.tif", "w", nodata=-9999, **profile) as file:
        file.write(stored.transpose(2, 0, 1))
        file.descriptions = ("B04", "B08")
    with open_raster(tmp_path / "a.tif") as raster:
        assert raster.nodata == -9999
        assert raster.band_names == ("B04", "B08")
        valid = raster.is_valid(0, HEIGHT, 0, WIDTH)
        np.testing.assert_array_equal(valid, ~(stored == -9999).all(axis=2))
        with pytest.raises(UserError, match="-9999, which the file calls nodata"):
            Picture(raster, 2)[0:20, 0:20]


def refusal(path, img_channels: int = 3, value_range: ValueRange | None = None) -> str:
    with pytest.raises(UserError) as caught, open_raster(path) as raster:
        Picture(raster, img_channels, value_range)[0:HEIGHT, 0:WIDTH]
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_wrong_files_are_refused_in_one_line(tmp_path, reader):
    path = tmp_path / "a.tif"
    assert "no such file" in refusal(path)
    path.write_bytes(b"II*\0nothing of the kind")
    assert "cannot be read by windows" in refusal(path)
    tifffile.imwrite(path, values(5), photometric="minisblack", planarconfig="contig")
    assert "found 5 bands of uint8, expected 3" in refusal(path)
    tifffile.imwrite(path, values(3, "uint16"), photometric="rgb")
    assert "value_range of the data set" in refusal(path)
    assert "percentile needs the whole" in refusal(path, 3, ValueRange("percentile", (1.0, 99.0)))
    tifffile.imwrite(path, values(3), photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    assert "Save it upright" in refusal(path)
    numbers = values(3, "float32")
    numbers[70, 90] = np.nan
    tifffile.imwrite(path, numbers, photometric="rgb", tile=(16, 16))
    assert "NaN or infinite" in refusal(path)


def test_cut_and_damaged_tiles_are_refused_in_one_line(tmp_path, reader):
    path = tmp_path / "a.tif"
    options = {"tile": (16, 16), "compression": "zlib", "photometric": "rgb"}
    tifffile.imwrite(path, values(3), **options)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])
    with open_raster(path) as raster:
        assert raster.read(0, 16, 0, 16).shape == (16, 16, 3)
    assert "cannot be decoded" in refusal(path)
    path.write_bytes(whole[:-400] + bytes(400))
    assert "cannot be decoded" in refusal(path)


def test_a_whole_compressed_strip_is_refused(tmp_path, reader, monkeypatch):
    monkeypatch.setattr(rasters, "MAX_BLOCK_BYTES", 1 << 12)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values(3), photometric="rgb", rowsperstrip=HEIGHT, compression="zlib")
    assert "gdal_translate -co TILED=YES" in refusal(path)


def test_a_virtual_raster_of_the_network_is_refused(tmp_path):
    pytest.importorskip("rasterio")
    path = tmp_path / "a.vrt"
    path.write_text("<VRTDataset><SourceFilename>/vsicurl/http://x/a.tif</SourceFilename>")
    assert "expected files of this machine" in refusal(path)


def test_without_rasterio_its_formats_name_it(tmp_path, monkeypatch):
    monkeypatch.setattr(rasters, "find_spec", lambda name: None)
    Image.fromarray(values(3)).convert("CMYK").save(tmp_path / "a.tif")
    assert "pip install rasterio" in refusal(tmp_path / "a.tif")
