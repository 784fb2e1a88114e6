"""What stands and drives in the street scenes: `OBJECTS` holds how each kind is built.

Poles, greenery, people and two-wheelers are flat cut-outs. Vehicles head for +z, away from the
camera. Buildings, walls and fences stand on the right side: the plane x = 0 faces the street.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.random import Generator

from paddleseg_segformer.street_scenes.shapes import (
    IGNORE,
    Array,
    Color,
    Id,
    Mesh,
    Model,
    ring,
    shift,
)

NUM_VARIANTS = 40

GLASS, RUBBER, METAL = (58.0, 70.0, 82.0), (28.0, 28.0, 30.0), (120.0, 124.0, 128.0)
WHITE, RED, BLUE, BLACK = (236.0, 236, 232), (196.0, 30, 34), (24.0, 70, 150), (24.0, 26, 26)
SKINS = ((224, 180, 150), (190, 140, 110), (140, 96, 70), (92, 62, 48))
LEAVES = ((64, 92, 44), (82, 108, 48), (52, 80, 52), (104, 112, 52), (134, 104, 48), (70, 84, 62))
BOARDS = ((104, 78, 56), (60, 66, 64), (150, 150, 148), (216, 214, 208), (44, 72, 54))
TILES = ((130, 62, 48), (84, 78, 76), (110, 84, 66))
# knee, foot and hand of both sides of a rider, seen from the side and along the street
RIDER_SIDE = ((0.16, 0.74, 0.0, 0.3, 0.34, 1.02), (0.1, 0.86, -0.06, 0.42, 0.34, 1.02))
RIDER_ALONG = ((-0.2, 0.62, -0.14, 0.26, -0.32, 0.96), (0.2, 0.62, 0.14, 0.26, 0.32, 0.96))
BICYCLE = (
    (-0.52, 0.34, -0.05, 0.3), (-0.52, 0.34, -0.22, 0.86), (-0.05, 0.3, -0.22, 0.86),
    (-0.05, 0.3, 0.36, 0.92), (-0.22, 0.86, 0.36, 0.92), (0.4, 1.0, 0.52, 0.34),
)  # fmt: skip
MOTORCYCLE = ((-0.85, 0.62), (0.1, 0.56), (0.5, 0.78), (0.1, 0.98), (-0.8, 0.82))


def pick(rng: Generator, colors: Sequence[Sequence[float]], jitter: float = 14.0) -> Color:
    """Return one of the colours, slightly changed."""
    return shift(colors[int(rng.integers(len(colors)))], *rng.normal(0, jitter, 2))


def paint(rng: Generator, chroma: float = 36.0) -> Color:
    """Return any colour of cars, clothes and walls; greys are the commonest."""
    return shift(rng.uniform(30, 230) + rng.normal(0, chroma, 3) * rng.random(), 0)


def car(rng: Generator) -> Mesh:
    """A saloon, estate, hatchback or van."""
    mesh, color, is_van = Mesh(), paint(rng), rng.random() < 0.18
    half, end, belt = rng.uniform(0.85, 0.95), rng.uniform(1.85, 2.4), rng.uniform(0.82, 0.92)
    roof, rear, hood = 1.9, 0.03, 0.5
    if not is_van:
        roof, rear, hood = rng.uniform(1.38, 1.6), rng.choice([0.05, 0.15, 0.75]), 1.15
    body = _body(mesh, Id.CAR, (half, -end, end), (0.2, belt), color, (0.06, 0.1), 0.55)
    base = (-half + 0.06, half - 0.06, -end + rear, end - hood)
    top = (-half + 0.2, half - 0.2, -end + rear + 0.35, end - hood - 0.75)
    cabin = mesh.box(base, (belt - 0.02, roof), color, Id.CAR, top)
    for i in (0, 2):
        mesh.panes(cabin[i], 0.06, 0.12, 0.88, 0.76, GLASS)
        mesh.panes(body[i + 1], 0.0, 0.0, 1.0, 0.14, shift(color, -45))
        mesh.panes(cabin[i + 1], 0.67 if is_van else [0.07, 0.37, 0.67], 0.14, 0.26, 0.72, GLASS)
    _wheels(mesh, half, [-end + 0.75, end - 0.85], 0.32)
    return mesh


def truck(rng: Generator) -> Mesh:
    """A lorry: driver's cab in front, a box behind."""
    mesh, color, half, end = Mesh(), paint(rng), rng.uniform(1.15, 1.3), rng.uniform(3.2, 5.2)
    height, z, line = rng.uniform(3.0, 3.9), end - 2.0, shift(color, -34)
    mesh.box((-half, half, -end, z), (0.0, 0.95), (34, 34, 36), Id.TRUCK)
    heights = (0.5, 0.85 * height)
    cab = _body(mesh, Id.TRUCK, (half, z, end), heights, paint(rng), (0, 0.25), 0.12)
    mesh.panes(cab[2], 0.06, 0.5, 0.88, 0.38, GLASS)
    cargo = mesh.box((-half, half, -end, z - 0.3), (0.95, height), color, Id.TRUCK)
    for i in (1, 3):
        mesh.panes(cab[i], 0.3, 0.52, 0.55, 0.34, GLASS)
        mesh.panes(cargo[i], np.arange(0.02, 0.98, 0.1), 0.03, 0.012, 0.94, line)
        mesh.panes(cargo[i], 0.25, 0.4, 0.5, 0.32, paint(rng))
    mesh.panes(cargo[0], [0.03, 0.49, 0.94], 0.02, 0.025, 0.95, line)
    mesh.panes(cargo[0], [0.04, 0.84], -0.1, 0.12, 0.06, RED)
    _wheels(mesh, half, [-end + 1.2, -end + 2.3, end - 1.1], 0.5)
    return mesh


