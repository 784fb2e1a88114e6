"""A tensor of a weight file that has not been read yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file, read on demand."""

    shape: tuple[int, ...]
    dtype: str  # NumPy's name, or "bfloat16"
    read: Callable[[], np.ndarray] = field(repr=False)  # bfloat16 comes as float32
