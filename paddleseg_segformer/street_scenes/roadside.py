"""What stands beside the road in the street scenes: poles, signs, greenery, buildings, walls."""

from __future__ import annotations

import math

import numpy as np
from numpy.random import Generator

from paddleseg_segformer.street_scenes.palette import (
    CLOTHES,
    GLASS,
    LEAVES,
    METAL,
    PAINTS,
    PLASTERS,
    Id,
    pick,
    shift,
)
from paddleseg_segformer.street_scenes.shapes import (
    Array,
    Color,
    Mesh,
    disc,
    limb,
    patch,
    patch_grid,
)


def lamp_post(rng: Generator) -> Mesh:
    """A street lamp whose arm reaches over the road (towards -x)."""
    mesh, height, color = Mesh(), rng.uniform(5.5, 9.0), shift(METAL, rng.uniform(-70, 40))
    mesh.add(limb((0, 0), (0, height), 0.16), color, Id.POLE)
    mesh.add(limb((0, 0), (0, 1.0), 0.24), color, Id.POLE)
    mesh.add(limb((0, height - 0.1), (-1.6, height + 0.3), 0.1), color, Id.POLE)
    mesh.add(limb((-1.3, height + 0.22), (-2.0, height + 0.3), 0.2), shift(color, 50), Id.POLE)
    return mesh


def traffic_light(rng: Generator) -> Mesh:
    """A signal on a pole, with a second one on an arm over the road in half of the cases."""
    mesh, color = Mesh(), shift(METAL, rng.uniform(-60, 30))
    has_arm, state = rng.random() < 0.5, int(rng.integers(3))
    height = 5.6 if has_arm else 3.3
    mesh.add(limb((0, 0), (0, height), 0.16), color, Id.POLE)
    heads = [(0.0, 2.9)]
    if has_arm:
        mesh.add(limb((0, height), (-3.6, height + 0.2), 0.12), color, Id.POLE)
        heads.append((-3.4, height - 0.2))
    for x, y in heads:
        _signal(mesh, (x, y), state)
    return mesh


def _signal(mesh: Mesh, center: tuple[float, float], state: int) -> None:
    """Add a signal head with three lamps; the one with index `state` from the top is lit."""
    x, y = center
    mesh.add(limb((x, y - 0.55), (x, y + 0.55), 0.44), (24, 26, 26), Id.TRAFFIC_LIGHT)
    lit: tuple[Color, ...] = ((250, 50, 40), (255, 190, 50), (60, 240, 130))
    dark: tuple[Color, ...] = ((70, 28, 26), (76, 60, 26), (26, 62, 44))
    for lamp in range(3):
        color = lit[lamp] if lamp == state else dark[lamp]
        mesh.add(disc((x, y + 0.34 - 0.34 * lamp, 0), 0.13, sides=10), color)


def traffic_sign(rng: Generator) -> Mesh:
    """A round, triangular, octagonal, square or direction sign on its pole."""
    mesh, y, kind = Mesh(), rng.uniform(2.2, 2.7), int(rng.integers(5))
    mesh.add(limb((0, 0), (0, y + 0.2), 0.08), METAL, Id.POLE)
    radius, white, red, blue = (
        rng.uniform(0.34, 0.46),
        (236, 236, 232),
        (196, 30, 34),
        (24, 70, 150),
    )
    if kind == 4:
        color = [blue, (30, 110, 70), (230, 190, 40)][rng.integers(3)]
        mesh.add(limb((-1.0, y), (1.0, y), 0.8), white, Id.TRAFFIC_SIGN)
        mesh.add(limb((-0.95, y), (0.95, y), 0.7), color)
        mesh.add_all(
            [limb((-0.7, y + dy), (0.5, y + dy), 0.1) for dy in (-0.16, 0.16)], white, facing=False
        )
        return mesh
    sides, outer, inner = [(14, red, white), (3, red, white), (8, red, red), (4, blue, blue)][kind]
    mesh.add(_sign_plate(y, radius * 1.08, sides), white, Id.TRAFFIC_SIGN)
    mesh.add(_sign_plate(y, radius, sides), outer)
    mesh.add(_sign_plate(y, radius * 0.72, sides), inner)
    symbol = (30, 30, 32) if inner == white else white
    mesh.add(limb((-0.4 * radius, y), (0.4 * radius, y), radius * 0.22), symbol)
    if rng.random() < 0.4:
        mesh.add(
            limb((-0.3, y - radius - 0.3), (0.3, y - radius - 0.3), 0.3), white, Id.TRAFFIC_SIGN
        )
    return mesh


