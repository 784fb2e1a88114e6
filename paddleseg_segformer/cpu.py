"""A process on the CPU: vector instructions, freed memory, and how much memory there is.

Nothing is changed on other systems than Linux with glibc, on other processors, and where the
environment variable is set already.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paddle import nn

CPU_INFO = Path("/proc/cpuinfo")
MEMORY_INFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
VARIABLE = "MKL_DEBUG_CPU_TYPE"
# value of the variable: what the processor must have, the widest vectors first
CODE_PATHS = {
    "7": {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"},
    "5": {"avx2", "fma"},
}
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1  # parameters of glibc's mallopt
LARGE_BLOCK = 12 << 20  # bytes; with 4 MiB a step takes a third more time, a tenth less memory


def prepare_cpu(trained: nn.Layer | None = None) -> None:
    """Let networks use all vector units and reuse freed memory; programs call it at their start.

    Args:
        trained: A model that is going to be trained. If one of its layers has `use_recompute`,
            freed blocks are returned to the system, to save memory, instead of being kept.
    """
    use_wide_vectors()
    if trained and _recomputes(trained):
        return_large_blocks()
    else:
        keep_freed_memory()


def use_wide_vectors() -> None:
    """Let Paddle's matrix products use all vector units of an AMD processor.

    The math library of Paddle's wheels (MKL of 2019) uses SSE code on processors that are not
    Intel's, unless this variable names another code path; it is read at the first product. Other
    builds of Paddle ignore the variable.
    """
    value = code_path(CPU_INFO.read_text(encoding="utf-8")) if CPU_INFO.is_file() else None
    if value is not None:
        os.environ.setdefault(VARIABLE, value)


def code_path(cpu_info: str) -> str | None:
    """Return the variable's value for a processor, or None where the library's choice is right."""
    fields = dict(line.split(":", 1) for line in cpu_info.splitlines() if ":" in line)
    values = {name.strip(): value.split() for name, value in fields.items()}
    if values.get("vendor_id") not in (["AuthenticAMD"], ["HygonGenuine"]):
        return None
    flags = set(values.get("flags", ()))
    return next((value for value, needed in CODE_PATHS.items() if needed <= flags), None)


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks instead of returning them to the system.

    Otherwise the system maps and zeroes each large tensor of each pass.
    """
    _set_options({M_MMAP_THRESHOLD: 1 << 30, M_TRIM_THRESHOLD: (1 << 31) - 1})


def return_large_blocks() -> None:
    """Let glibc return large blocks to the system as soon as they are freed.

    Blocks that are kept get fragmented: after some steps, training then takes up to a quarter more
    memory than in the first. Returning them takes more time.
    """
    _set_options({M_MMAP_THRESHOLD: LARGE_BLOCK})


def return_largest_blocks(trained: nn.Layer) -> None:
    """Let glibc return the largest blocks of a training step; called after the first one.

    They are those above a sixteenth of what the step held at once, such as the maps of the head:
    few, so that mapping them again costs little. Where one is kept, the next of its size does not
    fit into it, for Paddle asks for aligned blocks.
    """
    import paddle

    if _recomputes(trained) or paddle.get_device() != "cpu":
        return
    held = paddle.base.core.host_memory_stat_peak_value("Allocated", 0)
    _set_options({M_MMAP_THRESHOLD: max(held // 16, LARGE_BLOCK)})


def _recomputes(trained: nn.Layer) -> bool:
    return any(getattr(layer, "use_recompute", False) for layer in trained.sublayers())


def _set_options(options: dict[int, int]) -> None:
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        for name, value in options.items():
            library.mallopt(name, value)


def free_memory_mib() -> float:
    """Return the memory that this process may still take; infinite where nothing tells."""
    limits = [_available_mib(), _cgroup_mib()]
    return min((limit for limit in limits if limit is not None), default=math.inf)


def _available_mib() -> float | None:
    if not MEMORY_INFO.exists():
        return None
    lines = dict(line.split(":", 1) for line in MEMORY_INFO.read_text("utf-8").splitlines())
    return int(lines["MemAvailable"].split()[0]) / 1024


def _cgroup_mib() -> float | None:
    """Return what a container's limit leaves."""
    try:
        limit, used = (
            (CGROUP / f"memory.{name}").read_text("utf-8") for name in ("max", "current")
        )
        return (int(limit) - int(used)) / 2**20
    except (OSError, ValueError):  # no such file, or `max`: no limit
        return None
