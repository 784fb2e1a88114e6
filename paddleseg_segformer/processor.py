"""What the math library inside Paddle is told about the processor."""

from __future__ import annotations

import os
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
VARIABLE = "MKL_DEBUG_CPU_TYPE"
# value of the variable: what the processor must have, the widest vectors first
CODE_PATHS = {
    "7": {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"},
    "5": {"avx2", "fma"},
}


def use_wide_vectors() -> None:
    """Have matrix products use all of an AMD processor's vector units.

    The math library of Paddle's wheels (MKL of 2019) takes code for SSE wherever the processor is
    not Intel's, unless this variable names another; it reads it at its first product. So programs
    call this at their start. A value that is set already is left as it is, and other builds of
    Paddle ignore the variable.
    """
    value = code_path(CPU_INFO.read_text(encoding="utf-8")) if CPU_INFO.is_file() else None
    if value is not None:
        os.environ.setdefault(VARIABLE, value)


def code_path(cpu_info: str) -> str | None:
    """Return the variable's value for a processor, or None where the library chooses well."""
    fields = dict(line.split(":", 1) for line in cpu_info.splitlines() if ":" in line)
    values = {name.strip(): value.split() for name, value in fields.items()}
    if values.get("vendor_id") not in (["AuthenticAMD"], ["HygonGenuine"]):
        return None
    flags = set(values.get("flags", ()))
    return next((value for value, needed in CODE_PATHS.items() if needed <= flags), None)
