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
# the frame of a two-wheeler seen from the side: fork, saddle and tubes between (x, y)
FRAME = (
    ((0.52, 0.34), (0.38, 1.02)), ((-0.52, 0.34), (-0.05, 0.3)), ((-0.52, 0.34), (-0.22, 0.86)),
    ((-0.05, 0.3), (-0.22, 0.86)), ((-0.05, 0.3), (0.42, 0.9)), ((-0.4, 0.86), (0.42, 0.9)),
)  # fmt: skip


def pick(rng: Generator, colors: Sequence[Sequence[float]], jitter: float = 14.0) -> Color:
    """Return one of the colours, slightly changed."""
    return shift(colors[int(rng.integers(len(colors)))], *rng.normal(0, jitter, 2))


def paint(rng: Generator, chroma: float = 36.0) -> Color:
    """Return any colour of cars, clothes and walls; greys are the commonest."""
    return shift(rng.uniform(30, 230) + rng.normal(0, chroma, 3) * rng.random(), 0)


def vehicle(rng: Generator, label: Id, half: float, length: Span, y: Span, slant: float) -> Mesh:
    """A car, a bus, a tram, the cab of a lorry, or without slant its load.

    Args:
        half: half of the width; the length is between two limits, all in metres.
        y: lower and upper edge of the body.
        slant: how far front and rear lean.
    """
    mesh, color, trim, x = Mesh(), paint(rng), paint(rng), half * rng.uniform(0.95, 1.05)
    z, top = rng.uniform(*length) / 2, y[1] * rng.uniform(0.95, 1.05)
    mesh.box((0.06 - x, x - 0.06, 0.15 - z, z - 0.15), (0, y[0] + 0.05), RUBBER, label)
    upper = (0.06 - x, x - 0.06, slant - z, z - slant)
    faces = glazed = mesh.box((-x, x, -z, z), (y[0], top), color, label, upper)
    bottom, tall, pane = 0.43, 0.4, min(0.3, 1.3 / z)
    if label == Id.CAR:  # a saloon, an estate or a van
        rear, hood, roof = rng.choice([(0.7, 1.15, 0.55), (0.05, 1.15, 0.6), (0.03, 0.5, 1.0)])
        base = (0.06 - x, x - 0.06, rear - z, z - hood)
        upper = (0.2 - x, x - 0.2, rear - z + 0.35, z - hood - 0.75)
        glazed = mesh.box(base, (top, top + roof), color, label, upper)
        bottom, tall = 0.12, 0.74
    for i, light in ((0, (170, 24, 22)), (2, (240, 238, 220))):
        mesh.panes(faces[i], [0.04, 0.8], 1.2 / (top + 1), (0.16, 0.2), light)
        mesh.panes(faces[i + 1], 0.0, 0.0, (1.0, 0.16), shift(trim, -45))
        if slant:
            mesh.panes(glazed[i], 0.06, bottom, (0.88, tall), GLASS)
            mesh.panes(glazed[i + 1], np.arange(0.05, 0.9, pane), bottom, (0.8 * pane, tall), GLASS)
        else:
            mesh.panes(faces[i + 1], 0.25, 0.4, (0.5, 0.32), trim)
    if label == Id.TRAIN:
        mesh.bar((0, top), (0, top + 1.2), 0.08, RUBBER, label)
        mesh.bar((-0.8, top + 1.2), (0.8, top + 1.2), 0.08, RUBBER, label)
    for side, at in ((side, at * z) for side in (-1, 1) for at in (-0.6, 0.6)):
        for radius, tint in ((0.36 * x, RUBBER), (0.22 * x, METAL)):
            along, up = (ring(12) * radius).T  # counter-clockwise as seen from outside
            outside = np.full(12, side * (x + 0.01))
            mesh.add(np.stack([outside, up + 0.36 * x, at + side * along], 1), tint, facing=True)
    return mesh


