"""Weights into a model: every key is accounted for, or loading stops with the keys that are not."""

from __future__ import annotations

import ctypes
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor, nn

from paddleseg_segformer.contracts import Reshaping
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.weights.architectures import architecture_of
from paddleseg_segformer.weights.architectures.sizes import Section, describe, short_backbone
from paddleseg_segformer.weights.files.download import local_path
from paddleseg_segformer.weights.files.pickles import write_pickle
from paddleseg_segformer.weights.formats import FORMATS
from paddleseg_segformer.weights.weight_file import RANGES, Checkpoint, State, open_checkpoint

logger = logging.getLogger(__name__)

_CLASSIFIERS = ("fc.", "head.", "linear_pred.")  # their shapes follow the number of classes
_BACKBONE = "backbone."


@dataclass
class LoadReport:
    """What became of every key."""

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # the model has it, the file does not
    unexpected: list[str] = field(default_factory=list)  # the file has it, the model does not
    mismatched: list[str] = field(default_factory=list)  # "key: found shape, expected shape"
    reshaped: list[str] = field(default_factory=list)  # "key: how it was made to fit"
    left_out: list[str] = field(default_factory=list)  # the head, or the classifier
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
    """Load a whole model's weights, of any known format: same keys, same shapes, all finite.

    Nothing is assigned unless everything matches.

    Args:
        strict: otherwise what matches is loaded, and the rest is logged.

    Raises:
        UserError: the file is missing, damaged, or of another model, which the message describes.
    """
    checkpoint = open_checkpoint(path, is_known=False)
    state = _state_for(model, checkpoint)
    report = _compare(model, state, checkpoint)
    if not report.is_exact:
        if strict or not report.matched:
            raise UserError(
                f"{path}: {_difference(model, checkpoint, report)}. Take the config that they were "
                "trained with."
            )
        for name in ("missing", "unexpected", "mismatched"):
            if keys := getattr(report, name):
                logger.warning("%s: loaded in part; %s: %s", path, name, ", ".join(keys))
    elif report.cast:
        logger.warning("%s: %s", path, report)
    _warn_of_settings(model, checkpoint, path)
    _assign(model, state, report.matched, {})
    return report


def load_pretrained(layer: nn.Layer, source: str) -> LoadReport:
    """Load pretrained weights, from a path or URL, into a backbone or a whole model.

    A classifier for another number of classes keeps its initial weights, a backbone ignores the
    weights of a head, and layers that can reshape weights do so (`contracts.Reshaping`); all of it
    is logged.

    Raises:
        UserError: the file is missing or damaged, or anything else does not match.
    """
    path = local_path(source)
    checkpoint = open_checkpoint(path, is_known=False)
    state = _state_for(layer, checkpoint)
    report = _compare(layer, state, checkpoint)
    reshaped = _reshape(layer, state, report)
    report.missing = [key for key in report.missing if key != RANGES]  # training finds them
    _leave_out(report, heads=set() if state is checkpoint.state else checkpoint.head_keys)
    if not report.is_exact:
        raise UserError(f"{path}: {_difference(layer, checkpoint, report)}.")
    for name in ("left_out", "reshaped"):
        if keys := getattr(report, name):
            logger.warning("%s: %s %s", path, name.replace("_", " "), _shortened(keys))
    _warn_of_settings(layer, checkpoint, path)
    _assign(layer, state, report.matched, reshaped)
    logger.info("%s: %s", path, report)
    return report


def _leave_out(report: LoadReport, heads: set[str]) -> None:
    """Move a classifier's keys, and a head's that a backbone ignores, to `left_out`."""
    excused = [
        item
        for item in (*report.unexpected, *report.mismatched)
        if item.startswith(_CLASSIFIERS) or item in heads
    ]
    report.left_out = excused
    report.unexpected = [item for item in report.unexpected if item not in excused]
    report.mismatched = [item for item in report.mismatched if item not in excused]


def save_weights(model: nn.Layer, path: str | os.PathLike[str]) -> None:
    """Write the model's weights as a `.pdparams` that PaddleSeg reads too, atomically."""
    write_pickle(model.state_dict(), path)


def _difference(layer: nn.Layer, checkpoint: Checkpoint, report: LoadReport) -> str:
    """Say which model the weights are of, which one the layer is, and where they differ."""
    own = layer.state_dict()
    prefix = "" if any(key.startswith(_BACKBONE) for key in own) else _BACKBONE
    shapes = {prefix + key: tuple(item.shape) for key, item in own.items()}
    section: Section = {}
    if architecture := architecture_of(shapes.get):
        section = architecture.section(shapes.get)
        section["backbone"] = short_backbone(section["backbone"])
    return (
        f"holds weights of {checkpoint.describe()}, but the model is "
        f"{describe(section, len(shapes))} ({report})"
    )


def _state_for(layer: nn.Layer, checkpoint: Checkpoint) -> State:
    """Return the weights under the layer's names: those of a bare backbone have no prefix."""
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
    """Let the layers reshape weights whose shapes are not theirs."""
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


def _warn_of_settings(
    layer: nn.Layer, checkpoint: Checkpoint, path: str | os.PathLike[str]
) -> None:
    """Warn where the backbone's settings are not those that the weights were trained with."""
    backbone = getattr(layer, "backbone", layer)
    trained = {**FORMATS[checkpoint.format].backbone, **(checkpoint.epsilons or {})}
    for key, theirs in trained.items():
        ours = getattr(backbone, key, theirs)
        if ours != theirs:
            logger.warning(
                "%s: trained with %s=%s, the model has %s; set model.backbone.%s=%s for the same "
                "results",
                *(path, key, theirs, ours, key, theirs),
            )


def _check_finite(array: np.ndarray, key: str, file: Path) -> None:
    with np.errstate(all="ignore"):
        is_finite = np.isfinite(array.sum(dtype=np.float32))  # one pass; NaN and inf carry through
    if not is_finite and not np.isfinite(array).all():
        raise UserError(
            f"{file}: {key} holds numbers that are not finite: the training diverged, or the file "
            "is damaged. Take another one."
        )


@paddle.no_grad()
def _assign(
    layer: nn.Layer, state: State, keys: Iterable[str], reshaped: Mapping[str, np.ndarray]
) -> None:
    """Check that every weight is finite, then write them all."""

    def arrays() -> Iterator[tuple[str, np.ndarray]]:
        yield from ((key, state[key]) for key in keys)
        yield from reshaped.items()

    for key, array in arrays():
        _check_finite(array, key, state.file)
    own = layer.state_dict()
    for key, array in arrays():
        _write(own[key], array)


def _write(tensor: Tensor, array: np.ndarray) -> None:
    """Copy an array into a tensor; on the CPU directly."""
    if tensor.place.is_cpu_place() and tensor.dtype == paddle.float32 and tensor.is_contiguous():
        memory = (ctypes.c_float * tensor.size).from_address(tensor.data_ptr())
        np.copyto(np.ctypeslib.as_array(memory).reshape(array.shape), array)
    else:
        tensor.set_value(paddle.to_tensor(np.ascontiguousarray(array)).astype(tensor.dtype))
