"""Paddle's pickles (`.pdparams`, `.pdopt`), read without running the code that they name."""

from __future__ import annotations

import os
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import paddle

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import atomic_path

MAX_DEPTH = 50  # of lists and dictionaries
MAX_ITEMS = 1_000_000  # in all of them
_CODE = re.compile("[<>|=]?(b1|[iu][1248]|f[248]|c8|c16|U[0-9]{1,4})")
_NAME_TABLE = "StructuredToParameterName@@"  # Paddle's own record beside the tensors


class _Number:
    """Stands for `numpy.dtype`: of numbers and text. NumPy's own can be made to crash."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if not isinstance(code, str) or not _CODE.fullmatch(code):
            raise pickle.UnpicklingError(f"an array of {code!r:.40}, which are no numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take the byte order; a number has no other state."""
        self.dtype = self.dtype.newbyteorder(state[1])


class StoredArray:
    """Stands for `numpy.ndarray`, which a file may name but not call: it allocates at will."""

    array: np.ndarray

    def __new__(cls, *arguments: Any) -> StoredArray:
        raise pickle.UnpicklingError("it would make an array of no data")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Take version (absent in old files), shape, type, whether columns come first, and data."""
        shape, kind, is_fortran, data = state[-4:]
        if isinstance(data, str):  # of Python 2
            data = data.encode("latin1")
        flat = np.frombuffer(data, kind.dtype) if data else np.empty(0, kind.dtype)
        self.array = flat.reshape(shape, order="F" if is_fortran else "C").copy("K")


def _reconstruct(*_: Any) -> StoredArray:
    """Return the array that is filled next."""
    return object.__new__(StoredArray)


def _scalar(kind: _Number, data: bytes) -> np.generic:
    """Return a number of NumPy's, on which nothing can be set."""
    number: np.generic = np.frombuffer(data, kind.dtype, 1)[0]
    return number


def _from_buffer(
    data: bytes, kind: _Number, shape: tuple[int, ...], order: str = "C"
) -> StoredArray:
    """Return an array of the fifth version of pickles."""
    found = _reconstruct()
    found.__setstate__((shape, kind, order == "F", data))
    return found


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Return bytes that an old pickle holds as text; other encodings can make them much longer."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it would encode text as {encoding}")
    return text.encode("latin1")


ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "tuple"): tuple,
    ("numpy", "dtype"): _Number,
    ("numpy", "ndarray"): StoredArray,
    ("_codecs", "encode"): _encode,
}
for _core in ("core", "_core"):
    ALLOWED |= {
        (f"numpy.{_core}.multiarray", "_reconstruct"): _reconstruct,
        (f"numpy.{_core}.multiarray", "scalar"): _scalar,
        (f"numpy.{_core}.numeric", "_frombuffer"): _from_buffer,
    }


class _RestrictedUnpickler(pickle._Unpickler):
    """Builds arrays and containers; refuses to import anything else.

    It is the one written in Python: the other reserves memory for as many entries as a file claims.
    """

    stack: list[Any]

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it would run {module}.{name}")
        return ALLOWED[module, name]

    def load_build(self) -> None:
        """Fill arrays and their types; drop the attributes of what else there is."""
        if isinstance(self.stack[-2], (StoredArray, _Number)):
            super().load_build()  # type: ignore[misc]
        else:
            self.stack.pop()

    dispatch: ClassVar[dict[int, Any]] = {
        **pickle._Unpickler.dispatch,
        pickle.BUILD[0]: load_build,
    }


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
    if isinstance(value, StoredArray):
        return value.array
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], StoredArray):
        return value[1].array
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return value
