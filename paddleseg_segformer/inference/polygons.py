"""Label maps as polygons: GeoJSON for each image, COCO for all of them.

A polygon is the outline of one class's pixels that touch each other by their sides, along the
edges of the pixels: filled again, polygons give the label map. Coordinates are in pixels from the
image's left upper corner, x to the right and y down; the first pixel reaches from 0 to 1. Pixels
without a class are in no polygon.
"""

from __future__ import annotations

from collections.abc import Mapping
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


def regions_of(
    label: np.ndarray, num_classes: int, confidence: np.ndarray | None = None
) -> list[Region]:
    """Return the regions of a label map.

    Args:
        label: Ids (H, W); those of `num_classes` and more are no class.
        num_classes: K.
        confidence: (H, W), for the mean of each region.

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
    return [
        Region(
            int(value),
            geometry["coordinates"],
            int(counts[index]),
            None if sums is None else float(sums[index] / counts[index]),
        )
        for index, (geometry, value) in enumerate(drawn)
    ]


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
        from rasterio.features import rasterize

        geometry = {"type": "Polygon", "coordinates": region.rings}
        mask = rasterize([(geometry, 1)], out_shape=size_hw, dtype=np.uint8)
        encoded = self._mask.encode(np.asfortranarray(mask))
        return {"size": list(size_hw), "counts": encoded["counts"].decode()}
