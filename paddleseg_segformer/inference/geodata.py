"""Label maps as geodata: GeoTIFF with the picture's georeference, its style, and vectors.

Georeference, coordinate system and names of bands go from the picture to what is written. Pixels
without data in the picture have none in the label map.
"""

from __future__ import annotations

import errno
import zlib
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from paddleseg_segformer.data.labels import LabelSet
from paddleseg_segformer.data.rasters import Georeference, Raster, not_georeferenced, open_raster
from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError, one_line
from paddleseg_segformer.inference.polygons import PolygonRules, Region
from paddleseg_segformer.inference.upsample_argmax import label_type

TILE_PX = 256
Strips = Iterable[tuple[int, np.ndarray]]  # first row and values (h, W) of each, from the top


def write_map(path: Path, strips: Strips, raster: Raster, label_set: LabelSet | None) -> None:
    """Write a map of a picture as a tiled, compressed TIFF, and read it back.

    With rasterio it is a cloud-optimised GeoTIFF with overviews and the picture's georeference.

    Args:
        path: A new file in a folder that is moved as a whole when all is written.
        strips: Class ids, of a multiple of `TILE_PX` rows but for the last; or with no `label_set`
            other values of 8 bits.
        raster: The picture.
        label_set: Names and colours of the ids; `ignore_index` is where the picture has no data.

    Raises:
        UserError: `ignore_index` is a class, and there are pixels without data; or what was
            written does not read back, as on a full disk.
        MissingDependency: rasterio is missing, and the picture has a georeference.
    """
    checksum = 0

    def checked() -> Iterator[np.ndarray]:
        nonlocal checksum
        for strip in _masked(strips, raster, label_set):
            checksum = zlib.crc32(np.ascontiguousarray(strip).data, checksum)
            yield strip

    try:
        if raster.georeference or find_spec("rasterio"):
            _write_cog(path, checked(), raster, label_set)
        else:
            _write_tiles(path, checked(), raster, label_set)
    except (UserError, OSError):
        raise
    except Exception as error:  # GDAL's, which have no common base: a full disk, say
        raise OSError(errno.EIO, one_line(error)) from error
    found = 0
    with open_raster(path) as written:
        height, width, _ = written.shape
        for top in range(0, height, TILE_PX):
            rows = written.read(top, min(top + TILE_PX, height), 0, width)
            found = zlib.crc32(rows.data, found)
    if found != checksum:
        raise OSError(errno.EIO, f"{path}: does not read back as it was written")


def _nodata(label_set: LabelSet | None) -> int | None:
    """Return the id of pixels without data; None where there is none that is no class."""
    if label_set is None:
        return None
    is_free = label_set.num_classes <= label_set.ignore_index <= _highest(label_set)
    return label_set.ignore_index if is_free else None


def _highest(label_set: LabelSet) -> int:
    return 255 if label_type(label_set.num_classes) is np.uint8 else 65535


def _masked(strips: Strips, raster: Raster, label_set: LabelSet | None) -> Iterator[np.ndarray]:
    """Yield strips of 8 or 16 bits, without data where the picture has none."""
    nodata = _nodata(label_set)
    dtype = np.uint16 if label_set and _highest(label_set) > 255 else np.uint8
    for top, stored in strips:
        if label_set and stored.max() > np.iinfo(dtype).max:
            raise UserError(
                f"{raster.path}: found the id {stored.max()}, expected at most 255 of "
                f"{label_set.num_classes} classes. Choose another ignore_index in the data set."
            )
        strip = stored.astype(dtype)
        is_valid = raster.is_valid(top, top + len(strip), 0, strip.shape[1])
        if label_set and is_valid is not None and not is_valid.all():
            if nodata is None:
                raise UserError(
                    f"{raster.path}: has pixels without data, but ignore_index "
                    f"{label_set.ignore_index} is a class or has more bits, so nothing can mark "
                    "them. Choose another ignore_index in the data set."
                )
            strip[~is_valid] = nodata
        yield strip


