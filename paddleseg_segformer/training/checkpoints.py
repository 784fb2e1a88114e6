"""Checkpoints: folders `iter_N` that hold the weights and all else that resuming needs.

Each has a manifest with the size and checksum of its files, and is written beside its destination
and renamed: it is whole or absent.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paddle
import paddle.distributed as dist
from paddle import nn

from paddleseg_segformer.config import Config
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import atomic_folder, clear_leftovers, sha256
from paddleseg_segformer.model_folder import CONFIG, WEIGHTS
from paddleseg_segformer.training.distributed import of_first_process, unwrapped
from paddleseg_segformer.training.faults import nonfinite
from paddleseg_segformer.training.sample_record import SampleRecord, changes
from paddleseg_segformer.weights import load_weights, save_weights
from paddleseg_segformer.weights.files.pickles import read_pickle, write_pickle
from paddleseg_segformer.yaml_files import parse_yaml

if TYPE_CHECKING:
    from paddleseg_segformer.training.hooks import EMA
    from paddleseg_segformer.training.trainer import Trainer

logger = logging.getLogger(__name__)

AUTO = "auto"
BEST = "best_model"
MANIFEST = "manifest.json"
STATE = "model.pdopt"
FORMAT_VERSION = 2
# Keys of the model that may change between runs: the meaning of its weights stays.
FREE_MODEL_KEYS = (
    "pretrained",
    "drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
    "dropout_rate",
    "use_recompute",
)


@dataclass
class BestModel:
    """The best evaluation so far; an mIoU of -1 stands for none."""

    miou: float = -1.0
    iteration: int = 0
    is_finished: bool = False  # the run that it is of


def save_checkpoint(
    folder: Path,
    trainer: Trainer,
    ema: EMA | None,
    config_yaml: str,
    samples: Mapping[str, SampleRecord] | None = None,
) -> None:
    """Write a checkpoint.

    Args:
        samples: Of each data set.

    Raises:
        UserError: the disk is full or read-only, or a weight is not finite.
    """
    _refuse_nonfinite(trainer.network, folder)
    names = _structured_names(trainer)
    optimizer_state: dict[str, Any] = {}
    for key, value in trainer.optimizer.state_dict().items():
        if isinstance(value, paddle.Tensor):
            automatic = next(name for name in names if key.startswith(f"{name}_"))
            optimizer_state[f"{names[automatic]}@{key[len(automatic) :]}"] = value
    state = {
        "format_version": FORMAT_VERSION,
        "iteration": trainer.iteration,
        "seed": trainer.seed,
        "world_size": dist.get_world_size(),
        "optimizer": optimizer_state,
        "scaler": trainer.precision.scaler.state_dict(),
        "ema": ema.state_dict() if ema else {},
        "faults": trainer.faults.state_dict(),
        "distillation": _distillation_state(trainer),
        "samples": {name: record._asdict() for name, record in (samples or {}).items()},
    }
    newest = max((serial(path) for path in checkpoints(folder.parent)), default=0)
    with atomic_folder(folder) as temporary:
        save_weights(trainer.network, temporary / WEIGHTS)
        (temporary / CONFIG).write_text(config_yaml, encoding="utf-8")
        write_pickle(state, temporary / STATE)
        write_manifest(temporary, iteration=trainer.iteration, serial=newest + 1)


def save_best(save_dir: Path, best: BestModel, model: nn.Layer, config_yaml: str) -> None:
    """Replace the best model in `save_dir`, together with its figures.

    Raises:
        UserError: the disk is full or read-only, or a weight is not finite.
    """
    _refuse_nonfinite(model, save_dir / BEST)
    with atomic_folder(save_dir / BEST) as temporary:
        save_weights(model, temporary / WEIGHTS)
        (temporary / CONFIG).write_text(config_yaml, encoding="utf-8")
        write_manifest(temporary, miou=best.miou, iteration=best.iteration)


def _refuse_nonfinite(network: nn.Layer, folder: Path) -> None:
    """Refuse to save non-finite weights: every checkpoint can be resumed from."""
    floating = {key: item for key, item in network.state_dict().items() if item.is_floating_point()}
    bad = nonfinite(floating)
    if bad:
        raise UserError(
            f"{folder}: not saved, as the weight {bad} is not finite. Lower the learning rate, or "
            "clip gradients."
        )


def read_best(save_dir: Path) -> BestModel:
    """Return the figures of the best model in `save_dir`, as the first process reads them."""
    folder, best = save_dir / BEST, BestModel()
    try:
        if folder.is_dir():
            manifest = verify_manifest(folder)
            best = BestModel(manifest["miou"], manifest["iteration"])
    except (UserError, KeyError) as error:
        logger.warning("%s is damaged and will be replaced: %s", folder, error)
    return BestModel(of_first_process(best.miou), int(of_first_process(best.iteration)))


def checkpoints(save_dir: Path) -> list[Path]:
    """Return the checkpoint folders in `save_dir` in the order they were saved.

    The order is that of the serial numbers in their manifests: it depends neither on the clock nor
    on the iteration, which goes back where a run resumes from an older checkpoint. Folders without
    a readable manifest come first.
    """
    found = [path for path in save_dir.glob("iter_*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: (serial(path), int(path.name[5:])))


def serial(folder: Path) -> int:
    """Return the number of a checkpoint in the order of saving; -1 where it is unreadable."""
    try:
        return int(read_manifest(folder)["serial"])
    except (UserError, KeyError, TypeError, ValueError):
        return -1


def find_checkpoint(resume_model: str | None, save_dir: Path, rank: int = 0) -> Path | None:
    """Return the checkpoint folder to resume from, or None for a new run.

    Args:
        resume_model: a folder, or `auto` for the newest undamaged checkpoint in `save_dir`; all
            processes take the one that the first process finds.

    Raises:
        UserError: a new run would mix its checkpoints with those of another.
    """
    if rank == 0:
        for name in clear_leftovers(save_dir):
            logger.info("%s: removed %s, left by a run that was killed", save_dir, name)
    if resume_model == AUTO:
        found = _newest_undamaged(save_dir) if rank == 0 else None
        number = int(of_first_process(int(found.name[5:]) if found else -1))
        return save_dir / f"iter_{number}" if number >= 0 else None
    if resume_model:
        return Path(resume_model)
    earlier = checkpoints(save_dir) if rank == 0 else []
    if earlier:
        raise UserError(
            f"{save_dir}: holds checkpoints of an earlier run (the newest: {earlier[-1].name}). "
            "Resume from it with --resume_model auto, or choose another --save_dir."
        )
    return None


def _newest_undamaged(save_dir: Path) -> Path | None:
    newest_first = reversed(checkpoints(save_dir))
    for folder in sorted(newest_first, key=lambda path: serial(path) >= 0):  # unreadable ones first
        try:
            read_checkpoint(folder)
        except UserError as error:
            logger.warning("checkpoint %s is damaged and was skipped: %s", folder, error)
        else:
            return folder
    logger.info("--resume_model auto: no good checkpoint in %s, starting a new run", save_dir)
    return None


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """Return the training state that `save_checkpoint` wrote, after verifying all files.

    Raises:
        UserError: the folder is no checkpoint, or is damaged.
    """
    if not (folder / STATE).is_file():
        raise UserError(
            f"--resume_model {folder}: expected a folder such as output/iter_1000 that holds "
            f"{WEIGHTS} and {STATE}, or auto."
        )
    from_weights = f"Start from its weights: --opts model.pretrained={folder / WEIGHTS}"
    if not (folder / MANIFEST).is_file():
        raise UserError(
            f"--resume_model {folder}: holds no {MANIFEST}. It is a checkpoint of PaddleSeg's, "
            f"which cannot be resumed here, or an incomplete copy. {from_weights}"
        )
    verify_manifest(folder)
    state = read_pickle(folder / STATE)
    if not isinstance(state, dict) or state.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{folder / STATE}: not a training state of this program. {from_weights}")
    return state


def restore(
    state: dict[str, Any],
    folder: Path,
    trainer: Trainer,
    config_yaml: str,
    samples: Mapping[str, SampleRecord],
) -> None:
    """Bring a trainer to where `save_checkpoint` was called; `EMA` restores its averages itself.

    Args:
        state: what `read_checkpoint` returned for `folder`.
        config_yaml: of the run that resumes; what has changed in it is logged.
        samples: of its data sets; what has changed in them is logged.

    Raises:
        UserError: the state does not fit the changed config, or the weights are damaged or of
            another model.
    """
    _check_config(folder, config_yaml)
    load_weights(trainer.network, folder / WEIGHTS)
    _restore_distillation(trainer, state.get("distillation", {}), folder)
    for _ in range(state["iteration"]):  # rather than a state: right for a changed schedule too
        trainer.schedule.step()
    automatic = {name: key for key, name in _structured_names(trainer).items()}
    optimizer_state: dict[str, Any] = {"LR_Scheduler": trainer.schedule.state_dict()}
    for key, value in state["optimizer"].items():
        name, _, suffix = key.partition("@")
        optimizer_state[automatic[name] + suffix] = paddle.to_tensor(value)
    trainer.optimizer.set_state_dict(optimizer_state)
    trainer.precision.scaler.load_state_dict(state["scaler"])
    trainer.faults.set_state_dict(state["faults"])
    trainer.iteration = state["iteration"]
    if state["seed"] != trainer.seed:
        logger.warning("seed: the checkpoint's was %s, now %s", state["seed"], trainer.seed)
    _compare_samples(state.get("samples", {}), samples)  # checkpoints of version 0.1.0 lack it
    if state["world_size"] != dist.get_world_size():
        logger.warning(
            "the checkpoint was saved by %d process%s, this run has %d; batch_size is per process: "
            "each step sees the same samples only if the product of the two stays the same",
            state["world_size"],
            "" if state["world_size"] == 1 else "es",
            dist.get_world_size(),
        )
    logger.info("resumed from %s at iter %d", folder, trainer.iteration)


def _compare_samples(then: Any, samples: Mapping[str, SampleRecord]) -> None:
    """Log what has changed in the data sets."""
    if isinstance(then, str):  # of an earlier checkpoint
        then = {"train_dataset": {"fingerprint": then, "names": ""}} if then else {}
    for name, now in samples.items():
        before = SampleRecord(**then.get(name, now._asdict()))
        if before.fingerprint == now.fingerprint:
            continue
        changed = f": {changes(before.names, now.names)}" if before.names and now.names else ""
        logger.warning(
            "%s: the list of samples has changed since the checkpoint (then %s, now %s)%s; %s",
            *(name, before.fingerprint, now.fingerprint, changed),
            "this run sees other samples, in another order, than without the stop"
            if name == "train_dataset"
            else "scores before and after, and so the best model, are not of the same images",
        )


def _distillation_state(trainer: Trainer) -> dict[str, Any]:
    """Return the projections of distillation by name."""
    if trainer.distillation is None:
        return {}
    return dict(unwrapped(trainer.distillation).state_dict())


@paddle.no_grad()
def _restore_distillation(trainer: Trainer, saved: Mapping[str, Any], folder: Path) -> None:
    """Restore the projections of distillation.

    Raises:
        UserError: they are of other features.
    """
    own = _distillation_state(trainer)
    shapes = [{key: list(item.shape) for key, item in state.items()} for state in (saved, own)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"{folder}: the checkpoint projects other features for distillation ({shapes[0]}) than "
            f"the config ({shapes[1]}). Put the keys of `distill` back, or start a new run with "
            "its weights as model.pretrained."
        )
    for key, tensor in own.items():
        tensor.set_value(saved[key])


def _structured_names(trainer: Trainer) -> dict[str, str]:
    """Return automatic parameter name -> name in the model, longest first.

    Paddle names optimizer state by automatic names, which differ from process to process.
    """
    names = {parameter.name: name for name, parameter in trainer.learners.named_parameters()}
    return dict(sorted(names.items(), key=lambda item: -len(item[0])))


def _check_config(folder: Path, config_yaml: str) -> None:
    """Log which keys of the config differ from the checkpoint's; refuse those that are fatal."""
    path = folder / CONFIG
    saved_yaml = path.read_text(encoding="utf-8")
    if saved_yaml == config_yaml:
        return
    old, new = (dict(_flat(parse_yaml(text, str(path)))) for text in (saved_yaml, config_yaml))
    defaults = dict(_flat(Config(model={"type": ""}).to_dict()))
    for key in new:  # keys that are younger than the checkpoint
        if key not in old and key in defaults:
            old[key] = defaults[key]
    changes = {
        key: f"{key}: {old.get(key, '(absent)')} -> {new.get(key, '(absent)')}"
        for key in dict.fromkeys([*old, *new])
        if key not in old or key not in new or old[key] != new[key]
    }
    # those that decide what the weights or the optimizer's state mean
    fatal = [
        change
        for key, change in changes.items()
        if key == "optimizer.type"
        or (key.startswith("model.") and key.rpartition(".")[2] not in FREE_MODEL_KEYS)
    ]
    if fatal:
        raise UserError(
            f"{folder}: the checkpoint does not fit the changed config ({'; '.join(fatal)}). Put "
            "these keys back, or start a new run with its weights as model.pretrained."
        )
    for change in changes.values():
        logger.warning("the config has changed since the checkpoint: %s", change)


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dictionaries and lists by dotted key, as `--opts` names them."""
    if not isinstance(value, (dict, list)) or not value:
        yield prefix, value
        return
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))


def write_manifest(folder: Path, **facts: Any) -> None:
    """Write the manifest of the files in `folder`, after all of them, with facts about them."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST
    }
    text = json.dumps({**facts, "files": files}, indent=2)
    (folder / MANIFEST).write_text(f"{text}\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of `folder` without comparing the files.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, expected the list of the folder's files.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise UserError(f"{path}: found no `files`, expected the list of the folder's files.")
    return manifest


def verify_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of `folder` after comparing each file with it.

    Raises:
        UserError: there is no manifest, or a file is missing or is not the one that was written.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: no such file, but {MANIFEST} lists it.")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise UserError(f"{path}: found {size} bytes, expected {expected['bytes']}.")
        if sha256(path) != expected["sha256"]:
            raise UserError(f"{path}: damaged; its checksum is not the one in {MANIFEST}.")
    return manifest
