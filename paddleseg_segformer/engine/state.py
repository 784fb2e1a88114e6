"""Checkpoints: a folder `iter_N` with the weights and one object of all else that resume needs."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist

from paddleseg_segformer.checkpoints import load_weights, save_weights
from paddleseg_segformer.checkpoints.pickles import read_pickle, write_pickle
from paddleseg_segformer.engine.trainer import Trainer
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import make_folder, write_text

logger = logging.getLogger(__name__)

WEIGHTS = "model.pdparams"
STATE = "model.pdopt"
CONFIG = "config.yml"
FORMAT_VERSION = 1


@dataclass
class BestModel:
    """The best evaluation so far."""

    miou: float = -1.0
    iteration: int = 0


def save_checkpoint(
    folder: Path, trainer: Trainer, best: BestModel, ema: Any | None, config_yaml: str
) -> None:
    """Write a checkpoint beside `folder`, then rename it there: `folder` is whole or absent."""
    temporary = make_folder(folder.parent) / f".{folder.name}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    save_weights(trainer.network, temporary / WEIGHTS)
    write_text(temporary / CONFIG, config_yaml)
    state = {
        "format_version": FORMAT_VERSION,
        "iteration": trainer.iteration,
        "seed": trainer.seed,
        "world_size": dist.get_world_size(),
        "best_miou": best.miou,
        "best_iteration": best.iteration,
        "optimizer": _optimizer_state(trainer),
        "schedule": trainer.schedule.state_dict(),
        "scaler": trainer.precision.scaler.state_dict(),
        "ema": ema.state_dict() if ema else {},
    }
    write_pickle(state, temporary / STATE)
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote beside the weights.

    Raises:
        UserError: the folder is no checkpoint, or is damaged.
    """
    if not (folder / STATE).is_file():
        raise UserError(
            f"--resume_model {folder}: expected a folder such as output/iter_1000 that holds "
            f"{WEIGHTS} and {STATE}."
        )
    state = read_pickle(folder / STATE)
    if not isinstance(state, dict) or state.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{folder / STATE}: not a training state of this program (PaddleSeg's cannot be "
            "resumed; start from its weights with `model.pretrained`)."
        )
    return state


def restore(
    state: dict[str, Any], folder: Path, trainer: Trainer, best: BestModel, ema: Any | None
) -> None:
    """Bring a trainer to where `save_checkpoint` was called.

    Args:
        state: what `read_checkpoint` gave for `folder`.

    Raises:
        UserError: the weights are damaged, or of another model.
    """
    load_weights(trainer.network, folder / WEIGHTS)
    _set_optimizer_state(trainer, state["optimizer"], state["schedule"])
    trainer.precision.scaler.load_state_dict(state["scaler"])
    trainer.iteration = state["iteration"]
    best.miou, best.iteration = state["best_miou"], state["best_iteration"]
    if state["seed"] != trainer.seed:
        logger.warning("seed: the checkpoint's was %s, now %s", state["seed"], trainer.seed)
    _warn_of_other_world_size(state.get("world_size", dist.get_world_size()))
    if ema and state["ema"]:
        ema.set_state_dict(state["ema"])


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
    """Return the checkpoint folders in `save_dir`, oldest first."""
    found = [path for path in save_dir.glob("iter_*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]))


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


def _set_optimizer_state(
    trainer: Trainer, state: dict[str, np.ndarray], schedule: dict[str, Any]
) -> None:
    automatic = {name: auto for auto, name in _structured_names(trainer).items()}
    restored: dict[str, Any] = {"LR_Scheduler": schedule}
    for key, value in state.items():
        name, _, suffix = key.partition("@")
        restored[automatic[name] + suffix] = paddle.to_tensor(value)
    trainer.optimizer.set_state_dict(restored)
