"""A weight file of any known code base, as a model's config section and canonical weights."""

from __future__ import annotations

import copy
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.weights.architectures import architecture_of
from paddleseg_segformer.weights.architectures.segmenter import guessed
from paddleseg_segformer.weights.architectures.sizes import (
    Section,
    UnfitWeight,
    describe,
    full_backbone,
    is_vit,
    short_backbone,
)
from paddleseg_segformer.weights.files.containers import Container, read_container
from paddleseg_segformer.weights.files.download import local_path
from paddleseg_segformer.weights.formats import FORMATS, PADDLESEG
from paddleseg_segformer.weights.formats.naming import Format, Rule
from paddleseg_segformer.weights.sidecars.metadata import Source
from paddleseg_segformer.weights.sidecars.source import source_of

logger = logging.getLogger(__name__)

RANGES = "quantizers.ranges"  # of a model trained for INT8, beside its weights
READABLE_TYPES = ("float32", "float16", "bfloat16", "float64")  # all read as float32

# A matrix that is not square, and a vector with one value per input: canonical names.
ORIENTATION = (
    ("backbone.block1.0.mlp.fc1.weight", "backbone.block1.0.norm2.weight"),
    ("backbone.blocks.0.mlp.fc1.weight", "backbone.blocks.0.norm2.weight"),
)


@dataclass(frozen=True)
class Entry:
    """One canonical weight: the tensors it is made of, and its canonical shape."""

    rule: Rule
    names: list[str]  # in the file
    shape: tuple[int, ...]
    dtype: str


class State(Mapping[str, np.ndarray]):
    """Canonical name -> float32 array, read on access and not kept.

    Args:
        container: the file.
        entries: by canonical name.
    """

    def __init__(self, container: Container, entries: Mapping[str, Entry]) -> None:
        self.file = container.file
        self.entries = entries
        self._container = container

    def __getitem__(self, key: str) -> np.ndarray:
        entry = self.entries[key]
        tensors = self._container.tensors
        try:
            array = entry.rule.read([tensors[name].read() for name in entry.names])
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            raise UserError(f"{self.file}: {entry.names[0]} cannot be read ({error}).") from None
        return array if array.dtype == np.float32 else array.astype(np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def without_prefix(self, prefix: str) -> State:
        """Return the same weights; the names that start with `prefix` lose it."""
        entries = {key.removeprefix(prefix): entry for key, entry in self.entries.items()}
        return State(self._container, entries)


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Source):
    """What a weight file holds, in this package's terms, and what is known about its source.

    `model` builds the network, with the source's epsilons; for a bare backbone it is the `backbone`
    section.

    Args:
        format: name of the code base whose names the file uses, a key of `FORMATS`.
        state: canonical names -> arrays, read on access.
        unexpected: the file's tensors that the model does not use.
        other_head: those of them that belong to an unknown head on a known backbone.
        missing: canonical names that the model needs and the file lacks.
    """

    format: str
    state: State
    unexpected: list[str] = field(default_factory=list)
    other_head: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def is_backbone(self) -> bool:
        """Return whether the file holds a backbone without a head."""
        return "num_classes" not in self.model

    @property
    def head_keys(self) -> set[str]:
        """Return the names of the head's weights: canonical, or the file's for an unknown head."""
        own = {key for key in self.state if not key.startswith("backbone.")}
        return own | set(self.other_head)

    def describe(self) -> str:
        """Describe in a few words the model that the weights belong to."""
        return describe(self.model, len(self.state) + len(self.unexpected))


class Names:
    """A file's tensors, looked up by canonical name with the rules of one format."""

    def __init__(self, container: Container, format: Format) -> None:
        self.format = format
        self._container = container
        self._renamed = {name: format.renamed(name) for name in container.tensors}
        self._own = {renamed: name for name, renamed in self._renamed.items()}

    def bare(self) -> Names:
        """Return the same tensors, read as those of a bare backbone."""
        other = copy.copy(self)
        other.format = self.format.bare()
        return other

    def entry(self, canonical: str) -> Entry | None:
        """Return a canonical weight, or None where the file lacks it or a part of it.

        Raises:
            UserError: the tensors are there, but cannot be a weight.
        """
        found = self.format.find(canonical)
        if found is None or any(name not in self._own for name in found[1]):
            return None
        rule, names = found[0], [self._own[name] for name in found[1]]
        stored = [self._container.tensors[name] for name in names]
        for name, item in zip(names, stored, strict=True):
            if item.dtype not in READABLE_TYPES:
                raise UserError(
                    f"{self._container.file}: {name} is of type {item.dtype}, expected weights of "
                    "a floating-point type."
                )
        if len({(item.shape[1:], item.dtype) for item in stored}) > 1:
            raise UserError(f"{self._container.file}: {' and '.join(names)} do not fit together.")
        return Entry(rule, names, rule.shape([item.shape for item in stored]), stored[0].dtype)

    def shape(self, canonical: str) -> tuple[int, ...] | None:
        """Return a weight's canonical shape, or None where the file lacks it."""
        entry = self.entry(canonical)
        return entry.shape if entry else None

    def unused(self, entries: Mapping[str, Entry]) -> list[str]:
        """Return the file's tensors that `entries` leaves out and that the format uses."""
        used = {name for entry in entries.values() for name in entry.names}
        return [
            name
            for name, renamed in self._renamed.items()
            if name not in used
            and not any(re.fullmatch(pattern, renamed) for pattern in self.format.ignored)
        ]

    def is_of_head(self, name: str) -> bool:
        """Return whether a tensor belongs to a head on a backbone, going by its name."""
        prefix = "" if self.format.is_bare else self.format.backbone_prefix
        return not self._renamed[name].startswith(prefix)


