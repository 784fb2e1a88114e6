"""A street scene as a whole: its light and cross-section, what stands where, sky and ground."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from paddleseg_segformer.street_scenes.canvas import (
    Array,
    Camera,
    Canvas,
    Id,
    Placed,
    Weather,
    shift,
)  # fmt: skip
from paddleseg_segformer.street_scenes.objects import NUM_VARIANTS, model

LANE_M, PARKING_M, END_M = 3.2, 2.1, 90.0
ROAD_M = (0.6, 400.0)  # the stretch of road that is painted
WEATHERS = {  # and how often they are
    Weather((84, 136, 206), (190, 212, 232), 0.62, 0.62, 320, 6): 0.3,  # sunny
    Weather((120, 158, 204), (208, 218, 226), 0.68, 0.45, 240, 2): 0.22,  # light cloud
    Weather((168, 174, 180), (206, 208, 208), 0.82, 0.14, 150, -4): 0.2,  # overcast
    Weather((206, 208, 208), (222, 222, 218), 0.86, 0.06, 75, -2): 0.08,  # fog
    Weather((96, 116, 168), (246, 190, 130), 0.58, 0.5, 200, 30): 0.13,  # low sun
    Weather((40, 52, 84), (112, 108, 124), 0.46, 0.1, 170, -10): 0.07,  # dusk
}
GREENS = ((96, 104, 56), (112, 108, 70), (126, 112, 88), (84, 100, 60))
DRIVING = {"car": 0.6, "truck": 0.13, "bus": 0.1, "tram": 0.07, "motorcyclist": 0.1}
SETBACKS_M = {"flats": 0.3, "house": 4.0, "wall": 0.1, "fence": 0.1, "green": 0.0}
STYLES = (  # shares of these along the street, of woods on the horizon, and people
    ((0.78, 0.0, 0.08, 0.06, 0.08), 0.3, 3.5),  # city
    ((0.1, 0.4, 0.1, 0.2, 0.2), 0.6, 1.5),  # suburb
    ((0.02, 0.1, 0.2, 0.2, 0.48), 0.9, 1.5),  # park
)


def make_canvas(rng: Generator, size_hw: tuple[int, int]) -> Canvas:
    """Return an empty picture with a camera, and the sun behind or beside it."""
    height, width = size_hw
    weather = list(WEATHERS)[rng.choice(len(WEATHERS), p=list(WEATHERS.values()))]
    camera = Camera(
        focal_px=max(width, height) * rng.uniform(0.72, 1.1),
        center_x_px=width * rng.uniform(0.4, 0.6),
        horizon_px=height * rng.uniform(0.36, 0.5),
        height_m=rng.uniform(1.25, 1.9),
    )
    sun = np.array([rng.uniform(-1, 1), rng.uniform(0.5, 1.2), rng.uniform(-1, 0.1)], np.float32)
    image, label = np.zeros((height, width, 3), np.uint8), np.zeros(size_hw, np.uint8)
    return Canvas(image, label, camera, weather, sun / np.linalg.norm(sun))


class Street:
    """A random street whose lane of the camera is at x = 0; lanes below come towards it."""

    def __init__(self, rng: Generator) -> None:
        self.rng = rng
        self.fronts, self.woods, self.crowd = STYLES[rng.choice(3, p=[0.5, 0.28, 0.22])]
        self.lanes = LANE_M * np.arange(-rng.integers(1, 3), rng.integers(1, 3))
        self.has_parking = rng.random(2) < 0.55  # on the left and the right, as what follows
        self.kerbs = np.abs(self.lanes[[0, -1]]) + LANE_M / 2 + PARKING_M * self.has_parking
        self.inner = self.kerbs + rng.uniform(-3.0, 3.5, 2).clip(0)  # |x| of the pavement's edges
        self.outer = self.inner + rng.uniform(1.8, 4.5, 2)

    def objects(self) -> list[Placed]:
        """Return everything that stands in the scene, from the farthest to the nearest."""
        placed = [*self._horizon(), *self._traffic()]
        for side, sign in ((0, -1), (1, 1)):
            placed += [*self._fronts(side, sign), *self._kerb(side, sign)]
        return sorted(placed, key=lambda item: -item.depth)

    def _put(self, name: str, x: float, z: float, turn: int = 1, is_end: bool = False) -> Placed:
        """Return a random copy of an object at (x, z): its middle, or its near end if `is_end`."""
        copy = model(name, int(self.rng.integers(NUM_VARIANTS)))
        z += copy.half_length_m * is_end
        return Placed(copy, x, z, turn, z, self.rng.uniform(0.85, 1.15))

    def _horizon(self) -> Iterator[Placed]:
        """Yield far blocks and far woods that close the view."""
        for x in np.arange(-200, 200, 22) + self.rng.uniform(-8, 8):
            name = "far_wood" if self.rng.random() < self.woods else "far_block"
            yield self._put(name, x, self.rng.uniform(150, 260))

    def _traffic(self) -> Iterator[Placed]:
        """Yield the vehicles in the lanes."""
        rng, density, shares = self.rng, self.rng.uniform(0.25, 0.75), list(DRIVING.values())
        for x in self.lanes:
            z, turn = rng.uniform(5, 20) + 7 * (x == 0), -1 if x < 0 else 1
            while z < END_M:
                name, is_there = str(rng.choice(list(DRIVING), p=shares)), rng.random() < density
                for part in ("load", "cab")[::turn] if name == "truck" else (name,):
                    item = self._put(part, x, z, turn, is_end=True)
                    z += 2 * item.model.half_length_m
                    if is_there:
                        yield item
                z += rng.uniform(3, 18)

    def _fronts(self, side: int, sign: int) -> Iterator[Placed]:
        """Yield what lines the street on one side: buildings, walls, fences and greenery."""
        rng, edge, z = self.rng, self.outer[side], self.rng.uniform(-6, 2)
        while z < END_M + 10:
            name = str(rng.choice(list(SETBACKS_M), p=self.fronts))
            end, behind = z + rng.uniform(6, 16), 0.0
            if name != "green":
                x = sign * (edge + SETBACKS_M[name] * rng.uniform(0.5, 1.5))
                item = self._put(name, x, z, sign, is_end=True)
                end = behind = z + 2 * item.model.half_length_m
                yield item._replace(depth=end)  # painted before what is on the pavement
            for _ in range(rng.poisson((end - z) / 4) if name != "flats" else 0):
                spot = sign * (edge + rng.uniform(1.2, 6)), rng.uniform(z, end)
                plant = self._put("tree" if rng.random() < 0.55 else "bush", *spot, sign)
                yield plant._replace(depth=max(plant.depth, behind + 0.3))
            z = end + rng.uniform(0, 4) * (rng.random() < 0.4)

    def _kerb(self, side: int, sign: int) -> Iterator[Placed]:
        """Yield what stands along a kerb, on the pavement and on the road."""
        rng, kerb, inner, outer = self.rng, self.kerbs[side], self.inner[side], self.outer[side]
        parking = float(self.has_parking[side])
        for name, offset, spacing, share in (
            ("lamp_post", 0.35, 25.0, 0.8), ("tree", 1.0, 10.0, 0.45),
            ("car", -PARKING_M / 2, 6.1, parking),
        ):  # fmt: skip
            for z in np.arange(rng.uniform(2, 16), END_M * (rng.random() < share), spacing):
                if rng.random() < 0.7:
                    yield self._put(name, sign * (kerb + offset), z, sign)
        for name, mean, low, high in (
            ("person", rng.exponential(self.crowd), inner + 0.3, outer - 0.3),
            ("person", 0.25, 0, kerb), ("cyclist", 0.45, kerb - 3, kerb - 0.5),
            ("bicycle", 0.6, inner, inner + 0.9), ("motorcycle", 0.5, inner, inner + 0.9),
            ("traffic_sign", 1.6, kerb, kerb + 0.9), ("traffic_light", 0.6, kerb, kerb + 0.9),
        ):  # fmt: skip
            for _ in range(rng.poisson(mean)):
                yield self._put(name, sign * rng.uniform(low, high), 4 + rng.exponential(12), sign)


def smooth_noise(rng: Generator, size_hw: tuple[int, ...], rows: int) -> Array:
    """Return noise (H, W) of unit scale that varies over a grid of so many rows of cells."""
    grid = rng.standard_normal((rows, max(2, rows * size_hw[1] // size_hw[0])), np.float32)
    return cv2.resize(grid, size_hw[::-1], interpolation=cv2.INTER_CUBIC)


def paint_sky(canvas: Canvas, rng: Generator) -> None:
    """Fill the picture with a gradient and clouds."""
    weather, rows = canvas.weather, np.arange(len(canvas.label), dtype=np.float32)[:, None, None]
    share = np.clip(rows / canvas.camera.horizon_px, 0, 1) ** 1.3
    gradient = np.array(weather.zenith) * (1 - share) + np.array(weather.horizon) * share
    clouds = [smooth_noise(rng, canvas.label.shape, n) * 2 / n for n in (4, 9, 20)]
    opacity = np.clip(np.sum(clouds, axis=0)[..., None] + rng.uniform(-0.8, 0.4), 0, 0.9)
    canvas.image[:] = gradient * (1 - opacity) + np.array(shift(weather.horizon, 24)) * opacity
    canvas.label[:] = Id.SKY


def paint_ground(canvas: Canvas, rng: Generator, street: Street) -> None:
    """Paint terrain, pavements, the road and its marks, their light and haze."""
    camera, weather, top = canvas.camera, canvas.weather, int(np.ceil(canvas.camera.horizon_px))
    canvas.image[top:] = shift(GREENS[rng.integers(len(GREENS))], rng.normal(0, 10))
    canvas.label[top:] = Id.TERRAIN
    paving = shift((140, 134, 128), rng.normal(0, 18), rng.normal(6, 12))
    for inner, outer in np.stack([street.inner, street.outer], 1) * ((-1,), (1,)):
        canvas.fill_ground((inner, outer), ROAD_M, paving, Id.SIDEWALK)
        for z in np.arange(1.5, 30, 1.5):  # between slabs
            canvas.fill_ground((inner, outer), (z, z + 0.04), shift(paving, -20))
        canvas.fill_ground((inner, inner + np.copysign(0.18, inner)), ROAD_M, shift(paving, 26))
    asphalt = shift((112, 110, 110), rng.normal(0, 16), rng.normal(4, 8))
    canvas.fill_ground((-street.kerbs[0], street.kerbs[1]), ROAD_M, asphalt, Id.ROAD)
    white = shift((206, 206, 198), rng.normal(0, 12))
    for x in street.lanes[1:] - LANE_M / 2:
        for z in np.arange(rng.uniform(1, 5), 80, 3 + rng.choice([0.0, 4.0])):
            canvas.fill_ground((x - 0.08, x + 0.08), (z, z + 3), white)
    rows = np.arange(top, len(canvas.label), dtype=np.float32) + 0.5 - camera.horizon_px
    clear, haze = canvas.haze(camera.focal_px * camera.height_m / np.maximum(rows, 0.25))
    gain = clear[..., None] * (weather.ambient + weather.diffuse * float(canvas.sun[1]))
    canvas.image[top:] = np.clip(canvas.image[top:] * gain + haze[:, None], 0, 255)


def photograph(canvas: Canvas, rng: Generator) -> npt.NDArray[np.uint8]:
    """Return the picture with surface grain, blur, sensor noise, exposure and a colour cast."""
    size_hw = canvas.label.shape
    grain = np.full(256, 3, np.float32)  # of each class's surface, in grey levels
    grain[[Id.VEGETATION, Id.TERRAIN, Id.SKY]] = 12, 9, 0
    noise = smooth_noise(rng, size_hw, 54) + rng.standard_normal(size_hw, np.float32)
    picture = canvas.image + (cv2.LUT(canvas.label, grain) * noise)[..., None]
    sigma = rng.uniform(0.2, 0.65) * max((size_hw[0] / 256) ** 0.5, 0.8)
    picture = cv2.GaussianBlur(picture, (0, 0), sigma)
    picture += rng.uniform(0.5, 3.5) * rng.standard_normal(picture.shape, np.float32)
    cast = np.array([1, 0, -1]) * canvas.weather.warmth / 300 + rng.normal(1, 0.02, 3)
    tone = (np.clip(picture, 0, 255) / 255) ** rng.uniform(0.8, 1.15)
    return np.clip(np.rint(tone * cast * rng.uniform(0.85, 1.3) * 255), 0, 255).astype(np.uint8)
