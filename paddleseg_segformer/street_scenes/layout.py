"""Where things stand in a street scene: cross-section, sides, pavements and traffic."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from paddleseg_segformer.street_scenes import people, roadside, vehicles
from paddleseg_segformer.street_scenes.palette import NUM_VARIANTS, Builder, model
from paddleseg_segformer.street_scenes.shapes import Placed

LANE_M = 3.2
PARKING_M = 2.1
SIDES_END_M = 100.0

VEHICLES: tuple[Builder, ...] = (vehicles.car, vehicles.truck, vehicles.bus, people.motorcyclist)
VEHICLE_SHARES = (0.6, 0.15, 0.13, 0.12)
STYLES: dict[str, dict[str, float]] = {
    "city": {"building": 0.78, "wall": 0.08, "fence": 0.06, "green": 0.08},
    "suburb": {"building": 0.5, "wall": 0.08, "fence": 0.22, "green": 0.2},
    "park": {"building": 0.12, "wall": 0.2, "fence": 0.2, "green": 0.48},
}


@dataclass(frozen=True)
class Street:
    """The cross-section of the road in metres; x = 0 is the camera's lane.

    Attributes:
        style: key of `STYLES`.
        kerbs: x of the left and the right kerb.
        lanes: x of the lane centres, from the left; those below 0 come towards the camera.
        has_parking: whether cars park along the left and the right kerb.
        verges: width of the green strip between kerb and pavement (0: none), left and right.
        sidewalks: width of the pavement, left and right.
        crossing: (z0, z1) of a crossing street, or None.
        rails_x: centre of a tram track in the road, or None.
    """

    style: str
    kerbs: tuple[float, float]
    lanes: tuple[float, ...]
    has_parking: tuple[bool, bool]
    verges: tuple[float, float]
    sidewalks: tuple[float, float]
    crossing: tuple[float, float] | None
    rails_x: float | None

    def sidewalk(self, side: int) -> tuple[float, float]:
        """Return |x| of the inner and the outer edge of a pavement (side 0: left, 1: right)."""
        inner = abs(self.kerbs[side]) + self.verges[side]
        return inner, inner + self.sidewalks[side]

    def is_crossed(self, low: float, high: float) -> bool:
        """Tell whether the crossing street touches the stretch between two z."""
        return self.crossing is not None and low < self.crossing[1] and high > self.crossing[0]


def _put(
    rng: Generator,
    builder: Builder,
    x: float,
    z: float,
    yaw: float = 0.0,
    *,
    is_mirrored: bool = False,
    has_shadow: bool = False,
) -> Placed:
    """Return a random copy of an object at (x, z)."""
    copy = model(builder, int(rng.integers(NUM_VARIANTS)), is_mirrored)
    return Placed(copy, x, z, yaw, z, rng.uniform(0.85, 1.15), has_shadow)


def make_street(rng: Generator) -> Street:
    """Return a random street."""
    style = str(rng.choice(list(STYLES), p=[0.5, 0.28, 0.22]))
    num_left, num_right = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    lanes = tuple(LANE_M * i for i in range(-num_left, num_right))
    has_parking = (bool(rng.random() < 0.55), bool(rng.random() < 0.55))
    left = lanes[0] - LANE_M / 2 - PARKING_M * has_parking[0]
    right = lanes[-1] + LANE_M / 2 + PARKING_M * has_parking[1]
    has_verge = rng.random(2) < (0.15 if style == "city" else 0.6)
    verges, sidewalks = rng.uniform(1.0, 3.5, 2) * has_verge, rng.uniform(1.8, 4.5, 2)
    start = rng.uniform(13, 38)
    crossing = (start, start + rng.uniform(7, 12)) if rng.random() < 0.4 else None
    return Street(
        style=style,
        kerbs=(left, right),
        lanes=lanes,
        has_parking=has_parking,
        verges=(float(verges[0]), float(verges[1])),
        sidewalks=(float(sidewalks[0]), float(sidewalks[1])),
        crossing=crossing,
        rails_x=float(rng.choice(lanes)) if rng.random() < 0.35 else None,
    )


def place_all(rng: Generator, street: Street) -> list[Placed]:
    """Return everything that stands in the scene, from the farthest to the nearest."""
    placed = [*_horizon(rng, street.style), *_traffic(rng, street), *_crossing(rng, street)]
    for side, sign in ((0, -1), (1, 1)):
        placed += _side(rng, street, side, sign)
        placed += _pavement(rng, street, side, sign)
        placed += _kerb(rng, street, side, sign)
    return sorted(placed, key=lambda item: -item.depth)


def _horizon(rng: Generator, style: str) -> Iterator[Placed]:
    """Yield far blocks and far woods that close the view."""
    wood_share = {"city": 0.3, "suburb": 0.6, "park": 0.9}[style]
    for x in np.arange(-200, 200, 22):
        builder = roadside.far_wood if rng.random() < wood_share else roadside.far_block
        if rng.random() < 0.85:
            yield _put(rng, builder, x + rng.uniform(-8, 8), rng.uniform(150, 260))


def _traffic(rng: Generator, street: Street) -> Iterator[Placed]:
    """Yield the vehicles in the lanes, trams on the rails and cyclists beside the kerb."""
    density = rng.uniform(0.25, 0.75)
    for x in street.lanes:
        yaw = math.pi if x < 0 else 0.0
        z = rng.uniform(11, 28) if x == 0 else rng.uniform(5, 20)
        if x == street.rails_x and rng.random() < 0.75:
            item = _put(rng, vehicles.tram, x, z, yaw, has_shadow=True)
            length = 2 * item.model.half_length_m
            z = max(z, 9.0)
            if street.crossing and street.is_crossed(z, z + length):
                z = street.crossing[1] + 1.5
            yield _moved(item, z)
            z += length + 4
        while z < 90:
            builder = VEHICLES[rng.choice(len(VEHICLES), p=VEHICLE_SHARES)]
            item = _put(rng, builder, x + rng.normal(0, 0.2), z, yaw, has_shadow=True)
            length = 2 * item.model.half_length_m
            if rng.random() < density and not street.is_crossed(z - 4, z + length):
                yield _moved(item, z)
            z += length + rng.uniform(3, 18)
    for _ in range(rng.poisson(0.9)):
        x = street.kerbs[1] - 0.7 - PARKING_M * street.has_parking[1]
        yield _put(rng, people.cyclist, x, rng.uniform(5, 30), has_shadow=True)


def _moved(item: Placed, near_z: float) -> Placed:
    """Return the object with its near end at a z."""
    z = near_z + item.model.half_length_m
    return dataclasses.replace(item, z=z, depth=z)


def _crossing(rng: Generator, street: Street) -> Iterator[Placed]:
    """Yield cross traffic, people on the zebra crossing and the signals of a crossing street."""
    if street.crossing is None:
        return
    z0, z1 = street.crossing
    for _ in range(rng.poisson(0.9)):
        builder = VEHICLES[rng.choice(len(VEHICLES), p=VEHICLE_SHARES)]
        is_left = rng.random() < 0.5
        z = 0.7 * z0 + 0.3 * z1 if is_left else 0.3 * z0 + 0.7 * z1
        yaw = math.pi / 2 * (-1 if is_left else 1)
        yield _put(rng, builder, rng.uniform(-16, 16), z, yaw, has_shadow=True)
    for _ in range(rng.poisson(1.5)):
        x, z = rng.uniform(*street.kerbs), z0 - 2.2 + rng.normal(0, 0.6)
        yield _put(rng, people.person, x, z, is_mirrored=bool(rng.random() < 0.5), has_shadow=True)
    for side, sign in ((0, -1), (1, 1)):
        if rng.random() < 0.7:
            x, z = street.kerbs[side] + sign * 0.5, z0 - 0.8 if side else z1 + 0.8
            yield _put(rng, roadside.traffic_light, x, z, is_mirrored=sign < 0)


def _side(rng: Generator, street: Street, side: int, sign: int) -> Iterator[Placed]:
    """Yield what lines the street on one side: buildings, walls, fences and greenery."""
    kinds, shares = zip(*STYLES[street.style].items(), strict=True)
    edge, z = street.sidewalk(side)[1], rng.uniform(-6, 2)
    while z < SIDES_END_M:
        kind = str(rng.choice(kinds, p=shares))
        if kind == "green":
            pieces, length = [], rng.uniform(6, 16)
        else:
            pieces = _front(rng, street.style, kind, (edge, z), sign)
            length = 2 * pieces[0].model.half_length_m
        if street.crossing and street.is_crossed(z - 1, z + length + 1):
            z = street.crossing[1] + 1.5
            continue
        yield from pieces
        if kind != "building":
            yield from _greenery(rng, (edge, z, length), sign, is_behind=kind != "green")
        z += length + (rng.uniform(0, 4) if street.style != "city" or rng.random() < 0.15 else 0.0)


def _front(
    rng: Generator, style: str, kind: str, spot: tuple[float, float], sign: int
) -> list[Placed]:
    """Return a building, wall or fence from `spot` (|x|, z) on, and what goes with it."""
    edge, z = spot
    is_left, is_suburb = sign < 0, style != "city"
    dwelling = roadside.house if is_suburb and rng.random() < 0.8 else roadside.flats
    barrier = roadside.wall if kind == "wall" else roadside.fence
    if kind == "building":
        setback = rng.uniform(2, 6) if is_suburb else rng.choice([0.0, 0.0, 0.6])
        main = _put(rng, dwelling, sign * (edge + setback), z, is_mirrored=is_left)
        second = _put(rng, barrier, sign * (edge + 0.1), z, is_mirrored=is_left)
        has_second = setback > 2 and rng.random() < 0.6
    else:
        main = _put(rng, barrier, sign * (edge + 0.1), z, is_mirrored=is_left)
        second = _put(rng, dwelling, sign * (edge + rng.uniform(5, 9)), z, is_mirrored=is_left)
        has_second = rng.random() < 0.5
    pieces = [_moved(main, z)] + ([_moved(second, z)] if has_second else [])
    return [_by_far_end(piece, abs(piece.x) - edge) for piece in pieces]


def _by_far_end(item: Placed, setback: float) -> Placed:
    """Paint a piece of a side before what is on the pavement, and pieces set back earlier."""
    return dataclasses.replace(item, depth=item.z + item.model.half_length_m + 0.1 * setback)


def _greenery(
    rng: Generator, spot: tuple[float, float, float], sign: int, *, is_behind: bool
) -> Iterator[Placed]:
    """Yield trees and bushes from the street's edge outwards, at `spot` (|x|, z, length)."""
    edge, z, length = spot
    for _ in range(rng.poisson(length / 4)):
        builder = roadside.tree if rng.random() < 0.55 else roadside.bush
        item = _put(rng, builder, sign * (edge + rng.uniform(1.2, 6)), rng.uniform(z, z + length))
        yield dataclasses.replace(item, depth=z + length + 0.3) if is_behind else item


