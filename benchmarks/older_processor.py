"""A processor without AVX-512 and VNNI, played by a newer one: `older_processor.c`.

    LD_PRELOAD=$(python -m benchmarks.older_processor) python -m pytest tests

All libraries of that command run their AVX2 code. Needs Linux on x86-64, a C compiler, and a
processor whose CPUID can be made to fault (`cpuid_fault` in /proc/cpuinfo).
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from paddleseg_segformer.errors import UserError

SOURCE = Path(__file__).with_suffix(".c")


def build(folder: Path) -> Path:
    """Build the library in a folder, and return its path.

    Raises:
        UserError: this machine cannot do it.
    """
    library = folder / "older_processor.so"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    command = [*compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
        environment = {**os.environ, "LD_PRELOAD": str(library)}
        subprocess.run(["true"], check=True, capture_output=True, text=True, env=environment)
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        raise UserError(
            f"AVX2 alone: {said}. Needs Linux on x86-64, a C compiler, and cpuid_fault."
        ) from error
    return library


def restart(folder: Path) -> None:
    """Run this program again on the older processor, with the same arguments."""
    if SOURCE.stem not in os.environ.get("LD_PRELOAD", ""):
        os.environ["LD_PRELOAD"] = str(build(folder))
        os.execv(sys.executable, sys.orig_argv)


if __name__ == "__main__":
    print(build(Path(tempfile.mkdtemp())))