def _write_cog(
    path: Path, strips: Iterator[np.ndarray], raster: Raster, label_set: LabelSet | None
) -> None:
    with explained():
        import rasterio
        import rasterio.shutil
    height, width, _ = raster.shape
    first = next(strips)
    plain = path.with_name(f"{path.stem}.plain.tif")
    options: dict[str, Any] = {"height": height, "width": width, "count": 1, "dtype": first.dtype}
    options |= raster.georeference._asdict() if raster.georeference else {}
    options |= {"tiled": True, "blockxsize": TILE_PX, "blockysize": TILE_PX, "compress": "DEFLATE"}
    options |= {"bigtiff": "IF_SAFER", "nodata": _nodata(label_set)}
    with not_georeferenced(), rasterio.open(plain, "w", driver="GTiff", **options) as file:
        file.set_band_description(1, "class id" if label_set else "confidence")
        if any(raster.band_names):
            file.update_tags(input_bands=",".join(raster.band_names))
        if label_set:
            file.update_tags(**{f"class_{i}": name for i, name in enumerate(label_set.classes)})
        if label_set and first.dtype == np.uint8:
            colors = {index: (*color, 255) for index, color in enumerate(label_set.palette)}
            file.write_colormap(1, colors)
        top = 0
        for strip in chain([first], strips):
            file.write(strip, 1, window=((top, top + len(strip)), (0, width)))
            top += len(strip)
    with not_georeferenced():
        rasterio.shutil.copy(
            plain,
            path,
            driver="COG",
            compress="DEFLATE",
            blocksize=512,
            overview_resampling="NEAREST" if label_set else "AVERAGE",
            bigtiff="IF_SAFER",
        )
    plain.unlink()


def _write_tiles(
    path: Path, strips: Iterator[np.ndarray], raster: Raster, label_set: LabelSet | None
) -> None:
    import tifffile

    height, width, _ = raster.shape
    first = next(strips)

    def tiles() -> Iterator[np.ndarray]:
        for strip in chain([first], strips):
            for row in range(0, len(strip), TILE_PX):
                for left in range(0, width, TILE_PX):
                    tile = strip[row : row + TILE_PX, left : left + TILE_PX]
                    missing = [(0, TILE_PX - side) for side in tile.shape]
                    yield np.pad(tile, missing)

    options: dict[str, Any] = {"photometric": "minisblack"}
    if label_set and first.dtype == np.uint8:
        colormap = label_set.colors.T.astype(np.uint16) * 257
        options = {"photometric": "palette", "colormap": colormap}
    if (nodata := _nodata(label_set)) is not None:
        options["extratags"] = [(42113, "s", 0, str(nodata), True)]  # GDAL's
    with tifffile.TiffWriter(path, bigtiff=height * width * first.itemsize > 2**31) as file:
        file.write(
            tiles(),
            shape=(height, width),
            dtype=first.dtype,
            tile=(TILE_PX, TILE_PX),
            compression="zlib",
            metadata=None,
            **options,
        )


def style(label_set: LabelSet) -> str:
    """Return the names and colours of the classes as QGIS reads them beside a GeoTIFF (.qml)."""
    entries = "\n".join(
        f'        <paletteEntry value="{index}" color="#{red:02x}{green:02x}{blue:02x}" '
        f'alpha="255" label={quoteattr(name)}/>'
        for index, (name, (red, green, blue)) in enumerate(
            zip(label_set.classes, label_set.palette, strict=True)
        )
    )
    return f"""<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis version="3.22" styleCategories="Symbology">
  <pipe>
    <rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1" nodataColor="">
      <colorPalette>
{entries}
      </colorPalette>
    </rasterrenderer>
  </pipe>
</qgis>
"""