def open_checkpoint(path: str | os.PathLike[str], is_known: bool = True) -> Checkpoint:
    """Open a weight file or folder of any known code base; the weights are read when needed.

    Args:
        path: `.pdparams`, `.safetensors`, `.pth`, `.pt`, `.bin`, a URL of one, or a folder with one
            of the usual names in it: Hugging Face's with its `config.json`, or this package's with
            `config.yml`.
        is_known: refuse the weights of models that this package does not have. Otherwise they are
            returned under their own names, with an empty `model`, and configs beside weights are
            not read: the caller has a model.

    Raises:
        UserError: not a weight file, of an unknown code base, or contradicted by the config beside
            it.
        MissingDependency: the file needs a package that is not installed.
    """
    container = read_container(local_path(path))
    if container.set_aside:
        shown = ", ".join(container.set_aside[:3]) + (", ..." if container.set_aside[3:] else "")
        logger.warning(
            "%s: %d tensors are no weights of the model and are set aside: %s",
            *(container.file, len(container.set_aside), shown),
        )
    names = _recognized(container)
    if names is None and is_known:
        found = ", ".join([*list(container.tensors)[:3], "..."]) if container.tensors else "none"
        raise UserError(
            f"{container.file}: weights of an unknown model (tensors: {found}). Known are "
            f"SegFormer's and Segmenter's by {', '.join(item.title for item in FORMATS.values())}."
        )
    if names is None:
        return _unknown(container)
    for pattern, reason in names.format.refused:
        for name in container.tensors:
            if re.fullmatch(pattern, name):
                raise UserError(f"{container.file}: holds {name}: {reason}")
    try:
        return _known(container, names, reads_config=is_known)
    except UnfitWeight as error:
        if names.format.name == PADDLESEG.name and not is_known:
            return _unknown(container)
        rule = names.format.find(error.key)
        own = " and ".join(rule[1]) if rule else error.key
        raise UserError(
            f"{container.file}: weights by {names.format.title}, but {own} {error.problem}. The "
            "file is incomplete."
        ) from None


def _recognized(container: Container) -> Names | None:
    """Tell the code base by its names; where several use the same, by the layout of matrices."""
    fitting = []
    for format in FORMATS.values():
        whole = Names(container, format)
        for names in (whole, whole.bare()) if format.backbone_prefix else (whole,):
            if any(names.entry(key) for key in format.fingerprints):
                fitting.append(names)
    if len(fitting) > 1:
        is_torch = _has_torch_layout(container, fitting)
        fitting = [names for names in fitting if names.format.is_torch == is_torch]
    return fitting[0] if fitting else None


def _has_torch_layout(container: Container, candidates: list[Names]) -> bool:
    """Return whether matrices are (out, in), judged by one whose number of inputs is known."""
    for names in candidates:
        for pair in ORIENTATION:
            entries = [entry for key in pair if (entry := names.entry(key))]
            if len(entries) == 2:
                matrix, inputs = (container.tensors[item.names[0]].shape for item in entries)
                if len(matrix) == 2 and matrix[0] != matrix[1] and inputs:
                    return matrix[1] == inputs[0]
    return container.kind != "paddle"


def _unknown(container: Container) -> Checkpoint:
    names = Names(container, PADDLESEG)
    entries = {key: entry for key in container.tensors if (entry := names.entry(key))}
    return Checkpoint(format=PADDLESEG.name, state=State(container, entries))


def _known(container: Container, names: Names, reads_config: bool) -> Checkpoint:
    architecture = architecture_of(names.shape)
    assert architecture is not None, "a fingerprint that marks no architecture"
    found = architecture.section(names.shape)
    source = source_of(container, names.format, found, reads_config)
    keys = [*architecture.keys(found), *(key for key in (RANGES,) if key in container.tensors)]
    entries = {key: entry for key in keys if (entry := names.entry(key))}
    unexpected = names.unused(entries)
    model = _section(found, guessed(names.shape, found), source, names.format)
    return Checkpoint(
        **{**vars(source), "model": model},
        format=names.format.name,
        state=State(container, entries),
        unexpected=unexpected,
        other_head=[name for name in unexpected if names.is_of_head(name)],
        missing=[key for key in keys if key not in entries],
    )


def _section(found: Section, guessed: Section, source: Source, format: Format) -> Section:
    """Merge the sizes that the weights show and what the config beside them states."""
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
