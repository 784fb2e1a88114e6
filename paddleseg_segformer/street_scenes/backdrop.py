"""What fills the whole picture of a street scene: sky, ground, light and the camera's flaws."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from paddleseg_segformer.street_scenes.layout import Street
from paddleseg_segformer.street_scenes.palette import Id, shift
from paddleseg_segformer.street_scenes.shapes import Array, Camera, Canvas, Color, Light

WHOLE_Z = (0.6, 400.0)  # the stretch of road that is painted
TILE_PX = 256
TILE_M = 8.0
NUM_TILES = 24
NOISE_MARGIN_PX = 97
OTHER_GRAIN = 1.5

# The grain of each class's surface: amplitudes of coarse and of fine noise, in grey levels.
GRAIN: dict[int, tuple[float, float]] = {
    Id.ROAD: (1.5, 1.5),
    Id.SIDEWALK: (1.5, 1.5),
    Id.BUILDING: (4.0, 2.0),
    Id.WALL: (6.0, 5.0),
    Id.VEGETATION: (15.0, 9.0),
    Id.TERRAIN: (4.0, 5.0),
    Id.SKY: (0.0, 0.0),
}


@dataclass(frozen=True)
class Weather:
    """Colours and light of a kind of day."""

    zenith: Color
    horizon: Color
    cloud: Color
    ambient: float
    diffuse: float
    visibility_m: float
    warmth: float


WEATHERS = (
    Weather((84, 136, 206), (190, 212, 232), (246, 247, 248), 0.62, 0.62, 320.0, 6.0),  # sunny
    Weather(
        (120, 158, 204), (208, 218, 226), (236, 238, 240), 0.68, 0.45, 240.0, 2.0
    ),  # light cloud
    Weather((168, 174, 180), (206, 208, 208), (150, 154, 160), 0.82, 0.14, 150.0, -4.0),  # overcast
    Weather((206, 208, 208), (222, 222, 218), (196, 198, 200), 0.86, 0.06, 75.0, -2.0),  # fog
    Weather((96, 116, 168), (246, 190, 130), (236, 168, 140), 0.58, 0.5, 200.0, 30.0),  # low sun
    Weather((40, 52, 84), (112, 108, 124), (70, 74, 96), 0.46, 0.1, 170.0, -10.0),  # dusk
)
WEATHER_SHARES = (0.3, 0.22, 0.2, 0.08, 0.13, 0.07)


def paint_sky(canvas: Canvas, rng: Generator, weather: Weather) -> None:
    """Fill the picture with a gradient and clouds (painted at a quarter of the size)."""
    height, width = canvas.label.shape
    small = (height // 4, width // 4)
    share = (np.arange(small[0], dtype=np.float32) * 4 / max(canvas.camera.horizon_px, 1.0)).clip(
        0, 1
    )
    share = share[:, None] ** 1.3
    zenith, horizon, cloud = (
        np.array(color, np.float32) for color in (weather.zenith, weather.horizon, weather.cloud)
    )
    gradient = zenith * (1 - share) + horizon * share
    cover, softness = rng.uniform(-0.8, 1.0), rng.uniform(0.7, 1.8)
    clouds = sum(
        smooth_noise(rng, small, (2 * cells, cells)) / weight
        for cells, weight in ((3, 1.0), (7, 2.0), (17, 4.0))
    )
    opacity = np.clip((clouds + cover - 0.4) / softness, 0, 0.9)[..., None]
    sky = np.clip(gradient[:, None, :] * (1 - opacity) + cloud * opacity, 0, 255).astype(np.uint8)
    canvas.image[:] = cv2.resize(sky, (width, height), interpolation=cv2.INTER_LINEAR)
    canvas.label[:] = Id.SKY


def smooth_noise(rng: Generator, size_hw: tuple[int, int], cells_hw: tuple[int, int]) -> Array:
    """Return noise (H, W) of unit scale that varies over a grid of cells."""
    grid = rng.standard_normal(cells_hw).astype(np.float32)
    return cv2.resize(grid, size_hw[::-1], interpolation=cv2.INTER_CUBIC)


def paint_ground(canvas: Canvas, rng: Generator, street: Street) -> None:
    """Paint terrain, pavements and road with its marks, their surfaces in perspective, the haze."""
    height = canvas.label.shape[0]
    top = min(max(int(np.ceil(canvas.camera.horizon_px)), 0), height - 1)
    greens: tuple[Color, ...] = ((96, 104, 56), (112, 108, 70), (126, 112, 88), (84, 100, 60))
    terrain = shift(greens[rng.integers(len(greens))], rng.normal(0, 10))
    grey = shift((112, 110, 110), rng.normal(0, 16), rng.normal(4, 8))
    paving = shift((140, 134, 128), rng.normal(0, 18), rng.normal(6, 12))
    canvas.image[top:], canvas.label[top:] = terrain, Id.TERRAIN
    for side, sign in ((0, -1), (1, 1)):
        inner, outer = (sign * x for x in street.sidewalk(side))
        _strips(canvas, [(outer, inner, *WHOLE_Z)], paving, Id.SIDEWALK)
        if not street.verges[side]:
            _strips(canvas, [(inner, inner + sign * 0.18, *WHOLE_Z)], shift(paving, 26))
    _strips(canvas, [(*street.kerbs, *WHOLE_Z)], grey, Id.ROAD)
    if street.crossing:
        _strips(canvas, [(-80.0, 80.0, *street.crossing)], grey, Id.ROAD)
    _road_marks(canvas, rng, street, grey)
    _ground_surface(canvas, rng, top)


Strip = tuple[float, float, float, float]


def _strips(
    canvas: Canvas, strips: Sequence[Strip], color: Color, label: int | None = None
) -> None:
    """Paint pieces of the ground (x0, x1, z0, z1), along the bend (label None: the image only)."""
    x0, x1, z0, z1 = (column[:, None] for column in np.array(strips, np.float32).T)
    steps = np.linspace(0, 1, 28 if (z1 - z0).max() > 100 else 4, dtype=np.float32)
    z = z0 * (z1 / z0) ** steps  # (strips, steps)
    outline_z = np.concatenate([z, z[:, ::-1]], axis=1)
    outline_x = np.concatenate([np.repeat(x, len(steps), axis=1) for x in (x0, x1)], axis=1)
    points = np.stack([outline_x, np.zeros_like(outline_x), outline_z], axis=2).reshape(-1, 3)
    pixels = np.clip(canvas.camera.project(canvas.camera.bend(points))[0], -1e5, 1e5)
    polygons = list(np.rint(pixels * 8).astype(np.int32).reshape(len(strips), -1, 2))
    cv2.fillPoly(canvas.image, polygons, color, cv2.LINE_AA, 3)
    if label is not None:
        cv2.fillPoly(canvas.label, polygons, int(label), cv2.LINE_8, 3)


def _road_marks(canvas: Canvas, rng: Generator, street: Street, grey: Color) -> None:
    """Paint patches of tar, rails, lane lines, edge lines and the zebra crossing."""
    white = shift((206, 206, 198), rng.normal(0, 12))
    middle = (200.0, 164.0, 70.0) if rng.random() < 0.3 else white
    for _ in range(rng.integers(0, 5)):
        x, z = rng.uniform(*street.kerbs), rng.uniform(4, 30)
        piece = (x, x + rng.uniform(0.3, 2.0), z, z + rng.uniform(1, 8))
        _strips(canvas, [piece], shift(grey, rng.uniform(-18, 14)))
    if street.rails_x is not None:
        for half, color in ((0.12, (74.0, 72.0, 70.0)), (0.04, (150.0, 150.0, 150.0))):
            centers = (street.rails_x - 0.72, street.rails_x + 0.72)
            _strips(canvas, [(x - half, x + half, *WHOLE_Z) for x in centers], color)
    for left, right in zip(street.lanes[:-1], street.lanes[1:], strict=True):
        x, is_solid = (left + right) / 2, rng.random() < 0.3
        dashes = [(z, z + 3) for z in np.arange(rng.uniform(1, 5), 60, 7.0)]
        lines = [(x - 0.08, x + 0.08, *span) for span in ([WHOLE_Z] if is_solid else dashes)]
        _strips(canvas, lines, middle if left < 0 <= right else white)
    if rng.random() < 0.4:
        inner = (street.kerbs[0] + 0.3, street.kerbs[1] - 0.44)
        _strips(canvas, [(x, x + 0.14, *WHOLE_Z) for x in inner], white)
    if street.crossing and rng.random() < 0.75:
        z = street.crossing[0] - 3.6
        xs = np.arange(street.kerbs[0] + 0.3, street.kerbs[1] - 0.5, 1.0)
        _strips(canvas, [(x, x + 0.5, z, z + 2.8) for x in xs], white)
        _strips(canvas, [(-1.6, 1.6, z - 1.2, z - 0.8)], white)


def _ground_surface(canvas: Canvas, rng: Generator, top: int) -> None:
    """Lay asphalt, slabs and grass over the painted ground in perspective, and add the haze."""
    height, width = canvas.label.shape
    camera, light = canvas.camera, canvas.light
    rows = np.maximum(np.arange(top, height, dtype=np.float32) + 0.5 - camera.horizon_px, 0.25)
    z = camera.focal_px * camera.height_m / rows
    columns = np.arange(width, dtype=np.float32) + 0.5 - camera.center_x_px
    x = columns[None, :] * (z / camera.focal_px)[:, None] - (camera.curve * z * z)[:, None]
    map_x, map_y = _tile_position(x), np.repeat(_tile_position(z)[:, None], width, axis=1)
    tiles = _surface_tiles(int(rng.integers(NUM_TILES)))
    grain = cv2.remap(tiles, map_x, map_y, cv2.INTER_LINEAR)
    asphalt, paving, grass = cv2.split(grain)
    label = canvas.label[top:]
    np.copyto(asphalt, paving, where=label == Id.SIDEWALK)
    np.copyto(asphalt, grass, where=label == Id.TERRAIN)
    clear = light.clearness(z)[:, None]
    gain = clear * (light.ambient + light.diffuse * light.sun[1])
    asphalt *= gain * np.exp(-z / 22.0)[:, None]
    ground = canvas.image[top:] * gain[..., None]
    ground += asphalt[..., None]
    ground += (np.array(light.haze_color, np.float32) * (1 - clear))[:, None]
    canvas.image[top:] = np.clip(ground, 0, 255, out=ground)


def _tile_position(distance_m: Array) -> Array:
    """Return the pixel in a tile of a position; every other tile is mirrored: no seams."""
    last = TILE_PX - 1
    return last - np.abs(distance_m * (TILE_PX / TILE_M) % (2 * last) - last)


@functools.cache
def _surface_tiles(variant: int) -> Array:
    """Return asphalt, slabs, grass (TILE_PX, TILE_PX, 3) of TILE_M metres, in grey levels."""
    rng, size = np.random.default_rng(variant), (TILE_PX, TILE_PX)
    fine = rng.standard_normal(size, np.float32)
    soft = cv2.blur(fine, (5, 5), borderType=cv2.BORDER_REFLECT) * 5
    asphalt = 5 * fine + 3 * soft + 5 * smooth_noise(rng, size, (5, 5))
    slabs = int(rng.choice([8, 16, 32]))
    tones = rng.standard_normal((slabs, slabs)).astype(np.float32)
    paving = 5 * cv2.resize(tones, size, interpolation=cv2.INTER_NEAREST) + 3 * fine
    paving[:: TILE_PX // slabs] -= 22
    paving[:, :: TILE_PX // slabs] -= 22
    grass = 9 * fine + 9 * soft + 10 * smooth_noise(rng, size, (12, 12))
    return np.stack([asphalt, paving, grass], axis=2)


def shade_ground(canvas: Canvas, polygons: list[Array], strength: float) -> None:
    """Darken ground polygons ((n, 3), before the bend) with soft edges; strength 0..1."""
    height, width = canvas.label.shape
    gain = np.full((height, width), 255, np.uint8)
    for points in polygons:
        pixels = np.clip(canvas.camera.project(canvas.camera.bend(points))[0], -1e5, 1e5)
        cv2.fillPoly(
            gain, [np.rint(pixels * 8).astype(np.int32)], 255 * (1 - strength), cv2.LINE_AA, 3
        )
    size = max(1, height // 100) * 2 + 1
    gain = cv2.blur(gain, (size, size))
    canvas.image[:] = cv2.multiply(canvas.image, cv2.merge([gain] * 3), scale=1 / 255)


def paint_ego_vehicle(canvas: Canvas, rng: Generator) -> None:
    """Paint the camera car's bonnet at the bottom edge; it is labelled as ignored."""
    height, width = canvas.label.shape
    rise, color = rng.uniform(0.05, 0.11) * height, shift((52, 54, 58), rng.uniform(-20, 50))
    x = np.linspace(-0.05, 1.05, 24)
    y = height - rise * (1 - np.abs(2 * x - 1) ** rng.uniform(2.5, 5.0))
    for offset, tint in ((0.0, 0.0), (0.35 * rise, -14.0), (0.7 * rise, -24.0)):
        outline = np.stack(
            [np.append(x, [1.05, -0.05]) * width, np.append(y + offset, [height + 9] * 2)], axis=1
        )
        points = [np.rint(outline * 8).astype(np.int32)]
        cv2.fillPoly(canvas.image, points, shift(color, tint), cv2.LINE_AA, 3)
        if offset == 0.0:
            cv2.fillPoly(canvas.label, points, int(Id.IGNORE), cv2.LINE_8, 3)


