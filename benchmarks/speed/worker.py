"""The process of one case: loads once, then answers commands, one JSON line each.

`{"do": "load"}`, `{"do": "pass"}`, `{"do": "memory"}`, `{"do": "result", "folder": ...}`; the floor
of the machine is a case of its own, `{"floor": THREADS}`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.processes import answer_commands
from benchmarks.speed.cases import ENGINES, Case
from benchmarks.speed.files import Files
from benchmarks.speed.machine import Floor
from benchmarks.speed.memory import peak_mib
from benchmarks.speed.subject import Subject

BENCHMARK = "benchmarks.speed"
LABELS, LOGITS = "labels.npy", "logits.npy"


class CaseWorker:
    """Times the passes of one case."""

    def __init__(self, case: Case, files: Files) -> None:
        self.case, self.files = case, files
        self.subject: Subject | None = None
        self.result: Any = None
        self.empty_mib = 0.0

    def load(self) -> dict[str, Any]:
        """Import the engine, note the memory of the empty process, load the network."""
        engine = ENGINES[self.case.engine]
        for package in engine.packages:
            import_module(package)
        module = import_module(f"{BENCHMARK}.{engine.module}")
        self.empty_mib = peak_mib()
        start = time.perf_counter()
        self.subject = module.build(self.case, self.files)
        return {"load_s": time.perf_counter() - start}

    def one_pass(self) -> dict[str, Any]:
        """Run one pass."""
        assert self.subject is not None
        start, cpu_start = time.perf_counter(), time.process_time()
        self.result = self.subject.run()
        cpu_s, wall_s = time.process_time() - cpu_start, time.perf_counter() - start
        return {"ms": 1e3 * wall_s, "cpu_ms": 1e3 * cpu_s}

    def memory(self) -> dict[str, Any]:
        """Return the peak so far, whole and beyond the empty process."""
        peak = peak_mib()
        return {"peak_mib": peak, "beyond_empty_mib": peak - self.empty_mib}

    def write_result(self, folder: str) -> dict[str, Any]:
        """Write labels and logits of the last pass."""
        assert self.subject is not None
        np.save(Path(folder) / LABELS, self.subject.labels(self.result))
        if self.subject.logits is not None:
            np.save(Path(folder) / LOGITS, self.subject.logits(self.result).astype(np.float32))
        return {}


class FloorWorker:
    """Times a matrix product and a copy."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.floor: Floor | None = None

    def load(self) -> dict[str, Any]:
        """Make the arrays."""
        self.floor = Floor(self.threads)
        return {}

    def one_pass(self) -> dict[str, Any]:
        """Measure both rates."""
        assert self.floor is not None
        gflops, copy_gb_s = self.floor.measure()
        return {"gflop_s": gflops, "copy_gb_s": copy_gb_s}


def _commands(values: dict[str, Any]) -> dict[str, Callable[..., dict[str, Any]]]:
    worker = _worker(values)
    commands: dict[str, Callable[..., dict[str, Any]]]
    commands = {"load": worker.load, "pass": worker.one_pass}
    if isinstance(worker, CaseWorker):
        commands |= {"memory": worker.memory, "result": worker.write_result}
    return commands


def _worker(values: dict[str, Any]) -> CaseWorker | FloorWorker:
    if "floor" in values:
        return FloorWorker(values["floor"])
    case = Case.from_dict(values["case"])
    setting = case.setting
    return CaseWorker(case, Files(Path(values["root"]), setting.variant, setting.num_classes))


if __name__ == "__main__":
    answer_commands(_commands)
