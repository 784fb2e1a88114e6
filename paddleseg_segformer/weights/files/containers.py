"""Weight files of every container: opened as named tensors, read on demand; written atomically.

The reader is chosen by a file's first bytes, not by its name. No reader runs code that a file
names.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import atomic_path
from paddleseg_segformer.weights.files.download import known_names
from paddleseg_segformer.weights.files.pickles import StoredArray, read_pickle, write_pickle
from paddleseg_segformer.weights.files.stored import StoredTensor, read_safetensors, read_torch

# Weight files of a folder, the first to be found is read: this package's names, Hugging Face's,
# rstrudel's.
FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "model.pdparams",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "checkpoint.pth",
)
SUFFIXES = {  # that can be written
    "torch": (".pth", ".pt", ".bin", ".safetensors"),
    "paddle": (".pdparams", ".safetensors"),
}
_MAX_HEADER = 100_000_000  # bytes, safetensors' own limit
_ZIP = b"PK\x03\x04"
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_WRAPPERS = ("module.", "model.", "net.", "network.", "_orig_mod.")  # of training programs
_OTHER_FILES = {  # often saved under a weight file's name: first bytes -> remedy
    b"": "it is empty. Fetch it again.",
    b"<": "it is a web page, not weights. Fetch it again from the address of the file itself.",
    b"version https://git-lfs": "it is a Git LFS pointer. Fetch the file itself: git lfs pull",
    b"\x1f\x8b": "it is a compressed archive. Unpack it first.",
}


@dataclass(frozen=True)
class Container:
    """What a file or folder holds.

    Args:
        file: the weight file, or the index of several.
        kind: "paddle", "safetensors" or "torch".
        tensors: by the file's own names.
        meta: what the file holds besides weights, as plain data.
        set_aside: names of entries that training programs keep beside the weights.
    """

    file: Path
    kind: str
    tensors: Mapping[str, StoredTensor]
    meta: dict[str, Any] = field(default_factory=dict)
    set_aside: list[str] = field(default_factory=list)


def read_container(path: str | os.PathLike[str]) -> Container:
    """Open a weight file, or the one in a folder.

    Raises:
        UserError: no such file, not a weight file, damaged, or naming code to run.
    """
    file = Path(path)
    if file.is_dir():
        candidates = [file / name for name in FOLDER_FILES if (file / name).is_file()]
        if not candidates:
            raise UserError(f"{file}: no weight file, expected one of {', '.join(FOLDER_FILES)}.")
        file = candidates[0]
    if not file.is_file():
        raise UserError(f"{file}: no such weight file. {known_names(file)}")
    found = _read_shards(file) if file.name.endswith(".index.json") else _read_file(file)
    tensors, set_aside = _without_companions(dict(found.tensors))
    return dataclasses.replace(found, tensors=tensors, set_aside=set_aside)


def _read_file(file: Path) -> Container:
    with open(file, "rb") as stream:
        head = stream.read(64)
    # A header's length and its brace come first; the length may look like a pickle's 0x80.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _MAX_HEADER:
        return Container(file, "safetensors", read_safetensors(file))
    if head.startswith((_ZIP, _LEGACY_TORCH)):
        content, kind = read_torch(file, is_zip=head.startswith(_ZIP)), "torch"
    elif head.startswith(b"\x80"):
        content, kind = read_pickle(file), "paddle"
    else:
        raise UserError(f"{file}: not a readable weight file: {_what_it_is(head)}")
    state, meta = _unwrapped(content, file)
    return Container(file, kind, state, meta)


def _what_it_is(head: bytes) -> str:
    for start, advice in _OTHER_FILES.items():
        if head.lstrip().startswith(start) if start else not head:
            return advice
    return "it is of another format, or damaged. Expected .pdparams, .safetensors, .pth or .bin."


def _unwrapped(content: Any, file: Path) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    """Return the weights in a file's content, and the rest as plain data."""
    meta: dict[str, Any] = {}
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            meta = {name: _plain(item) for name, item in content.items() if name != key}
            content = content[key]
            break
    if not isinstance(content, Mapping):
        raise UserError(
            f"{file}: found {type(content).__name__}, expected a dictionary of weights."
        )
    state = {}
    for key, value in content.items():
        if value is None or isinstance(value, (bool, int, float, str)):
            meta[str(key)] = value  # such as the epoch
            continue
        stored = value if isinstance(value, StoredTensor) else _of_array(value)
        if stored is None or not isinstance(key, str):
            raise UserError(
                f"{file}: {key!r} is {type(value).__name__}, expected a dictionary of weights."
            )
        state[key] = stored
    return state, meta


