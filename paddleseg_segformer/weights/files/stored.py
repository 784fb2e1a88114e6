"""Tensors of safetensors and PyTorch files, read on demand; code that a file names is not run."""

from __future__ import annotations

import io
import json
import mmap
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from encodings import normalize_encoding
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.weights.files.pickles import ALLOWED, StoredArray, check_extent

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

MAX_TENSORS = 100_000
LEGACY_PICKLES = 4  # before 2020: of a magic number, a version, the system, and the content
_BYTE_CODECS = re.compile(
    "(base_?64|bz2|hex|quopri|quoted_?printable|rot_?13|uu|zip|zlib)(_codec)?", re.IGNORECASE
)
# Classes that training programs pickle beside the weights; their content is dropped.
STAND_INS = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "mmengine.config.config.ConfigDict",
    "mmcv.utils.config.ConfigDict",
    "argparse.Namespace",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",  # of Python 3.13
    "pathlib._local.WindowsPath",
)


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file, read on demand."""

    shape: tuple[int, ...]
    dtype: str  # NumPy's name, or "bfloat16"
    read: Callable[[], np.ndarray] = field(repr=False)  # bfloat16 comes as float32


def read_safetensors(file: Path) -> dict[str, StoredTensor]:
    """List the tensors of a safetensors file as views into the memory-mapped file.

    The library checks the header against the file. Its own reading copies, and its NumPy side knows
    no bfloat16.

    Raises:
        UserError: damaged, or not such a file.
        MissingDependency: safetensors is not installed.
    """
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
            f"{file}: not a readable safetensors file ({' '.join(str(error).split())[:200]}). It "
            "may be cut short."
        ) from None
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise UserError(
            f"{file}: found {len(header)} tensors, expected at most {MAX_TENSORS} of a model."
        )
    has_data = file.stat().st_size > 8 + size
    data = np.memmap(file, np.uint8, "r", offset=8 + size) if has_data else np.empty(0, np.uint8)
    return {name: _mapped(entry, np.asarray(data)) for name, entry in header.items()}


def _mapped(entry: Mapping[str, Any], data: np.ndarray) -> StoredTensor:
    dtype, shape = _SAFETENSORS_TYPES.get(entry["dtype"], "unknown"), tuple(entry["shape"])
    start, stop = entry["data_offsets"]

    def read() -> np.ndarray:
        if dtype == "bfloat16":  # the upper half of a float32
            halves = data[start:stop].view("<u2")
            return (halves.astype(np.uint32) << 16).view(np.float32).reshape(shape)
        return data[start:stop].view(np.dtype(dtype).newbyteorder("<")).reshape(shape)

    return StoredTensor(shape, dtype, read)


def read_torch(file: Path, is_zip: bool) -> Any:
    """Read a file of `torch.save`; tensors at the first two levels become `StoredTensor`.

    Raises:
        UserError: damaged, or naming code to run.
        MissingDependency: PyTorch is not installed.
    """
    with explained():
        import torch

    try:
        _refuse_growth(file, is_zip)
        with torch.serialization.safe_globals(_allowed()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript and of old pickles
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
        check_extent(content)
        if is_zip:
            _check_records(file, content, torch)
        return _stored(content, torch)
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{file}: {_explanation(error)}") from None


def _allowed() -> list[Any]:
    """Return what a file may name besides PyTorch's own list: stand-ins, also of NumPy's types."""
    arrays = [(kind, ".".join(name)) for name, kind in ALLOWED.items() if "numpy" in name[0]]
    stand_ins = [(type(name.rpartition(".")[2], (_Inert,), {}), name) for name in STAND_INS]
    methods = (_Attribute, "builtins.getattr")  # in the state of a HistoryBuffer
    return [*arrays, *stand_ins, methods]


def _refuse_growth(file: Path, is_zip: bool) -> None:
    """Refuse what PyTorch allows, although a few bytes of it become gigabytes.

    Raises:
        UnpicklingError: the file would make room for bytes that it does not hold (`bytearray`),
            encodes bytes, which nests, or has entries that are compressed, which would be mapped
            as they are, or several of one name.
    """
    pickled: list[Any]
    if is_zip:
        with zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if name.endswith("data.pkl")]
            entries = [entry for entry in archive.infolist() if "/data" in entry.filename]
            is_twice = len({entry.filename for entry in entries}) < len(entries)
            if len(names) > 1 or is_twice or any(entry.compress_type for entry in entries):
                raise pickle.UnpicklingError(
                    "other than PyTorch's, its entries are compressed or named twice"
                )
            pickled = [archive.read(name) for name in names]
    else:
        with open(file, "rb") as stream:
            pickled = [mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)]
    for content in pickled:
        if content.find(b"bytearray") >= 0:
            raise pickle.UnpicklingError("it would make room for bytes that it does not hold")
        if content.find(b"_codecs") < 0:
            continue
        reader = io.BytesIO(content) if is_zip else content
        for _ in range(1 if is_zip else LEGACY_PICKLES):
            for _, text, _ in pickletools.genops(reader):
                if isinstance(text, str) and _BYTE_CODECS.fullmatch(normalize_encoding(text)):
                    raise pickle.UnpicklingError(f"it would encode bytes as {text}")


def _check_records(file: Path, content: Any, torch: Any) -> None:
    """Refuse storages longer than their records, beyond which PyTorch would map what follows."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    held = sorted(
        (entry.file_size for entry in entries if "/data/" in entry.filename), reverse=True
    )
    storages = {item.data_ptr(): item.nbytes() for item in _storages(content, torch)}
    claimed = sorted(storages.values(), reverse=True)
    if len(claimed) > len(held) or any(a > b for a, b in zip(claimed, held, strict=False)):
        raise pickle.UnpicklingError("a tensor is longer than its record")


