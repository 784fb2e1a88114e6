"""Memory of the C library: keep what is freed, or return it to the system.

Either holds for the whole process, so programs call it, not the package. Elsewhere than on Linux
with glibc nothing is done.
"""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paddle import nn

M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1  # parameters of glibc's mallopt
LARGE_BLOCK = 12 << 20  # bytes; from 4 MiB a step takes a third longer and a tenth less memory


def keep_freed_memory() -> None:
    """Tell glibc to reuse large blocks instead of returning them to the system.

    Otherwise each large tensor of a pass on CPU is mapped and zeroed by the system anew.
    """
    _set_options({M_MMAP_THRESHOLD: 1 << 30, M_TRIM_THRESHOLD: (1 << 31) - 1})


def return_large_blocks() -> None:
    """Tell glibc to return large blocks to the system as soon as they are freed.

    Kept ones are cut up for smaller requests, until no large one fits: a training step then takes
    up to a quarter more memory after some steps than in the first. Asking the system each time
    takes longer.
    """
    _set_options({M_MMAP_THRESHOLD: LARGE_BLOCK})


def set_up_training(model: nn.Layer) -> None:
    """Keep freed memory, or return large blocks where a layer of the model has `use_recompute`."""
    if any(getattr(layer, "use_recompute", False) for layer in model.sublayers()):
        return_large_blocks()
    else:
        keep_freed_memory()


def _set_options(options: dict[int, int]) -> None:
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        for name, value in options.items():
            library.mallopt(name, value)
