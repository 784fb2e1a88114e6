"""Rules from our names of weights to a code base's, applied in both directions.

Canonical names and layouts are PaddleSeg's: linear weights are (in, out). A rule leads from a
canonical name to the tensors of a file that it is made of, so that one table per format serves
reading (look up what each canonical name needs) and writing (make what each one gives).
"""

from __future__ import annotations

import copy
import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# What a placeholder of a canonical pattern stands for. A file's pattern may also use {s}, the
# stage counted from 0, and {r}, the stages counted from the last, both where {i} is known.
PLACEHOLDERS = {
    "i": "[1-4]",  # stage
    "s": "[0-3]",  # stage, counted from 0
    "j": r"\d+",  # block
    "p": "weight|bias",
    "bn": "weight|bias|_mean|_variance",  # of a batch norm; PyTorch says running_mean, running_var
    "rest": ".+",
}
_TORCH_BATCH_NORM = {"_mean": "running_mean", "_variance": "running_var"}


@dataclass(frozen=True)
class Rule:
    """From canonical names to a file's.

    Args:
        canonical: pattern of the names that the rule is for.
        foreign: pattern of the tensor's name in the file; several are concatenated along the
            outputs, in this order.
        layout: "linear" transposes matrices and copies the rest, "conv1x1" makes a matrix of a 1x1
            convolution, "copy" leaves everything as it is.
        rows: (start, stop, of): the share of the file's outputs that is meant.
    """

    canonical: str
    foreign: str | tuple[str, ...]
    layout: str = "linear"
    rows: tuple[int, int, int] | None = None

    @functools.cached_property
    def regex(self) -> re.Pattern[str]:
        """Return the compiled canonical pattern."""
        parts = re.split(r"\{(\w+)\}", self.canonical)
        parts[::2] = [re.escape(part) for part in parts[::2]]
        parts[1::2] = [f"(?P<{name}>{PLACEHOLDERS[name]})" for name in parts[1::2]]
        return re.compile("".join(parts))

    def names(self, canonical: str) -> tuple[str, ...] | None:
        """Return the file's names for a canonical one, or None where the rule is not for it."""
        match = self.regex.fullmatch(canonical)
        if match is None:
            return None
        values = match.groupdict()
        if "i" in values:
            values |= {"s": str(int(values["i"]) - 1), "r": str(4 - int(values["i"]))}
        if "bn" in values:
            values["bn"] = _TORCH_BATCH_NORM.get(values["bn"], values["bn"])
        patterns = (self.foreign,) if isinstance(self.foreign, str) else self.foreign
        return tuple(pattern.format(**values) for pattern in patterns)

    def shape(self, shapes: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
        """Return the canonical shape that the file's shapes give."""
        first, *others = shapes
        if first and others:
            first = (first[0] + sum(shape[0] for shape in others if shape), *first[1:])
        if first and self.rows:
            start, stop, of = self.rows
            first = (first[0] * (stop - start) // of, *first[1:])
        if self.layout == "conv1x1" and len(first) == 4:
            return first[1::-1] if first[2:] == (1, 1) else first
        return first[::-1] if self.layout == "linear" and len(first) == 2 else first

    def read(self, arrays: list[np.ndarray]) -> np.ndarray:
        """Return the canonical array, a view where one suffices."""
        array = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        if self.rows:
            start, stop, of = (len(array) * item // self.rows[2] for item in self.rows)
            array = array[start:stop]
        if self.layout == "conv1x1" and array.ndim == 4:
            array = array[:, :, 0, 0]
        return array.T if self.layout != "copy" and array.ndim == 2 else array

    def write(self, array: np.ndarray, num_parts: int) -> list[np.ndarray]:
        """Undo `read`: return the file's arrays, of which `rows` are the part meant."""
        if self.layout != "copy" and array.ndim == 2:
            array = array.T[:, :, None, None] if self.layout == "conv1x1" else array.T
        return [array] if num_parts == 1 else np.split(array, num_parts)


@dataclass(frozen=True)
class Format:
    """How one code base names weights, and what its programs do that the weights depend on.

    Args:
        name: as the command line spells it.
        title: as messages spell it.
        rules: the first that fits a canonical name counts.
        fingerprints: canonical names, any of which tells the format when the file's name for it
            is there.
        backbone_prefix: what files of a bare backbone leave out.
        aliases: (pattern, replacement) pairs for names of other versions.
        ignored: patterns of a file's names that carry nothing.
        synthetic: zero tensors that its strict loaders expect: name -> shape, in which "K" is the
            number of classes, and a canonical name its first side; "backbone" models have none.
        biased: patterns of canonical linears that always have a bias there; zeros where ours lacks
            it.
        refused: (pattern of a file's name, reason) of models that no model of ours is.
        backbone: arguments of our backbone that stand for what its programs do.
        backbone_type: whose weights it names, "MixVisionTransformer" or "VisionTransformer".
        is_torch: whether matrices are (out, in) and batch norms count their batches.
        epsilons: LayerNorm epsilons as our backbone's arguments; None where a file may have been
            made with any.
        models: model types that can be written.
        bare_models: those of them whose files leave the `backbone_prefix` out.
        weights_key: what the weights lie under in its files of whole models, "" for nothing.
        has_metadata: whether its whole models' files hold class names and palette.
        notes: what its programs do otherwise, for whoever converts to it.
    """

    name: str
    title: str
    rules: tuple[Rule, ...]
    fingerprints: tuple[str, ...]
    backbone_prefix: str = ""
    aliases: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    synthetic: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    biased: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    backbone: Mapping[str, Any] = field(default_factory=dict)
    backbone_type: str = "MixVisionTransformer"
    is_torch: bool = True
    epsilons: Mapping[str, float] | None = None
    models: tuple[str, ...] = ()
    bare_models: tuple[str, ...] = ()
    weights_key: str = ""
    has_metadata: bool = False
    notes: tuple[str, ...] = ()

    def find(self, canonical: str) -> tuple[Rule, tuple[str, ...]] | None:
        """Return the rule for a canonical name and the file's names, or None without a rule."""
        for rule in self.rules:
            names = rule.names(canonical)
            if names is not None:
                return rule, names
        return None

    def renamed(self, name: str) -> str:
        """Return the current name of a tensor that another version of the code base named."""
        for pattern, replacement in self.aliases:
            name = re.sub(pattern, replacement, name)
        return name

    def is_ignored(self, name: str) -> bool:
        """Return whether a file's tensor carries nothing."""
        return any(re.fullmatch(pattern, name) for pattern in self.ignored)


class Names:
    """A file's tensors under a format's names: looked up by canonical name.

    Args:
        format: whose names they are.
        tensors: the names in the file.
        is_bare: whether the names lack the format's `backbone_prefix`.
    """

    def __init__(self, format: Format, tensors: Iterable[str], is_bare: bool) -> None:
        self.format = format
        self.is_bare = is_bare
        self._tensors = list(tensors)
        self._own = {format.renamed(name): name for name in self._tensors}

    def bare(self) -> Names:
        """Return the same names taken as those of a bare backbone."""
        other = copy.copy(self)
        other.is_bare = True
        return other

    def find(self, canonical: str) -> tuple[Rule, list[str]] | None:
        """Return the rule and the file's own names of a canonical one; None where one is absent."""
        found = self._look_up(canonical)
        if found is None:
            return None
        rule, names = found
        if any(name not in self._own for name in names):
            return None
        return rule, [self._own[name] for name in names]

    def is_beside_backbone(self, name: str) -> bool:
        """Return whether one of the file's names is none of the backbone's."""
        prefix = self.format.backbone_prefix
        is_whole = bool(prefix) and not self.is_bare
        return is_whole and not self.format.renamed(name).startswith(prefix)

    def spelled(self, canonical: str) -> str:
        """Return what the file would call a canonical weight, for messages."""
        found = self._look_up(canonical)
        return " and ".join(found[1]) if found else canonical

    def _look_up(self, canonical: str) -> tuple[Rule, tuple[str, ...]] | None:
        found = self.format.find(canonical)
        if found is None or not self.is_bare:
            return found
        prefix = self.format.backbone_prefix
        return found[0], tuple(name.removeprefix(prefix) for name in found[1])

    def others(self, used: set[str]) -> list[str]:
        """Return the file's names that are not among the used ones and that carry something."""
        return [
            own
            for own in self._tensors
            if own not in used and not self.format.is_ignored(self.format.renamed(own))
        ]


def export_state(
    format: Format, state: Mapping[str, np.ndarray], num_classes: int | None
) -> dict[str, np.ndarray]:
    """Return a canonical state under a format's names and in its layouts.

    Args:
        num_classes: K of the synthetic tensors; None for a backbone, which has none.

    Raises:
        KeyError: the format has no place for a tensor.
    """
    parts: defaultdict[str, list[tuple[int, Any]]] = defaultdict(list)
    for canonical, array in state.items():
        found = format.find(canonical)
        if found is None:
            raise KeyError(canonical)
        rule, names = found
        for name, part in zip(names, rule.write(array, len(names)), strict=True):
            parts[name].append((rule.rows[0] if rule.rows else 0, part))
    exported = {name: _joined(rows) for name, rows in parts.items()}
    if format.is_torch:
        for name in [name for name in exported if name.endswith(".running_mean")]:
            counter = name.removesuffix("running_mean") + "num_batches_tracked"
            exported[counter] = np.zeros((), np.int64)
    if num_classes is not None:
        for name, shape in format.synthetic.items():
            exported[name] = np.zeros(
                [_side(item, num_classes, state) for item in shape], np.float32
            )
    return exported


def _joined(rows: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """Return parts of one tensor, each with its place, as a contiguous array of its own."""
    if len(rows) == 1:
        return np.array(rows[0][1], order="C")
    parts = [part for _, part in sorted(rows, key=lambda row: row[0])]
    return np.ascontiguousarray(np.concatenate(parts))


def _side(item: int | str, num_classes: int, state: Mapping[str, np.ndarray]) -> int:
    if isinstance(item, int):
        return item
    return num_classes if item == "K" else len(state[item])


def with_biases(format: Format, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a canonical state with zeros for the biases that a format always has."""
    full = dict(state)
    for key, array in state.items():
        linear, _, part = key.rpartition(".")
        is_biased = any(re.fullmatch(pattern, linear) for pattern in format.biased)
        if part == "weight" and is_biased and f"{linear}.bias" not in state:
            full[f"{linear}.bias"] = np.zeros(array.shape[-1], np.float32)
    return full
