"""Where things stand in a street scene: cross-section, sides, pavements and traffic."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from paddleseg_segformer.street_scenes.objects import NUM_VARIANTS, model
from paddleseg_segformer.street_scenes.shapes import Placed

LANE_M, PARKING_M, END_M = 3.2, 2.1, 90.0
SIDES = ((0, -1), (1, 1))  # left, right: index and sign of x
DRIVING, DRIVING_SHARES = ("car", "truck", "bus", "motorcyclist"), (0.6, 0.15, 0.13, 0.12)
FRONTS = ("building", "wall", "fence", "green")
STYLES = {  # shares of what lines the street, share of woods on the horizon
    "city": ((0.78, 0.08, 0.06, 0.08), 0.3),
    "suburb": ((0.5, 0.08, 0.22, 0.2), 0.6),
    "park": ((0.12, 0.2, 0.2, 0.48), 0.9),
}


@dataclass(frozen=True)
class Street:
    """The cross-section of the road in metres; x = 0 is the camera's lane.

    Attributes:
        style: key of `STYLES`.
        lanes: x of the lane centres, from the left; those below 0 come towards the camera.
        has_parking: whether cars park along the left and the right kerb.
        kerbs, verges, sidewalks: |x| of the kerb, widths of the green strip and of the pavement
            behind it, left and right.
        crossing: (z0, z1) of a crossing street, or None.
        rails_x: centre of a tram track in the road, or None.
    """

    style: str
    lanes: tuple[float, ...]
    has_parking: npt.NDArray[np.bool_]
    kerbs: npt.NDArray[np.float64]
    verges: npt.NDArray[np.float64]
    sidewalks: npt.NDArray[np.float64]
    crossing: tuple[float, float] | None
    rails_x: float | None

    @staticmethod
    def random(rng: Generator) -> Street:
        """Return a random street."""
        style = str(rng.choice(list(STYLES), p=[0.5, 0.28, 0.22]))
        lanes = tuple(LANE_M * i for i in range(-rng.integers(1, 3), rng.integers(1, 3)))
        parks = rng.random(2) < 0.55
        kerbs = np.abs([lanes[0], lanes[-1]]) + LANE_M / 2 + PARKING_M * parks
        verges = rng.uniform(1.0, 3.5, 2) * (rng.random(2) < (0.15 if style == "city" else 0.6))
        sidewalks = rng.uniform(1.8, 4.5, 2)
        start = rng.uniform(13, 38)
        crossing = (start, start + rng.uniform(7, 12)) if rng.random() < 0.4 else None
        rails_x = float(rng.choice(lanes)) if rng.random() < 0.35 else None
        return Street(style, lanes, parks, kerbs, verges, sidewalks, crossing, rails_x)

    def is_crossed(self, low: float, high: float) -> bool:
        """Tell whether the crossing street touches the stretch between two z."""
        return self.crossing is not None and low < self.crossing[1] and high > self.crossing[0]

    def pavement(self, side: int) -> tuple[float, float]:
        """Return |x| of the inner and the outer edge of a pavement (side 0: left, 1: right)."""
        inner = float(self.kerbs[side] + self.verges[side])
        return inner, inner + float(self.sidewalks[side])


@dataclass(frozen=True)
class Layout:
    """Places things in a street by a random generator."""

    rng: Generator
    street: Street

    def all(self) -> list[Placed]:
        """Return everything that stands in the scene, from the farthest to the nearest."""
        placed = [*self.horizon(), *self.traffic(), *self.crossing()]
        for side, sign in SIDES:
            placed += [*self.side(side, sign), *self.pavement(side, sign), *self.kerb(side, sign)]
        return sorted(placed, key=lambda item: -item.depth)

    def put(
        self,
        name: str,
        x: float,
        z: float,
        yaw: float = 0.0,
        is_mirrored: bool | None = None,
        has_shadow: bool = True,
        is_near_end: bool = False,
    ) -> Placed:
        """Return a random copy of an object at (x, z); z is that of its near end if told so."""
        is_mirrored = bool(self.rng.random() < 0.5) if is_mirrored is None else is_mirrored
        copy, half_size = model(name, int(self.rng.integers(NUM_VARIANTS)), is_mirrored)
        z += half_size[1] if is_near_end else 0.0
        return Placed(copy, half_size, x, z, yaw, z, self.rng.uniform(0.85, 1.15), has_shadow)

    def drive(self, x: float, z: float, yaw: float, name: str | None = None) -> Placed:
        """Return a vehicle whose near end is at z."""
        name = name or str(self.rng.choice(DRIVING, p=DRIVING_SHARES))
        return self.put(name, x, z, yaw, is_near_end=True)

    def horizon(self) -> Iterator[Placed]:
        """Yield far blocks and far woods that close the view."""
        for x in np.arange(-200, 200, 22):
            is_wood = self.rng.random() < STYLES[self.street.style][1]
            spot = x + self.rng.uniform(-8, 8), self.rng.uniform(150, 260)
            if self.rng.random() < 0.85:
                yield self.put("far_wood" if is_wood else "far_block", *spot, has_shadow=False)

    def traffic(self) -> Iterator[Placed]:
        """Yield the vehicles in the lanes, trams on the rails, cyclists and parked cars."""
        rng, street = self.rng, self.street
        density = rng.uniform(0.25, 0.75)
        for x in street.lanes:
            yaw, z = (math.pi, rng.uniform(5, 20)) if x < 0 else (0.0, rng.uniform(5, 20))
            z += rng.uniform(5, 9) if x == 0 else 0.0
            if x == street.rails_x and rng.random() < 0.75:
                tram = self.drive(x, max(z, 9.0), yaw, "tram")
                if street.is_crossed(z, z + 2 * tram.half_size[1]) and street.crossing:
                    tram = self.drive(x, street.crossing[1] + 1.5, yaw, "tram")
                yield tram
                z = tram.z + tram.half_size[1] + 4
            while z < END_M:
                item = self.drive(x + rng.normal(0, 0.2), z, yaw)
                length = 2 * item.half_size[1]
                if rng.random() < density and not street.is_crossed(z - 4, z + length):
                    yield item
                z += length + rng.uniform(3, 18)
        for _ in range(rng.poisson(0.9)):
            x = street.kerbs[1] - 0.7 - PARKING_M * street.has_parking[1]
            yield self.put("cyclist", x, rng.uniform(5, 30), is_mirrored=False)
        for side, sign in SIDES:
            for z in np.arange(rng.uniform(2, 9), END_M, 6.1) if street.has_parking[side] else ():
                if rng.random() < 0.65 and not street.is_crossed(z - 5, z + 5):
                    x = sign * (street.kerbs[side] - PARKING_M / 2) + rng.normal(0, 0.1)
                    yield self.drive(x, z, math.pi * (rng.random() < 0.3), "car")

    def crossing(self) -> Iterator[Placed]:
        """Yield cross traffic, people on the zebra crossing and the signals beside it."""
        rng, (z0, z1) = self.rng, self.street.crossing or (0.0, 0.0)
        if not self.street.crossing:
            return
        for _ in range(rng.poisson(0.9)):
            name, sign = rng.choice(DRIVING, p=DRIVING_SHARES), rng.choice([-1, 1])
            z = (z0 + z1) / 2 + 0.2 * sign * (z1 - z0)
            yield self.put(str(name), rng.uniform(-16, 16), z, sign * math.pi / 2)
        for _ in range(rng.poisson(1.5)):
            x = rng.uniform(-self.street.kerbs[0], self.street.kerbs[1])
            yield self.put("person", x, z0 - 2.2 + rng.normal(0, 0.6))
        for side, sign in SIDES:
            if rng.random() < 0.7:
                x, z = sign * (self.street.kerbs[side] + 0.5), z0 - 0.8 if side else z1 + 0.8
                yield self.put("traffic_light", x, z, is_mirrored=sign < 0, has_shadow=False)

    def side(self, side: int, sign: int) -> Iterator[Placed]:
        """Yield what lines the street on one side: buildings, walls, fences and greenery."""
        rng, edge, is_city = self.rng, self.street.pavement(side)[1], self.street.style == "city"
        z = rng.uniform(-6, 2)
        while z < END_M + 10:
            kind = str(rng.choice(FRONTS, p=STYLES[self.street.style][0]))
            pieces, length = [], rng.uniform(6, 16)
            if kind != "green":
                pieces = self.fronts(kind, edge, z, sign, is_city)
                length = 2 * pieces[0].half_size[1]
            if self.street.crossing and self.street.is_crossed(z - 1, z + length + 1):
                z = self.street.crossing[1] + 1.5
                continue
            yield from pieces
            for _ in range(rng.poisson(length / 4) if kind != "building" else 0):
                spot = sign * (edge + rng.uniform(1.2, 6)), rng.uniform(z, z + length)
                plant = self.put("tree" if rng.random() < 0.55 else "bush", *spot, has_shadow=False)
                yield plant if kind == "green" else plant._replace(depth=z + length + 0.3)
            z += length + (0.0 if is_city and rng.random() < 0.85 else rng.uniform(0, 4))

    def fronts(self, kind: str, edge: float, z: float, sign: int, is_city: bool) -> list[Placed]:
        """Return a building, wall or fence from (|x|, z) on, and what is before or behind it."""
        rng = self.rng
        dwelling = "flats" if is_city or rng.random() < 0.2 else "house"
        barrier, setback = "fence", rng.choice([0.0, 0.6]) if is_city else rng.uniform(2, 6)
        names = [(dwelling, setback), (barrier, 0.1)]
        if kind != "building":
            names = [(kind, 0.1), (dwelling, rng.uniform(5, 9))]
        is_alone = rng.random() < 0.5 or setback < 2 and kind == "building"
        pieces = []
        for name, back in names[: 1 if is_alone else 2]:
            item = self.put(name, sign * (edge + back), z, 0.0, sign < 0, False, is_near_end=True)
            # painted before what is on the pavement, and earlier the farther it is set back
            pieces.append(item._replace(depth=item.z + item.half_size[1] + 0.1 * back))
        return pieces

    def pavement(self, side: int, sign: int) -> Iterator[Placed]:
        """Yield people, bicycles, motorcycles and bins on a pavement."""
        inner, outer = self.street.pavement(side)
        crowd = self.rng.exponential(3.5 if self.street.style == "city" else 1.5)
        means = {"person": crowd, "bicycle": 0.6, "motorcycle": 0.4, "street_furniture": 0.5}
        for name, mean in means.items():
            for _ in range(self.rng.poisson(mean)):
                width = outer - inner - 0.6 if name == "person" else min(0.9, outer - inner - 0.3)
                x = sign * (inner + 0.3 + width * self.rng.random())
                yield self.put(name, x, 4 + self.rng.exponential(12))

    def kerb(self, side: int, sign: int) -> Iterator[Placed]:
        """Yield lamps, signs, signals and trees along a kerb."""
        rng, kerb = self.rng, self.street.kerbs[side]
        if rng.random() < 0.8:
            for z in np.arange(rng.uniform(4, 18), END_M, rng.uniform(16, 34)):
                yield self.put("lamp_post", sign * (kerb + 0.35), z, 0.0, sign < 0, False)
        for name, mean in (("traffic_sign", 1.6), ("traffic_light", 0.25)):
            for _ in range(rng.poisson(mean)):
                x, z = sign * (kerb + rng.uniform(0.4, 0.9)), rng.uniform(6, 40)
                yield self.put(name, x, z, 0.0, sign < 0, False)
        if rng.random() < 0.45:
            for z in np.arange(rng.uniform(6, 16), END_M, rng.uniform(7, 15)):
                if not self.street.is_crossed(z - 2, z + 2):
                    yield self.put("tree", sign * (kerb + 1.0), z)
