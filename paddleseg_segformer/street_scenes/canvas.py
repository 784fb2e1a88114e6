"""The camera that projects a street scene, and the image and label map that are painted together.

World axes: x right, y up, z away from the camera; the ground is y = 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from paddleseg_segformer.street_scenes.shapes import NO_LABEL, Array, Color, Model, Placed

NEAREST_Z_M = 0.5
SUBPIXEL_BITS = 3
SMALLEST_DETAIL_PX2 = 1.2


class Weather(NamedTuple):
    """Colours and light of a kind of day."""

    zenith: Color
    horizon: Color
    cloud: Color
    ambient: float
    diffuse: float
    visibility_m: float
    warmth: float


class Camera(NamedTuple):
    """A pinhole camera above a road that may bend: x shifts by `curve` * z^2."""

    focal_px: float
    center_x_px: float
    horizon_px: float
    height_m: float
    curve: float

    def project(self, points: Array) -> tuple[Array, Array]:
        """Return the pixels (x, y) (n, 2) and depths (n,) in metres of world points (n, 3)."""
        depth = np.maximum(points[:, 2], NEAREST_Z_M)
        from_axis = np.stack([points[:, 0], self.height_m - points[:, 1]], axis=1)
        middle = np.array([self.center_x_px, self.horizon_px], np.float32)
        return middle + from_axis * (self.focal_px / depth)[:, None], depth

    def place(self, placed: Sequence[Placed]) -> Array:
        """Return the world points (V, 3) of all objects: turned, moved and following the bend."""
        points = np.concatenate([item.model.points for item in placed])
        x, z, yaw = np.array([(item.x, item.z, item.yaw) for item in placed], np.float32).T
        angle = yaw + np.arctan(2 * self.curve * z)
        spots = np.stack([np.sin(angle), np.cos(angle), x + self.curve * z * np.abs(z), z])
        sine, cosine, x, z = np.repeat(spots, [len(item.model.points) for item in placed], axis=1)
        turned_x = points[:, 0] * cosine + points[:, 2] * sine
        turned_z = points[:, 2] * cosine - points[:, 0] * sine
        return np.stack([turned_x + x, points[:, 1], turned_z + z], axis=1)

    def ground(self, x: Array, z: Array) -> npt.NDArray[np.int32]:
        """Return the corners (..., n, 2) of ground polygons in the bend, in fixed point."""
        points = np.stack([x + self.curve * z * np.abs(z), np.zeros_like(x), z], axis=-1)
        return fixed(self.project(points.reshape(-1, 3))[0]).reshape(*x.shape, 2)


def fixed(pixels: npt.ArrayLike) -> npt.NDArray[np.int32]:
    """Return pixel positions in OpenCV's fixed point."""
    return np.rint(np.clip(pixels, -1e5, 1e5) * (1 << SUBPIXEL_BITS)).astype(np.int32)


@dataclass
class Canvas:
    """An image (H, W, 3) uint8 RGB and its label map (H, W) uint8 that are painted together.

    Attributes:
        sun: direction to it, unit length, world axes.
    """

    image: npt.NDArray[np.uint8]
    label: npt.NDArray[np.uint8]
    camera: Camera
    weather: Weather
    sun: Array

    def fill(
        self, polygons: Sequence[npt.NDArray[np.int32]], color: Color, label: int = NO_LABEL
    ) -> None:
        """Fill polygons of any shape, given in OpenCV's fixed point."""
        cv2.fillPoly(self.image, polygons, color, cv2.LINE_AA, SUBPIXEL_BITS)
        if label != NO_LABEL:
            cv2.fillPoly(self.label, polygons, int(label), cv2.LINE_8, SUBPIXEL_BITS)

    def haze(self, distance_m: Array) -> tuple[Array, Array]:
        """Return the share of its own colour that an object keeps (n, 1), and what is added."""
        clear = np.exp(-distance_m / self.weather.visibility_m)[:, None]
        return clear, (1 - clear) * np.array(self.weather.horizon, np.float32)

    def paint(self, placed: Sequence[Placed]) -> None:
        """Paint objects in the order given: the farthest first."""
        models = [item.model for item in placed]
        scene = Model(*(np.concatenate(arrays) for arrays in zip(*models, strict=True)))
        gains = np.repeat([item.gain for item in placed], [len(each.counts) for each in models])
        world = self.camera.place(placed)
        pixels, depth = self.camera.project(world)
        starts = np.concatenate([[0], np.cumsum(scene.counts)])
        first = starts[:-1]
        mean_z = (np.add.reduceat(depth, first) / scene.counts).astype(np.float32)
        colors = self._shade(scene, world, first, mean_z, gains)
        corners, has_color = fixed(pixels), ~np.isnan(scene.colors[:, 0])
        for i in np.flatnonzero(self._visible(scene, pixels, first)).tolist():
            polygon, label = corners[starts[i] : starts[i + 1]], int(scene.labels[i])
            if has_color[i]:
                cv2.fillConvexPoly(self.image, polygon, colors[i], cv2.LINE_AA, SUBPIXEL_BITS)
            if label != NO_LABEL:
                cv2.fillConvexPoly(self.label, polygon, label, cv2.LINE_8, SUBPIXEL_BITS)

    def _visible(
        self, scene: Model, pixels: Array, first: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Tell which polygons are in the picture, turned to the camera and worth painting."""
        e1, e2 = pixels[first + 1] - pixels[first], pixels[first + 2] - pixels[first + 1]
        area = e1[:, 0] * e2[:, 1] - e1[:, 1] * e2[:, 0]
        turned_away = scene.facing & (area >= 0)
        tiny = (scene.labels == NO_LABEL) & (np.abs(area) < SMALLEST_DETAIL_PX2)
        low, high = np.minimum.reduceat(pixels, first), np.maximum.reduceat(pixels, first)
        outside = (high < 0).any(axis=1) | (low > self.label.shape[::-1]).any(axis=1)
        return ~(turned_away | tiny | outside)

    def _shade(
        self,
        scene: Model,
        world: Array,
        first: npt.NDArray[np.int64],
        mean_z: Array,
        gains: npt.NDArray[np.float64],
    ) -> list[list[float]]:
        """Return each polygon's colour under the scene's light and haze."""
        e1, e2 = world[first + 1] - world[first], world[first + 2] - world[first + 1]
        normal = np.cross(e2, e1)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
        towards_sun = np.where(scene.facing, np.maximum(normal @ self.sun, 0), 0.5)
        gain = gains * (self.weather.ambient + self.weather.diffuse * towards_sun)
        clear, haze = self.haze(mean_z)
        return np.clip(scene.colors * gain[:, None] * clear + haze, 0, 255).tolist()