def regions_of_map(path: Path, num_classes: int, rules: PolygonRules) -> Iterator[Region]:
    """Yield the regions of a label map in pixels, read from its file row by row.

    The memory that is needed grows with the number of corners, not of pixels.

    Args:
        path: What `write_map` wrote.
        num_classes: K.
        rules: Which regions, and how they are drawn.
    """
    with explained():
        import rasterio
        from rasterio.features import shapes
    # without its georeference, for coordinates in pixels
    with not_georeferenced(), rasterio.open(path, GEOREF_SOURCES="NONE") as file:
        for geometry, value in shapes(rasterio.band(file, 1), connectivity=4):
            if value < num_classes:
                rings = geometry["coordinates"]
                num_px = round(2 * abs(_area(rings[0])) - sum(abs(_area(ring)) for ring in rings))
                yield from rules.applied(Region(int(value), rings, num_px))


def _area(ring: Any) -> float:
    x, y = np.asarray(ring).T
    return float(x[:-1] @ y[1:] - x[1:] @ y[:-1]) / 2


def write_vectors(
    folder: Path, name: str, regions: Iterable[Region], raster: Raster, label_set: LabelSet
) -> None:
    """Write regions as `NAME.gpkg` and `NAME.geojson`.

    The GeoPackage has a layer per class, in the picture's coordinate system. GeoJSON is in
    longitude and latitude, as RFC 7946 says.

    Args:
        folder: Of the files.
        name: Of the files, without a suffix.
        regions: In pixels.
        raster: The picture.
        label_set: Names of the classes.

    Raises:
        UserError: the picture has no coordinate system.
        MissingDependency: pyogrio or shapely is missing.
    """
    with explained():
        import pyogrio
        import shapely
    place = georeference_for_vectors(raster)
    found: dict[int, list[tuple[bytes, int]]] = {}
    for region in regions:
        outer, *holes = (_moved(ring, place.transform) for ring in region.rings)
        content = shapely.to_wkb(shapely.Polygon(outer, holes))
        found.setdefault(region.class_id, []).append((content, region.num_px))
    options = {"crs": place.crs.to_wkt(), "geometry_type": "Polygon"}
    options["fields"] = np.array(["class_id", "class", "area_px"], object)
    columns: list[list[np.ndarray]] = []
    for class_id, items in sorted(found.items()) or [(0, [])]:
        layer = label_set.classes[class_id]
        is_unique = label_set.classes.count(layer) == 1
        columns.append(
            [
                np.array([content for content, _ in items], object),
                np.full(len(items), class_id, np.int32),
                np.full(len(items), layer, object),
                np.array([num_px for _, num_px in items], np.int64),
            ]
        )
        pyogrio.raw.write(
            folder / f"{name}.gpkg",
            columns[-1][0],
            columns[-1][1:],
            driver="GPKG",
            layer=layer if is_unique else f"{layer} {class_id}",
            append=len(columns) > 1,
            **options,
        )
    shapes, *fields = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    pyogrio.raw.write(
        folder / f"{name}.geojson",
        shapes,
        fields,
        driver="GeoJSON",
        layer_options={"RFC7946": "YES", "COORDINATE_PRECISION": "9"},
        **options,
    )


def _moved(ring: Any, transform: Any) -> np.ndarray:
    """Return a ring of (column, row) in a raster's coordinates."""
    columns, rows = np.asarray(ring, np.float64).T
    x = transform.a * columns + transform.b * rows + transform.c
    return np.stack([x, transform.d * columns + transform.e * rows + transform.f], axis=1)


def georeference_for_vectors(raster: Raster) -> Georeference:
    """Return the picture's georeference.

    Raises:
        UserError: it has none, or no coordinate system.
    """
    if raster.georeference is None or raster.georeference.crs is None:
        raise UserError(
            f"{raster.path}: names no coordinate system, which GeoPackage and GeoJSON need. Give "
            "it one (gdal_edit.py -a_srs EPSG:...), or take --outputs polygons, in pixels."
        )
    return raster.georeference
