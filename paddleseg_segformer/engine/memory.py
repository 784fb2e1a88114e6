"""Memory of the C library: keep what is freed, for the next pass asks for the same again."""

from __future__ import annotations

import ctypes
import sys

M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1  # parameters of glibc's mallopt


def keep_freed_memory() -> None:
    """Tell glibc to reuse large blocks instead of returning them to the system.

    Otherwise each large tensor of a pass on CPU is mapped and zeroed by the system anew. It holds
    for the whole process, so programs call it, not the package.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        library.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
