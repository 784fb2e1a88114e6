"""What fills the whole picture of a street scene: sky, ground, light and the camera's flaws."""

from __future__ import annotations

import functools

import cv2
import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from paddleseg_segformer.street_scenes.canvas import Camera, Canvas, Weather
from paddleseg_segformer.street_scenes.layout import SIDES, Street
from paddleseg_segformer.street_scenes.shapes import (
    NO_LABEL,
    Array,
    Color,
    Id,
    Placed,
    shift,
)

WHOLE_Z = (0.6, 400.0)  # the stretch of road that is painted
TILE_PX, TILE_M, NUM_TILES = 256, 8.0, 24
NOISE_MARGIN_PX = 97
# the grain of each class's surface: amplitudes of coarse and of fine noise, in grey levels
GRAIN = {
    Id.ROAD: (1.5, 1.5), Id.BUILDING: (4, 2), Id.WALL: (6, 5), Id.VEGETATION: (15, 9),
    Id.TERRAIN: (4, 5), Id.SKY: (0, 0),
}  # fmt: skip
WEATHERS = (
    Weather((84, 136, 206), (190, 212, 232), (246, 247, 248), 0.62, 0.62, 320, 6),  # sunny
    Weather((120, 158, 204), (208, 218, 226), (236, 238, 240), 0.68, 0.45, 240, 2),  # light cloud
    Weather((168, 174, 180), (206, 208, 208), (150, 154, 160), 0.82, 0.14, 150, -4),  # overcast
    Weather((206, 208, 208), (222, 222, 218), (196, 198, 200), 0.86, 0.06, 75, -2),  # fog
    Weather((96, 116, 168), (246, 190, 130), (236, 168, 140), 0.58, 0.5, 200, 30),  # low sun
    Weather((40, 52, 84), (112, 108, 124), (70, 74, 96), 0.46, 0.1, 170, -10),  # dusk
)
WEATHER_SHARES = (0.3, 0.22, 0.2, 0.08, 0.13, 0.07)
GREENS = ((96, 104, 56), (112, 108, 70), (126, 112, 88), (84, 100, 60))


def make_canvas(rng: Generator, size_hw: tuple[int, int]) -> Canvas:
    """Return an empty picture with a camera, and the sun behind or beside it."""
    height, width = size_hw
    weather = WEATHERS[rng.choice(len(WEATHERS), p=WEATHER_SHARES)]
    camera = Camera(
        focal_px=max(width, height) * rng.uniform(0.72, 1.1),
        center_x_px=width * rng.uniform(0.4, 0.6),
        horizon_px=height * rng.uniform(0.36, 0.5),
        height_m=rng.uniform(1.25, 1.9),
        curve=rng.normal(0, 0.0007),
    )
    sun = np.array([rng.uniform(-1, 1), rng.uniform(0.5, 1.2), rng.uniform(-1, 0.1)], np.float32)
    weather = weather._replace(visibility_m=weather.visibility_m * rng.uniform(0.7, 1.3))
    image, label = np.zeros((height, width, 3), np.uint8), np.zeros(size_hw, np.uint8)
    return Canvas(image, label, camera, weather, sun / np.linalg.norm(sun))


def smooth_noise(rng: Generator, size_hw: tuple[int, int], cells_hw: tuple[int, int]) -> Array:
    """Return noise (H, W) of unit scale that varies over a grid of cells."""
    grid = rng.standard_normal(cells_hw, np.float32)
    return cv2.resize(grid, size_hw[::-1], interpolation=cv2.INTER_CUBIC)


