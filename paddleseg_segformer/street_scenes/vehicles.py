"""Cars, lorries, buses and trams of the street scenes.

Each builder returns a `Mesh` around its own origin on the ground. Vehicles head for +z, away from
the camera, so that their back is seen; a yaw of pi brings them on.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from paddleseg_segformer.street_scenes.palette import GLASS, PAINTS, RUBBER, Id, pick, shift
from paddleseg_segformer.street_scenes.shapes import Array, Color, Mesh, disc, patch, patch_grid


def _wheels(mesh: Mesh, half_width: float, positions_z: tuple[float, ...], radius: float) -> None:
    """Add wheels on both sides and the tyres seen from the front and the back."""
    for side in (-1.0, 1.0):
        for z in positions_z:
            for scale, color in ((1.0, RUBBER), (0.6, (110.0, 112.0, 114.0))):
                points = disc((side * (half_width + 0.01), radius, z), radius * scale, axes="zy")
                mesh.add(points if side > 0 else points[::-1], color, facing=True)


def _underbody(mesh: Mesh, width: float, length: float, clearance: float, label: int) -> None:
    """Add the dark block between the ground and the body."""
    half_x, half_z = width / 2 - 0.06, length / 2 - 0.15
    mesh.box((-half_x, 0.0, -half_z), (half_x, clearance + 0.05, half_z), (22, 22, 24), label)


def _end_details(mesh: Mesh, faces: list[Array], light_y: float, size: float) -> None:
    """Add lights and number plates to the rear (-z) and the front (+z) face of a vehicle's body."""
    for face, color in ((faces[0], (170.0, 24.0, 22.0)), (faces[2], (240.0, 238.0, 220.0))):
        for left in (0.04, 0.96 - size):
            mesh.add(patch(face, left, light_y, left + size, light_y + 0.22), color, facing=True)
        mesh.add(patch(face, 0.0, 0.0, 1.0, 0.16), (40, 40, 42), facing=True)
        mesh.add(patch(face, 0.38, 0.2, 0.62, 0.34), (214, 212, 190), facing=True)


def car(rng: Generator) -> Mesh:
    """A saloon, estate, hatchback or van."""
    mesh, paint, label = Mesh(), pick(rng, PAINTS), Id.CAR
    is_van, width = rng.random() < 0.18, rng.uniform(1.7, 1.9)
    length, belt = (4.8, 1.05) if is_van else (rng.uniform(3.7, 4.8), rng.uniform(0.82, 0.92))
    roof = rng.uniform(1.85, 2.1) if is_van else rng.uniform(1.38, 1.6)
    trunk = rng.choice([0.05, 0.15, 0.75]) if not is_van else 0.03
    half, end = width / 2, length / 2
    _underbody(mesh, width, length, 0.2, label)
    lower = (-half, half, -end, end)
    body = mesh.frustum(
        lower, (-half + 0.05, half - 0.05, -end + 0.06, end - 0.1), (0.2, belt), paint, label
    )
    _end_details(mesh, body, 0.55, 0.18)
    for face in (body[1], body[3]):
        mesh.add(patch(face, 0.0, 0.0, 1.0, 0.14), shift(paint, -45), facing=True)
        mesh.add(patch(face, 0.47, 0.1, 0.48, 0.98), shift(paint, -40), facing=True)
    hood = 0.5 if is_van else 1.15
    base = (-half + 0.06, half - 0.06, -end + trunk, end - hood)
    top = (-half + 0.2, half - 0.2, -end + trunk + 0.35, end - hood - 0.75)
    cabin = mesh.frustum(base, top, (belt - 0.02, roof), paint, label)
    for face in (cabin[0], cabin[2]):
        mesh.add(patch(face, 0.06, 0.12, 0.94, 0.88), GLASS, facing=True)
    for face in (cabin[1], cabin[3]):
        for left, right in ((0.07, 0.33), (0.37, 0.63), (0.67, 0.92)):
            if not (is_van and left < 0.5):
                mesh.add(patch(face, left, 0.14, right, 0.86), GLASS, facing=True)
    _wheels(mesh, half, (-end + 0.75, end - 0.85), 0.32)
    return mesh


def truck(rng: Generator) -> Mesh:
    """A lorry: driver's cab in front, box, tarpaulin or tank behind."""
    mesh, label = Mesh(), Id.TRUCK
    width, length, height = rng.uniform(2.3, 2.6), rng.uniform(6.5, 10.5), rng.uniform(3.0, 3.9)
    half, end, cab = width / 2, length / 2, 2.0
    cargo_color, cab_color = pick(rng, PAINTS), pick(rng, PAINTS)
    _underbody(mesh, width, length, 0.9, label)
    cabin = mesh.frustum(
        (-half, half, end - cab, end), (-half + 0.05, half - 0.05, end - cab, end - 0.25),
        (0.5, height * 0.85), cab_color, label,
    )  # fmt: skip
    mesh.add(patch(cabin[2], 0.06, 0.5, 0.94, 0.88), GLASS, facing=True)
    _end_details(mesh, cabin, 0.12, 0.16)
    for face in (cabin[1], cabin[3]):
        mesh.add(patch(face, 0.3, 0.52, 0.85, 0.86), GLASS, facing=True)
    cargo = mesh.box((-half, 0.95, -end), (half, height, end - cab - 0.3), cargo_color, label)
    line = shift(cargo_color, -34)
    for face in (cargo[1], cargo[3]):
        ribs = np.arange(0.02, 0.98, rng.uniform(0.06, 0.14))
        mesh.add_all(patch_grid(face, ribs, np.array([0.03]), 0.012, 0.94), line)
        if rng.random() < 0.6:
            mesh.add(patch(face, 0.25, 0.4, 0.75, 0.72), pick(rng, PAINTS), facing=True)
    mesh.add_all(
        patch_grid(cargo[0], np.array([0.03, 0.49, 0.94]), np.array([0.02]), 0.025, 0.95), line
    )
    mesh.box((-half, 0.5, -end), (half, 0.7, -end + 0.15), (48, 48, 50), label)
    for x in (-half + 0.1, half - 0.4):
        mesh.add(
            [(x, 0.72, -end), (x + 0.3, 0.72, -end), (x + 0.3, 0.86, -end), (x, 0.86, -end)],
            (180, 30, 26),
        )
    _wheels(mesh, half, (-end + 1.2, -end + 2.3, end - 1.1), 0.5)
    return mesh


