"""Weights into a model: every key is accounted for, or loading stops and says which are not."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from paddleseg_segformer.checkpoints.download import fetch, is_url
from paddleseg_segformer.checkpoints.pickles import read_pickle, write_pickle
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models.mix_transformer import VARIANTS, MixVisionTransformer

logger = logging.getLogger(__name__)

State = Mapping[str, np.ndarray]
CLASSIFIER_PREFIXES = ("head.", "linear_pred.")  # what another class count reshapes


@dataclass
class LoadReport:
    """What became of every key."""

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # the model has it, the file does not
    unexpected: list[str] = field(default_factory=list)  # the file has it, the model does not
    mismatched: list[str] = field(default_factory=list)  # "key: found shape, expected shape"

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} matched"]
        for name in ("missing", "unexpected", "mismatched"):
            keys = getattr(self, name)
            if keys:
                more = f", ... ({len(keys)} in all)" if len(keys) > 3 else ""
                parts.append(f"{name}: {', '.join(keys[:3])}{more}")
        return "; ".join(parts)


def load_weights(model: nn.Layer, path: str | os.PathLike[str]) -> LoadReport:
    """Load a whole model's `.pdparams`, strictly: same keys, same shapes.

    Raises:
        UserError: the file is missing, damaged, or of another model; the message says of which.
    """
    state = read_state(path)
    report = compare(model, state)
    if report.missing or report.unexpected or report.mismatched:
        raise UserError(
            f"{path}: these weights are of {describe(state)}, the model is "
            f"{describe(to_numpy(model))} "
            f"({report}). Take the config that they were trained with."
        )
    _assign(model, state, report.matched)
    return report


def load_pretrained(layer: nn.Layer, source: str) -> LoadReport:
    """Load weights to start from: a path or URL, for a backbone or a whole model.

    A classifier of another class count keeps its initial weights, and an ImageNet classifier beside
    a backbone's weights is left out; both are logged. Anything else that does not match stops.
    """
    path = fetch(source) if is_url(source) else Path(source)
    state = read_state(path)
    backbone_of_whole = not hasattr(layer, "backbone") and any(
        key.startswith("backbone.") for key in state
    )
    if backbone_of_whole:
        state = {
            key.removeprefix("backbone."): value
            for key, value in state.items()
            if key.startswith("backbone.")
        }
    report = compare(layer, state)
    excused = [key for key in report.unexpected if key.startswith(CLASSIFIER_PREFIXES)]
    reshaped = [key for key in report.mismatched if key.startswith(CLASSIFIER_PREFIXES)]
    unexplained = (
        set(report.unexpected) - set(excused)
        | set(report.mismatched) - set(reshaped)
        | set(report.missing)
    )
    if unexplained:
        raise UserError(
            f"{path}: these weights are of {describe(state)}, the model is "
            f"{describe(to_numpy(layer))} ({report})."
        )
    for key in (*excused, *reshaped):
        logger.warning("%s: left out %s", path, key)
    _assign(layer, state, report.matched)
    logger.info("%s: %s", path, report)
    return report


def save_weights(model: nn.Layer, path: str | os.PathLike[str]) -> None:
    """Write the model's weights as a `.pdparams` that PaddleSeg reads too, atomically."""
    write_pickle(model.state_dict(), path)


def read_state(path: str | os.PathLike[str]) -> State:
    """Read a flat dictionary of arrays."""
    state = read_pickle(path)
    if not isinstance(state, dict) or not all(
        isinstance(value, np.ndarray) for value in state.values()
    ):
        raise UserError(f"{path}: found {type(state).__name__}, expected a dictionary of weights.")
    return state


def compare(model: nn.Layer, state: State) -> LoadReport:
    """Sort the keys of `state` and of the model into a report."""
    report = LoadReport()
    own = model.state_dict()
    for key, tensor in own.items():
        if key not in state:
            report.missing.append(key)
        elif list(state[key].shape) != list(tensor.shape):
            report.mismatched.append(
                f"{key}: found {list(state[key].shape)}, expected {list(tensor.shape)}"
            )
        else:
            report.matched.append(key)
    report.unexpected = [key for key in state if key not in own]
    return report


def to_numpy(model: nn.Layer) -> dict[str, np.ndarray]:
    """Return the model's weights as arrays."""
    return {key: tensor.numpy() for key, tensor in model.state_dict().items()}


def describe(state: State) -> str:
    """Say which model a state is of, as far as its keys tell."""
    state = {key.removeprefix("backbone."): value for key, value in state.items()}
    if "patch_embed1.proj.weight" not in state:
        return f"an unknown model ({len(state)} tensors)"
    depths = tuple(
        len({key.split(".")[1] for key in state if key.startswith(f"block{stage}.")})
        for stage in range(1, 5)
    )
    width = state["patch_embed1.proj.weight"].shape[0]
    parts = [_variant(width, depths)]
    if "linear_fuse._conv.weight" in state:
        parts.append(f"embedding_dim {state['linear_fuse._conv.weight'].shape[0]}")
    if "fusion_conv._conv.weight" in state:
        parts.append(
            f"mmsegmentation's head, embedding_dim {state['fusion_conv._conv.weight'].shape[0]}"
        )
    if "linear_pred.weight" in state:
        parts.append(f"{state['linear_pred.weight'].shape[0]} classes")
    return ", ".join(parts)


def _variant(width: int, depths: tuple[int, ...]) -> str:
    defaults = {"embed_dims": (32, 64, 160, 256), "depths": (2, 2, 2, 2)}
    for name, difference in VARIANTS.items():
        expected = {**defaults, **difference}
        if (expected["embed_dims"][0], tuple(expected["depths"])) == (width, depths):
            return f"MixVisionTransformer_{name}"
    return f"{MixVisionTransformer.__name__} with width {width}, depths {list(depths)}"


@paddle.no_grad()
def _assign(model: nn.Layer, state: State, keys: list[str]) -> None:
    own = model.state_dict()
    for key in keys:
        own[key].set_value(paddle.to_tensor(state[key]).astype(own[key].dtype))
