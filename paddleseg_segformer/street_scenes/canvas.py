"""The kit of the drawn street scenes: polygons in metres, a camera, the image and its label map.

Axes: x right, y up, z away from the camera; the ground is y = 0. Colours are RGB in 0..255.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Array = np.ndarray  # of float32, unless said otherwise
Color = tuple[float, float, float]
Span = tuple[float, float]
Rectangle = tuple[float, float, float, float]

NO_LABEL, IGNORE = -1, 255
Id = IntEnum(  # Cityscapes' train ids
    "Id",
    "ROAD SIDEWALK BUILDING WALL FENCE POLE TRAFFIC_LIGHT TRAFFIC_SIGN VEGETATION TERRAIN SKY "
    "PERSON RIDER CAR TRUCK BUS TRAIN MOTORCYCLE BICYCLE",
    start=0,
)
SHADOW = (44.0, 44.0, 48.0)
NEAREST_Z_M = 0.5
SUBPIXEL_BITS = 3
SMALLEST_DETAIL_PX2 = 1.2


def shift(color: npt.ArrayLike, brightness: float, warmth: float = 0.0) -> Color:
    """Return a colour made brighter by `brightness` and redder by `warmth` (grey levels)."""
    levels = np.asarray(color) + brightness + np.array((warmth / 2, 0, -warmth / 2))
    red, green, blue = np.clip(levels, 6, 250).tolist()
    return red, green, blue


class Model(NamedTuple):
    """A finished object: P polygons (P, 12, 3) in metres, and what `Mesh.add` was told of each."""

    points: Array
    colors: Array
    labels: npt.NDArray[np.int64]
    facing: npt.NDArray[np.bool_]
    half_length_m: float


class Placed(NamedTuple):
    """A copy of an object at (x, z), turned by 180 degrees if `turn` is -1, else 1.

    `gain` is its brightness; the greatest `depth` is painted first.
    """

    model: Model
    x: float
    z: float
    turn: int
    depth: float
    gain: float


@dataclass
class Mesh:
    """Polygons of one object in the order in which they are painted."""

    polygons: list[tuple[Array, Color, int, bool]] = field(default_factory=list)

    def add(
        self, points: npt.ArrayLike, color: Color, label: int = NO_LABEL, facing: bool = False
    ) -> None:
        """Add one convex polygon.

        Args:
            points: up to 12 corners (n, 3) in metres, or (n, 2) of the plane z = 0.
            label: class id; `NO_LABEL` paints the image only (a detail on what lies below).
            facing: shaded by its normal, and not painted when seen from behind: its corners run
                counter-clockwise as the viewer sees them. Others are flat cut-outs.
        """
        corners = np.asarray(points, np.float32)
        corners = np.pad(corners, ((0, 12 - len(corners)), (0, 0)), "edge")
        corners = np.pad(corners, ((0, 0), (0, 3 - corners.shape[1])))
        self.polygons.append((corners, color, label, facing))

    def bar(self, a: Span, b: Span, width: float, color: Color, label: int) -> None:
        """Add a bar between two points of the plane z = 0."""
        ends = np.array([a, b])
        across = (ends[1] - ends[0])[::-1] * (-1, 1) * (width / 2 / math.dist(a, b))
        self.add([*(ends + across), *(ends - across)[::-1]], color, label)

    def disc(
        self, center: Span, radius: npt.ArrayLike, color: Color, label: int, sides: int = 12
    ) -> None:
        """Add a regular polygon of the plane z = 0, stretched where there are two radii."""
        self.add(ring(sides) * radius + np.array(center), color, label)

    def box(
        self, bottom: Rectangle, y: Span, color: Color, label: int, top: Rectangle | None = None
    ) -> list[Array]:
        """Add a box whose top may differ from its bottom, both given as (x0, x1, z0, z1).

        Returns:
            The faces (4, 3) towards -z, +x, +z, -x and the top; corners from the lower left.
        """
        low, high = (
            np.array([(x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)], np.float32)
            for (x0, x1, z0, z1), y in zip((bottom, top or bottom), y, strict=True)
        )
        faces = [np.stack([low[i - 4], low[i - 3], high[i - 3], high[i - 4]]) for i in range(4)]
        for face in (*faces, high):
            self.add(face, color, label, facing=True)
        return [*faces, high]

    def panes(
        self, face: Array, lefts: npt.ArrayLike, bottoms: npt.ArrayLike, size: Span, color: Color,
        sides: int = 4,
    ) -> None:  # fmt: skip
        """Add a grid of details on a face, measured in its width and height from the lower left."""
        shape = (ring(sides) / ring(sides).max() + 1) / 2
        for at in itertools.product(np.atleast_1d(lefts), np.atleast_1d(bottoms)):
            u, v = (shape * size + at).T
            bilinear = np.stack([(1 - u) * (1 - v), u * (1 - v), u * v, (1 - u) * v], axis=1)
            self.add(bilinear @ face, color, facing=True)

    def build(self) -> Model:
        """Return the finished object, over the shadow of its foot."""
        corners = np.concatenate([corners for corners, *_ in self.polygons])
        half_length = float(abs(corners[:, 2]).max())
        foot = corners[corners[:, 1] < 0.5]
        (x0, _, z0), (x1, _, z1) = foot.min(axis=0) - 0.15, foot.max(axis=0) + 0.15
        self.add([(x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)], SHADOW)
        polygons = [self.polygons.pop(), *self.polygons]
        points, colors, labels, facing = map(np.array, zip(*polygons, strict=True))
        return Model(points, colors, labels, facing, half_length)


@functools.cache
def ring(sides: int) -> Array:
    """Return the corners (sides, 2) of a regular polygon of radius 1, its lower edge level."""
    angles = (np.arange(sides) + 0.5) * (2 * math.pi / sides) - math.pi / 2
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


class Weather(NamedTuple):
    """Colours and light of a kind of day."""

    zenith: Color
    horizon: Color
    ambient: float
    diffuse: float
    visibility_m: float
    warmth: float


class Camera(NamedTuple):
    """A pinhole camera that looks along the road."""

    focal_px: float
    center_x_px: float
    horizon_px: float
    height_m: float

    def project(self, points: Array) -> tuple[Array, Array]:
        """Return the pixels (x, y) (..., 2) and depths (...,) in metres of points (..., 3)."""
        depth = np.maximum(points[..., 2], NEAREST_Z_M)
        x = self.center_x_px + self.focal_px * points[..., 0] / depth
        y = self.horizon_px + self.focal_px * (self.height_m - points[..., 1]) / depth
        return np.stack([x, y], axis=-1), depth


class Canvas(NamedTuple):
    """An image (H, W, 3) uint8 RGB and its label map (H, W) uint8 that are painted together.

    `sun` is the direction to it, of unit length.
    """

    image: npt.NDArray[np.uint8]
    label: npt.NDArray[np.uint8]
    camera: Camera
    weather: Weather
    sun: Array

    def fill(self, pixels: Array, color: Sequence[float], label: int) -> None:
        """Fill a convex polygon (n, 2) in the image, and in the label if it has one."""
        corners = np.rint(np.clip(pixels, -1e5, 1e5) * (1 << SUBPIXEL_BITS)).astype(np.int32)
        cv2.fillConvexPoly(self.image, corners, color, cv2.LINE_AA, SUBPIXEL_BITS)
        if label != NO_LABEL:
            cv2.fillConvexPoly(self.label, corners, label, cv2.LINE_8, SUBPIXEL_BITS)

    def fill_ground(self, x: Span, z: Span, color: Color, label: int = NO_LABEL) -> None:
        """Fill a rectangle of the ground."""
        corners = [(x[0], 0, z[0]), (x[1], 0, z[0]), (x[1], 0, z[1]), (x[0], 0, z[1])]
        self.fill(self.camera.project(np.array(corners, np.float32))[0], color, label)

    def haze(self, distance_m: Array) -> tuple[Array, Array]:
        """Return the share of its own colour that an object keeps (n, 1), and what is added."""
        clear = np.exp(-distance_m / self.weather.visibility_m)[:, None]
        return clear, (1 - clear) * np.array(self.weather.horizon, np.float32)

    def paint(self, placed: Sequence[Placed]) -> None:
        """Paint objects in the order given: the farthest first."""
        models = [item.model[:4] for item in placed]
        scene = [np.concatenate(arrays) for arrays in zip(*models, strict=True)]
        points, colors, labels, facing = scene
        poses = np.array([(item.gain, item.turn, item.x, item.z) for item in placed], np.float32)
        gain, turn, x, z = np.repeat(poses, [len(model[0]) for model in models], axis=0).T
        points = points * np.stack([turn, turn**2, turn], axis=1)[:, None]
        points += np.stack([x, 0 * x, z], axis=1)[:, None]
        pixels, depth = self.camera.project(points)
        # what is in the picture, turned to the camera and worth painting
        e1, e2 = (pixels[:, i + 1] - pixels[:, i] for i in (0, 1))
        area = e1[:, 0] * e2[:, 1] - e1[:, 1] * e2[:, 0]
        tiny = (labels == NO_LABEL) & (np.abs(area) < SMALLEST_DETAIL_PX2)
        low, high = pixels.min(axis=1), pixels.max(axis=1)
        outside = (high < 0).any(axis=1) | (low > self.label.shape[::-1]).any(axis=1)
        is_seen = ~(facing & (area >= 0) | tiny | outside)
        # light and haze
        normal = np.cross(points[:, 2] - points[:, 1], points[:, 1] - points[:, 0])
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
        towards_sun = np.where(facing, np.maximum(normal @ self.sun, 0), 0.5)
        gain *= self.weather.ambient + self.weather.diffuse * towards_sun
        clear, haze = self.haze(depth.mean(axis=1))
        colors = np.clip(colors * gain[:, None] * clear + haze, 0, 255)
        for i in np.flatnonzero(is_seen):
            self.fill(pixels[i], colors[i].tolist(), int(labels[i]))
