"""Where things stand in a street scene: cross-section, traffic, sides and pavements."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from paddleseg_segformer.street_scenes.canvas import Placed
from paddleseg_segformer.street_scenes.objects import NUM_VARIANTS, model

LANE_M, PARKING_M, END_M = 3.2, 2.1, 90.0
DRIVING = {"car": 0.6, "truck": 0.13, "bus": 0.1, "tram": 0.07, "motorcyclist": 0.1}
SETBACKS_M = {"flats": 0.3, "house": 4.0, "wall": 0.1, "fence": 0.1, "green": 0.0}
STYLES = {  # shares of these along the street, share of woods on the horizon
    "city": ((0.78, 0.0, 0.08, 0.06, 0.08), 0.3),
    "suburb": ((0.1, 0.4, 0.1, 0.2, 0.2), 0.6),
    "park": ((0.02, 0.1, 0.2, 0.2, 0.48), 0.9),
}


@dataclass(frozen=True)
class Street:
    """The cross-section of the road in metres; x = 0 is the camera's lane.

    Attributes:
        style: key of `STYLES`.
        lanes: x of the lane centres, from the left; those below 0 come towards the camera.
        has_parking: whether cars park along the left and the right kerb.
        kerbs, pavements: |x| of the kerb, and of both edges of the pavement (2, 2), left and right.
    """

    style: str
    lanes: tuple[float, ...]
    has_parking: npt.NDArray[np.bool_]
    kerbs: npt.NDArray[np.float64]
    pavements: npt.NDArray[np.float64]

    @staticmethod
    def random(rng: Generator) -> Street:
        """Return a random street."""
        style = str(rng.choice(list(STYLES), p=[0.5, 0.28, 0.22]))
        lanes = tuple(LANE_M * i for i in range(-rng.integers(1, 3), rng.integers(1, 3)))
        has_parking = rng.random(2) < 0.55
        kerbs = np.abs([lanes[0], lanes[-1]]) + LANE_M / 2 + PARKING_M * has_parking
        inner = kerbs + rng.uniform(-3.0, 3.5, 2).clip(0)  # a verge
        pavements = np.stack([inner, inner + rng.uniform(1.8, 4.5, 2)], axis=1)
        return Street(style, lanes, has_parking, kerbs, pavements)


@dataclass(frozen=True)
class Layout:
    """Places things in a street by a random generator."""

    rng: Generator
    street: Street

    def all(self) -> list[Placed]:
        """Return everything that stands in the scene, from the farthest to the nearest."""
        placed = [*self.horizon(), *self.traffic()]
        for side, sign in ((0, -1), (1, 1)):
            placed += [*self.fronts(side, sign), *self.pavement(side, sign)]
        return sorted(placed, key=lambda item: -item.depth)

    def put(self, name: str, x: float, z: float, turn: int = 1, is_end: bool = False) -> Placed:
        """Return a random copy of an object at (x, z): its middle, or its near end if `is_end`."""
        copy = model(name, int(self.rng.integers(NUM_VARIANTS)))
        z += copy.half_length_m * is_end
        return Placed(copy, x, z, turn, z, self.rng.uniform(0.85, 1.15))

    def horizon(self) -> Iterator[Placed]:
        """Yield far blocks and far woods that close the view."""
        for x in np.arange(-200, 200, 22) + self.rng.uniform(-8, 8):
            is_wood = self.rng.random() < STYLES[self.street.style][1]
            yield self.put("far_wood" if is_wood else "far_block", x, self.rng.uniform(150, 260))

    def traffic(self) -> Iterator[Placed]:
        """Yield the vehicles in the lanes."""
        rng, density, shares = self.rng, self.rng.uniform(0.25, 0.75), list(DRIVING.values())
        for x in self.street.lanes:
            z, turn = rng.uniform(5, 20) + 7 * (x == 0), -1 if x < 0 else 1
            while z < END_M:
                name, is_there = str(rng.choice(list(DRIVING), p=shares)), rng.random() < density
                for part in ("load", "cab")[::turn] if name == "truck" else (name,):
                    item = self.put(part, x, z, turn, is_end=True)
                    z += 2 * item.model.half_length_m
                    if is_there:
                        yield item
                z += rng.uniform(3, 18)

    def fronts(self, side: int, sign: int) -> Iterator[Placed]:
        """Yield what lines the street on one side: buildings, walls, fences and greenery."""
        rng, edge = self.rng, self.street.pavements[side, 1]
        z = rng.uniform(-6, 2)
        while z < END_M + 10:
            name = str(rng.choice(list(SETBACKS_M), p=STYLES[self.street.style][0]))
            end, behind = z + rng.uniform(6, 16), 0.0
            if name != "green":
                setback = SETBACKS_M[name] * rng.uniform(0.5, 1.5)
                item = self.put(name, sign * (edge + setback), z, sign, is_end=True)
                end = behind = z + 2 * item.model.half_length_m
                yield item._replace(depth=end)  # painted before what is on the pavement
            for _ in range(rng.poisson((end - z) / 4) if name != "flats" else 0):
                spot = sign * (edge + rng.uniform(1.2, 6)), rng.uniform(z, end)
                plant = self.put("tree" if rng.random() < 0.55 else "bush", *spot, sign)
                yield plant._replace(depth=max(plant.depth, behind + 0.3))
            z = end + rng.uniform(0, 4) * (rng.random() < 0.4)

    def pavement(self, side: int, sign: int) -> Iterator[Placed]:
        """Yield what stands along a kerb, on the pavement and on the road."""
        rng, kerb, (inner, outer) = self.rng, self.street.kerbs[side], self.street.pavements[side]
        rows = [("lamp_post", 0.35, 25.0, 0.8), ("tree", 1.0, 10.0, 0.45)]
        rows += [("car", -PARKING_M / 2, 6.1, 1.0)] * bool(self.street.has_parking[side])
        for name, offset, spacing, share in rows:
            for z in np.arange(rng.uniform(2, 16), END_M * (rng.random() < share), spacing):
                if rng.random() < 0.7:
                    yield self.put(name, sign * (kerb + offset), z, sign)
        crowd = rng.exponential(3.5 if self.street.style == "city" else 1.5)
        for name, mean, low, high in (
            ("person", crowd, inner + 0.3, outer - 0.3), ("person", 0.25, 0, kerb),
            ("bicycle", 0.6, inner, inner + 0.9), ("motorcycle", 0.5, inner, inner + 0.9),
            ("traffic_sign", 1.6, kerb, kerb + 0.9), ("traffic_light", 0.6, kerb, kerb + 0.9),
            ("cyclist", 0.45, kerb - 3, kerb - 0.5),
        ):  # fmt: skip
            for _ in range(rng.poisson(mean)):
                yield self.put(name, sign * rng.uniform(low, high), 4 + rng.exponential(12), sign)