def coach(rng: Generator, label: int, count: int, length: float, height: float) -> Mesh:
    """A bus, or a tram of several cars with slanted ends and a pantograph."""
    mesh, color, trim, is_tram = Mesh(), paint(rng), paint(rng), label == Id.TRAIN
    length *= rng.uniform(0.9, 1.1)
    end, nose = count * length / 2, 0.9 if is_tram else 0.1
    for i in reversed(range(count)):
        z, slant = -end + i * length, (nose * (i == 0), nose * (i == count - 1))
        size, heights = (1.25, z, z + length - 0.25), (0.1 if is_tram else 0.3, height)
        body = _body(mesh, label, size, heights, color, slant, 0.16)
        for j in (0, 2):
            mesh.panes(body[j], 0.07, 0.38, 0.86, 0.43, GLASS)
            mesh.panes(body[j], 0.28, 0.87, 0.44, 0.07, (240, 170, 40))
            mesh.panes(body[j + 1], 0.0, 0.0, 1.0, 0.2, trim)
            mesh.panes(body[j + 1], 0.03, 0.43, 0.94, 0.4, GLASS)
            posts = np.arange(0.14, 0.95, 0.14)
            mesh.panes(body[j + 1], posts, 0.04, 0.01, 0.79, shift(color, -55))
    for x in (-0.7, 0.7) if is_tram else ():
        mesh.limb((x, height, 0.0, height + 1.3), 0.08, (60, 60, 62), label)
    _wheels(mesh, 1.25, [-end + 2.6, end - 2.4], 0.48)
    return mesh


def _body(
    mesh: Mesh,
    label: int,
    size: tuple[float, float, float],
    heights: tuple[float, float],
    color: Color,
    slant: tuple[float, float],
    lights: float,
) -> list[Array]:
    """Add a body of (half width, z0, z1) over a dark block, with lights and plates on its ends."""
    half, z0, z1 = size
    under = (-half + 0.06, half - 0.06, z0 + 0.15, z1 - 0.15)
    mesh.box(under, (0.0, heights[0] + 0.05), (22, 22, 24), label)
    top = (-half + 0.06, half - 0.06, z0 + slant[0], z1 - slant[1])
    body = mesh.box((-half, half, z0, z1), heights, color, label, top)
    for face, light in ((body[0], (170, 24, 22)), (body[2], (240, 238, 220))):
        mesh.panes(face, [0.04, 0.8], lights, 0.16, 0.2, light)
        mesh.panes(face, 0.0, 0.0, 1.0, 0.12, (40, 40, 42))
        mesh.panes(face, 0.38, 0.16, 0.24, 0.12, (214, 212, 190))
    return body


