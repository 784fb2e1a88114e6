"""Weights into a model: every key is accounted for, or loading stops and says which are not."""

from __future__ import annotations

import ctypes
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor, nn

from paddleseg_segformer.contracts import Reshaping
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.weights.architectures import architecture_of
from paddleseg_segformer.weights.architectures.sizes import describe, short_backbone
from paddleseg_segformer.weights.files.download import local_path
from paddleseg_segformer.weights.files.pickles import write_pickle
from paddleseg_segformer.weights.formats import FORMATS
from paddleseg_segformer.weights.weight_file import Checkpoint, State, open_checkpoint

logger = logging.getLogger(__name__)

CLASSIFIER_PREFIXES = ("head.", "linear_pred.")  # what another class count reshapes
_BACKBONE = "backbone."


@dataclass
class LoadReport:
    """What became of every key."""

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # the model has it, the file does not
    unexpected: list[str] = field(default_factory=list)  # the file has it, the model does not
    mismatched: list[str] = field(default_factory=list)  # "key: found shape, expected shape"
    reshaped: list[str] = field(default_factory=list)  # "key: how it was made to fit"
    left_out: list[str] = field(default_factory=list)  # on purpose
    cast: dict[str, int] = field(default_factory=dict)  # number type -> weights read as float32

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} matched"]
        for name in ("missing", "unexpected", "mismatched", "reshaped", "left_out"):
            keys = getattr(self, name)
            if keys:
                parts.append(f"{name.replace('_', ' ')}: {_shortened(keys)}")
        parts += [f"{count} cast from {kind}" for kind, count in self.cast.items()]
        return "; ".join(parts)

    @property
    def is_exact(self) -> bool:
        """Return whether file and model have the same keys and shapes."""
        return not (self.missing or self.unexpected or self.mismatched)


def _shortened(keys: list[str]) -> str:
    more = f", ... ({len(keys)} in all)" if len(keys) > 3 else ""
    return ", ".join(keys[:3]) + more


def load_weights(model: nn.Layer, path: str | os.PathLike[str], strict: bool = True) -> LoadReport:
    """Load a whole model's weights, of any known format: same keys, same shapes, finite.

    Nothing is assigned unless everything fits.

    Args:
        strict: otherwise what fits is loaded, and the rest is logged.

    Raises:
        UserError: the file is missing, damaged, or of another model; the message says of which.
    """
    checkpoint = open_checkpoint(path, is_known=False)
    state = _state_for(model, checkpoint)
    report = _compare(model, state, checkpoint)
    if not report.is_exact:
        if strict:
            raise UserError(
                f"{path}: these weights are of {checkpoint.describe()}, the model is "
                f"{describe_model(model)} ({report}). Take the config that they were trained with."
            )
        if not report.matched:
            raise UserError(
                f"{path}: not a single weight fits; they are of {checkpoint.describe()}, the model "
                f"is {describe_model(model)}."
            )
        for name in ("missing", "unexpected", "mismatched"):
            if keys := getattr(report, name):
                logger.warning("%s: loaded in part; %s: %s", path, name, ", ".join(keys))
    elif report.cast:
        logger.warning("%s: %s", path, report)
    _warn_of_epsilons(model, checkpoint, path)
    _assign(model, state, report.matched)
    return report


def load_pretrained(layer: nn.Layer, source: str) -> LoadReport:
    """Load weights to start from: a path or URL, for a backbone or a whole model.

    A classifier of another class count keeps its initial weights, a head's weights beside those of
    a backbone are left out, and layers that can turn weights of another shape into their own do so
    (`contracts.Reshaping`); all of it is logged. Anything else that does not match
    stops.
    """
    path = local_path(source)
    checkpoint = open_checkpoint(path, is_known=False)
    state = _state_for(layer, checkpoint)
    report = _compare(layer, state, checkpoint)
    reshaped = _reshape(layer, state, report)
    _leave_out(report, heads=set() if state is checkpoint.state else checkpoint.head_keys)
    if not report.is_exact:
        raise UserError(
            f"{path}: these weights are of {checkpoint.describe()}, the model is "
            f"{describe_model(layer)} ({report})."
        )
    for name in ("left_out", "reshaped"):
        if keys := getattr(report, name):
            logger.warning("%s: %s %s", path, name.replace("_", " "), _shortened(keys))
    _warn_of_epsilons(layer, checkpoint, path)
    _assign(layer, state, report.matched, reshaped)
    logger.info("%s: %s", path, report)
    return report


def _leave_out(report: LoadReport, heads: set[str]) -> None:
    """Move what a start does without, a classifier or the head on a backbone, to `left_out`."""
    excused = [
        item
        for item in (*report.unexpected, *report.mismatched)
        if item.startswith(CLASSIFIER_PREFIXES) or item in heads
    ]
    report.left_out = excused
    report.unexpected = [item for item in report.unexpected if item not in excused]
    report.mismatched = [item for item in report.mismatched if item not in excused]