def paint_sky(canvas: Canvas, rng: Generator) -> None:
    """Fill the picture with a gradient and clouds (painted at a quarter of the size)."""
    height, width = canvas.label.shape
    small, weather = (height // 4, width // 4), canvas.weather
    rows = np.arange(small[0], dtype=np.float32)[:, None, None]
    share = np.clip(rows * 4 / max(canvas.camera.horizon_px, 1.0), 0, 1) ** 1.3
    gradient = np.array(weather.zenith) * (1 - share) + np.array(weather.horizon) * share
    clouds = sum(smooth_noise(rng, small, (2 * n, n)) * 3 / n for n in (3, 7, 17))
    cover, softness = rng.uniform(-1.2, 0.6), rng.uniform(0.7, 1.8)
    opacity = np.clip((clouds + cover) / softness, 0, 0.9)[..., None]
    sky = np.clip(gradient * (1 - opacity) + weather.cloud * opacity, 0, 255).astype(np.uint8)
    canvas.image[:], canvas.label[:] = cv2.resize(sky, (width, height)), Id.SKY


def paint_ground(canvas: Canvas, rng: Generator, street: Street) -> None:
    """Paint terrain, pavements and road with its marks, their surfaces in perspective, the haze."""
    top = int(np.clip(np.ceil(canvas.camera.horizon_px), 0, len(canvas.label) - 1))
    canvas.image[top:] = shift(GREENS[rng.integers(len(GREENS))], rng.normal(0, 10))
    canvas.label[top:] = Id.TERRAIN
    grey = shift((112, 110, 110), rng.normal(0, 16), rng.normal(4, 8))
    paving = shift((140, 134, 128), rng.normal(0, 18), rng.normal(6, 12))
    for side, sign in SIDES:
        inner, outer = street.pavement(side)
        _strips(canvas, [(sign * inner, sign * outer, *WHOLE_Z)], paving, Id.SIDEWALK)
        _strips(canvas, [(sign * inner, sign * (inner + 0.18), *WHOLE_Z)], shift(paving, 26))
    left, right = -street.kerbs[0], street.kerbs[1]
    _strips(canvas, [(left, right, *WHOLE_Z)], grey, Id.ROAD)
    if street.crossing:
        _strips(canvas, [(-80, 80, *street.crossing)], grey, Id.ROAD)
    _road_marks(canvas, rng, street, left, right)
    _ground_surface(canvas, rng, top)


def _strips(
    canvas: Canvas,
    strips: list[tuple[float, float, float, float]],
    color: Color,
    label: int = NO_LABEL,
) -> None:
    """Paint pieces of the ground (x0, x1, z0, z1), along the bend."""
    x0, x1, z0, z1 = np.array(strips, np.float32).T[:, :, None]
    steps = np.linspace(0, 1, 28 if (z1 - z0).max() > 100 else 4, dtype=np.float32)
    z = z0 * (z1 / z0) ** steps  # (strips, steps)
    outline_x = np.concatenate([x0 + 0 * z, x1 + 0 * z], axis=1)
    outline_z = np.concatenate([z, z[:, ::-1]], axis=1)
    canvas.fill(list(canvas.camera.ground(outline_x, outline_z)), color, label)


def _road_marks(canvas: Canvas, rng: Generator, street: Street, left: float, right: float) -> None:
    """Paint rails, lane lines, edge lines and the zebra crossing."""
    white = shift((206, 206, 198), rng.normal(0, 12))
    middle = (200.0, 164.0, 70.0) if rng.random() < 0.3 else white
    if street.rails_x is not None:
        rails = (street.rails_x - 0.72, street.rails_x + 0.72)
        _strips(canvas, [(x - 0.12, x + 0.12, *WHOLE_Z) for x in rails], (74, 72, 70))
        _strips(canvas, [(x - 0.04, x + 0.04, *WHOLE_Z) for x in rails], (150, 150, 150))
    for lane in street.lanes[1:]:
        x, start = lane - (street.lanes[1] - street.lanes[0]) / 2, rng.uniform(1, 5)
        spans = [WHOLE_Z] if rng.random() < 0.3 else [(z, z + 3) for z in np.arange(start, 60, 7.0)]
        lines = [(x - 0.08, x + 0.08, *span) for span in spans]
        _strips(canvas, lines, middle if lane == 0 else white)
    if rng.random() < 0.4:
        _strips(canvas, [(x, x + 0.14, *WHOLE_Z) for x in (left + 0.3, right - 0.44)], white)
    if street.crossing and rng.random() < 0.75:
        z, bars = street.crossing[0] - 3.6, np.arange(left + 0.3, right - 0.5, 1.0)
        _strips(canvas, [(x, x + 0.5, z, z + 2.8) for x in bars], white)
        _strips(canvas, [(-1.6, 1.6, z - 1.2, z - 0.8)], white)


def _ground_surface(canvas: Canvas, rng: Generator, top: int) -> None:
    """Lay asphalt, slabs and grass over the painted ground in perspective, and add the haze."""
    height, width = canvas.label.shape
    camera, weather, label = canvas.camera, canvas.weather, canvas.label[top:]
    rows = np.maximum(np.arange(top, height, dtype=np.float32) + 0.5 - camera.horizon_px, 0.25)
    z = camera.focal_px * camera.height_m / rows
    columns = np.arange(width, dtype=np.float32) + 0.5 - camera.center_x_px
    x = columns * (z / camera.focal_px)[:, None] - (camera.curve * z * z)[:, None]
    # every other tile is mirrored: no seams
    map_x, map_y = (
        TILE_PX - 1 - np.abs(metres * (TILE_PX / TILE_M) % (2 * TILE_PX - 2) - (TILE_PX - 1))
        for metres in (x, np.repeat(z[:, None], width, axis=1))
    )
    tiles = _surface_tiles(int(rng.integers(NUM_TILES)))
    grain, paving, grass = cv2.split(cv2.remap(tiles, map_x, map_y, cv2.INTER_LINEAR))
    np.copyto(grain, paving, where=label == Id.SIDEWALK)
    np.copyto(grain, grass, where=label == Id.TERRAIN)
    clear, haze = canvas.haze(z)
    gain = clear * (weather.ambient + weather.diffuse * float(canvas.sun[1]))
    grain *= gain * np.exp(-z / 22.0)[:, None]
    ground = canvas.image[top:] * gain[..., None]
    ground += grain[..., None]
    ground += haze[:, None]
    canvas.image[top:] = np.clip(ground, 0, 255, out=ground)


@functools.cache
def _surface_tiles(variant: int) -> Array:
    """Return asphalt, slabs, grass (TILE_PX, TILE_PX, 3) of TILE_M metres, in grey levels."""
    rng, size = np.random.default_rng(variant), (TILE_PX, TILE_PX)
    fine = rng.standard_normal(size, np.float32)
    soft = cv2.blur(fine, (5, 5), borderType=cv2.BORDER_REFLECT) * 5
    asphalt = 5 * fine + 3 * soft + 5 * smooth_noise(rng, size, (5, 5))
    slabs = int(rng.choice([8, 16, 32]))
    tones = rng.standard_normal((slabs, slabs), np.float32)
    paving = 5 * cv2.resize(tones, size, interpolation=cv2.INTER_NEAREST) + 3 * fine
    paving[:: TILE_PX // slabs] -= 22
    paving[:, :: TILE_PX // slabs] -= 22
    grass = 9 * fine + 9 * soft + 10 * smooth_noise(rng, size, (12, 12))
    return np.stack([asphalt, paving, grass], axis=2)


def paint_shadows(canvas: Canvas, placed: list[Placed]) -> None:
    """Darken the ground below objects and away from the sun, with soft edges."""
    gain = np.full(canvas.label.shape, 255, np.uint8)
    strength, (sun_x, sun_y, _) = 0.25 + 0.5 * canvas.weather.diffuse, canvas.sun
    reach = float(np.clip(-sun_x / sun_y, -1, 1)) * canvas.weather.diffuse
    for item in placed:
        across, along = item.half_size if abs(np.sin(item.yaw)) < 0.5 else item.half_size[::-1]
        left, right = item.x - across + min(reach, 0), item.x + across + max(reach, 0)
        near, far = max(item.z - max(along, 0.3), 0.6), max(item.z + max(along, 0.3), 0.7)
        x, z = np.array([left, right, right, left]), np.array([near, near, far, far])
        cv2.fillPoly(gain, [canvas.camera.ground(x, z)], 255 * (1 - strength), cv2.LINE_AA, 3)
    size = max(1, len(gain) // 100) * 2 + 1
    gain = cv2.blur(gain, (size, size))
    canvas.image[:] = cv2.multiply(canvas.image, cv2.merge([gain] * 3), scale=1 / 255)


def finish(canvas: Canvas, rng: Generator) -> npt.NDArray[np.uint8]:
    """Return the picture with surface grain, blur, sensor noise, exposure and a colour cast."""
    height, width = canvas.label.shape
    offsets = rng.integers(NOISE_MARGIN_PX, size=(4, 2)).tolist()
    field = _noise_field(height + NOISE_MARGIN_PX, width + NOISE_MARGIN_PX)
    fine, *sensor = (field[y : y + height, x : x + width] for y, x in offsets)
    coarse = smooth_noise(rng, (height, width), (54, 54 * width // height))
    amplitudes = np.full((2, 256), 1.5, np.float32)
    amplitudes[:, list(GRAIN)] = np.array(list(GRAIN.values())).T
    coarse_gain, fine_gain = (cv2.LUT(canvas.label, table) for table in amplitudes)
    grain = coarse * coarse_gain + fine * fine_gain
    picture = cv2.add(canvas.image, cv2.merge([grain] * 3), dtype=cv2.CV_32F)
    sigma = rng.uniform(0.2, 0.65) * max((height / 256) ** 0.5, 0.8)
    picture = cv2.GaussianBlur(picture, (0, 0), sigma)
    if rng.random() < 0.08:  # the camera moved
        picture = cv2.blur(picture, (max(2, height // 80), 1))
    noise = rng.uniform(0.5, 3.5)
    picture = cv2.addWeighted(picture, 1.0, cv2.merge(sensor), noise, 0.0, dtype=cv2.CV_8U)
    warmth = canvas.weather.warmth / 300
    cast = np.array([1 + warmth, 1.0, 1 - warmth]) * rng.normal(1, 0.02, 3)
    levels = np.linspace(0, 1, 256)[:, None] * cast * rng.uniform(0.85, 1.35)
    tone = np.clip(levels, 0, 1) ** rng.uniform(0.8, 1.15) * 255
    return cv2.LUT(picture, np.rint(tone).astype(np.uint8)[:, None])


@functools.lru_cache(maxsize=2)
def _noise_field(height: int, width: int) -> Array:
    """Return unit white noise, of which pictures take pieces at random places."""
    return np.random.default_rng(0).standard_normal((height, width), np.float32)
