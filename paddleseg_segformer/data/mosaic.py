"""A folder of georeferenced tiles as one picture: a virtual raster (VRT) over them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from paddleseg_segformer.data.lists import walk_files
from paddleseg_segformer.data.rasters import Raster, open_raster
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import write_text

TILE_SUFFIXES = (".tif", ".tiff", ".jp2", ".img", ".png", ".jpg", ".jpeg")
_TYPES = {
    "uint8": "Byte",
    "int8": "Int8",
    "uint16": "UInt16",
    "int16": "Int16",
    "uint32": "UInt32",
    "int32": "Int32",
    "float32": "Float32",
    "float64": "Float64",
}  # NumPy's names -> GDAL's
ON_GRID_PX = 0.01  # how far tiles may lie from whole pixels of the first one


class _Tile(NamedTuple):
    path: Path
    row: int
    column: int
    height: int
    width: int


def write_mosaic(folder: Path, destination: Path, skipped: Sequence[Path] = ()) -> None:
    """Write a virtual raster over all tiles of a folder and its sub-folders.

    Where tiles overlap, the last one by name is seen. Where there is none, the picture has no data.

    Args:
        folder: Of georeferenced tiles.
        destination: The virtual raster (.vrt).
        skipped: Folders that hold no tiles.

    Raises:
        UserError: tiles without coordinate system or turned ones, or tiles that differ in it, in
            the size of their pixels, in bands, type or nodata, or that are not on one grid.
    """
    paths = sorted(
        path for path in walk_files(folder, tuple(skipped)) if path.suffix.lower() in TILE_SUFFIXES
    )
    if not paths:
        raise UserError(f"{folder}: no tiles in this folder ({', '.join(TILE_SUFFIXES)}).")
    with open_raster(paths[0]) as first:
        tiles = [_tile(first, first)]
    for path in paths[1:]:
        with open_raster(path) as raster:
            tiles.append(_tile(raster, first))
    write_text(destination, _vrt(tiles, first))


def _tile(raster: Raster, first: Raster) -> _Tile:
    """Return a tile's place, counted from the left upper corner of the first one."""
    path = raster.path
    place, origin = raster.georeference, first.georeference
    if place is None or place.crs is None:
        raise UserError(
            f"{path}: names no coordinate system, which a tile of a mosaic needs. Give it one: "
            "gdal_edit.py -a_srs EPSG:... -a_ullr ..."
        )
    assert origin
    grid, base = place.transform, origin.transform
    if grid.b or grid.d or grid.a <= 0 or grid.e >= 0:
        raise UserError(
            f"{path}: is turned (geotransform {tuple(grid)[:6]}), expected north up in a mosaic. "
            "Resample it: gdalwarp."
        )
    if raster.colors is not None:
        raise UserError(f"{path}: has a palette, which a mosaic would lose. Save it as RGB.")
    facts: list[tuple[str, Any, Any]] = [
        ("coordinate system", place.crs, origin.crs),
        ("number of bands", raster.shape[2], first.shape[2]),
        ("type", raster.dtype, first.dtype),
        ("nodata", str(raster.nodata), str(first.nodata)),
    ]
    height, width, _ = raster.shape
    drift_px = max(abs(grid.a / base.a - 1) * width, abs(grid.e / base.e - 1) * height)
    if drift_px > ON_GRID_PX:
        facts.append(("pixel size", (grid.a, grid.e), (base.a, base.e)))
    for name, found, expected in facts:
        if found != expected:
            raise UserError(
                f"{path}: {name} {found}, but {expected} in {first.path}; expected one in all "
                "tiles of a mosaic. Bring them to one: gdalwarp, gdal_translate."
            )
    column, row = (grid.c - base.c) / base.a, (grid.f - base.f) / base.e
    if max(abs(column - round(column)), abs(row - round(row))) > ON_GRID_PX:
        raise UserError(
            f"{path}: lies {column % 1:.2f} pixels right of and {row % 1:.2f} below the grid of "
            f"{first.path}; expected whole pixels. Resample it: gdalwarp -tap."
        )
    return _Tile(path, round(row), round(column), height, width)


def _vrt(tiles: Sequence[_Tile], first: Raster) -> str:
    """Return the virtual raster as XML."""
    top, left = min(tile.row for tile in tiles), min(tile.column for tile in tiles)
    height = max(tile.row + tile.height for tile in tiles) - top
    width = max(tile.column + tile.width for tile in tiles) - left
    assert first.georeference
    crs, grid = first.georeference
    x, y = grid.c + left * grid.a, grid.f + top * grid.e
    is_missing = "" if first.nodata is None else f"<NODATA>{first.nodata!r}</NODATA>"
    filled = "" if first.nodata is None else f"<NoDataValue>{first.nodata!r}</NoDataValue>"

    def sources(band: int | str) -> str:
        kind = "SimpleSource" if isinstance(band, str) or not is_missing else "ComplexSource"
        return "\n".join(
            f'<{kind}><SourceFilename relativeToVRT="0">{escape(os.path.abspath(tile.path))}'
            f"</SourceFilename><SourceBand>{band}</SourceBand>"
            f'<SrcRect xOff="0" yOff="0" xSize="{tile.width}" ySize="{tile.height}"/>'
            f'<DstRect xOff="{tile.column - left}" yOff="{tile.row - top}" xSize="{tile.width}" '
            f'ySize="{tile.height}"/>{is_missing if kind == "ComplexSource" else ""}</{kind}>'
            for tile in tiles
        )

    bands = []
    for index in range(first.shape[2]):
        kind = _TYPES[first.dtype.name]
        name = f"<Description>{escape(first.band_names[index])}</Description>"
        alpha = first.has_alpha and index == first.shape[2] - 1
        color = "<ColorInterp>Alpha</ColorInterp>" if alpha else ""
        bands.append(
            f'<VRTRasterBand dataType="{kind}" band="{index + 1}">'
            f"{name}{filled}{color}\n{sources(index + 1)}\n</VRTRasterBand>"
        )
    mask = (
        ""
        if is_missing or first.has_alpha
        else (
            f'<MaskBand><VRTRasterBand dataType="Byte">\n{sources("mask,1")}\n'
            "</VRTRasterBand></MaskBand>"
        )
    )
    lines = [
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}">',
        f"<SRS>{escape(crs.to_wkt())}</SRS>",
        f"<GeoTransform>{x!r}, {grid.a!r}, 0, {y!r}, 0, {grid.e!r}</GeoTransform>",
        *bands,
        mask,
        "</VRTDataset>",
    ]
    return "\n".join(lines) + "\n"
