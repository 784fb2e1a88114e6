"""What stands in a street scene: vehicles, people, plants, poles and buildings, from polygons."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.random import Generator

from paddleseg_segformer.street_scenes.canvas import Color, Id, Mesh, Model, Span, ring, shift

NUM_VARIANTS = 40

GLASS, RUBBER, METAL = (58.0, 70.0, 82.0), (28.0, 28.0, 30.0), (120.0, 124.0, 128.0)
WHITE, RED, BLUE, BLACK = (236.0, 236, 232), (196.0, 30, 34), (24.0, 70, 150), (24.0, 26, 26)
LAMPS = ((250, 50, 40), (255, 190, 50), (60, 240, 130))
SKINS = ((224, 180, 150), (190, 140, 110), (140, 96, 70), (92, 62, 48))
LEAVES = ((64, 92, 44), (82, 108, 48), (52, 80, 52), (104, 112, 52), (134, 104, 48), (70, 84, 62))
TILES = ((130, 62, 48), (84, 78, 76), (110, 84, 66))
# sides, radius, rim and inside of signs
SIGNS = ((12, 0.4, RED, WHITE), (3, 0.5, RED, WHITE), (8, 0.4, RED, RED), (4, 0.5, BLUE, BLUE))
# a two-wheeler's tubes: ends (x, y) and thickness in tyres, from the side and along its length
SIDE_TUBES = (
    ((0.52, 0.34), (0.38, 1.02), 1), ((-0.52, 0.34), (-0.05, 0.3), 1),
    ((-0.52, 0.34), (-0.22, 0.86), 1), ((-0.05, 0.3), (-0.22, 0.86), 1),
    ((-0.05, 0.3), (0.42, 0.9), 1), ((-0.4, 0.86), (0.42, 0.9), 1),
)  # fmt: skip
END_TUBES = (((0, 0), (0, 0.66), 1), ((0, 0.45), (0, 0.98), 1.5), ((-0.34, 1), (0.34, 1), 0.8))


def pick(rng: Generator, colors: Sequence[Sequence[float]], jitter: float = 14.0) -> Color:
    """Return one of the colours, slightly changed."""
    return shift(colors[int(rng.integers(len(colors)))], *rng.normal(0, jitter, 2))


def paint(rng: Generator, chroma: float = 36.0) -> Color:
    """Return any colour of cars, clothes and walls; greys are the commonest."""
    return shift(rng.uniform(30, 230) + rng.normal(0, chroma, 3) * rng.random(), 0)


def vehicle(
    mesh: Mesh, rng: Generator, label: Id, half: float, length: Span, y: Span, slant: float
) -> None:
    """A car, a bus, a tram, the cab of a lorry, or without slant its load.

    Args:
        half: half of the width; the length is between two limits, all in metres.
        y: lower and upper edge of the body.
        slant: how far front and rear lean.
    """
    color, trim, x = paint(rng), paint(rng), half * rng.uniform(0.95, 1.05)
    z, tall = rng.uniform(*length) / 2, (y[1] - y[0]) * rng.uniform(0.95, 1.05)
    top, pane, glass = y[0] + tall, min(0.3, 1.3 / z), (0.43, 0.4)
    inner = (0.06 - x, x - 0.06, slant - z, z - slant)
    mesh.box((0.06 - x, x - 0.06, 0.15 - z, z - 0.15), (0, y[0] + 0.05), RUBBER, label)
    faces = glazed = mesh.box((-x, x, -z, z), (y[0], top), color, label, inner)
    if label == Id.CAR:  # a saloon, an estate or a van
        rear, hood, roof = rng.choice([(0.7, 1.15, 0.55), (0.05, 1.15, 0.6), (0.03, 0.5, 1.0)])
        base = (0.06 - x, x - 0.06, rear - z, z - hood)
        upper = (0.2 - x, x - 0.2, rear - z + 0.35, z - hood - 0.75)
        glazed, glass = mesh.box(base, (top, top + roof), color, label, upper), (0.12, 0.74)
    for i, light in ((0, (170, 24, 22)), (2, (240, 238, 220))):
        mesh.panes(faces[i], [0.04, 0.8], 1.2 / (top + 1), (0.16, 0.2), light)
        mesh.panes(faces[i + 1], 0.0, 0.0, (1.0, 0.16), shift(trim, -45))
        if slant:
            mesh.panes(glazed[i], 0.06, glass[0], (0.88, glass[1]), GLASS)
            lefts = np.arange(0.05, 0.9, pane)
            mesh.panes(glazed[i + 1], lefts, glass[0], (0.8 * pane, glass[1]), GLASS)
        else:
            mesh.panes(faces[i + 1], 0.25, 0.4, (0.5, 0.32), trim)
        for share, tint in ((1.0, RUBBER), (0.6, METAL)):  # wheels
            width, low = 0.36 * x * share / z, 0.36 * x * (1 - share) - y[0]
            size = (width, 0.72 * x * share / tall)
            lefts = np.array([0.2, 0.8]) - width / 2
            mesh.panes(faces[i + 1], lefts, low / tall, size, tint, sides=12)
    if label == Id.TRAIN:
        mesh.bar((0, top), (0, top + 1.2), 0.08, RUBBER, label)
        mesh.bar((-0.8, top + 1.2), (0.8, top + 1.2), 0.08, RUBBER, label)


def figure(mesh: Mesh, rng: Generator, label: Id, stride: float, legs: Span, size: float) -> None:
    """A person; `legs` are the heights of feet, `stride` metres apart, and hips."""
    (foot, hip), width, reach = legs, rng.uniform(0.85, 1.15) * size, rng.uniform(0.24, 0.4)
    trousers, shirt, neck = paint(rng), paint(rng), hip + 0.57 * size
    for x in (-stride / 2, stride / 2):
        mesh.bar((0, hip), (0.6 * x, (foot + hip) / 2), 0.17 * width, trousers, label)
        mesh.bar((0.6 * x, (foot + hip) / 2), (x, foot), 0.14 * width, trousers, label)
        mesh.bar((x, foot), (x + 0.1, foot), 0.07, BLACK, label)
    mesh.bar((0, hip), (0, neck), 0.34 * width, shirt, label)
    for side in (-1, 1):
        shoulder, hand = (0.17 * width * side, neck - 0.05), (reach * side, hip + 0.05)
        mesh.bar(shoulder, hand, 0.1 * width, shift(shirt, -18), label)
    mesh.disc((0, neck + 0.16 * size), 0.12 * size, pick(rng, SKINS, 6.0), label)
    mesh.disc((0, neck + 0.21 * size), 0.11 * size, paint(rng), label)  # hair, hat or helmet


def person(mesh: Mesh, rng: Generator) -> None:
    """A standing or walking person, in one of eight a child."""
    size = rng.uniform(0.86, 1.1) * (0.68 if rng.random() < 0.12 else 1.0)
    figure(mesh, rng, Id.PERSON, rng.uniform(0.06, 0.7), (0.04, 0.88 * size), size)


def two_wheeler(mesh: Mesh, rng: Generator, label: Id, has_rider: bool) -> None:
    """A bicycle or motorcycle, seen from the side or along its length, with or without rider."""
    is_side, color, thick = rng.random() < 0.55, paint(rng), 0.06 if label == Id.BICYCLE else 0.2
    for x in (-0.52, 0.52) if is_side else ():
        mesh.disc((x, 0.34), 0.34 + thick / 2, RUBBER, label)
        mesh.disc((x, 0.34), 0.34 - thick / 2, METAL, label)
    for a, b, share in SIDE_TUBES if is_side else END_TUBES:
        mesh.bar(a, b, share * thick, color, label)
    if has_rider:
        figure(mesh, rng, Id.RIDER, 0.3, (0.26, 0.93), 0.95)


def post(mesh: Mesh, rng: Generator, label: Id) -> None:
    """A street lamp, signals or a sign on a pole; what has an arm reaches over the road (-x)."""
    color, lit = shift(METAL, rng.uniform(-60, 30)), rng.integers(3)
    sides, radius, rim, inside = SIGNS[rng.integers(len(SIGNS))]
    height, arm, width = {
        Id.POLE: (rng.uniform(5.5, 9.0), 2.0, 0.18),
        Id.TRAFFIC_LIGHT: ((3.2, 0.0, 0.16), (5.7, 3.4, 0.16))[rng.integers(2)],
        Id.TRAFFIC_SIGN: (rng.uniform(2.4, 2.9), 0.0, 0.08),
    }[label]
    mesh.bar((0, 0), (0, height), width, color, Id.POLE)
    mesh.bar((0.08, height), (-arm, height), 0.12, color, Id.POLE)
    heads = ((0.0, 2.9), (-arm, height - 0.3))[: 2 if arm else 1]
    for x, y in heads if label == Id.TRAFFIC_LIGHT else ():
        mesh.bar((x, y - 0.55), (x, y + 0.55), 0.44, BLACK, label)
        for i, lamp in enumerate(LAMPS):
            tint = lamp if i == lit else shift(lamp, -180)
            mesh.disc((x, y + 0.34 - 0.34 * i), 0.13, tint, label)
    if label == Id.TRAFFIC_SIGN:
        for share, tint in ((1.08, WHITE), (1.0, rim), (0.72, inside)):
            mesh.disc((0, height - 0.2), radius * share, tint, label, sides)
        symbol = BLACK if inside == WHITE else WHITE
        mesh.bar((-0.14, height - 0.2), (0.14, height - 0.2), 0.08, symbol, label)


def greenery(
    mesh: Mesh, rng: Generator, half_width: float, height: float, trunk: float = 0.45
) -> None:
    """Leaf clusters in an ellipse, dark ones below and bright ones above; a tree has a trunk."""
    leaf, height = pick(rng, LEAVES), height * rng.uniform(0.6, 1.4)
    y = height * trunk
    radii = np.array([half_width * rng.uniform(0.6, 1.4), height - y])
    if trunk > 0.5:
        mesh.bar((0, 0), (0, y), 0.3, (74, 60, 48), Id.VEGETATION)
    mesh.disc((0, y), radii * 0.85, shift(leaf, -22), Id.VEGETATION)
    spots = ring(24) * np.sqrt(rng.random((24, 1)))
    order = np.argsort(spots[:, 1] + rng.normal(0, 0.5, 24))
    for rank, (x, up) in enumerate(spots[order] * radii):
        size, color = rng.uniform(0.2, 0.46) * min(radii) + 0.12, shift(leaf, -22 + 2 * rank)
        mesh.disc((x, y + up), size, color, Id.VEGETATION)


def building(mesh: Mesh, rng: Generator, max_floors: int) -> None:
    """A block of flats, or with up to 3 floors a house with a pitched roof."""
    half, depth, color = rng.uniform(4, 9), rng.uniform(9, 14), paint(rng, 20.0)
    floors = int(rng.integers(max_floors // 4, max_floors)) + 1
    y, column = floors * rng.uniform(2.8, 3.6), rng.uniform(1.7, 3.2)
    size, bottoms = rng.uniform(0.4, 0.65, 2), (np.arange(floors) + 0.25) / floors
    panes = ((1.2, shift(color, rng.uniform(-40, 50))), (1.0, pick(rng, [GLASS], 20.0)))
    faces = mesh.box((0, depth, -half, half), (0, y), color, Id.BUILDING)
    for face, width in ((faces[0], depth), (faces[3], 2 * half)):
        lefts = np.arange(0.4, width / column - 0.8) * column / width
        for share, tint in panes:  # a frame, and the glass in it
            wide, tall = size * (column / width, 1 / floors) * share
            mesh.panes(face, lefts - wide / 2, bottoms - tall / 8, (wide, tall), tint)
    ridge = eaves = (-0.3, depth, -half, half)
    roof, tiles = 0.25, shift(color, -26)
    if max_floors <= 3:
        ridge, roof, tiles = (0.4 * depth, 0.6 * depth, 2 - half, half - 2), 3.0, pick(rng, TILES)
    mesh.box(eaves, (y - 0.1, y + roof), tiles, Id.BUILDING, ridge)


def barrier(mesh: Mesh, rng: Generator, label: Id) -> None:
    """A wall of brick, stone or concrete with its joints, or a fence of boards and rails."""
    half, height, color = rng.uniform(4, 9), rng.uniform(1.6, 3.6), paint(rng, 20.0)
    if label == Id.WALL:
        course = rng.choice([0.25, 0.5, 1.0]) / height
        base, tint, levels, thick = color, shift(color, -28), np.arange(course, 1, course), 0.01
        step, share = 1.25 / half, 0.02
    else:
        height *= 0.6
        base, tint, levels, thick = shift(color, -60), color, np.array([0.12, 0.86]), 0.06
        step, share = rng.uniform(0.08, 0.2) / half, rng.uniform(0.2, 0.8)
    face = mesh.box((0, 0.2, -half, half), (0, height), base, label)[3]
    mesh.panes(face, np.arange(0.0, 1.0, step), 0.0, (step * share, 0.97), tint)
    mesh.panes(face, 0.0, levels, (1.0, thick), tint)


OBJECTS: dict[str, Callable[[Mesh, Generator], None]] = {
    "car": partial(vehicle, label=Id.CAR, half=0.9, length=(3.7, 4.8), y=(0.2, 0.88), slant=0.08),
    "cab": partial(vehicle, label=Id.TRUCK, half=1.2, length=(1.8, 2.4), y=(0.4, 2.8), slant=0.2),
    "load": partial(vehicle, label=Id.TRUCK, half=1.25, length=(4, 7), y=(0.7, 3.5), slant=0.0),
    "bus": partial(vehicle, label=Id.BUS, half=1.25, length=(10, 13), y=(0.35, 3.1), slant=0.1),
    "tram": partial(vehicle, label=Id.TRAIN, half=1.25, length=(16, 24), y=(0.2, 3.4), slant=0.9),
    "person": person,
    "cyclist": partial(two_wheeler, label=Id.BICYCLE, has_rider=True),
    "motorcyclist": partial(two_wheeler, label=Id.MOTORCYCLE, has_rider=True),
    "bicycle": partial(two_wheeler, label=Id.BICYCLE, has_rider=False),
    "motorcycle": partial(two_wheeler, label=Id.MOTORCYCLE, has_rider=False),
    "lamp_post": partial(post, label=Id.POLE),
    "traffic_light": partial(post, label=Id.TRAFFIC_LIGHT),
    "traffic_sign": partial(post, label=Id.TRAFFIC_SIGN),
    "tree": partial(greenery, half_width=2.0, height=7.0, trunk=0.6),
    "bush": partial(greenery, half_width=1.4, height=1.5),
    "far_wood": partial(greenery, half_width=13.0, height=11.0),
    "far_block": partial(building, max_floors=12),
    "flats": partial(building, max_floors=8),
    "house": partial(building, max_floors=3),
    "wall": partial(barrier, label=Id.WALL),
    "fence": partial(barrier, label=Id.FENCE),
}


@functools.cache
def model(name: str, variant: int) -> Model:
    """Return one of an object's `NUM_VARIANTS` copies."""
    mesh = Mesh()
    OBJECTS[name](mesh, np.random.default_rng([int.from_bytes(name.encode(), "big"), variant]))
    return mesh.build()
