"""Weight files of every container as named, unread tensors beside plain metadata.

Which reader a file gets follows from its first bytes, not from its name. No reader runs code that
a file names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.weights.files.pickles import read_pickle
from paddleseg_segformer.weights.files.stored import StoredTensor

# In a folder the first of these is read; the package's own names and Hugging Face's, rstrudel's.
FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "model.pdparams",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "checkpoint.pth",
)
_MAX_HEADER = 100_000_000  # bytes, safetensors' own limit
_ZIP = b"PK\x03\x04"
_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_WRAPPERS = ("module.", "model.", "net.", "network.", "_orig_mod.")  # of training programs
_OTHER_FILES = {  # what is often saved under a weight file's name: first bytes -> what to do
    b"": "it is empty. Fetch it again.",
    b"<": "it is a web page, not weights. Fetch it again from the address of the file itself.",
    b"version https://git-lfs": "it is a Git LFS pointer. Fetch the file itself: git lfs pull",
    b"\x1f\x8b": "it is a compressed archive. Unpack it first.",
}


@dataclass(frozen=True)
class Container:
    """What a file or folder holds.

    Args:
        path: as the user gave it, for messages.
        file: the weight file, or the index of several.
        kind: "paddle", "safetensors" or "torch".
        tensors: by the file's own names.
        meta: what stood beside the weights, as plain data.
    """

    path: Path
    file: Path
    kind: str
    tensors: Mapping[str, StoredTensor]
    meta: Mapping[str, Any] = field(default_factory=dict)

    def beside(self, name: str) -> Path | None:
        """Return the file `name` that goes with these weights, if there is one.

        A folder's files go together; weights named on their own need one of the usual names.
        """
        companion = self.file.parent / name
        is_one_of_a_folder = self.path.is_dir() or self.file.name in FOLDER_FILES
        return companion if is_one_of_a_folder and companion.is_file() else None


def read_container(path: str | os.PathLike[str]) -> Container:
    """Open a weight file, or the one in a folder.

    Raises:
        UserError: no such file, not a weight file, damaged, or naming code to run.
    """
    path = Path(path)
    file = _file_in(path) if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{path}: no such weight file.")
    if file.name.endswith(".index.json"):
        return _read_shards(path, file)
    return _read_file(path, file)


def _file_in(folder: Path) -> Path:
    for name in FOLDER_FILES:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: no weight file, expected one of {', '.join(FOLDER_FILES)}.")


def _read_file(path: Path, file: Path) -> Container:
    with open(file, "rb") as stream:
        head = stream.read(64)
    if head.startswith(_ZIP) or head.startswith(_LEGACY_TORCH):
        from paddleseg_segformer.weights.files.torch_files import read_torch

        content, kind = read_torch(file, is_zip=head.startswith(_ZIP)), "torch"
    elif _is_safetensors(head):
        return Container(path, file, "safetensors", _read_safetensors(file))
    elif head.startswith(b"\x80"):
        content, kind = read_pickle(file), "paddle"
    else:
        raise UserError(f"{file}: not a readable weight file: {_what_it_is(head)}")
    state, meta = _unwrapped(content, file)
    return Container(path, file, kind, state, meta)


def _is_safetensors(head: bytes) -> bool:
    """Return whether a header's length and its brace come first; the length may look like 0x80."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _MAX_HEADER


def _what_it_is(head: bytes) -> str:
    for start, advice in _OTHER_FILES.items():
        if head.lstrip().startswith(start) if start else not head:
            return advice
    return "it is of another format, or damaged. Expected .pdparams, .safetensors, .pth or .bin."


def _unwrapped(content: Any, file: Path) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    """Return the weights in what was saved, and the rest as plain data."""
    meta: dict[str, Any] = {}
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            meta = {name: plain(item) for name, item in content.items() if name != key}
            content = content[key]
            break
    if not isinstance(content, Mapping):
        raise UserError(
            f"{file}: found {type(content).__name__}, expected a dictionary of weights."
        )
    state = {}
    for key, value in content.items():
        stored = value if isinstance(value, StoredTensor) else _of_array(value)
        if stored is None or not isinstance(key, str):
            raise UserError(
                f"{file}: {key!r} is {type(value).__name__}, expected a dictionary of weights."
            )
        state[key] = stored
    while state and (prefix := next(iter(state)).partition(".")[0] + ".") in _WRAPPERS:
        if not all(key.startswith(prefix) for key in state):
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state, meta


def _of_array(value: Any) -> StoredTensor | None:
    if not isinstance(value, np.ndarray):
        return None
    return StoredTensor(value.shape, value.dtype.name, lambda: value)


def plain(value: Any) -> Any:
    """Return metadata as dictionaries, lists, text and numbers; leave out whatever else it is."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray) and value.dtype.kind in "iufb" and value.size < 10_000:
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, (str, int, float, bool)) else None


def _read_shards(path: Path, index: Path) -> Container:
    """Read the files that a Hugging Face index names; they lie beside it."""
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{index}: not an index of weight files (no `weight_map`).") from None
    tensors: dict[str, StoredTensor] = {}
    kind = ""
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise UserError(f"{index}: names {name!r}, expected a file beside it.")
        if not (index.parent / name).is_file():
            raise UserError(f"{index}: {name} is missing. Fetch it too.")
        shard = _read_file(path, index.parent / name)
        kind = shard.kind
        tensors.update(shard.tensors)
    wrong = set(weight_map) ^ set(tensors)
    if wrong:
        raise UserError(f"{index}: does not agree with its files on {sorted(wrong)[0]}.")
    return Container(path, index, kind, tensors)


def _read_safetensors(file: Path) -> dict[str, StoredTensor]:
    """List the tensors of a safetensors file as views into the mapped file.

    The library checks the header against the file; its own reading copies, and knows no bfloat16
    in NumPy.
    """
    from paddleseg_segformer.dependencies import explained

    with explained():
        from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="np"):
            pass
        with open(file, "rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(size))
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        raise UserError(
            f"{file}: not a readable safetensors file ({_one_line(error)}). It may be cut short."
        ) from None
    header.pop("__metadata__", None)
    has_data = file.stat().st_size > 8 + size
    data = np.memmap(file, np.uint8, "r", offset=8 + size) if has_data else np.empty(0, np.uint8)
    return {name: _mapped(entry, np.asarray(data)) for name, entry in header.items()}


_SAFETENSORS_TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


def _mapped(entry: Mapping[str, Any], data: np.ndarray) -> StoredTensor:
    dtype, shape = _SAFETENSORS_TYPES.get(entry["dtype"], "unknown"), tuple(entry["shape"])
    start, stop = entry["data_offsets"]

    def read() -> np.ndarray:
        if dtype == "bfloat16":  # the upper half of a float32
            halves = data[start:stop].view("<u2")
            return (halves.astype(np.uint32) << 16).view(np.float32).reshape(shape)
        return data[start:stop].view(np.dtype(dtype).newbyteorder("<")).reshape(shape)

    return StoredTensor(shape, dtype, read)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