def _pavement(rng: Generator, street: Street, side: int, sign: int) -> Iterator[Placed]:
    """Yield people, bicycles, motorcycles and bins on a pavement."""
    inner, outer = street.sidewalk(side)
    crowd = rng.exponential(3.5) if street.style == "city" else rng.exponential(1.5)
    for _ in range(rng.poisson(crowd)):
        x, z = sign * rng.uniform(inner + 0.3, outer - 0.3), 4 + rng.exponential(14)
        yield _put(rng, people.person, x, z, is_mirrored=bool(rng.random() < 0.5), has_shadow=True)
    counts: tuple[tuple[Builder, float], ...] = (
        (people.parked_bicycle, 0.6),
        (people.parked_motorcycle, 0.4),
        (roadside.street_furniture, 0.5),
    )
    for builder, mean in counts:
        for _ in range(rng.poisson(mean)):
            x = sign * rng.uniform(inner + 0.3, min(inner + 1.2, outer))
            z = 4 + rng.exponential(10)
            yield _put(rng, builder, x, z, is_mirrored=bool(rng.random() < 0.5), has_shadow=True)


def _kerb(rng: Generator, street: Street, side: int, sign: int) -> Iterator[Placed]:
    """Yield lamps, signs, signals and trees along a kerb and the cars that park there."""
    kerb, is_left = abs(street.kerbs[side]), sign < 0
    if rng.random() < 0.8:
        for z in np.arange(rng.uniform(4, 18), 90, rng.uniform(16, 34)):
            yield _put(rng, roadside.lamp_post, sign * (kerb + 0.35), z, is_mirrored=is_left)
    for builder, mean in ((roadside.traffic_sign, 1.6), (roadside.traffic_light, 0.25)):
        for _ in range(rng.poisson(mean)):
            x, z = sign * (kerb + rng.uniform(0.4, 0.9)), rng.uniform(6, 40)
            yield _put(rng, builder, x, z, is_mirrored=is_left)
    if rng.random() < 0.45:
        for z in np.arange(rng.uniform(6, 16), 90, rng.uniform(7, 15)):
            if not street.is_crossed(z - 2, z + 2):
                yield _put(rng, roadside.tree, sign * (kerb + 1.0), z, has_shadow=True)
    if street.has_parking[side]:
        yield from _parked(rng, street, sign * (kerb - PARKING_M / 2))


def _parked(rng: Generator, street: Street, x: float) -> Iterator[Placed]:
    """Yield a row of parked cars."""
    z = rng.uniform(2, 9)
    while z < 90:
        if rng.random() < 0.65 and not street.is_crossed(z - 5, z + 5):
            yaw = math.pi if rng.random() < 0.3 else 0.0
            yield _moved(
                _put(rng, vehicles.car, x + rng.normal(0, 0.1), z, yaw, has_shadow=True), z
            )
        z += rng.uniform(5.2, 7.0)