def _wheels(mesh: Mesh, half_width: float, positions_z: list[float], radius: float) -> None:
    """Add wheels on both sides, their corners counter-clockwise as seen from outside."""
    for side, z in ((side, z) for side in (-1, 1) for z in positions_z):
        for scale, color in ((radius, RUBBER), (0.6 * radius, METAL)):
            along, up = (ring(12) * scale).T
            x = np.full(12, side * (half_width + 0.01))
            mesh.add(np.stack([x, up + radius, z + side * along], axis=1), color, facing=True)


def person(rng: Generator) -> Mesh:
    """A standing or walking person, seen from the front, the back or the side."""
    mesh, height = Mesh(), rng.uniform(1.5, 1.92) * (0.68 if rng.random() < 0.12 else 1.0)
    stride, swing = rng.uniform(0.02, 0.2), rng.uniform(0.14, 0.26)
    limbs = [(0.6 * x, 0.26, x, 0.02, y, 0.5) for x, y in ((-stride, swing), (stride, -swing))]
    _figure(mesh, rng, Id.PERSON, (0, 0.5, 0, 0.84), np.array(limbs) * height, height)
    if rng.random() < 0.25:  # a skirt or a long coat
        skirt = np.array([(-0.16, 0.28), (0.16, 0.28), (0.09, 0.55), (-0.09, 0.55)])
        mesh.add(skirt * height, paint(rng), Id.PERSON)
    return mesh


def _figure(
    mesh: Mesh,
    rng: Generator,
    label: int,
    spine: Sequence[float],
    limbs: Sequence[Sequence[float]] | Array,
    height: float,
) -> None:
    """Add a person: the spine (x, y of hip and shoulder) in heights, knees, feet, hands in m."""
    trousers, shirt, size = paint(rng), paint(rng), height / 1.75
    hip_x, hip_y, x, y = np.array(spine) * height
    width = size * rng.uniform(0.85, 1.15)
    for knee_x, knee_y, foot_x, foot_y, *_ in limbs:
        mesh.limb((hip_x, hip_y, knee_x, knee_y), 0.17 * width, trousers, label)
        mesh.limb((knee_x, knee_y, foot_x, foot_y), 0.14 * width, shift(trousers, -12), label)
        mesh.limb((foot_x - 0.05, foot_y, foot_x + 0.1, foot_y), 0.07, BLACK, label)
    outline = np.array([(-0.15, 0), (0.15, 0), (0.2, 0.9), (0.13, 1), (-0.13, 1), (-0.2, 0.9)])
    along = outline[:, 1:] * (x - hip_x, y - hip_y)
    mesh.add(along + outline[:, :1] * (width, 0) + (hip_x, hip_y), shirt, label)
    for *_, hand_x, hand_y in limbs:
        shoulder = x + 0.17 * width * np.sign(hand_x - x)
        mesh.limb((shoulder, y - 0.05, hand_x, hand_y), 0.1 * width, shift(shirt, -18), label)
    mesh.disc((x, y + 0.16 * size), (0.11 * size, 0.125 * size), pick(rng, SKINS, 6.0), label)
    has_helmet = label == Id.RIDER and rng.random() < 0.7
    hair = paint(rng) if has_helmet else shift(SKINS[3], rng.uniform(-60, 70))
    mesh.disc((x, y + 0.21 * size), (0.14 if has_helmet else 0.105) * size, hair, label)