def figure(mesh: Mesh, rng: Generator, label: Id, stride: float, legs: Span, size: float) -> Mesh:
    """Add a person; `legs` are the heights of feet, `stride` metres apart, and hips."""
    foot_y, hip_y = legs
    trousers, shirt, width = paint(rng), paint(rng), rng.uniform(0.85, 1.15) * size
    neck_y, reach = hip_y + 0.57 * size, rng.uniform(0.24, 0.4)
    for side in (-1, 1):
        foot, knee = (side * stride / 2, foot_y), (0.3 * side * stride, (foot_y + hip_y) / 2)
        mesh.bar((0, hip_y), knee, 0.17 * width, trousers, label)
        mesh.bar(knee, foot, 0.14 * width, shift(trousers, -12), label)
        mesh.bar(foot, (foot[0] + 0.1, foot_y), 0.07, BLACK, label)
    mesh.bar((0, hip_y), (0, neck_y), 0.34 * width, shirt, label)
    for side in (-1, 1):
        shoulder, hand = (0.17 * width * side, neck_y - 0.05), (reach * side, hip_y + 0.05)
        mesh.bar(shoulder, hand, 0.1 * width, shift(shirt, -18), label)
    mesh.disc((0, neck_y + 0.16 * size), 0.12 * size, pick(rng, SKINS, 6.0), label)
    mesh.disc((0, neck_y + 0.21 * size), 0.11 * size, paint(rng), label)  # hair, hat or helmet
    return mesh


def person(rng: Generator) -> Mesh:
    """A standing or walking person, in one of eight a child."""
    size = rng.uniform(0.86, 1.1) * (0.68 if rng.random() < 0.12 else 1.0)
    return figure(Mesh(), rng, Id.PERSON, rng.uniform(0.06, 0.7), (0.04, 0.88 * size), size)


def two_wheeler(rng: Generator, label: Id, has_rider: bool) -> Mesh:
    """A bicycle or motorcycle, seen from the side or along its length, with or without rider."""
    mesh, is_side, color = Mesh(), bool(rng.random() < 0.55), paint(rng)
    thick = 0.06 if label == Id.BICYCLE else 0.2
    if is_side:
        for x in (-0.52, 0.52):
            mesh.disc((x, 0.34), 0.36, METAL, label)
            rim = ring(12) * 0.34 + (x, 0.34)
            for a, b in zip(rim.tolist(), np.roll(rim, 1, axis=0).tolist(), strict=True):
                mesh.bar(a, b, thick, RUBBER, label)
        for a, b in FRAME:
            mesh.bar(a, b, thick, color, label)
    else:
        mesh.bar((0, 0), (0, 0.66), thick, RUBBER, label)
        mesh.bar((0, 0.45), (0, 0.98), 1.5 * thick, color, label)
        mesh.bar((-0.34, 1.0), (0.34, 1.0), 0.06, METAL, label)
    return figure(mesh, rng, Id.RIDER, 0.3, (0.26, 0.93), 0.95) if has_rider else mesh


def lamp_post(rng: Generator) -> Mesh:
    """A street lamp whose arm reaches over the road (towards -x)."""
    mesh, height, color = Mesh(), rng.uniform(5.5, 9.0), shift(METAL, rng.uniform(-70, 40))
    mesh.bar((0, 0), (0, height), 0.18, color, Id.POLE)
    mesh.bar((0, height - 0.1), (-2, height + 0.3), 0.1, color, Id.POLE)
    return mesh


def traffic_light(rng: Generator) -> Mesh:
    """A signal on a pole, with a second one on an arm over the road in half of the cases."""
    mesh, color, lit = Mesh(), shift(METAL, rng.uniform(-60, 30)), rng.integers(3)
    heads = [(0.0, 2.9), (-3.4, 5.4)][: rng.integers(1, 3)]
    mesh.bar((0, 0), (0, heads[-1][1] + 0.3), 0.16, color, Id.POLE)
    for x, y in heads:
        mesh.bar((0.08, y + 0.3), (x, y + 0.3), 0.12, color, Id.POLE)
        mesh.bar((x, y - 0.55), (x, y + 0.55), 0.44, BLACK, Id.TRAFFIC_LIGHT)
        for i, lamp in enumerate(LAMPS):
            tint = lamp if i == lit else shift(lamp, -180)
            mesh.disc((x, y + 0.34 - 0.34 * i), 0.13, tint, Id.TRAFFIC_LIGHT)
    return mesh


