"""Label maps as polygons: GeoJSON for each image, COCO for all of them.

A polygon is the outline of one class's pixels that touch each other by their sides, along the
edges of the pixels: filled again, polygons give the label map. Coordinates are in pixels from the
image's left upper corner, x to the right and y down; the first pixel reaches from 0 to 1. Pixels
without a class are in no polygon.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from paddleseg_segformer.data.labels import LabelSet
from paddleseg_segformer.dependencies import explained


class Region(NamedTuple):
    """Pixels of one class that touch each other.

    Args:
        class_id: of them.
        rings: closed rings of (x, y), the outer one first, then holes.
        num_px: how many they are.
        confidence: their mean; None where it was not asked for.
    """

    class_id: int
    rings: list[list[tuple[float, float]]]
    num_px: int
    confidence: float | None = None


@dataclass(frozen=True)
class PolygonRules:
    """Which regions are written, and how they are drawn.

    Args:
        min_area_px: Regions of fewer pixels are left out.
        simplify_px: Corners that lie no farther than this from the line without them are left out;
            neighbours may then overlap, or leave gaps, by as much.
        class_ids: Of these classes alone; None: of all.
    """

    min_area_px: int = 0
    simplify_px: float = 0.0
    class_ids: frozenset[int] | None = None

    def applied(self, region: Region) -> Iterator[Region]:
        """Yield the region as it is drawn, if it is.

        Raises:
            MissingDependency: `simplify_px` is set, and shapely is not installed.
        """
        is_chosen = self.class_ids is None or region.class_id in self.class_ids
        if not is_chosen or region.num_px < self.min_area_px:
            return
        if self.simplify_px:
            with explained():
                import shapely
            shape = shapely.Polygon(region.rings[0], region.rings[1:]).simplify(self.simplify_px)
            rings = [list(ring.coords) for ring in (shape.exterior, *shape.interiors)]
            region = region._replace(rings=rings)
        yield region


def regions_of(
    label: np.ndarray,
    num_classes: int,
    confidence: np.ndarray | None = None,
    rules: PolygonRules | None = None,
) -> list[Region]:
    """Return the regions of a label map.

    Args:
        label: Ids (H, W); those of `num_classes` and more are no class.
        num_classes: K.
        confidence: (H, W), for the mean of each region.
        rules: Which regions, and how they are drawn; by default all, to the pixel.

    Raises:
        MissingDependency: rasterio is not installed.
    """
    with explained():
        from rasterio.features import rasterize, shapes

    is_class = label < num_classes
    drawn = list(shapes(label.astype(np.int32), mask=is_class, connectivity=4))
    numbered = [(geometry, index) for index, (geometry, _) in enumerate(drawn)]
    if not numbered:
        return []
    places = rasterize(numbered, out_shape=label.shape, fill=len(drawn), dtype=np.int32)
    counts = np.bincount(places.ravel(), minlength=len(drawn) + 1)
    sums = None
    if confidence is not None:
        sums = np.bincount(places.ravel(), confidence.ravel(), minlength=len(drawn) + 1)
    regions = (
        Region(
            int(value),
            geometry["coordinates"],
            int(counts[index]),
            None if sums is None else float(sums[index] / counts[index]),
        )
        for index, (geometry, value) in enumerate(drawn)
    )
    return [drawn for region in regions for drawn in (rules or PolygonRules()).applied(region)]


def geojson(regions: list[Region], label_set: LabelSet) -> dict[str, Any]:
    """Return the regions as a FeatureCollection, in pixels of the image."""
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "properties": {
                    "class_id": region.class_id,
                    "class": label_set.classes[region.class_id],
                    "area_px": region.num_px,
                    **({} if region.confidence is None else {"confidence": region.confidence}),
                },
                "geometry": {"type": "Polygon", "coordinates": region.rings},
            }
            for region in regions
        ],
    }


class CocoFile:
    """All images' regions in COCO's form; ids of categories are class ids + 1, for 0 is none there.

    A region without holes is a polygon. One with holes, which COCO's polygons cannot have, is
    run-length encoded.

    Raises:
        MissingDependency: pycocotools is not installed.
    """

    def __init__(self, label_set: LabelSet) -> None:
        with explained():
            import pycocotools.mask

        self._mask = pycocotools.mask
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.categories = [
            {"id": index + 1, "name": name} for index, name in enumerate(label_set.classes)
        ]

    def add(self, name: str, size_hw: tuple[int, int], regions: list[Region]) -> None:
        """Add an image, by the name of its file."""
        height, width = size_hw
        image_id = len(self.images) + 1
        self.images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for region in regions:
            points = np.asarray(region.rings[0])
            (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": image_id,
                    "category_id": region.class_id + 1,
                    "segmentation": self._segmentation(region, size_hw),
                    "bbox": [left, top, right - left, bottom - top],
                    "area": region.num_px,
                    "iscrowd": 0,
                }
                | ({} if region.confidence is None else {"score": region.confidence})
            )

    def to_dict(self) -> Mapping[str, Any]:
        """Return the file's content."""
        return {
            "images": self.images,
            "annotations": self.annotations,
            "categories": self.categories,
        }

    def _segmentation(self, region: Region, size_hw: tuple[int, int]) -> Any:
        if len(region.rings) == 1:
            return [np.asarray(region.rings[0][:-1]).ravel().tolist()]
        mask, left, top = _mask(region)
        is_edge = np.diff(np.pad(mask.T, ((0, 0), (1, 1))).astype(np.int8), axis=1)  # (w, h + 1)
        height, width = size_hw
        columns, rows = np.nonzero(is_edge)  # begins and ends of runs, column by column
        bounds = (columns + left) * height + rows + top
        is_joined = np.append(bounds[1:] == bounds[:-1], False)  # over the end of a column
        bounds = bounds[~(is_joined | np.roll(is_joined, 1))]
        counts = np.diff(bounds, prepend=0, append=height * width).tolist()
        run_lengths = {"size": [height, width], "counts": counts}
        encoded = self._mask.frPyObjects(run_lengths, height, width)
        return {"size": list(size_hw), "counts": encoded["counts"].decode()}


def _mask(region: Region) -> tuple[np.ndarray, int, int]:
    """Return a region's pixels in the rectangle around it, (h, w), and its left upper corner."""
    from rasterio import Affine
    from rasterio.features import rasterize

    corners = np.asarray(region.rings[0])
    left, top = np.floor(corners.min(axis=0)).astype(int).tolist()
    right, bottom = np.ceil(corners.max(axis=0)).astype(int).tolist()
    geometry = {"type": "Polygon", "coordinates": region.rings}
    shape = (bottom - top, right - left)
    transform = Affine.translation(left, top)
    mask = rasterize([(geometry, 1)], out_shape=shape, transform=transform, dtype=np.uint8)
    return mask, left, top
