"""People, bicycles and motorcycles of the street scenes: flat cut-outs around their own origin."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from paddleseg_segformer.street_scenes.palette import (
    CLOTHES,
    METAL,
    PAINTS,
    RUBBER,
    SKINS,
    Id,
    pick,
    shift,
)
from paddleseg_segformer.street_scenes.shapes import Array, Color, Mesh, disc, limb


def person(rng: Generator) -> Mesh:
    """A standing or walking person, seen from the front, the back or the side."""
    mesh, height = Mesh(), rng.uniform(1.5, 1.92) * (0.68 if rng.random() < 0.12 else 1.0)
    hip, stride, width = (
        0.5 * height,
        rng.uniform(0.0, 0.2) * height,
        rng.uniform(0.85, 1.15) * height,
    )
    trousers, skin = pick(rng, CLOTHES), pick(rng, SKINS, 6.0)
    for foot in (-stride, stride + 0.04 * height):
        mesh.add(limb((foot * 0.35, hip), (foot, 0.02), 0.1 * width), trousers, Id.PERSON)
        mesh.add(limb((foot - 0.05, 0.03), (foot + 0.1, 0.03), 0.07), (34, 30, 30), Id.PERSON)
    if rng.random() < 0.25:  # a skirt or a long coat
        mesh.add(
            _trapezoid((0.08 * width, 0.55 * height), (0.16 * width, 0.28 * height)),
            pick(rng, CLOTHES),
            Id.PERSON,
        )
    _upper_body(
        mesh, rng, (0.0, hip, height, width), Id.PERSON, swing=rng.uniform(0.0, 0.16) * height
    )
    if rng.random() < 0.3:
        side = rng.choice([-1, 1]) * 0.2 * width
        mesh.add(
            disc((side, 0.42 * height, 0), 0.1, squash=1.3, sides=4), pick(rng, PAINTS), Id.PERSON
        )
    mesh.add(disc((0, 0.93 * height, 0), 0.062 * height, squash=1.15), skin, Id.PERSON)
    mesh.add(
        disc((0, 0.955 * height, 0), 0.058 * height, squash=0.8),
        shift(SKINS[3], rng.uniform(-60, 70)),
        Id.PERSON,
    )
    return mesh


def _trapezoid(top: tuple[float, float], bottom: tuple[float, float]) -> Array:
    """Return a symmetric trapezoid (4, 3) given as (half width, y) of its top and its bottom."""
    (x1, y1), (x0, y0) = top, bottom
    return np.array([(-x0, y0, 0), (x0, y0, 0), (x1, y1, 0), (-x1, y1, 0)], np.float32)


def _upper_body(
    mesh: Mesh, rng: Generator, pose: tuple[float, float, float, float], label: int, *, swing: float
) -> None:
    """Add torso and arms; `pose` is (x, hip y, total height, breadth measure) in metres."""
    x, hip, height, width = pose
    shirt, shoulder = pick(rng, CLOTHES), hip + 0.34 * height
    half_hip, half_shoulder = 0.085 * width, 0.115 * width
    torso = [
        (-half_hip, hip - 0.03),
        (half_hip, hip - 0.03),
        (half_shoulder, shoulder - 0.05),
        (half_shoulder * 0.7, shoulder),
        (-half_shoulder * 0.7, shoulder),
        (-half_shoulder, shoulder - 0.05),
    ]
    mesh.add([(x + dx, y, 0) for dx, y in torso], shirt, label)
    for side in (-1.0, 1.0):
        hand = (x + side * (half_shoulder + swing), hip + 0.02)
        start = (x + side * half_shoulder * 0.95, shoulder - 0.03)
        mesh.add(limb(start, hand, 0.06 * width), shift(shirt, -18), label)


def cyclist(rng: Generator) -> Mesh:
    """A rider on a bicycle, seen from behind, from the front or from the side."""
    return _two_wheeler(rng, Id.BICYCLE, is_side=rng.random() < 0.45, has_rider=True)


def motorcyclist(rng: Generator) -> Mesh:
    """A rider on a motorcycle or scooter, seen from behind, from the front or from the side."""
    return _two_wheeler(rng, Id.MOTORCYCLE, is_side=rng.random() < 0.45, has_rider=True)


def parked_bicycle(rng: Generator) -> Mesh:
    """A bicycle without its rider."""
    return _two_wheeler(rng, Id.BICYCLE, is_side=rng.random() < 0.7, has_rider=False)


def parked_motorcycle(rng: Generator) -> Mesh:
    """A motorcycle without its rider."""
    return _two_wheeler(rng, Id.MOTORCYCLE, is_side=rng.random() < 0.7, has_rider=False)


def _two_wheeler(rng: Generator, label: int, *, is_side: bool, has_rider: bool) -> Mesh:
    """Return a bicycle or motorcycle with or without its rider."""
    mesh, is_motor = Mesh(), label == Id.MOTORCYCLE
    if is_side:
        (_motor_side if is_motor else _bicycle_side)(mesh, pick(rng, PAINTS))
        if has_rider:
            _rider_side(mesh, rng, is_motor)
    else:
        _two_wheeler_end(mesh, rng, label)
        if has_rider:
            _rider_end(mesh, rng, is_motor)
    return mesh


def _bicycle_side(mesh: Mesh, paint: Color) -> None:
    for x in (-0.52, 0.52):
        mesh.add(disc((x, 0.34, 0), 0.34, sides=16), RUBBER, Id.BICYCLE, outline_m=0.06)
    joints = {
        "hub": (-0.52, 0.34),
        "pedal": (-0.05, 0.3),
        "seat": (-0.22, 0.86),
        "bar": (0.36, 0.92),
        "fork": (0.52, 0.34),
    }
    for start, end in (
        ("hub", "pedal"),
        ("hub", "seat"),
        ("pedal", "seat"),
        ("pedal", "bar"),
        ("seat", "bar"),
        ("bar", "fork"),
    ):
        mesh.add(limb(joints[start], joints[end], 0.06), paint, Id.BICYCLE)
    mesh.add(limb((-0.34, 0.9), (-0.1, 0.92), 0.08), RUBBER, Id.BICYCLE)
    mesh.add(limb((0.3, 1.02), (0.5, 0.98), 0.05), METAL, Id.BICYCLE)


def _motor_side(mesh: Mesh, paint: Color) -> None:
    for x in (-0.66, 0.66):
        mesh.add(disc((x, 0.31, 0), 0.31, sides=16), RUBBER, Id.MOTORCYCLE)
        mesh.add(disc((x, 0.31, 0), 0.15, sides=10), METAL)
    mesh.add(
        [(-0.4, 0.25, 0), (0.35, 0.25, 0), (0.4, 0.6, 0), (-0.5, 0.6, 0)],
        (60, 60, 64),
        Id.MOTORCYCLE,
    )
    mesh.add(
        [(-0.85, 0.62, 0), (0.1, 0.56, 0), (0.5, 0.78, 0), (0.1, 0.98, 0), (-0.8, 0.82, 0)],
        paint,
        Id.MOTORCYCLE,
    )
    mesh.add(limb((-0.8, 0.86), (-0.05, 0.84), 0.12), RUBBER, Id.MOTORCYCLE)
    mesh.add(limb((0.66, 0.31), (0.38, 1.05), 0.1), METAL, Id.MOTORCYCLE)
    mesh.add(disc((0.5, 0.86, 0), 0.1, sides=8), (240, 236, 210), Id.MOTORCYCLE)


def _two_wheeler_end(mesh: Mesh, rng: Generator, label: int) -> None:
    """Add a two-wheeler seen along its length."""
    is_motor, paint = label == Id.MOTORCYCLE, pick(rng, PAINTS)
    tyre = 0.16 if is_motor else 0.07
    mesh.add(limb((0, 0.0), (0, 0.66), tyre), RUBBER, label)
    mesh.add(limb((-0.34, 1.0), (0.34, 1.0), 0.06), METAL, label)
    if is_motor:
        mesh.add(_trapezoid((0.2, 0.92), (0.13, 0.45)), paint, label)
        mesh.add(
            disc((0, 0.78, 0), 0.09, sides=8),
            rng.choice([(200, 30, 24), (246, 240, 214)]).tolist(),
            label,
        )
        for side in (-1, 1):
            mesh.add(disc((side * 0.4, 1.12, 0), 0.08, sides=6), (50, 52, 56), label)
    else:
        mesh.add(limb((0, 0.5), (0, 0.98), 0.06), paint, label)
        mesh.add(limb((-0.14, 0.3), (0.14, 0.26), 0.05), METAL, label)


def _rider_side(mesh: Mesh, rng: Generator, is_motor: bool) -> None:
    seat, hands, lean = (-0.25, 0.95), (0.34, 1.02), 0.18 if is_motor else rng.uniform(0.1, 0.34)
    trousers, shirt = pick(rng, CLOTHES), pick(rng, CLOTHES)
    shoulder = (seat[0] + lean, seat[1] + 0.52)
    for knee, foot in (((0.16, 0.74), (0.0, 0.3)), ((0.1, 0.86), (-0.06, 0.42))):
        mesh.add(limb(seat, knee, 0.17), trousers, Id.RIDER)
        mesh.add(limb(knee, foot, 0.13), shift(trousers, -12), Id.RIDER)
    mesh.add(limb((seat[0], seat[1] - 0.06), shoulder, 0.27), shirt, Id.RIDER)
    mesh.add(
        limb((shoulder[0] + 0.02, shoulder[1] - 0.04), hands, 0.1), shift(shirt, -18), Id.RIDER
    )
    _head(
        mesh,
        rng,
        (shoulder[0] + 0.07, shoulder[1] + 0.17),
        has_helmet=is_motor or rng.random() < 0.5,
    )


def _rider_end(mesh: Mesh, rng: Generator, is_motor: bool) -> None:
    trousers = pick(rng, CLOTHES)
    for side in (-1.0, 1.0):
        mesh.add(limb((side * 0.08, 0.96), (side * 0.2, 0.62), 0.16), trousers, Id.RIDER)
        mesh.add(
            limb((side * 0.2, 0.66), (side * 0.14, 0.26), 0.12), shift(trousers, -12), Id.RIDER
        )
    _upper_body(mesh, rng, (0.0, 0.92, 1.6, 1.8), Id.RIDER, swing=0.1)
    _head(mesh, rng, (0.0, 1.6), has_helmet=is_motor or rng.random() < 0.5)


def _head(mesh: Mesh, rng: Generator, center: tuple[float, float], *, has_helmet: bool) -> None:
    x, y = center
    mesh.add(disc((x, y, 0), 0.11, squash=1.2), pick(rng, SKINS, 6.0), Id.RIDER)
    color = pick(rng, PAINTS) if has_helmet else shift(SKINS[3], rng.uniform(-60, 60))
    radius = 0.15 if has_helmet else 0.115
    mesh.add(disc((x, y + 0.05, 0), radius, squash=0.9), color, Id.RIDER)