def _sign_plate(y: float, radius: float, sides: int) -> Array:
    """Return a regular plate with a flat bottom edge."""
    angles = math.pi / sides - math.pi / 2 + np.arange(sides) * 2 * math.pi / sides
    scale = radius * (1.25 if sides in (3, 4) else 1.0)
    points = [(scale * math.cos(a), y + scale * math.sin(a), 0) for a in angles]
    return np.array(points, np.float32)


def tree(rng: Generator) -> Mesh:
    """A trunk and a crown of leaf clusters, lit from above."""
    height, spread, leaf = rng.uniform(4.5, 10.0), rng.uniform(1.3, 2.6), pick(rng, LEAVES)
    mesh, crown_y = Mesh(), height * rng.uniform(0.55, 0.68)
    mesh.add(
        limb((0, 0), (rng.normal(0, 0.15), crown_y), rng.uniform(0.2, 0.4)),
        (74, 60, 48),
        Id.VEGETATION,
    )
    _foliage(mesh, rng, (0.0, crown_y), (spread, height - crown_y), leaf, num_clusters=26)
    return mesh


def bush(rng: Generator) -> Mesh:
    """A bush or a piece of hedge."""
    mesh, half_width, height = Mesh(), rng.uniform(0.7, 2.2), rng.uniform(0.8, 2.2)
    leaf = pick(rng, LEAVES)
    _foliage(mesh, rng, (0.0, height * 0.45), (half_width, height * 0.5), leaf, num_clusters=20)
    return mesh


def _foliage(
    mesh: Mesh,
    rng: Generator,
    center: tuple[float, float],
    radii: tuple[float, float],
    leaf: Color,
    *,
    num_clusters: int,
) -> None:
    """Add leaf clusters inside an ellipse, from dark ones below to bright ones above."""
    angle, reach = rng.uniform(0, 2 * math.pi, num_clusters), np.sqrt(rng.random(num_clusters))
    x, y = reach * np.cos(angle), reach * np.sin(angle)
    mesh.add(
        disc((*center, 0), radii[0] * 0.85, squash=radii[1] / radii[0]),
        shift(leaf, -22),
        Id.VEGETATION,
    )
    order = np.argsort(y + rng.normal(0, 0.5, num_clusters))
    sizes = rng.uniform(0.2, 0.46, num_clusters) * min(radii)
    for rank, i in enumerate(order):
        position = (center[0] + x[i] * radii[0], center[1] + y[i] * radii[1], 0)
        color = shift(leaf, -22 + 46 * rank / num_clusters, rng.normal(0, 5))
        mesh.add(
            disc(position, float(sizes[i]) + 0.12, sides=7, squash=rng.uniform(0.7, 1.1)),
            color,
            Id.VEGETATION,
        )


def far_wood(rng: Generator) -> Mesh:
    """A distant clump of trees."""
    mesh, half_width, height = Mesh(), rng.uniform(9, 18), rng.uniform(7, 16)
    leaf = shift(pick(rng, LEAVES), -8)
    _foliage(mesh, rng, (0.0, height * 0.4), (half_width, height * 0.6), leaf, num_clusters=12)
    return mesh


def far_block(rng: Generator) -> Mesh:
    """A distant building without details."""
    mesh, half, height = Mesh(), rng.uniform(6, 15), rng.uniform(8, 38)
    mesh.box((-half, 0, -8), (half, height, 8), pick(rng, PLASTERS, 20.0), Id.BUILDING)
    return mesh


