"""A weight file of any known code base, as a model's config section and canonical weights."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.weights.architectures.known import (
    architecture_of,
    describe,
    full_backbone,
    short_backbone,
)
from paddleseg_segformer.weights.architectures.segmenter import guessed, is_vit
from paddleseg_segformer.weights.architectures.sizes import Section, UnfitWeight
from paddleseg_segformer.weights.files.containers import Container, read_container
from paddleseg_segformer.weights.files.download import local_path
from paddleseg_segformer.weights.formats import FORMATS, PADDLESEG
from paddleseg_segformer.weights.formats.naming import Format, Names
from paddleseg_segformer.weights.sidecars.source import Source, source_of
from paddleseg_segformer.weights.state import Entry, State, find_entry


@dataclass(frozen=True)
class Checkpoint:
    """What a weight file holds, in this package's terms.

    Args:
        format: name of the code base whose names the file uses, a key of `FORMATS`.
        model: the `model` section of a config that builds the network, with the source's epsilons;
            for a bare backbone the `backbone` section.
        state: canonical names -> arrays, read on access.
        unexpected: the file's tensors that no part of the model is made of.
        other_head: those of them that stand on a backbone and are of no head that is known.
        missing: canonical names that the model needs and the file lacks.
        classes, palette: of the data set that the weights were trained on, where the file says.
        transforms: the source's preprocessing in evaluation, as a config's `transforms`; None where
            nothing is known about it.
        test_config: entries of a config's section of that name that the source implies.
        reduces_labels: whether label 0 means "ignore" in the source's label files.
        epsilons: LayerNorm epsilons of the source; None where the file may be of any.
    """

    format: str
    model: Section
    state: State
    unexpected: list[str] = field(default_factory=list)
    other_head: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    classes: list[str] | None = None
    palette: list[list[int]] | None = None
    transforms: list[dict[str, Any]] | None = None
    test_config: dict[str, Any] = field(default_factory=dict)
    reduces_labels: bool = False
    epsilons: Mapping[str, float] | None = None

    @property
    def is_backbone(self) -> bool:
        """Return whether the file holds a backbone without a head."""
        return "num_classes" not in self.model

    @property
    def head_keys(self) -> set[str]:
        """Return the names of what stands on the backbone, the file's for a head not known."""
        own = {key for key in self.state if not key.startswith("backbone.")}
        return own | set(self.other_head)

    def describe(self) -> str:
        """Say in a few words which model the weights are of."""
        return describe(self.model, len(self.state) + len(self.unexpected))


def open_checkpoint(path: str | os.PathLike[str], is_known: bool = True) -> Checkpoint:
    """Open a weight file or folder of any known code base; the weights are read when needed.

    Args:
        path: `.pdparams`, `.safetensors`, `.pth`, `.pt`, `.bin`, a URL of one, or a folder with one
            of the usual names in it: Hugging Face's with its `config.json`, or this package's with
            `config.yml`.
        is_known: stop where the weights are of a model that is none of this package's. Otherwise
            they are taken under their own names, with an empty `model`, and configs beside them
            are not read: the caller has a model.

    Raises:
        UserError: not a weight file, not of a known code base, or contradicted by the config
            beside it.
        MissingDependency: the file needs a package that is not installed.
    """
    container = read_container(local_path(path))
    names = _names_in(container)
    if names is None and is_known:
        raise UserError(
            f"{container.file}: the weights of an unknown model ({_listed(container.tensors)}). "
            f"Known are SegFormer's and Segmenter's by "
            f"{', '.join(item.title for item in FORMATS.values())}."
        )
    if names is None:
        return _unknown(container)
    _refuse_other_models(container, names.format)
    try:
        return _known(container, names, is_stated=is_known)
    except UnfitWeight as error:
        if names.format is PADDLESEG and not is_known:
            return _unknown(container)
        own = names.spelled(error.key)
        raise UserError(
            f"{container.file}: weights by {names.format.title}, but {own} {error.problem}. The "
            "file is incomplete."
        ) from None


