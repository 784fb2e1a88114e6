"""Checkpoints: a folder `iter_N` with the weights and one object of all else that resume needs."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import nn

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import atomic_folder, write_text
from paddleseg_segformer.model_folder import CONFIG, WEIGHTS
from paddleseg_segformer.training.faults import refuse_ruined
from paddleseg_segformer.training.manifest import read_manifest, verify_manifest, write_manifest
from paddleseg_segformer.training.trainer import Trainer
from paddleseg_segformer.weights import load_weights, save_weights
from paddleseg_segformer.weights.files.pickles import read_pickle, write_pickle

logger = logging.getLogger(__name__)

STATE = "model.pdopt"
BEST = "best_model"
FORMAT_VERSION = 2


@dataclass
class BestModel:
    """The best evaluation so far."""

    miou: float = -1.0
    iteration: int = 0


def save_checkpoint(folder: Path, trainer: Trainer, ema: Any | None, config_yaml: str) -> None:
    """Write a checkpoint beside `folder`, then rename it there: `folder` is whole or absent.

    Raises:
        UserError: the disk does not take it, or a weight is not finite.
    """
    refuse_ruined(trainer.network, folder)
    state = {
        "format_version": FORMAT_VERSION,
        "iteration": trainer.iteration,
        "seed": trainer.seed,
        "world_size": dist.get_world_size(),
        "optimizer": _optimizer_state(trainer),
        "scaler": trainer.precision.scaler.state_dict(),
        "ema": ema.state_dict() if ema else {},
        "faults": trainer.faults.state_dict(),
    }
    newest = max((serial(path) for path in checkpoints(folder.parent)), default=0)
    with atomic_folder(folder) as temporary:
        save_weights(trainer.network, temporary / WEIGHTS)
        write_text(temporary / CONFIG, config_yaml)
        write_pickle(state, temporary / STATE)
        write_manifest(temporary, iteration=trainer.iteration, serial=newest + 1)


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote beside the weights, after verifying all its files.

    Raises:
        UserError: the folder is no checkpoint, or is damaged.
    """
    if not (folder / STATE).is_file():
        raise UserError(
            f"--resume_model {folder}: expected a folder such as output/iter_1000 that holds "
            f"{WEIGHTS} and {STATE}, or auto."
        )
    verify_manifest(folder)
    state = read_pickle(folder / STATE)
    if not isinstance(state, dict) or state.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{folder / STATE}: not a training state of this program (PaddleSeg's cannot be "
            "resumed; start from its weights with `model.pretrained`)."
        )
    return state


def restore(state: dict[str, Any], folder: Path, trainer: Trainer, ema: Any | None) -> None:
    """Bring a trainer to where `save_checkpoint` was called.

    Args:
        state: what `read_checkpoint` gave for `folder`.

    Raises:
        UserError: the weights are damaged, or of another model.
    """
    load_weights(trainer.network, folder / WEIGHTS)
    for _ in range(state["iteration"]):  # rather than a state: right for a changed schedule too
        trainer.schedule.step()
    _set_optimizer_state(trainer, state["optimizer"])
    trainer.precision.scaler.load_state_dict(state["scaler"])
    trainer.faults.set_state_dict(state["faults"])
    trainer.iteration = state["iteration"]
    if state["seed"] != trainer.seed:
        logger.warning("seed: the checkpoint's was %s, now %s", state["seed"], trainer.seed)
    _warn_of_other_world_size(state["world_size"])
    if ema:
        if not state["ema"]:
            logger.warning("the checkpoint has no averaged weights: they start from its weights")
        ema.set_state_dict(state["ema"] or trainer.network.state_dict())


def _warn_of_other_world_size(saved: int) -> None:
    """Say what another number of processes means for the run that goes on."""
    if saved != dist.get_world_size():
        logger.warning(
            "the checkpoint was saved by %d process%s, this run has %d; batch_size is per process: "
            "the run goes on with the same samples in each step only if their product stays",
            saved,
            "" if saved == 1 else "es",
            dist.get_world_size(),
        )


def checkpoints(save_dir: Path) -> list[Path]:
    """Return the checkpoint folders in `save_dir` in the order they were saved.

    The order is that of the manifests' serial numbers: it depends neither on the clock nor on the
    iteration, which goes back where a run is taken up from an older checkpoint. Folders without a
    readable manifest come first.
    """
    found = [path for path in save_dir.glob("iter_*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: (serial(path), int(path.name[5:])))


def read_best(save_dir: Path) -> BestModel:
    """Return the figures of the best model that lies in `save_dir`."""
    folder = save_dir / BEST
    if not folder.is_dir():
        return BestModel()
    try:
        manifest = verify_manifest(folder)
        return BestModel(manifest["miou"], manifest["iteration"])
    except (UserError, KeyError) as error:
        logger.warning("%s is damaged and will be replaced: %s", folder, error)
        return BestModel()


def save_best(save_dir: Path, best: BestModel, model: nn.Layer, config_yaml: str) -> None:
    """Replace the best model in `save_dir`, together with its figures.

    Raises:
        UserError: the disk does not take it, or a weight is not finite.
    """
    refuse_ruined(model, save_dir / BEST)
    with atomic_folder(save_dir / BEST) as temporary:
        save_weights(model, temporary / WEIGHTS)
        write_text(temporary / CONFIG, config_yaml)
        write_manifest(temporary, miou=best.miou, iteration=best.iteration)


def serial(folder: Path) -> int:
    """Return the number of a checkpoint in the order of saving; -1 where that is unreadable."""
    try:
        return int(read_manifest(folder)["serial"])
    except (UserError, KeyError, TypeError, ValueError):
        return -1


def _structured_names(trainer: Trainer) -> dict[str, str]:
    """Return automatic parameter name -> name in the model, longest first.

    Paddle names optimizer state by automatic names, which differ from process to process.
    """
    names = {parameter.name: name for name, parameter in trainer.network.named_parameters()}
    return dict(sorted(names.items(), key=lambda item: -len(item[0])))


def _optimizer_state(trainer: Trainer) -> dict[str, Any]:
    names = _structured_names(trainer)
    state: dict[str, Any] = {}
    for key, value in trainer.optimizer.state_dict().items():
        if isinstance(value, paddle.Tensor):
            automatic = next(name for name in names if key.startswith(f"{name}_"))
            state[f"{names[automatic]}@{key[len(automatic) :]}"] = value
    return state


def _set_optimizer_state(trainer: Trainer, state: dict[str, np.ndarray]) -> None:
    automatic = {name: auto for auto, name in _structured_names(trainer).items()}
    restored: dict[str, Any] = {"LR_Scheduler": trainer.schedule.state_dict()}
    for key, value in state.items():
        name, _, suffix = key.partition("@")
        restored[automatic[name] + suffix] = paddle.to_tensor(value)
    trainer.optimizer.set_state_dict(restored)
