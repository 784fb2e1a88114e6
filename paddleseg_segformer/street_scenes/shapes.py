"""Painted polygons in metres and the camera that projects them: the kit of the street scenes.

World axes: x right, y up, z away from the camera; the ground is y = 0. Colours are RGB in 0..255.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Color = tuple[float, float, float]

NO_LABEL = -1
NEAREST_Z_M = 0.5
SUBPIXEL_BITS = 3
MAX_COORDINATE_PX = 1e5
SMALLEST_DETAIL_PX2 = 1.2


@dataclass
class Mesh:
    """Polygons of one object in the order in which they are painted.

    `facing` polygons are shaded by their normal and have a back that is not painted: their corners
    run counter-clockwise as the viewer sees them. The others (flat cut-outs) are always painted.
    """

    points: list[Array] = field(default_factory=list)
    colors: list[Color | None] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    facing: list[bool] = field(default_factory=list)
    outlines_m: list[float] = field(default_factory=list)

    def add(
        self,
        points: npt.ArrayLike,
        color: Color | None,
        label: int = NO_LABEL,
        *,
        facing: bool = False,
        outline_m: float = 0.0,
    ) -> None:
        """Add one convex polygon.

        Args:
            points: (n, 3) corners in metres.
            color: None paints the label only.
            label: class id; `NO_LABEL` paints the image only (a detail on what lies below).
            outline_m: paint an outline of this width instead of filling (the label is filled).
        """
        self.points.append(np.asarray(points, np.float32))
        self.colors.append(color)
        self.labels.append(label)
        self.facing.append(facing)
        self.outlines_m.append(outline_m)

    def add_all(self, polygons: npt.ArrayLike, color: Color, *, facing: bool = True) -> None:
        """Add details: (P, n, 3) polygons of one colour, without a label."""
        for points in np.asarray(polygons, np.float32):
            self.add(points, color, facing=facing)

    def box(
        self, low: Sequence[float], high: Sequence[float], color: Color, label: int
    ) -> list[Array]:
        """Add a box between two corners; return its faces (see `frustum`)."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        return self.frustum((x0, x1, z0, z1), (x0, x1, z0, z1), (y0, y1), color, label)

    def frustum(
        self,
        bottom: Sequence[float],
        top: Sequence[float],
        heights: tuple[float, float],
        color: Color,
        label: int,
    ) -> list[Array]:
        """Add a box whose top may differ from its bottom, both given as (x0, x1, z0, z1).

        Returns:
            The faces (4, 3) towards -z, +x, +z, -x and the top; corners from the lower left.
        """
        lower, upper = _ring(bottom, heights[0]), _ring(top, heights[1])
        faces = [
            np.stack([lower[i], lower[(i + 1) % 4], upper[(i + 1) % 4], upper[i]]) for i in range(4)
        ]
        faces.append(upper)
        for face in faces:
            self.add(face, color, label, facing=True)
        return faces

    def build(self, *, is_mirrored: bool = False) -> Model:
        """Return the finished object; mirrored: with x negated, still seen from outside."""
        polygons = (
            [points[::-1] * (-1, 1, 1) for points in self.points] if is_mirrored else self.points
        )
        points = np.concatenate(polygons).astype(np.float32)
        return Model(
            points=points,
            counts=np.array([len(polygon) for polygon in self.points]),
            colors=np.array([color or (0, 0, 0) for color in self.colors], np.float32),
            has_color=np.array([color is not None for color in self.colors]),
            labels=np.array(self.labels),
            facing=np.array(self.facing),
            outlines_m=np.array(self.outlines_m, np.float32),
            half_width_m=float(np.abs(points[:, 0]).max()),
            half_length_m=float(np.abs(points[:, 2]).max()),
        )


@dataclass(frozen=True)
class Model:
    """A finished object: V corners of P polygons as arrays (see `Mesh.add`).

    Attributes:
        points: (V, 3) in metres, polygon after polygon.
        counts: (P,) corners of each polygon.
    """

    points: Array
    counts: npt.NDArray[np.int64]
    colors: Array
    has_color: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.int64]
    facing: npt.NDArray[np.bool_]
    outlines_m: Array
    half_width_m: float
    half_length_m: float


@dataclass(frozen=True)
class Placed:
    """An object at (x, z) of the road, turned by `yaw`.

    Attributes:
        depth: what counts when painting from the farthest to the nearest.
        gain: brightness of this copy.
        has_shadow: whether it darkens the ground around it.
    """

    model: Model
    x: float
    z: float
    yaw: float = 0.0
    depth: float = 0.0
    gain: float = 1.0
    has_shadow: bool = False