def two_wheeler(rng: Generator, label: int, has_rider: bool) -> Mesh:
    """A bicycle or motorcycle, seen from the side or along its length, with or without rider."""
    mesh, color, is_motor, is_side = Mesh(), paint(rng), label == Id.MOTORCYCLE, rng.random() < 0.55
    if not is_side:
        mesh.limb((0, 0, 0, 0.66), 0.16 if is_motor else 0.07, RUBBER, label)
        mesh.limb((-0.34, 1.0, 0.34, 1.0), 0.06, METAL, label)
        mesh.limb((0, 0.45, 0, 0.98), 0.36 if is_motor else 0.06, color, label)
        mesh.disc((0, 0.78), 0.09, RED if rng.random() < 0.5 else WHITE)
    elif is_motor:
        for x in (-0.66, 0.66):
            mesh.disc((x, 0.31), 0.31, RUBBER, label)
            mesh.disc((x, 0.31), 0.15, METAL)
        mesh.limb((-0.45, 0.42, 0.38, 0.42), 0.35, (60, 60, 64), label)
        mesh.add(MOTORCYCLE, color, label)
        mesh.limb((0.66, 0.31, 0.38, 1.05), 0.1, METAL, label)
    else:
        for x in (-0.52, 0.52):  # what shows through the wheels is labelled as bicycle
            mesh.disc((x, 0.34), 0.36, None, label)
            rim = ring(12) * 0.34 + (x, 0.34)
            for ends in np.concatenate([rim, np.roll(rim, 1, axis=0)], axis=1):
                mesh.limb(ends, 0.06, RUBBER)
        for bar in BICYCLE:
            mesh.limb(bar, 0.06, color, label)
    if has_rider:
        lean = rng.uniform(-0.08, 0.04) if is_side else 0.0
        spine = (-0.14 if is_side else 0.0, 0.53, lean, 0.84)
        _figure(mesh, rng, Id.RIDER, spine, RIDER_SIDE if is_side else RIDER_ALONG, 1.75)
    return mesh


def lamp_post(rng: Generator) -> Mesh:
    """A street lamp whose arm reaches over the road (towards -x)."""
    mesh, height, color = Mesh(), rng.uniform(5.5, 9.0), shift(METAL, rng.uniform(-70, 40))
    mesh.limb((0, 0, 0, height), 0.18, color, Id.POLE)
    mesh.limb((0, height - 0.1, -1.6, height + 0.3), 0.1, color, Id.POLE)
    mesh.limb((-1.3, height + 0.22, -2.0, height + 0.3), 0.2, shift(color, 50), Id.POLE)
    return mesh


def traffic_light(rng: Generator) -> Mesh:
    """A signal on a pole, with a second one on an arm over the road in half of the cases."""
    mesh, color, lit = Mesh(), shift(METAL, rng.uniform(-60, 30)), rng.integers(3)
    heads = [(0.0, 2.9), (-3.4, 5.4)][: rng.integers(1, 3)]
    mesh.limb((0, 0, 0, heads[-1][1] + 0.3), 0.16, color, Id.POLE)
    for x, y in heads:
        mesh.limb((0, y + 0.3, x, y + 0.3), 0.12, color, Id.POLE)
        mesh.limb((x, y - 0.55, x, y + 0.55), 0.44, BLACK, Id.TRAFFIC_LIGHT)
        for i, lamp in enumerate([(250, 50, 40), (255, 190, 50), (60, 240, 130)]):
            mesh.disc((x, y + 0.34 - 0.34 * i), 0.13, lamp if i == lit else shift(lamp, -180))
    return mesh


def traffic_sign(rng: Generator) -> Mesh:
    """A round, triangular, octagonal, square or direction sign on its pole."""
    mesh, y, kind, label = Mesh(), rng.uniform(2.2, 2.7), rng.integers(5), Id.TRAFFIC_SIGN
    mesh.limb((0, 0, 0, y + 0.2), 0.08, METAL, Id.POLE)
    if kind == 4:
        mesh.limb((-1.0, y, 1.0, y), 0.8, WHITE, label)
        mesh.limb((-0.95, y, 0.95, y), 0.7, pick(rng, [BLUE, (30, 110, 70), (230, 190, 40)]))
        for line in (y - 0.16, y + 0.16):
            mesh.limb((-0.7, line, 0.5, line), 0.1, WHITE)
        return mesh
    sides, rim, inside = ((14, RED, WHITE), (3, RED, WHITE), (8, RED, RED), (4, BLUE, BLUE))[kind]
    radius = rng.uniform(0.34, 0.46) * (1.25 if sides <= 4 else 1.0)
    mesh.disc((0, y), 1.08 * radius, WHITE, label, sides)
    mesh.disc((0, y), radius, rim, sides=sides)
    mesh.disc((0, y), 0.72 * radius, inside, sides=sides)
    symbol = BLACK if inside == WHITE else WHITE
    mesh.limb((-0.35 * radius, y, 0.35 * radius, y), 0.2 * radius, symbol)
    return mesh


