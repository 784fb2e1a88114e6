"""A worker that starts a process of its own."""

from __future__ import annotations

import subprocess
from typing import Any

from benchmarks.processes import answer_commands


def start() -> dict[str, Any]:
    """Start a process that would outlive this one."""
    return {"pid": subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL).pid}


if __name__ == "__main__":
    answer_commands(lambda values: {"start": start})