def _ring(rectangle: Sequence[float], y: float) -> Array:
    """Return the corners (4, 3) of (x0, x1, z0, z1) at height y."""
    x0, x1, z0, z1 = rectangle
    return np.array([(x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)], np.float32)


def patch(face: Array, left: float, bottom: float, right: float, top: float) -> Array:
    """Return the quad (4, 3) between relative positions on a face (0..1 from its lower left)."""
    s, t = np.array([left, right, right, left]), np.array([bottom, bottom, top, top])
    weights = np.stack([(1 - s) * (1 - t), s * (1 - t), s * t, (1 - s) * t], axis=1)
    return (weights @ face).astype(np.float32)


def patch_grid(face: Array, lefts: Array, bottoms: Array, width: float, height: float) -> Array:
    """Return quads (len(bottoms) * len(lefts), 4, 3) of one relative size on a face."""
    t, s = (grid.ravel()[:, None] for grid in np.meshgrid(bottoms, lefts, indexing="ij"))
    s, t = s + np.array([0, width, width, 0]), t + np.array([0, 0, height, height])
    weights = np.stack([(1 - s) * (1 - t), s * (1 - t), s * t, (1 - s) * t], axis=2)
    return (weights @ face).astype(np.float32)


def disc(
    center: Sequence[float],
    radius: float,
    *,
    axes: str = "xy",
    sides: int = 12,
    squash: float = 1.0,
) -> Array:
    """Return a regular polygon (sides, 3) in the plane of two axes; `squash` scales the second."""
    angles = np.arange(sides) * (2 * math.pi / sides) + math.pi / sides
    points = np.tile(np.asarray(center, np.float32), (sides, 1))
    points[:, "xyz".index(axes[0])] += radius * np.cos(angles)
    points[:, "xyz".index(axes[1])] += radius * squash * np.sin(angles)
    return points


def limb(start: Sequence[float], end: Sequence[float], width: float) -> Array:
    """Return a bar (4, 3) of a width between two (x, y) points in the plane z = 0."""
    (x0, y0), (x1, y1) = start, end
    length = math.hypot(x1 - x0, y1 - y0) or 1.0
    dx, dy = -(y1 - y0) / length * width / 2, (x1 - x0) / length * width / 2
    corners = [(x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)]
    return np.array([(x, y, 0.0) for x, y in corners], np.float32)


