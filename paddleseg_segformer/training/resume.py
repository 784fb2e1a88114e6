"""Where a run starts: from a checkpoint that is named, from the newest good one, or afresh."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import clear_leftovers
from paddleseg_segformer.model_folder import CONFIG
from paddleseg_segformer.training.distributed import of_first_process
from paddleseg_segformer.training.state import checkpoints, read_checkpoint, serial
from paddleseg_segformer.yaml_files import parse_yaml

logger = logging.getLogger(__name__)

AUTO = "auto"
# Keys of the model that may change under way: they leave the meaning of its weights as it is.
_FREE_MODEL_KEYS = (
    "pretrained",
    "drop_rate",
    "attn_drop_rate",
    "drop_path_rate",
    "dropout_rate",
    "use_recompute",
)
_ABSENT = "(absent)"


def find_checkpoint(resume_model: str | None, save_dir: Path, rank: int = 0) -> Path | None:
    """Return the checkpoint folder to go on from, or None to start afresh.

    Args:
        resume_model: a folder, or `auto` for the newest good checkpoint in `save_dir`.

    Raises:
        UserError: a new run would mix its checkpoints with those of another.
    """
    if rank == 0:
        for name in clear_leftovers(save_dir):
            logger.info("%s: cleared %s, left by a run that was killed", save_dir, name)
    if resume_model == AUTO:
        return _newest_good(save_dir, rank)
    if resume_model:
        return Path(resume_model)
    earlier = checkpoints(save_dir) if rank == 0 else []
    if earlier:
        raise UserError(
            f"{save_dir}: holds checkpoints of an earlier run (the newest: {earlier[-1].name}). Go "
            "on from it with --resume_model auto, or choose another --save_dir."
        )
    return None


def _newest_good(save_dir: Path, rank: int) -> Path | None:
    """Return the newest good checkpoint; all processes take the one that the first one found."""
    found = _search(save_dir) if rank == 0 else None
    number = int(found.name.partition("_")[2]) if found else -1
    number = int(of_first_process(np.array([number]))[0])
    return save_dir / f"iter_{number}" if number >= 0 else None


def _search(save_dir: Path) -> Path | None:
    newest_first = reversed(checkpoints(save_dir))
    for folder in sorted(newest_first, key=lambda path: serial(path) >= 0):  # nameless ones first
        try:
            read_checkpoint(folder)
        except UserError as error:
            logger.warning("checkpoint %s is damaged and was skipped: %s", folder, error)
        else:
            return folder
    logger.info("--resume_model auto: no good checkpoint in %s, starting afresh", save_dir)
    return None


def check_config(folder: Path, config_yaml: str) -> None:
    """Log which keys of the config differ from the checkpoint's.

    Raises:
        UserError: the checkpoint's state has no meaning under the changed config.
    """
    path = folder / CONFIG
    text = path.read_text(encoding="utf-8")
    if text == config_yaml:
        return
    old, new = (dict(_flat(parse_yaml(source, str(path)))) for source in (text, config_yaml))
    changes = {
        key: f"{key}: {old.get(key, _ABSENT)} -> {new.get(key, _ABSENT)}"
        for key in [*old, *(key for key in new if key not in old)]
        if old.get(key, _ABSENT) != new.get(key, _ABSENT)
    }
    fatal = [change for key, change in changes.items() if _is_fatal(key)]
    if fatal:
        raise UserError(
            f"{folder}: the checkpoint's state has no meaning under the changed config "
            f"({'; '.join(fatal)}). Put these keys back, or start a new run with its weights as "
            "model.pretrained."
        )
    for change in changes.values():
        logger.warning("the config has changed since the checkpoint: %s", change)


def _is_fatal(key: str) -> bool:
    """Tell whether a key decides what the weights or the optimizer's state mean."""
    if key.startswith("model."):
        return key.rpartition(".")[2] not in _FREE_MODEL_KEYS
    return key == "optimizer.type"


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dictionaries and lists by dotted key, as `--opts` names them."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _flat(item, f"{prefix}.{index}")
    else:
        yield prefix, value
