"""PyTorch's files (`.pth`, `.pt`, `.bin`), read by PyTorch without running what they name."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.weights.files.stored import StoredTensor


class _Inert:
    """Stands in for a class of another code base: takes whatever it is built from, does nothing."""

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Attribute(_Inert):
    """Stands in for `getattr`, by which pickle names a method of a class: of an inert one only."""

    def __init__(self, owner: Any, name: str) -> None:
        if not (isinstance(owner, type) and issubclass(owner, _Inert)):
            raise pickle.UnpicklingError("GLOBAL builtins.getattr")


# Classes that training programs leave beside the weights: pickled name -> nothing of them is kept.
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


def read_torch(file: Path, is_zip: bool) -> Any:
    """Read what `torch.save` wrote; tensors become `StoredTensor`, at the first two levels.

    Raises:
        UserError: damaged, or naming code to run.
        MissingDependency: PyTorch is not installed.
    """
    with explained():
        import torch

    try:
        with torch.serialization.safe_globals(_allowed()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript and of old pickles
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:  # a damaged pickle fails in every way there is
        raise UserError(f"{file}: {_explanation(error)}") from None
    return _stored(content, torch)


def _allowed() -> list[Any]:
    """Return what a file may name beside PyTorch's own list: NumPy's arrays and the stand-ins."""
    from numpy.core import multiarray

    array_parts = [
        (getattr(multiarray, part), f"numpy.{core}.multiarray.{part}")
        for core in ("core", "_core")
        for part in ("_reconstruct", "scalar")
    ]
    dtypes = {type(np.dtype(kind)) for kind in ("f8", "f4", "f2", "i8", "i4", "u1", "?", "U1")}
    stand_ins = [(type(name.rpartition(".")[2], (_Inert,), {}), name) for name in STAND_INS]
    methods = (_Attribute, "builtins.getattr")  # a HistoryBuffer's state lists its own
    return [*array_parts, np.ndarray, np.dtype, *dtypes, *stand_ins, methods]


def _explanation(error: Exception) -> str:
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    if named:
        return f"not read, because it would run {named[1]}. Take a file that holds only weights."
    if "TorchScript" in str(error):
        return "a TorchScript program, not weights. Save its state_dict() with torch.save instead."
    reason = " ".join(str(error).split()).split(". ")[0][:200]
    return (
        f"not a readable PyTorch weight file ({type(error).__name__}: {reason}). It may be cut "
        "short or damaged."
    )


def _stored(content: Any, torch: Any, depth: int = 2) -> Any:
    if isinstance(content, torch.Tensor):
        return _of_tensor(content, torch)
    if isinstance(content, dict) and depth:
        return {key: _stored(value, torch, depth - 1) for key, value in content.items()}
    return content


def _of_tensor(tensor: Any, torch: Any) -> StoredTensor:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        dtype = "sparse or quantised"
    widened = torch.float32 if dtype == "bfloat16" else tensor.dtype
    return StoredTensor(tuple(tensor.shape), dtype, lambda: tensor.detach().to(widened).numpy())