def _known(container: Container, names: Names, is_stated: bool) -> Checkpoint:
    shapes = _Shapes(container, names)
    architecture = architecture_of(shapes)
    assert architecture is not None, "a fingerprint that marks no architecture"
    found = architecture.section(shapes)
    source = source_of(container, names.format, found, is_stated)
    keys = architecture.keys(found)
    entries = {key: entry for key in keys if (entry := shapes.entry(key)) is not None}
    used = {name for entry in entries.values() for name in entry.names}
    unexpected = names.others(used)
    return Checkpoint(
        format=names.format.name,
        model=_section(found, guessed(shapes, found), source, names.format),
        state=State(container.file, entries, container.tensors),
        unexpected=unexpected,
        other_head=[name for name in unexpected if names.is_beside_backbone(name)],
        missing=[key for key in keys if key not in entries],
        classes=source.classes,
        palette=source.palette,
        transforms=source.transforms,
        test_config=source.test_config,
        reduces_labels=source.reduces_labels,
        epsilons=source.epsilons,
    )


def _refuse_other_models(container: Container, format: Format) -> None:
    for pattern, reason in format.refused:
        for name in container.tensors:
            if re.fullmatch(pattern, name):
                raise UserError(f"{container.file}: holds {name}: {reason}")


class _Shapes:
    """Canonical shapes of a file's weights; each is looked up once."""

    def __init__(self, container: Container, names: Names) -> None:
        self._container = container
        self._names = names
        self._entries: dict[str, Entry | None] = {}

    def entry(self, key: str) -> Entry | None:
        if key not in self._entries:
            container = self._container
            self._entries[key] = find_entry(container.file, self._names, container.tensors, key)
        return self._entries[key]

    def __call__(self, key: str) -> tuple[int, ...] | None:
        entry = self.entry(key)
        return entry.shape if entry else None


def _section(found: Section, guessed: Section, source: Source, format: Format) -> Section:
    """Put the sizes that the weights show and what is stated beside them into one section."""
    stated = source.model.get("backbone", {})
    backbone = short_backbone(
        {
            **guessed.get("backbone", {}),
            **found["backbone"],
            **format.backbone,
            **(source.epsilons or {}),
            **(full_backbone(stated) if is_vit(stated) else stated),
        }
    )
    if "num_classes" not in found:
        return backbone
    rest = {key: value for key, value in source.model.items() if key not in ("type", "backbone")}
    return {**guessed, **found, **rest, "backbone": backbone}


def _unknown(container: Container) -> Checkpoint:
    names = Names(PADDLESEG, container.tensors, is_bare=False)
    shapes = _Shapes(container, names)
    entries = {key: entry for key in container.tensors if (entry := shapes.entry(key))}
    return Checkpoint(PADDLESEG.name, {}, State(container.file, entries, container.tensors))


def _names_in(container: Container) -> Names | None:
    """Tell the code base by its names; where several use the same, by the layout of matrices."""
    fitting = []
    for format in FORMATS.values():
        whole = Names(format, container.tensors, is_bare=False)
        for names in (whole, whole.bare()) if format.backbone_prefix else (whole,):
            if any(names.find(key) for key in format.fingerprints):
                fitting.append(names)
    if len(fitting) > 1:
        is_torch = _has_torch_layout(container, fitting)
        fitting = [names for names in fitting if names.format.is_torch == is_torch]
    return fitting[0] if fitting else None


# A matrix that is not square, and the vector of its inputs' length: canonical names.
ORIENTATION = (
    ("backbone.block1.0.mlp.fc1.weight", "backbone.block1.0.norm2.weight"),
    ("backbone.blocks.0.mlp.fc1.weight", "backbone.blocks.0.norm2.weight"),
)


def _has_torch_layout(container: Container, candidates: list[Names]) -> bool:
    """Return whether matrices are (out, in), going by one whose inputs are known."""
    for names in candidates:
        for matrix, inputs in ORIENTATION:
            pair = [names.find(matrix), names.find(inputs)]
            if all(pair):
                shapes = [container.tensors[item[1][0]].shape for item in pair if item]
                if len(shapes[0]) == 2 and shapes[0][0] != shapes[0][1] and shapes[1]:
                    return shapes[0][1] == shapes[1][0]
    return container.kind != "paddle"


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join([*list(names)[:3], "..."]) if names else "no tensors"