@dataclass(frozen=True)
class Light:
    """Sun and air of one scene: direction to the sun (unit, world axes), strengths and the haze."""

    sun: tuple[float, float, float]
    ambient: float
    diffuse: float
    haze_color: Color
    visibility_m: float

    def clearness(self, distance_m: npt.ArrayLike) -> Array:
        """Return the share of an object's own colour that is left at a distance."""
        return np.exp(-np.asarray(distance_m, np.float32) / self.visibility_m)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera above a road that may bend: x shifts by `curve` * z^2."""

    focal_px: float
    center_x_px: float
    horizon_px: float
    height_m: float
    curve: float

    def project(self, points: Array) -> tuple[Array, Array]:
        """Return the pixels (x, y) (n, 2) and depths (n,) in metres of world points (n, 3)."""
        depth = np.maximum(points[:, 2], NEAREST_Z_M)
        scale = self.focal_px / depth
        x = self.center_x_px + points[:, 0] * scale
        y = self.horizon_px + (self.height_m - points[:, 1]) * scale
        return np.stack([x, y], axis=1), depth

    def bend(self, points: Array) -> Array:
        """Shift straight-road points (n, 3) sideways so that they follow the bend."""
        shifted = points.copy()
        shifted[:, 0] += self.curve * points[:, 2] * np.abs(points[:, 2])
        return shifted

    def place(self, placed: Sequence[Placed]) -> Array:
        """Return the world points (V, 3) of all objects: turned, moved and following the bend."""
        counts = [len(item.model.points) for item in placed]
        points = np.concatenate([item.model.points for item in placed])
        x, z, yaw = np.array([(item.x, item.z, item.yaw) for item in placed], np.float32).T
        angle = yaw + np.arctan(2 * self.curve * z)
        sine, cosine = np.repeat(np.sin(angle), counts), np.repeat(np.cos(angle), counts)
        world = points.copy()
        world[:, 0] = points[:, 0] * cosine + points[:, 2] * sine
        world[:, 2] = points[:, 2] * cosine - points[:, 0] * sine
        world[:, 0] += np.repeat(x + self.curve * z * np.abs(z), counts)
        world[:, 2] += np.repeat(z, counts)
        return world


@dataclass
class Canvas:
    """An image (H, W, 3) uint8 RGB and its label map (H, W) uint8 that are painted together."""

    image: npt.NDArray[np.uint8]
    label: npt.NDArray[np.uint8]
    camera: Camera
    light: Light

    def paint(self, placed: Sequence[Placed]) -> None:
        """Paint objects in the order given: the farthest first."""
        scene = _join([item.model for item in placed])
        world = self.camera.place(placed)
        pixels, depth = self.camera.project(world)
        starts = np.concatenate([[0], np.cumsum(scene.counts)])
        first = starts[:-1]
        mean_z = (np.add.reduceat(depth, first) / scene.counts).astype(np.float32)
        gains = np.repeat(
            [item.gain for item in placed], [len(item.model.counts) for item in placed]
        )
        colors = self._shade(scene, world, first, mean_z, gains).tolist()
        corners = np.clip(pixels, -MAX_COORDINATE_PX, MAX_COORDINATE_PX) * (1 << SUBPIXEL_BITS)
        fixed = np.rint(corners).astype(np.int32)
        widths_px = scene.outlines_m * self.camera.focal_px / mean_z
        for i in np.flatnonzero(self._visible(scene, pixels, first)).tolist():
            color = colors[i] if scene.has_color[i] else None
            self._polygon(
                fixed[starts[i] : starts[i + 1]], color, int(scene.labels[i]), widths_px[i]
            )

    def _polygon(
        self, polygon: npt.NDArray[np.int32], color: list[float] | None, label: int, width_px: float
    ) -> None:
        """Fill (or outline, if `width_px` > 0) a polygon in the image; fill it in the label map."""
        if color is not None and width_px > 0:
            thickness = max(1, round(width_px))
            cv2.polylines(self.image, [polygon], True, color, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
        elif color is not None:
            cv2.fillConvexPoly(self.image, polygon, color, cv2.LINE_AA, SUBPIXEL_BITS)
        if label != NO_LABEL:
            cv2.fillConvexPoly(self.label, polygon, label, cv2.LINE_8, SUBPIXEL_BITS)

    def _visible(
        self, scene: Model, pixels: Array, first: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Tell which polygons are in the picture, turned to the camera and worth painting."""
        e1, e2 = pixels[first + 1] - pixels[first], pixels[first + 2] - pixels[first + 1]
        area = e1[:, 0] * e2[:, 1] - e1[:, 1] * e2[:, 0]
        turned_away = scene.facing & (area >= 0)
        is_detail = (scene.labels == NO_LABEL) & (scene.outlines_m == 0)
        tiny = is_detail & (np.abs(area) < SMALLEST_DETAIL_PX2)
        height, width = self.label.shape
        low, high = np.minimum.reduceat(pixels, first), np.maximum.reduceat(pixels, first)
        outside = (high < 0).any(axis=1) | (low[:, 0] > width) | (low[:, 1] > height)
        return ~(turned_away | tiny | outside)

    def _shade(
        self,
        scene: Model,
        world: Array,
        first: npt.NDArray[np.int64],
        mean_z: Array,
        gains: npt.NDArray[np.float64],
    ) -> Array:
        """Return each polygon's colour (P, 3) under the scene's light and haze."""
        e1, e2 = world[first + 1] - world[first], world[first + 2] - world[first + 1]
        normal = np.cross(e2, e1)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
        lit = self.light.ambient + self.light.diffuse * np.maximum(
            normal @ np.array(self.light.sun), 0
        )
        flat = self.light.ambient + 0.5 * self.light.diffuse
        gain = gains * np.where(scene.facing, lit, flat)
        clear = self.light.clearness(mean_z)[:, None]
        haze = np.array(self.light.haze_color)
        return np.clip(scene.colors * gain[:, None] * clear + haze * (1 - clear), 0, 255)


def _join(models: Sequence[Model]) -> Model:
    """Return all objects as one."""
    arrays = {
        name: np.concatenate([getattr(model, name) for model in models])
        for name in ("points", "counts", "colors", "has_color", "labels", "facing", "outlines_m")
    }
    return Model(**arrays, half_width_m=0.0, half_length_m=0.0)
