"""Sizes of a model, read off its weights' shapes by canonical name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paddleseg_segformer.errors import UserError

Section = dict[str, Any]  # a `model` or `backbone` section of a config
Shapes = Callable[[str], "tuple[int, ...] | None"]  # canonical name -> shape, None if absent

LINEAR = ("weight", "bias")
BATCH_NORM = ("weight", "bias", "_mean", "_variance")


@dataclass(frozen=True)
class Architecture:
    """One kind of model.

    Args:
        type: its name in configs; "" for a bare backbone.
        marks: canonical names that all have to be there for a state to be of this kind.
        section: reads the sizes off the weights, as the model's section with a full backbone.
        keys: lists the canonical names of the model that such a section describes.
    """

    type: str
    marks: tuple[str, ...]
    section: Callable[[Shapes], Section]
    keys: Callable[[Section], list[str]]


class UnfitWeight(UserError):
    """A weight that is absent or of another rank, so that the model's sizes cannot be read."""

    def __init__(self, key: str, shape: tuple[int, ...] | None, rank: int) -> None:
        self.key = key
        found = "is missing" if shape is None else f"is of shape {list(shape)}"
        self.problem = f"{found}, expected {rank} sides"
        super().__init__(f"{key} {self.problem}")


def axis(shapes: Shapes, key: str, index: int, rank: int) -> int:
    """Return one side of a weight.

    Raises:
        UnfitWeight: it is absent, or of another rank.
    """
    shape = shapes(key)
    if shape is None or len(shape) != rank or min(shape) < 1:
        raise UnfitWeight(key, shape, rank)
    return shape[index]


def count(shapes: Shapes, pattern: str) -> int:
    """Return how many of the names `pattern.format(0)`, `(1)`, ... follow each other."""
    number = 0
    while shapes(pattern.format(number)) is not None:
        number += 1
    return number


def ratio(hidden: int, dim: int) -> float:
    """Return r with int(dim * r) == hidden, a whole number where there is one."""
    if hidden % dim == 0:
        return hidden // dim
    return hidden / dim if int(dim * (hidden / dim)) == hidden else (hidden + 0.5) / dim


def defaults_of(component: Callable[..., Any]) -> Section:
    """Return the default of each argument, sequences as lists, as configs have them."""
    return {
        name: list(item.default) if isinstance(item.default, tuple) else item.default
        for name, item in inspect.signature(component).parameters.items()
    }