def save_weights(model: nn.Layer, path: str | os.PathLike[str]) -> None:
    """Write the model's weights as a `.pdparams` that PaddleSeg reads too, atomically."""
    write_pickle(model.state_dict(), path)


def describe_model(layer: nn.Layer) -> str:
    """Say which model a layer is, as far as its weights' names tell."""
    own = layer.state_dict()
    prefix = "" if any(key.startswith(_BACKBONE) for key in own) else _BACKBONE
    shapes = {prefix + key: tuple(item.shape) for key, item in own.items()}
    architecture = architecture_of(shapes.get)
    if architecture is None:
        return describe({}, len(shapes))
    section = architecture.section(shapes.get)
    return describe({**section, "backbone": short_backbone(section["backbone"])}, len(shapes))


def _state_for(layer: nn.Layer, checkpoint: Checkpoint) -> State:
    """Return the weights under the layer's names: a backbone's have no prefix of their own."""
    own, state = layer.state_dict(), checkpoint.state
    has_prefix, needs_prefix = (
        any(key.startswith(_BACKBONE) for key in keys) for keys in (state, own)
    )
    return state.without_prefix(_BACKBONE) if has_prefix and not needs_prefix else state


def _compare(layer: nn.Layer, state: State, checkpoint: Checkpoint) -> LoadReport:
    """Sort the keys of file and layer into a report."""
    types = Counter(entry.dtype for entry in state.entries.values() if entry.dtype != "float32")
    report = LoadReport(cast=dict(sorted(types.items())))
    own = layer.state_dict()
    for key, tensor in own.items():
        if key not in state.entries:
            report.missing.append(key)
        elif (found := list(state.entries[key].shape)) != list(tensor.shape):
            report.mismatched.append(f"{key}: found {found}, expected {list(tensor.shape)}")
        else:
            report.matched.append(key)
    report.unexpected = [key for key in state if key not in own] + checkpoint.unexpected
    return report


def _reshape(layer: nn.Layer, state: State, report: LoadReport) -> dict[str, np.ndarray]:
    """Ask the layers for weights of their own shape where the file has another."""
    hooks = [
        (f"{name}." if name else "", part.reshape_pretrained)
        for name, part in layer.named_sublayers(include_self=True)
        if isinstance(part, Reshaping)
    ]
    reshaped: dict[str, np.ndarray] = {}
    for item in list(report.mismatched):
        key = item.partition(":")[0]
        for prefix, hook in hooks:
            if key.startswith(prefix):
                array = hook(key.removeprefix(prefix), state[key])
                if array is not None:
                    reshaped[key] = array
                    report.reshaped.append(item)
                    report.mismatched.remove(item)
                    break
    return reshaped


def _warn_of_epsilons(
    layer: nn.Layer, checkpoint: Checkpoint, path: str | os.PathLike[str]
) -> None:
    """Say where the layer's LayerNorm epsilons are not those that the weights were made with."""
    backbone = getattr(layer, "backbone", layer)
    for key, theirs in FORMATS[checkpoint.format].backbone.items():
        ours = getattr(backbone, key, theirs)
        if ours != theirs:
            logger.warning(
                "%s: made with %s=%s, the model has %s; set model.backbone.%s=%s for the same "
                "results at every size",
                *(path, key, theirs, ours, key, theirs),
            )
    for key, theirs in (checkpoint.epsilons or {}).items():
        ours = getattr(backbone, key, theirs)
        if ours != theirs:
            logger.warning(
                "%s: its LayerNorm epsilon %s is %g, the model's is %g; set model.backbone.%s=%g "
                "for the same results",
                *(path, key, theirs, ours, key, theirs),
            )


def _check_finite(array: np.ndarray, key: str, file: Path) -> None:
    with np.errstate(all="ignore"):
        is_finite = np.isfinite(array.sum(dtype=np.float32))  # one pass; NaN and inf carry through
    if not is_finite and not np.isfinite(array).all():
        raise UserError(
            f"{file}: {key} holds numbers that are not finite; these weights are of a run that "
            "diverged, or damaged."
        )


@paddle.no_grad()
def _assign(
    layer: nn.Layer,
    state: State,
    keys: Iterable[str],
    others: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Check that every weight is finite, then write them all."""
    keys, others = list(keys), others or {}
    for key in keys:
        _check_finite(state[key], key, state.file)
    for key, array in others.items():
        _check_finite(array, key, state.file)
    own = layer.state_dict()
    for key in keys:
        _write(own[key], state[key])
    for key, array in others.items():
        _write(own[key], array)


def _write(tensor: Tensor, array: np.ndarray) -> None:
    """Copy an array into a tensor, on the CPU without a copy in between."""
    if tensor.place.is_cpu_place() and tensor.dtype == paddle.float32 and tensor.is_contiguous():
        memory = (ctypes.c_float * tensor.size).from_address(tensor.data_ptr())
        np.copyto(np.ctypeslib.as_array(memory).reshape(array.shape), array)
    else:
        tensor.set_value(paddle.to_tensor(np.ascontiguousarray(array)).astype(tensor.dtype))