def greenery(rng: Generator, half_width: float, height: float, trunk_share: float = 0.45) -> Mesh:
    """Leaf clusters in an ellipse, dark ones below and bright ones above; a tree has a trunk."""
    mesh, leaf, height = Mesh(), pick(rng, LEAVES), height * rng.uniform(0.6, 1.4)
    y = height * trunk_share
    radii = half_width * rng.uniform(0.6, 1.4), height - y
    if trunk_share > 0.5:
        mesh.limb((0, 0, rng.normal(0, 0.1), y), 0.3, (74, 60, 48), Id.VEGETATION)
    mesh.disc((0, y), np.array(radii) * 0.85, shift(leaf, -22), Id.VEGETATION)
    angle, reach = rng.uniform(0, 2 * np.pi, 24), np.sqrt(rng.random(24))
    spots = np.stack([reach * np.cos(angle), reach * np.sin(angle)], axis=1)
    order = np.argsort(spots[:, 1] + rng.normal(0, 0.5, 24))
    for rank, spot in enumerate(spots[order] * radii + (0, y)):
        size, color = rng.uniform(0.2, 0.46) * min(radii) + 0.12, shift(leaf, -22 + 2 * rank)
        mesh.disc(spot, (size, size * rng.uniform(0.7, 1.1)), color, Id.VEGETATION, sides=7)
    return mesh


def street_furniture(rng: Generator) -> Mesh:
    """A litter bin or a switch box: outside the 19 classes, so labelled as ignored."""
    mesh, half = Mesh(), rng.uniform(0.2, 0.45)
    mesh.box((-half, half, -0.25, 0.25), (0, rng.uniform(0.8, 1.3)), paint(rng), IGNORE)
    return mesh