def street_furniture(rng: Generator) -> Mesh:
    """A litter bin or a switch box: outside the 19 classes, so labelled as ignored."""
    mesh, width, height = Mesh(), rng.uniform(0.4, 0.9), rng.uniform(0.8, 1.3)
    color = pick(rng, PAINTS)
    faces = mesh.box((-width / 2, 0, -0.25), (width / 2, height, 0.25), color, Id.IGNORE)
    mesh.add(patch(faces[0], 0.1, 0.7, 0.9, 0.85), shift(color, -50), facing=True)
    return mesh


def flats(rng: Generator) -> Mesh:
    """A block of flats, often with shops.

    This and all below stand on the right side: the plane x = 0 faces the street.
    """
    mesh, half, num_floors = Mesh(), rng.uniform(4, 10), int(rng.integers(2, 9))
    size, color = _block(mesh, rng, num_floors, half)
    depth, height, _ = size
    mesh.box(
        (-0.25, height - 0.1, -half), (depth, height + 0.25, half), shift(color, -26), Id.BUILDING
    )
    return mesh


def house(rng: Generator) -> Mesh:
    """A house with a pitched roof."""
    mesh, half, num_floors = Mesh(), rng.uniform(4, 8), int(rng.integers(1, 4))
    size, _ = _block(mesh, rng, num_floors, half)
    _pitched_roof(mesh, rng, size)
    return mesh


def _block(
    mesh: Mesh, rng: Generator, num_floors: int, half: float
) -> tuple[tuple[float, float, float], Color]:
    """Add a building's block with facades; return (depth, height, half length) and its colour."""
    color, depth = pick(rng, PLASTERS, 20.0), rng.uniform(9, 14)
    height = num_floors * rng.uniform(2.8, 3.6) + 0.8
    faces = mesh.box((0, 0, -half), (depth, height, half), color, Id.BUILDING)
    glass = shift(GLASS, rng.uniform(-20, 60), rng.normal(0, 16))
    for face, width in ((faces[3], 2 * half), (faces[0], depth)):
        _facade(mesh, rng, face, (width, num_floors, height), (color, glass))
    return (depth, height, half), color


def _facade(
    mesh: Mesh,
    rng: Generator,
    face: Array,
    size: tuple[float, int, float],
    colors: tuple[Color, Color],
) -> None:
    """Add framed windows, shops on the ground floor and ledges to a building's face."""
    (width, num_floors, height), (color, glass) = size, colors
    spacing, floor = rng.uniform(1.7, 3.2), (height - 0.8) / num_floors / height
    num_columns = max(1, int(width / spacing))
    pane, pane_height = rng.uniform(0.4, 0.72) / num_columns, floor * rng.uniform(0.45, 0.62)
    lefts = (np.arange(num_columns) + 0.5) / num_columns - pane / 2
    bottoms = np.arange(num_floors) * floor + floor * 0.28
    has_shops = num_floors > 2 and rng.random() < 0.55
    if has_shops:
        _shops(mesh, rng, face, floor, num_columns)
        bottoms = bottoms[1:]
    frame = 0.12 * pane
    light = shift(color, rng.uniform(-40, 50))
    mesh.add_all(
        patch_grid(
            face,
            lefts - frame,
            bottoms - 0.06 * floor,
            pane + 2 * frame,
            pane_height + 0.12 * floor,
        ),
        light,
    )
    panes = patch_grid(face, lefts, bottoms, pane, pane_height)
    is_bright = rng.random(len(panes)) < 0.15
    mesh.add_all(panes[~is_bright], glass)
    mesh.add_all(panes[is_bright], shift(glass, 50, 30))
    if rng.random() < 0.5:
        ledges = np.arange(1, num_floors) * floor
        mesh.add_all(
            patch_grid(face, np.array([0.0]), ledges, 1.0, 0.05 * floor), shift(color, -30)
        )


