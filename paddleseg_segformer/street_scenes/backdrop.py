"""What fills the whole picture of a street scene: sky, ground, light and the camera's flaws."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from paddleseg_segformer.street_scenes.canvas import Array, Camera, Canvas, Id, Weather, shift
from paddleseg_segformer.street_scenes.layout import LANE_M, Street

NEAR_M, FAR_M = 0.6, 400.0  # the stretch of road that is painted
WEATHERS = {  # and how often they are
    Weather((84, 136, 206), (190, 212, 232), 0.62, 0.62, 320, 6): 0.3,  # sunny
    Weather((120, 158, 204), (208, 218, 226), 0.68, 0.45, 240, 2): 0.22,  # light cloud
    Weather((168, 174, 180), (206, 208, 208), 0.82, 0.14, 150, -4): 0.2,  # overcast
    Weather((206, 208, 208), (222, 222, 218), 0.86, 0.06, 75, -2): 0.08,  # fog
    Weather((96, 116, 168), (246, 190, 130), 0.58, 0.5, 200, 30): 0.13,  # low sun
    Weather((40, 52, 84), (112, 108, 124), 0.46, 0.1, 170, -10): 0.07,  # dusk
}
GREENS = ((96, 104, 56), (112, 108, 70), (126, 112, 88), (84, 100, 60))


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
    camera, weather, whole = canvas.camera, canvas.weather, (NEAR_M, FAR_M)
    top = int(np.ceil(camera.horizon_px))
    canvas.image[top:] = shift(GREENS[rng.integers(len(GREENS))], rng.normal(0, 10))
    canvas.label[top:] = Id.TERRAIN
    paving = shift((140, 134, 128), rng.normal(0, 18), rng.normal(6, 12))
    for sign, (inner, outer) in zip((-1, 1), street.pavements, strict=True):
        canvas.fill_ground((sign * inner, sign * outer), whole, paving, Id.SIDEWALK)
        for z in np.arange(1.5, 30, 1.5):  # between slabs
            canvas.fill_ground((sign * inner, sign * outer), (z, z + 0.04), shift(paving, -20))
        canvas.fill_ground((sign * inner, sign * (inner + 0.18)), whole, shift(paving, 26))
    asphalt = shift((112, 110, 110), rng.normal(0, 16), rng.normal(4, 8))
    canvas.fill_ground((-street.kerbs[0], street.kerbs[1]), whole, asphalt, Id.ROAD)
    white = shift((206, 206, 198), rng.normal(0, 12))
    for lane in street.lanes[1:]:
        line = lane - LANE_M / 2 - 0.08, lane - LANE_M / 2 + 0.08
        for z in np.arange(rng.uniform(NEAR_M, 5), 80, 3 + rng.choice([0.0, 4.0])):
            canvas.fill_ground(line, (z, z + 3), white)
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
