"""Class ids and colours of the street scenes, and the store of finished objects."""

from __future__ import annotations

import functools
from collections.abc import Callable
from enum import IntEnum

import numpy as np
from numpy.random import Generator

from paddleseg_segformer.street_scenes.shapes import Color, Mesh, Model


class Id(IntEnum):
    """Cityscapes train ids."""

    ROAD = 0
    SIDEWALK = 1
    BUILDING = 2
    WALL = 3
    FENCE = 4
    POLE = 5
    TRAFFIC_LIGHT = 6
    TRAFFIC_SIGN = 7
    VEGETATION = 8
    TERRAIN = 9
    SKY = 10
    PERSON = 11
    RIDER = 12
    CAR = 13
    TRUCK = 14
    BUS = 15
    TRAIN = 16
    MOTORCYCLE = 17
    BICYCLE = 18
    IGNORE = 255


Builder = Callable[[Generator], Mesh]
NUM_VARIANTS = 48

GLASS: Color = (58, 70, 82)
RUBBER: Color = (28, 28, 30)
METAL: Color = (120, 124, 128)

PAINTS: tuple[Color, ...] = (
    (32, 34, 38), (70, 74, 80), (150, 154, 158), (205, 208, 210), (232, 232, 230), (140, 24, 28),
    (28, 52, 110), (40, 96, 150), (30, 84, 60), (180, 140, 60), (196, 84, 40), (110, 90, 76),
)  # fmt: skip
PLASTERS: tuple[Color, ...] = (
    (176, 160, 134), (196, 188, 172), (150, 110, 88), (160, 76, 60), (128, 128, 126),
    (204, 190, 140), (120, 134, 148), (216, 210, 204), (142, 124, 112), (98, 92, 90),
    (186, 150, 130), (150, 160, 140),
)  # fmt: skip
CLOTHES: tuple[Color, ...] = (
    (30, 32, 40), (52, 60, 84), (90, 92, 96), (190, 190, 188), (140, 40, 44), (60, 90, 60),
    (200, 160, 60), (86, 64, 50), (60, 110, 150), (150, 90, 130), (228, 226, 220), (214, 100, 44),
)  # fmt: skip
SKINS: tuple[Color, ...] = ((224, 180, 150), (190, 140, 110), (140, 96, 70), (92, 62, 48))
LEAVES: tuple[Color, ...] = (
    (64, 92, 44), (82, 108, 48), (52, 80, 52), (104, 112, 52), (134, 104, 48), (70, 84, 62),
)  # fmt: skip


def pick(rng: Generator, colors: tuple[Color, ...], jitter: float = 14.0) -> Color:
    """Return one of the colours, slightly changed."""
    return shift(colors[rng.integers(len(colors))], *rng.normal(0, jitter, 2))


def shift(color: Color, brightness: float, warmth: float = 0.0) -> Color:
    """Return a colour made brighter by `brightness` and redder by `warmth` (grey levels)."""
    red, green, blue = color
    values = (red + brightness + warmth / 2, green + brightness, blue + brightness - warmth / 2)
    return tuple(min(max(value, 6.0), 250.0) for value in values)  # type: ignore[return-value]


@functools.cache
def model(builder: Builder, variant: int, is_mirrored: bool) -> Model:
    """Return one of an object's `NUM_VARIANTS` copies, the same for the same arguments."""
    name = int.from_bytes(builder.__name__.encode(), "big")
    return builder(np.random.default_rng([name, variant])).build(is_mirrored=is_mirrored)