def _without_companions(
    state: dict[str, StoredTensor],
) -> tuple[dict[str, StoredTensor], list[str]]:
    """Return a model's weights without the prefix of a training program, and the other names.

    Programs keep averages (`ema_backbone_...`, as mmcv writes them), losses and constants beside
    the model's weights, which then stand under one prefix.
    """
    averages = {"ema_" + key.replace(".", "_") for key in state}
    set_aside = [key for key in state if key in averages]
    state = {key: value for key, value in state.items() if key not in averages}
    while state:
        prefixes = Counter(key.partition(".")[0] + "." for key in state)
        prefix, count = prefixes.most_common(1)[0]
        if prefix not in _WRAPPERS or 2 * count <= len(state):
            break
        set_aside += [key for key in state if not key.startswith(prefix)]
        state = {
            key.removeprefix(prefix): value
            for key, value in state.items()
            if key.startswith(prefix)
        }
    return state, set_aside


def _of_array(value: Any) -> StoredTensor | None:
    if not isinstance(value, np.ndarray):
        return None
    return StoredTensor(value.shape, value.dtype.name, lambda: value)


def _plain(value: Any) -> Any:
    """Return metadata as dictionaries, lists, text and numbers; None for anything else."""
    value = getattr(value, "array", None) if isinstance(value, StoredArray) else value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray) and value.dtype.kind in "iufb" and value.size < 10_000:
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, (str, int, float, bool)) else None


def _read_shards(index: Path) -> Container:
    """Open the files that a Hugging Face index names, in its folder."""
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{index}: not an index of weight files (no `weight_map`).") from None
    tensors: dict[str, StoredTensor] = {}
    kind = ""
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise UserError(f"{index}: names {name!r}, expected a file beside it.")
        if not (index.parent / name).is_file():
            raise UserError(f"{index}: {name} is missing. Fetch it too.")
        shard = _read_file(index.parent / name)
        kind = shard.kind
        tensors.update(shard.tensors)
    wrong = set(weight_map) ^ set(tensors)
    if wrong:
        raise UserError(f"{index}: does not agree with its files on {sorted(wrong)[0]}.")
    return Container(index, kind, tensors)


def write_tensors(
    tensors: Mapping[str, np.ndarray],
    path: Path,
    is_torch: bool,
    weights_key: str = "",
    beside: Mapping[str, Any] | None = None,
) -> None:
    """Write arrays in the container that the suffix names, atomically.

    Args:
        is_torch: whether a `.safetensors` file is for PyTorch's loaders.
        weights_key: key of the weights in a `.pth` or `.pt` file; "" for a flat dictionary.
        beside: what else such a file holds.

    Raises:
        MissingDependency: the container needs a package that is not installed.
    """
    if path.suffix == ".safetensors":
        with explained():
            from safetensors.numpy import save_file
        with atomic_path(path) as temporary:
            save_file(dict(tensors), temporary, metadata={"format": "pt" if is_torch else "np"})
    elif path.suffix == ".pdparams":
        write_pickle(dict(tensors), path)
    else:
        with explained():
            import torch
        state = {name: torch.from_numpy(array) for name, array in tensors.items()}
        is_wrapped = weights_key and path.suffix != ".bin"
        content = {**(beside or {}), weights_key: state} if is_wrapped else state
        with atomic_path(path) as temporary:
            torch.save(content, temporary)