def _shops(mesh: Mesh, rng: Generator, face: Array, floor: float, num_columns: int) -> None:
    """Add shop windows, fascias and awnings along the ground floor."""
    num_shops = max(1, num_columns // 2)
    for left in np.arange(num_shops) / num_shops:
        right = left + 0.94 / num_shops
        mesh.add(patch(face, left + 0.02, 0.0, right, floor * 0.98), pick(rng, PAINTS), facing=True)
        mesh.add(
            patch(face, left + 0.05, floor * 0.12, right - 0.03, floor * 0.7), GLASS, facing=True
        )
        mesh.add(
            patch(face, left + 0.05, floor * 0.78, right - 0.05, floor * 0.92),
            pick(rng, CLOTHES),
            facing=True,
        )


def _pitched_roof(mesh: Mesh, rng: Generator, size: tuple[float, float, float]) -> None:
    """Add a gable roof whose ridge runs along z, over a block of (depth, height, half length)."""
    depth, height, half = size
    tiles, ridge, over = (
        pick(rng, ((130, 62, 48), (84, 78, 76), (110, 84, 66))),
        height + rng.uniform(2, 4),
        0.4,
    )
    middle = depth / 2
    slope = [
        (-over, height, half),
        (-over, height, -half),
        (middle, ridge, -half),
        (middle, ridge, half),
    ]
    gable = [(-over, height, -half), (depth + over, height, -half), (middle, ridge, -half)]
    back = [
        (depth + over, height, -half),
        (depth + over, height, half),
        (middle, ridge, half),
        (middle, ridge, -half),
    ]
    mesh.add(back, tiles, Id.BUILDING, facing=True)
    mesh.add(slope, tiles, Id.BUILDING, facing=True)
    mesh.add(gable, shift(tiles, 30, -20), Id.BUILDING, facing=True)


def wall(rng: Generator) -> Mesh:
    """A free-standing brick, stone or concrete wall along the street."""
    mesh, color, height = Mesh(), pick(rng, PLASTERS, 20.0), rng.uniform(1.6, 3.6)
    length = rng.uniform(8, 18)
    half = length / 2
    faces = mesh.box((0, 0, -half), (0.4, height, half), color, Id.WALL)
    course = rng.choice([0.25, 0.5, 1.0]) / height
    joints = np.arange(course, 1.0, course)
    mesh.add_all(
        patch_grid(faces[3], np.array([0.0]), joints, 1.0, 0.03 / height), shift(color, -28)
    )
    posts = np.arange(0.0, 1.0, 2.5 / length)
    mesh.add_all(
        patch_grid(faces[3], posts, np.array([0.0]), 0.05 / length, 1.0), shift(color, -28)
    )
    mesh.box((-0.06, height, -half), (0.46, height + 0.12, half), shift(color, 16), Id.WALL)
    if rng.random() < 0.3:
        left = rng.uniform(0.1, 0.6)
        mesh.add(patch(faces[3], left, 0.2, left + 0.25, 0.6), pick(rng, PAINTS), facing=True)
    return mesh


def fence(rng: Generator) -> Mesh:
    """A see-through or board fence along the street; its holes are labelled as fence too."""
    mesh, height, length = Mesh(), rng.uniform(1.0, 2.2), rng.uniform(8, 18)
    half = length / 2
    color = pick(rng, ((104, 78, 56), (60, 66, 64), (150, 150, 148), (216, 214, 208), (44, 72, 54)))
    face = np.array(
        [(0, 0, half), (0, 0, -half), (0, height, -half), (0, height, half)], np.float32
    )
    is_boarded = rng.random() < 0.35
    mesh.add(face, color if is_boarded else None, Id.FENCE, facing=True)
    bar = (0.02 if is_boarded else 0.06) / length
    step = rng.uniform(0.15, 0.4) / length
    bars = patch_grid(face, np.arange(0.0, 1.0, step), np.array([0.0]), bar, 0.97)
    mesh.add_all(bars, shift(color, -30) if is_boarded else color)
    mesh.add_all(
        patch_grid(face, np.array([0.0]), np.array([0.12, 0.86]), 1.0, 0.06), shift(color, 14)
    )
    mesh.add_all(
        patch_grid(face, np.arange(0.0, 1.0, 2.4 / length), np.array([0.0]), 0.14 / length, 1.0),
        shift(color, -16),
    )
    return mesh