def finish(canvas: Canvas, rng: Generator, warmth: float) -> npt.NDArray[np.uint8]:
    """Return the picture with surface grain, blur, sensor noise, exposure and a colour cast."""
    height, width = canvas.label.shape
    coarse = smooth_noise(rng, (height, width), (54, 54 * width // height))
    fine, *sensor = _noise_crops(rng, (height, width))
    coarse_gain, fine_gain = (cv2.LUT(canvas.label, _grain_table(column)) for column in (0, 1))
    grain = coarse * coarse_gain + fine * fine_gain
    picture = cv2.add(canvas.image, cv2.merge([grain] * 3), dtype=cv2.CV_32F)
    sigma = rng.uniform(0.2, 0.65) * max((height / 256) ** 0.5, 0.8)
    picture = cv2.GaussianBlur(picture, (0, 0), sigma)
    if rng.random() < 0.08:  # the camera moved
        picture = cv2.blur(picture, (max(2, height // 80), 1))
    noise_level = rng.uniform(0.5, 3.5)
    picture = cv2.addWeighted(picture, 1.0, cv2.merge(sensor), noise_level, 0.0, dtype=cv2.CV_8U)
    cast = np.array([1 + warmth / 300, 1.0, 1 - warmth / 300]) * rng.normal(1, 0.02, 3)
    levels = np.linspace(0, 1, 256)[:, None] * cast * rng.uniform(0.85, 1.35)
    tone = np.clip(levels, 0, 1) ** rng.uniform(0.8, 1.15) * 255
    return cv2.LUT(picture, np.rint(tone).astype(np.uint8)[:, None])


def _noise_crops(rng: Generator, size_hw: tuple[int, int]) -> list[Array]:
    """Return four views of unit white noise, cut at random places of one larger field."""
    (height, width), offsets = size_hw, rng.integers(NOISE_MARGIN_PX, size=(4, 2)).tolist()
    field = _noise_field(size_hw)
    return [field[y : y + height, x : x + width] for y, x in offsets]


@functools.lru_cache(maxsize=2)
def _noise_field(size_hw: tuple[int, int]) -> Array:
    """Return unit white noise, a margin larger than the picture."""
    height, width = size_hw
    shape = (height + NOISE_MARGIN_PX, width + NOISE_MARGIN_PX)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


@functools.cache
def _grain_table(column: int) -> Array:
    """Return the amplitude (256,) of coarse (0) or fine (1) grain by class id."""
    table = np.full(256, OTHER_GRAIN, np.float32)
    table[list(GRAIN)] = [amplitudes[column] for amplitudes in GRAIN.values()]
    return table


def make_light(rng: Generator, weather: Weather) -> Light:
    """Return a scene's light: sun behind or beside the camera, haze in the horizon's colour."""
    direction = np.array([rng.uniform(-1, 1), rng.uniform(0.5, 1.2), rng.uniform(-1, 0.1)])
    x, y, z = direction / np.linalg.norm(direction)
    visibility = weather.visibility_m * rng.uniform(0.7, 1.3)
    return Light((x, y, z), weather.ambient, weather.diffuse, weather.horizon, visibility)


def make_camera(rng: Generator, size_hw: tuple[int, int]) -> Camera:
    """Return the camera of a scene for a picture of (height, width) pixels."""
    height, width = size_hw
    return Camera(
        focal_px=max(width, height) * rng.uniform(0.72, 1.1),
        center_x_px=width * rng.uniform(0.4, 0.6),
        horizon_px=height * rng.uniform(0.36, 0.5),
        height_m=rng.uniform(1.25, 1.9),
        curve=rng.normal(0, 0.0007),
    )