def traffic_sign(rng: Generator) -> Mesh:
    """A round, triangular, octagonal or square sign on its pole."""
    mesh, y = Mesh(), rng.uniform(2.2, 2.7)
    sides, radius, rim, inside = SIGNS[rng.integers(len(SIGNS))]
    mesh.bar((0, 0), (0, y + 0.2), 0.08, METAL, Id.POLE)
    for share, color in ((1.08, WHITE), (1.0, rim), (0.72, inside)):
        mesh.add(ring(sides) * radius * share + (0, y), color, Id.TRAFFIC_SIGN)
    mesh.bar((-0.14, y), (0.14, y), 0.08, BLACK if inside == WHITE else WHITE, Id.TRAFFIC_SIGN)
    return mesh


def greenery(rng: Generator, half_width: float, height: float, trunk: float = 0.45) -> Mesh:
    """Leaf clusters in an ellipse, dark ones below and bright ones above; a tree has a trunk."""
    mesh, leaf, height = Mesh(), pick(rng, LEAVES), height * rng.uniform(0.6, 1.4)
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
    return mesh


def building(rng: Generator, max_floors: int) -> Mesh:
    """A block of flats, or with up to 3 floors a house with a pitched roof."""
    mesh, half, depth = Mesh(), rng.uniform(4, 9), rng.uniform(9, 14)
    floors = int(rng.integers(max_floors // 4, max_floors)) + 1
    color, glass, y = paint(rng, 20.0), pick(rng, [GLASS], 20.0), floors * rng.uniform(2.8, 3.6)
    faces = mesh.box((0, depth, -half, half), (0, y), color, Id.BUILDING)
    column, wide, tall = rng.uniform(1.7, 3.2), rng.uniform(0.4, 0.7), rng.uniform(0.45, 0.62)
    frame, bottoms = shift(color, rng.uniform(-40, 50)), (np.arange(floors) + 0.25) / floors
    for face, width in ((faces[0], depth), (faces[3], 2 * half)):
        lefts = np.arange(0.4, width / column - 0.8) * column / width
        for share, tint in ((1.2, frame), (1.0, glass)):
            size = share * wide * column / width, share * tall / floors
            mesh.panes(face, lefts - size[0] / 2, bottoms - size[1] / 8, size, tint)
    eaves, roof, tiles = (-0.3, depth, -half, half), 0.25, shift(color, -26)
    ridge = eaves
    if max_floors <= 3:
        ridge, roof, tiles = (0.4 * depth, 0.6 * depth, 2 - half, half - 2), 3.0, pick(rng, TILES)
    mesh.box(eaves, (y - 0.1, y + roof), tiles, Id.BUILDING, ridge)
    return mesh


def barrier(rng: Generator, label: Id) -> Mesh:
    """A wall of brick, stone or concrete, or a fence of boards."""
    mesh, half, height, color = Mesh(), rng.uniform(4, 9), rng.uniform(1.6, 3.6), paint(rng, 20.0)
    if label == Id.WALL:
        course, joint = rng.choice([0.25, 0.5, 1.0]) / height, shift(color, -28)
        face = mesh.box((0, 0.4, -half, half), (0, height), color, label)[3]
        mesh.panes(face, 0.0, np.arange(course, 1.0, course), (1.0, 0.03 / height), joint)
        mesh.panes(face, np.arange(0.0, 1.0, 1.25 / half), 0.0, (0.025 / half, 1.0), joint)
        return mesh
    height, gap = 0.6 * height, rng.uniform(0.08, 0.2) / half
    face = np.array([(0, 0, half), (0, 0, -half), (0, height, -half), (0, height, half)])
    mesh.add(face, shift(color, -60), label, facing=True)
    mesh.panes(face, np.arange(0.0, 1.0, gap), 0.0, (gap * rng.uniform(0.2, 0.8), 0.97), color)
    mesh.panes(face, 0.0, [0.12, 0.86], (1.0, 0.06), shift(color, 14))
    return mesh


OBJECTS: dict[str, Callable[[Generator], Mesh]] = {
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
    "lamp_post": lamp_post,
    "traffic_light": traffic_light,
    "traffic_sign": traffic_sign,
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
    rng = np.random.default_rng([int.from_bytes(name.encode(), "big"), variant])
    return OBJECTS[name](rng).build()
