"""Paddle's pickles (`.pdparams`, `.pdopt`), read without running the code that they name."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import atomic_path

_ALLOWED = {
    ("collections", "OrderedDict"),
    ("builtins", "tuple"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *(
        (f"numpy.{core}.multiarray", name)
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    ),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    ("_codecs", "encode"),
}
_NAME_TABLE = "StructuredToParameterName@@"  # Paddle's own record beside the tensors


class _RestrictedUnpickler(pickle.Unpickler):
    """Builds arrays and containers; refuses to import anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it would run {module}.{name}")
        return super().find_class(module, name)


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
            return _plain(_RestrictedUnpickler(file).load())
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


def _plain(value: Any) -> Any:
    """Turn Paddle's (name, array) pairs into arrays, at any depth."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key != _NAME_TABLE}
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], np.ndarray):
        return value[1]
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return value