def _storages(content: Any, torch: Any) -> Iterator[Any]:
    """Yield the storage of each dense tensor."""
    if isinstance(content, (dict, list, tuple)):
        for item in content.values() if isinstance(content, dict) else content:
            yield from _storages(item, torch)
    elif isinstance(content, torch.Tensor):
        is_dense = content.layout is torch.strided and not (content.is_meta or content.is_nested)
        yield from [content.untyped_storage()] if is_dense else []


class _Inert:
    """Stands in for a class of another code base: takes any arguments, does nothing."""

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Attribute(_Inert):
    """Stands in for `getattr`, by which pickle names methods: of stand-ins only."""

    def __init__(self, owner: Any, name: str) -> None:
        if not (isinstance(owner, type) and issubclass(owner, _Inert)):
            raise pickle.UnpicklingError("GLOBAL builtins.getattr")


def _explanation(error: Exception) -> str:
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    if named:
        return f"not read, because it would run {named[1]}. Take a file of weights alone."
    if "TorchScript" in str(error):
        return "a TorchScript program, not weights. Save its state_dict() with torch.save instead."
    reason = " ".join(str(error).split()).split(". ")[0][:200]
    return (
        f"not a readable PyTorch weight file ({type(error).__name__}: {reason}). It may be cut "
        "short or damaged."
    )


def _stored(content: Any, torch: Any, depth: int = 2) -> Any:
    if isinstance(content, dict) and depth:
        return {key: _stored(value, torch, depth - 1) for key, value in content.items()}
    if not isinstance(content, torch.Tensor):
        return content.array if isinstance(content, StoredArray) else content
    dtype = str(content.dtype).removeprefix("torch.")
    is_strided = content.layout is torch.strided and not content.is_nested
    if not is_strided or content.is_meta or content.is_quantized:
        dtype = "sparse or quantised"
    widened = torch.float32 if dtype == "bfloat16" else content.dtype
    shape = () if content.is_nested else tuple(content.shape)  # which has none
    return StoredTensor(shape, dtype, lambda: content.detach().to(widened).numpy())
