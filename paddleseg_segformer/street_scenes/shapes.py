"""Painted polygons in metres: the kit of which the objects of a street scene are made.

Axes of an object: x right, y up, z away from the camera; the ground is y = 0. Colours are RGB in
0..255.
"""

from __future__ import annotations

import functools
import math
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = np.ndarray  # of float32, unless said otherwise
Color = tuple[float, float, float]
Rectangle = tuple[float, float, float, float]

NO_LABEL = -1
IGNORE = 255
Id = IntEnum(  # Cityscapes' train ids
    "Id",
    "ROAD SIDEWALK BUILDING WALL FENCE POLE TRAFFIC_LIGHT TRAFFIC_SIGN VEGETATION TERRAIN SKY "
    "PERSON RIDER CAR TRUCK BUS TRAIN MOTORCYCLE BICYCLE",
    start=0,
)


def shift(color: npt.ArrayLike, brightness: float, warmth: float = 0.0) -> Color:
    """Return a colour made brighter by `brightness` and redder by `warmth` (grey levels)."""
    levels = np.asarray(color) + brightness + np.array((warmth / 2, 0, -warmth / 2))
    red, green, blue = np.clip(levels, 6, 250).tolist()
    return red, green, blue


class Model(NamedTuple):
    """A finished object: V corners (V, 3) of P polygons, and what `Mesh.add` was told of each."""

    points: Array
    counts: npt.NDArray[np.int64]
    colors: Array
    labels: npt.NDArray[np.int64]
    facing: npt.NDArray[np.bool_]


class Placed(NamedTuple):
    """An object at (x, z) of the road, turned by `yaw`; `depth` counts when painting from afar.

    Half its size is (width, length) in metres, `gain` the brightness of this copy.
    """

    model: Model
    half_size: tuple[float, float]
    x: float
    z: float
    yaw: float = 0.0
    depth: float = 0.0
    gain: float = 1.0
    has_shadow: bool = False


class Mesh:
    """Polygons of one object in the order in which they are painted."""

    def __init__(self) -> None:
        self.polygons: list[tuple[Array, Color, int, bool]] = []

    def add(
        self,
        points: npt.ArrayLike,
        color: Color | None,
        label: int = NO_LABEL,
        facing: bool = False,
    ) -> None:
        """Add one convex polygon.

        Args:
            points: (n, 3) corners in metres, or (n, 2) of the plane z = 0.
            color: None paints the label only; the model then holds NaN.
            label: class id; `NO_LABEL` paints the image only (a detail on what lies below).
            facing: shaded by its normal, and not painted when seen from behind: its corners run
                counter-clockwise as the viewer sees them. Others are flat cut-outs.
        """
        corners = np.asarray(points, np.float32)
        if corners.shape[1] == 2:
            corners = np.concatenate([corners, np.zeros_like(corners[:, :1])], axis=1)
        self.polygons.append((corners, color or (math.nan,) * 3, label, facing))

    def limb(self, ends: npt.ArrayLike, width: float, color: Color, label: int = NO_LABEL) -> None:
        """Add a bar between two points, `ends` = (x0, y0, x1, y1)."""
        a, b = np.array(ends, float).reshape(2, 2)
        across = (b - a)[::-1] * (-1, 1) * (width / 2 / (math.dist(a, b) or 1.0))
        self.add([a + across, b + across, b - across, a - across], color, label)

    def disc(
        self,
        center: npt.ArrayLike,
        radii: npt.ArrayLike,
        color: Color | None,
        label: int = NO_LABEL,
        sides: int = 12,
    ) -> None:
        """Add a regular polygon around (x, y), its lower edge level; `radii`: one, or (x, y)."""
        self.add(ring(sides) * np.asarray(radii) + np.asarray(center), color, label)

    def box(
        self,
        bottom: Rectangle,
        heights: tuple[float, float],
        color: Color,
        label: int,
        top: Rectangle | None = None,
    ) -> list[Array]:
        """Add a box whose top may differ from its bottom, both given as (x0, x1, z0, z1).

        Returns:
            The faces (4, 3) towards -z, +x, +z, -x and the top; corners from the lower left.
        """
        lower, upper = (
            np.array([(x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)], np.float32)
            for (x0, x1, z0, z1), y in zip((bottom, top or bottom), heights, strict=True)
        )
        sides = [
            np.stack([lower[i - 4], lower[i - 3], upper[i - 3], upper[i - 4]]) for i in range(4)
        ]
        for face in (*sides, upper):
            self.add(face, color, label, facing=True)
        return [*sides, upper]

    def panes(
        self,
        face: Array,
        lefts: npt.ArrayLike,
        bottoms: npt.ArrayLike,
        width: float,
        height: float,
        color: Color,
    ) -> None:
        """Add details on a face, in relative measures (0..1 from its lower left): all of a grid."""
        t, s = np.meshgrid(np.atleast_1d(bottoms), np.atleast_1d(lefts), indexing="ij")
        s = s.ravel()[:, None] + np.array([0, 1, 1, 0]) * width
        t = t.ravel()[:, None] + np.array([0, 0, 1, 1]) * height
        s, t = s[..., None], t[..., None]
        lower, upper = face[0] + s * (face[1] - face[0]), face[3] + s * (face[2] - face[3])
        panes = (lower + t * (upper - lower)).astype(np.float32)
        self.polygons += [(points, color, NO_LABEL, True) for points in panes]

    def build(self, is_mirrored: bool = False) -> Model:
        """Return the finished object; mirrored: with x negated, still seen from outside."""
        polygons, colors, labels, facing = zip(*self.polygons, strict=True)
        if is_mirrored:
            polygons = tuple(points[::-1] * (-1, 1, 1) for points in polygons)
        counts = np.array([len(polygon) for polygon in polygons])
        points, shades = np.concatenate(polygons).astype(np.float32), np.array(colors, np.float32)
        return Model(points, counts, shades, np.array(labels), np.array(facing))


@functools.cache
def ring(sides: int) -> Array:
    """Return the corners (sides, 2) of a regular polygon of radius 1, its lower edge level."""
    angles = (np.arange(sides) + 0.5) * (2 * math.pi / sides) - math.pi / 2
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
