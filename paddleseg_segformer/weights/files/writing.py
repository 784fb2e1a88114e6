"""Named arrays into weight files of each container, atomically."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.files import atomic_path
from paddleseg_segformer.weights.files.pickles import write_pickle

SUFFIXES = {
    "torch": (".pth", ".pt", ".bin", ".safetensors"),
    "paddle": (".pdparams", ".safetensors"),
}


def write_tensors(
    tensors: Mapping[str, np.ndarray],
    path: Path,
    is_torch: bool,
    weights_key: str = "",
    beside: Mapping[str, Any] | None = None,
) -> None:
    """Write arrays in the container that the suffix names.

    Args:
        is_torch: whether PyTorch's loaders are to read a `.safetensors` file.
        weights_key: what the weights lie under in a `.pth` or `.pt` file; without it the file is a
            flat dictionary.
        beside: what is written beside them there.

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
