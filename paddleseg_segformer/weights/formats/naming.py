"""Rules that map our names of weights to another code base's, for reading and writing.

Canonical names and layouts are PaddleSeg's: linear weights are (in, out). A rule maps a canonical
name to the tensors of a file that it is made of.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# What the placeholders of canonical patterns match. Where {i} is known, a file's pattern may also
# use {s}, the stage counted from 0, and {r}, the stage counted from the last.
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
            convolution, "copy" copies everything.
        rows: (start, stop, of): which share of the file's outputs to take.
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
        """Undo `read`: return the file's arrays, or their part `rows`."""
        if self.layout != "copy" and array.ndim == 2:
            array = array.T[:, :, None, None] if self.layout == "conv1x1" else array.T
        return [array] if num_parts == 1 else np.split(array, num_parts)


@dataclass(frozen=True)
class Format:
    """How one code base names weights, and what of its code the weights depend on.

    Args:
        name: as the command line spells it.
        title: as messages spell it.
        rules: the first that matches a canonical name applies.
        fingerprints: canonical names; a file that has one of them is of this format.
        backbone_prefix: what files of a bare backbone leave out.
        is_bare: whether names lack the `backbone_prefix`.
        aliases: (pattern, replacement) pairs for names of other versions.
        ignored: patterns of tensors that are never used.
        synthetic: zero tensors that its strict loaders expect: name -> shape. "K" stands for the
            number of classes, a canonical name for the first axis of that weight.
        biased: patterns of canonical linears that always have a bias there; zeros where ours lacks
            it.
        refused: (pattern of a tensor's name, reason) pairs of models that this package lacks.
        backbone: arguments of our backbone that reproduce what its code does.
        backbone_type: whose weights it names, "MixVisionTransformer" or "VisionTransformer".
        is_torch: whether matrices are (out, in) and batch norms count their batches.
        epsilons: LayerNorm epsilons as our backbone's arguments; None where a file may have any.
        models: model types that can be written.
        bare_models: those of them whose files leave the `backbone_prefix` out.
        weights_key: key of the weights in its files of whole models; "" for a flat dictionary.
        has_metadata: whether its files of whole models hold class names and palette.
        notes: other differences of its code, for users who convert to it.
    """

    name: str
    title: str
    rules: tuple[Rule, ...]
    fingerprints: tuple[str, ...]
    backbone_prefix: str = ""
    is_bare: bool = False
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
                prefix = self.backbone_prefix if self.is_bare else ""
                return rule, tuple(name.removeprefix(prefix) for name in names)
        return None

    def renamed(self, name: str) -> str:
        """Return the current name of a tensor that another version of the code base named."""
        for pattern, replacement in self.aliases:
            name = re.sub(pattern, replacement, name)
        return name

    def bare(self) -> Format:
        """Return the same format for a bare backbone, whose names lack the `backbone_prefix`."""
        return dataclasses.replace(self, is_bare=True)


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
            sides = [
                side if isinstance(side, int) else num_classes if side == "K" else len(state[side])
                for side in shape
            ]
            exported[name] = np.zeros(sides, np.float32)
    return exported


def _joined(rows: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """Return the parts of one tensor, each with its first row, as a contiguous array of its own."""
    if len(rows) == 1:
        return np.array(rows[0][1], order="C")
    parts = [part for _, part in sorted(rows, key=lambda row: row[0])]
    return np.ascontiguousarray(np.concatenate(parts))


def with_biases(format: Format, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a canonical state with zeros for the biases that a format always has."""
    full = dict(state)
    for key, array in state.items():
        linear, _, part = key.rpartition(".")
        is_biased = any(re.fullmatch(pattern, linear) for pattern in format.biased)
        if part == "weight" and is_biased and f"{linear}.bias" not in state:
            full[f"{linear}.bias"] = np.zeros(array.shape[-1], np.float32)
    return full