def bus(rng: Generator) -> Mesh:
    """A city bus or coach with a window band, doors and a destination sign."""
    mesh, label, paint = Mesh(), Id.BUS, pick(rng, PAINTS)
    width, length, height = 2.5, rng.uniform(9.5, 12.5), rng.uniform(2.9, 3.3)
    half, end, trim = width / 2, length / 2, pick(rng, PAINTS)
    _underbody(mesh, width, length, 0.3, label)
    inset = (-half + 0.06, half - 0.06, -end + 0.08, end - 0.12)
    body = mesh.frustum((-half, half, -end, end), inset, (0.3, height), paint, label)
    for face in (body[1], body[3]):
        mesh.add(patch(face, 0.0, 0.0, 1.0, rng.uniform(0.15, 0.3)), trim, facing=True)
        mesh.add(patch(face, 0.02, 0.44, 0.98, 0.86), GLASS, facing=True)
        pillars = np.arange(0.14, 0.95, 0.14, dtype=np.float32)
        mesh.add_all(patch_grid(face, pillars, np.array([0.44]), 0.008, 0.42), shift(paint, -60))
        mesh.add_all(
            patch_grid(face, np.array([0.44, 0.86]), np.array([0.04]), 0.09, 0.82), shift(GLASS, 14)
        )
    for face, top in ((body[0], 0.84), (body[2], 0.8)):
        mesh.add(patch(face, 0.06, 0.42, 0.94, top), GLASS, facing=True)
        mesh.add(patch(face, 0.2, 0.86, 0.8, 0.96), (28, 26, 24), facing=True)
        mesh.add(patch(face, 0.28, 0.88, 0.72, 0.94), (240, 170, 40), facing=True)
    _end_details(mesh, body, 0.16, 0.12)
    _wheels(mesh, half, (-end + 2.6, end - 2.4), 0.48)
    return mesh


def tram(rng: Generator) -> Mesh:
    """A tram of two or three cars with slanted ends, a skirt down to the rails and a pantograph."""
    mesh, label, paint = Mesh(), Id.TRAIN, pick(rng, PAINTS)
    half, height, car_length = 1.2, rng.uniform(3.3, 3.6), rng.uniform(8.0, 10.0)
    num_cars = int(rng.integers(2, 4))
    trim, end = pick(rng, PAINTS), car_length * num_cars / 2
    for i in reversed(range(num_cars)):
        z0, z1 = -end + i * car_length, -end + (i + 1) * car_length - 0.25
        nose0, nose1 = (0.9 if i == 0 else 0.0), (0.9 if i == num_cars - 1 else 0.0)
        _tram_car(mesh, (half, height), (z0, z1), (nose0, nose1), (paint, trim))
        if i:
            mesh.box(
                (-half + 0.15, 0.3, z0 - 0.27), (half - 0.15, height - 0.2, z0), (40, 40, 42), label
            )
    z = -end + car_length * 0.6
    for lean in (-0.7, 0.7):
        points = [
            (lean, height, z),
            (lean * 0.9, height, z),
            (-0.05, height + 1.3, z),
            (0.05, height + 1.3, z),
        ]
        mesh.add(points, (60, 60, 62), label)
    return mesh


def _tram_car(
    mesh: Mesh,
    size: tuple[float, float],
    span_z: tuple[float, float],
    noses: tuple[float, float],
    colors: tuple[Color, Color],
) -> None:
    """Add one tram car between two z with slanted noses (depth at the roof in metres)."""
    (half, height), (z0, z1), (paint, trim) = size, span_z, colors
    top = (-half + 0.1, half - 0.1, z0 + noses[0], z1 - noses[1])
    body = mesh.frustum((-half, half, z0, z1), top, (0.1, height), paint, Id.TRAIN)
    for face in (body[1], body[3]):
        mesh.add(patch(face, 0.0, 0.02, 1.0, 0.2), trim, facing=True)
        mesh.add(patch(face, 0.04, 0.42, 0.96, 0.8), GLASS, facing=True)
        posts = np.array([0.2, 0.4, 0.6, 0.8])
        mesh.add_all(patch_grid(face, posts, np.array([0.04]), 0.012, 0.78), shift(paint, -50))
    for face in (body[0], body[2]):
        mesh.add(patch(face, 0.08, 0.36, 0.92, 0.82), GLASS, facing=True)
        mesh.add(patch(face, 0.0, 0.02, 1.0, 0.3), trim, facing=True)
        mesh.add(patch(face, 0.3, 0.86, 0.7, 0.94), (244, 190, 60), facing=True)
        for left in (0.1, 0.78):
            mesh.add(patch(face, left, 0.18, left + 0.12, 0.26), (250, 240, 210), facing=True)
    mesh.box((-half, 0.0, z0 + 0.5), (half, 0.14, z1 - 0.5), (36, 36, 38), Id.TRAIN)
