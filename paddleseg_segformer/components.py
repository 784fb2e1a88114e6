"""Components by name: our own tables first, then PaddleSeg's component manager."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from paddleseg_segformer.dependencies import MissingDependency
from paddleseg_segformer.errors import UserError, did_you_mean

Component = Callable[..., Any]


class Kind(NamedTuple):
    """Where the components of one kind are."""

    module: str  # of this package
    table: str  # there: name -> class or factory
    paddleseg: str | None = None  # the same in PaddleSeg's manager


KINDS = {
    "model": Kind("paddleseg_segformer.models", "MODELS"),
    "backbone": Kind("paddleseg_segformer.models", "BACKBONES"),
    "dataset": Kind("paddleseg_segformer.data", "DATASETS"),
    "transform": Kind("paddleseg_segformer.data", "TRANSFORMS", "TRANSFORMS"),
    "loss": Kind("paddleseg_segformer.losses", "LOSSES", "LOSSES"),
    "optimizer": Kind("paddleseg_segformer.training.optimizer", "OPTIMIZERS", "OPTIMIZERS"),
}


def resolve(kind: str, name: str) -> Component:
    """Return the component called `name`; ours win over PaddleSeg's.

    Args:
        kind: a key of `KINDS`.

    Raises:
        UserError: no component of that kind has this name.
    """
    module, table, paddleseg = KINDS[kind]
    ours: dict[str, Component] = getattr(importlib.import_module(module), table)
    if name in ours:
        return ours[name]
    theirs: dict[str, Component] = {}
    hint = ""
    if paddleseg:
        from paddleseg_segformer.paddleseg_bridge import paddleseg_components

        try:
            theirs = paddleseg_components(paddleseg)
        except MissingDependency as error:
            hint = f" Or is it PaddleSeg's? {error}"
    if name in theirs:
        return theirs[name]
    raise UserError(f"unknown {kind} type '{name}'.{did_you_mean(name, {*ours, *theirs})}{hint}")