def building(rng: Generator, max_floors: int, has_roof: bool) -> Mesh:
    """A house with a gable roof along z, or a block of flats, often with shops."""
    mesh, half = Mesh(), rng.uniform(4, 9)
    count = int(rng.integers(max_floors // 4, max_floors)) + 1
    color, depth, y = paint(rng, 20.0), rng.uniform(9, 14), count * rng.uniform(2.8, 3.6) + 0.8
    faces = mesh.box((0, depth, -half, half), (0, y), color, Id.BUILDING)
    glass = shift(GLASS, rng.uniform(-20, 60), rng.normal(0, 16))
    for face, width in ((faces[3], 2 * half), (faces[0], depth)):
        _facade(mesh, rng, face, (max(1, int(width / rng.uniform(1.7, 3.2))), count), color, glass)
    if not has_roof:
        mesh.box((-0.25, depth, -half, half), (y - 0.1, y + 0.25), shift(color, -26), Id.BUILDING)
        return mesh
    tiles, left, right = pick(rng, TILES), (-0.4, y), (depth + 0.4, y)
    ridge = (depth / 2, y + rng.uniform(2, 4))
    for a, b in ((right, ridge), (ridge, left)):
        slope = [(*a, -half), (*a, half), (*b, half), (*b, -half)]
        mesh.add(slope, tiles, Id.BUILDING, facing=True)
    gable = [(*left, -half), (*right, -half), (*ridge, -half)]
    mesh.add(gable, shift(tiles, 30, -20), Id.BUILDING, facing=True)
    return mesh


def _facade(
    mesh: Mesh, rng: Generator, face: Array, grid: tuple[int, int], color: Color, glass: Color
) -> None:
    """Add framed windows, and shops on the ground floor, to a building's face."""
    num_columns, num_floors = grid
    floor, column, has_shops = 0.95 / num_floors, 1 / num_columns, num_floors > 2
    for left in np.arange(0.02, 0.9, 2 * column) if has_shops else ():
        mesh.panes(face, left, 0.0, 1.9 * column, 0.98 * floor, paint(rng))
        mesh.panes(face, left + 0.2 * column, 0.12 * floor, 1.5 * column, 0.58 * floor, GLASS)
    pane, tall = rng.uniform(0.4, 0.72) * column, floor * rng.uniform(0.45, 0.62)
    lefts = (np.arange(num_columns) + 0.5) * column - pane / 2
    bottoms = np.arange(has_shops, num_floors) * floor + 0.28 * floor
    frame, light = 0.12 * pane, shift(color, rng.uniform(-40, 50))
    low, high = bottoms - 0.06 * floor, tall + 0.12 * floor
    mesh.panes(face, lefts - frame, low, pane + 2 * frame, high, light)
    mesh.panes(face, lefts, bottoms, pane, tall, glass)
    for left, bottom in zip(rng.permutation(lefts)[::2], rng.permutation(bottoms), strict=False):
        mesh.panes(face, left, bottom, pane, tall, shift(glass, 50, 30))  # a curtain or a lamp


def wall(rng: Generator) -> Mesh:
    """A free-standing brick, stone or concrete wall along the street."""
    mesh, color, height, half = Mesh(), paint(rng, 20.0), rng.uniform(1.6, 3.6), rng.uniform(4, 9)
    course, joint = rng.choice([0.25, 0.5, 1.0]) / height, shift(color, -28)
    face = mesh.box((0, 0.4, -half, half), (0, height), color, Id.WALL)[3]
    mesh.panes(face, 0.0, np.arange(course, 1.0, course), 1.0, 0.03 / height, joint)
    mesh.panes(face, np.arange(0.0, 1.0, 1.25 / half), 0.0, 0.025 / half, 1.0, joint)
    mesh.box((-0.06, 0.46, -half, half), (height, height + 0.12), shift(color, 16), Id.WALL)
    return mesh


def fence(rng: Generator) -> Mesh:
    """A see-through or board fence along the street; its holes are labelled as fence too."""
    mesh, height, half, color = Mesh(), rng.uniform(1.0, 2.2), rng.uniform(4, 9), pick(rng, BOARDS)
    bar, bar_color, filling = 0.03 / half, color, None
    if rng.random() < 0.35:  # boards, and the gaps between them
        bar, bar_color, filling = 0.01 / half, shift(color, -30), color
    face = np.array([(0, 0, half), (0, 0, -half), (0, height, -half), (0, height, half)])
    mesh.add(face, filling, Id.FENCE, facing=True)
    mesh.panes(face, np.arange(0.0, 1.0, rng.uniform(0.08, 0.2) / half), 0.0, bar, 0.97, bar_color)
    mesh.panes(face, 0.0, [0.12, 0.86], 1.0, 0.06, shift(color, 14))
    mesh.panes(face, np.arange(0.0, 1.0, 1.2 / half), 0.0, 0.07 / half, 1.0, shift(color, -16))
    return mesh


OBJECTS: dict[str, Callable[[Generator], Mesh]] = {
    "car": car,
    "truck": truck,
    "bus": partial(coach, label=Id.BUS, count=1, length=11.0, height=3.1),
    "tram": partial(coach, label=Id.TRAIN, count=3, length=9.0, height=3.4),
    "person": person,
    "cyclist": partial(two_wheeler, label=Id.BICYCLE, has_rider=True),
    "motorcyclist": partial(two_wheeler, label=Id.MOTORCYCLE, has_rider=True),
    "bicycle": partial(two_wheeler, label=Id.BICYCLE, has_rider=False),
    "motorcycle": partial(two_wheeler, label=Id.MOTORCYCLE, has_rider=False),
    "lamp_post": lamp_post,
    "traffic_light": traffic_light,
    "traffic_sign": traffic_sign,
    "tree": partial(greenery, half_width=2.0, height=7.0, trunk_share=0.6),
    "bush": partial(greenery, half_width=1.4, height=1.5),
    "far_wood": partial(greenery, half_width=13.0, height=11.0),
    "far_block": partial(building, max_floors=12, has_roof=False),
    "street_furniture": street_furniture,
    "flats": partial(building, max_floors=8, has_roof=False),
    "house": partial(building, max_floors=3, has_roof=True),
    "wall": wall,
    "fence": fence,
}


@functools.cache
def model(name: str, variant: int, is_mirrored: bool) -> tuple[Model, tuple[float, float]]:
    """Return one of an object's `NUM_VARIANTS` copies, and half its width and length in metres."""
    rng = np.random.default_rng([int.from_bytes(name.encode(), "big"), variant])
    copy = OBJECTS[name](rng).build(is_mirrored)
    half_width, _, half_length = np.abs(copy.points).max(axis=0).tolist()
    return copy, (half_width, half_length)
