"""The kit of the drawn street scenes: polygons in metres, a camera, the image and its label map.

Axes: x right, y up, z away from the camera; the ground is y = 0. Colours are RGB in 0..255.
"""

from __future__ import annotations

import functools
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


class Placed(NamedTuple):
    """A copy of an object at (x, z), turned by 180 degrees if `turn` is -1, else 1.

    Half its size is (width, length) in metres, `gain` its brightness; the greatest `depth` is
    painted first.
    """

    model: Model
    half_size: Span
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
        self,
        points: npt.ArrayLike,
        color: Color | None,
        label: int = NO_LABEL,
        facing: bool = False,
    ) -> None:
        """Add one convex polygon.

        Args:
            points: up to 12 corners (n, 3) in metres, or (n, 2) of the plane z = 0.
            color: None paints the label only; the model then holds NaN.
            label: class id; `NO_LABEL` paints the image only (a detail on what lies below).
            facing: shaded by its normal, and not painted when seen from behind: its corners run
                counter-clockwise as the viewer sees them. Others are flat cut-outs.
        """
        corners = np.asarray(points, np.float32)
        corners = np.pad(corners, ((0, 12 - len(corners)), (0, 0)), "edge")
        corners = np.pad(corners, ((0, 0), (0, 3 - corners.shape[1])))
        self.polygons.append((corners, color or (math.nan,) * 3, label, facing))

    def draw(self, shape: Sequence[float], color: Color | None, label: int) -> None:
        """Add a bar (x0, y0, x1, y1, width) or a disc (x, y, radius) of the plane z = 0."""
        if len(shape) == 3:
            self.add(ring(12) * shape[2] + np.array(shape[:2]), color, label)
            return
        a, b = np.array(shape[:4]).reshape(2, 2)
        across = (b - a)[::-1] * (-1, 1) * (shape[4] / 2 / math.dist(a, b))
        self.add([a + across, b + across, b - across, a - across], color, label)

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
        self, face: Array, lefts: npt.ArrayLike, bottoms: npt.ArrayLike, size: Span, color: Color
    ) -> None:
        """Add a grid of details on a face, measured in its width and height from the lower left."""
        for s, t in np.stack(np.meshgrid(lefts, bottoms), axis=-1).reshape(-1, 2):
            u, v = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]).T * np.array(size)[:, None] + [
                [s],
                [t],
            ]
            bilinear = np.stack([(1 - u) * (1 - v), u * (1 - v), u * v, (1 - u) * v], axis=1)
            self.add(bilinear @ face, color, facing=True)

    def build(self) -> Model:
        """Return the finished object."""
        points, colors, labels, facing = map(np.array, zip(*self.polygons, strict=True))
        return Model(points, colors, labels, facing)


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

    def ground(self, x: Span, z: Span) -> npt.NDArray[np.int32]:
        """Return the corners (4, 2) of a rectangle on the ground, in OpenCV's fixed point."""
        corners = [(x[0], 0, z[0]), (x[1], 0, z[0]), (x[1], 0, z[1]), (x[0], 0, z[1])]
        return fixed(self.project(np.array(corners, np.float32))[0])


def fixed(pixels: Array) -> npt.NDArray[np.int32]:
    """Return pixel positions in OpenCV's fixed point."""
    return np.rint(np.clip(pixels, -1e5, 1e5) * (1 << SUBPIXEL_BITS)).astype(np.int32)


class Canvas(NamedTuple):
    """An image (H, W, 3) uint8 RGB and its label map (H, W) uint8 that are painted together.

    `sun` is the direction to it, of unit length.
    """

    image: npt.NDArray[np.uint8]
    label: npt.NDArray[np.uint8]
    camera: Camera
    weather: Weather
    sun: Array

    def fill(self, polygon: npt.NDArray[np.int32], color: Sequence[float], label: int) -> None:
        """Fill a convex polygon, given in OpenCV's fixed point; a colour of NaN: its label only."""
        if not math.isnan(color[0]):
            cv2.fillConvexPoly(self.image, polygon, color, cv2.LINE_AA, SUBPIXEL_BITS)
        if label != NO_LABEL:
            cv2.fillConvexPoly(self.label, polygon, label, cv2.LINE_8, SUBPIXEL_BITS)

    def haze(self, distance_m: Array) -> tuple[Array, Array]:
        """Return the share of its own colour that an object keeps (n, 1), and what is added."""
        clear = np.exp(-distance_m / self.weather.visibility_m)[:, None]
        return clear, (1 - clear) * np.array(self.weather.horizon, np.float32)

    def paint(self, placed: Sequence[Placed]) -> None:
        """Paint objects in the order given: the farthest first."""
        models = [item.model for item in placed]
        scene = Model(*(np.concatenate(arrays) for arrays in zip(*models, strict=True)))
        poses = np.array([(item.gain, item.turn, item.x, item.z) for item in placed], np.float32)
        gain, turn, x, z = np.repeat(poses, [len(each.labels) for each in models], axis=0).T
        points = scene.points * np.stack([turn, turn**2, turn], axis=1)[:, None]
        points += np.stack([x, 0 * x, z], axis=1)[:, None]
        pixels, depth = self.camera.project(points)
        # what is in the picture, turned to the camera and worth painting
        e1, e2 = (pixels[:, i + 1] - pixels[:, i] for i in (0, 1))
        area = e1[:, 0] * e2[:, 1] - e1[:, 1] * e2[:, 0]
        tiny = (scene.labels == NO_LABEL) & (np.abs(area) < SMALLEST_DETAIL_PX2)
        low, high = pixels.min(axis=1), pixels.max(axis=1)
        outside = (high < 0).any(axis=1) | (low > self.label.shape[::-1]).any(axis=1)
        is_seen = ~(scene.facing & (area >= 0) | tiny | outside)
        # light and haze
        normal = np.cross(points[:, 2] - points[:, 1], points[:, 1] - points[:, 0])
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
        towards_sun = np.where(scene.facing, np.maximum(normal @ self.sun, 0), 0.5)
        gain *= self.weather.ambient + self.weather.diffuse * towards_sun
        clear, haze = self.haze(depth.mean(axis=1))
        colors = np.clip(scene.colors * gain[:, None] * clear + haze, 0, 255).tolist()
        corners, labels = fixed(pixels), scene.labels.tolist()
        for i in np.flatnonzero(is_seen).tolist():
            self.fill(corners[i], colors[i], labels[i])
