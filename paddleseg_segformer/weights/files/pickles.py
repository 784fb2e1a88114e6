"""Paddle's pickles (`.pdparams`, `.pdopt`), read without running the code that they name."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import atomic_path

MAX_DEPTH = 50  # of lists and dictionaries
MAX_ITEMS = 1_000_000  # in all of them
_NAME_TABLE = "StructuredToParameterName@@"  # Paddle's own record beside the tensors


class _ArrayType:
    """Stands for `numpy.ndarray`, which a file may name but not call: it allocates at will."""

    def __new__(cls, *arguments: Any) -> _ArrayType:
        raise pickle.UnpicklingError("it would make an array of no data")


def _reconstruct(kind: type, shape: Any, _: Any) -> np.ndarray:
    """Return the empty array that is filled next, as NumPy's function of this name does."""
    if kind is not _ArrayType or shape != (0,):
        raise pickle.UnpicklingError("it would make an array of no data")
    return np.empty(0, np.int8)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Return bytes that an old pickle holds as text; other encodings can make them much longer."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it would encode text as {encoding}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "tuple"): tuple,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): _ArrayType,
    ("_codecs", "encode"): _encode,
}
for _core in ("core", "_core"):
    _ALLOWED |= {
        (f"numpy.{_core}.multiarray", "_reconstruct"): _reconstruct,
        (f"numpy.{_core}.multiarray", "scalar"): np.float32(0).__reduce__()[0],
        (f"numpy.{_core}.numeric", "_frombuffer"): np.zeros(0).__reduce_ex__(5)[0],
    }


class _RestrictedUnpickler(pickle._Unpickler):
    """Builds arrays and containers; refuses to import anything else.

    It is the one written in Python: the other reserves memory for as many entries as a file claims.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it would run {module}.{name}")
        return _ALLOWED[module, name]


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Read a file written by `paddle.save`; tensors become numpy arrays.

    Raises:
        UserError: no such file, not such a file, cut short, or naming code to run.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such weight file.")
    try:
        with open(path, "rb") as file:
            content = _RestrictedUnpickler(file).load()
        check_extent(content)
        return _plain(content)
    except Exception as error:  # a damaged pickle can raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{path}: not a readable Paddle weight file ({reason}). It may be cut short or of "
            "another format."
        ) from None


def write_pickle(content: Any, path: str | os.PathLike[str]) -> None:
    """Write with `paddle.save`, atomically."""
    with atomic_path(path) as temporary:
        paddle.save(content, str(temporary))


def check_extent(content: Any) -> None:
    """Refuse content that is nested deeply or, with what it repeats written out, without end.

    Raises:
        UnpicklingError: it is.
    """
    waiting, count = [(content, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        if not isinstance(value, (dict, list, tuple)):
            continue
        count += len(value)
        if count > MAX_ITEMS or depth > MAX_DEPTH:
            raise pickle.UnpicklingError(
                f"it holds more than {MAX_ITEMS} entries, or is nested more than {MAX_DEPTH} levels"
            )
        waiting += [(v, depth + 1) for v in (value.values() if isinstance(value, dict) else value)]


def _plain(value: Any) -> Any:
    """Turn Paddle's (name, array) pairs into arrays, at any depth."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key != _NAME_TABLE}
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], np.ndarray):
        return value[1]
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return value
