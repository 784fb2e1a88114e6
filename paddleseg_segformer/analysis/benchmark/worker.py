"""The process of one case: loads once, then answers commands, one JSON line each.

`{"do": "load"}`, `{"do": "pass"}`, `{"do": "memory"}`, `{"do": "result", "folder": ...}`; the floor
of the machine is a case of its own, `{"floor": THREADS}`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_segformer.analysis.benchmark.cases import ENGINES, Case
from paddleseg_segformer.analysis.benchmark.files import Files
from paddleseg_segformer.analysis.benchmark.machine import Floor
from paddleseg_segformer.analysis.benchmark.memory import peak_mib
from paddleseg_segformer.analysis.benchmark.subject import Subject

BENCHMARK = "paddleseg_segformer.analysis.benchmark"
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

    def write_result(self, folder: Path) -> dict[str, Any]:
        """Write labels and logits of the last pass."""
        assert self.subject is not None
        np.save(folder / LABELS, self.subject.labels(self.result))
        if self.subject.logits is not None:
            np.save(folder / LOGITS, self.subject.logits(self.result).astype(np.float32))
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


def main() -> None:
    """Answer commands until the input ends."""
    # libraries print as they like: answers get a channel of their own
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker: Any = _worker(json.loads(sys.argv[1]))
    commands = {"load": "load", "pass": "one_pass", "memory": "memory", "result": "write_result"}
    for line in sys.stdin:
        command = json.loads(line)
        arguments = [Path(command["folder"])] if "folder" in command else []
        try:
            answer = getattr(worker, commands[command["do"]])(*arguments)
        except Exception as error:  # any engine's: it is this case's result
            lines = str(error).strip().splitlines() or [""]
            answer = {"error": f"{type(error).__name__}: {lines[-1].strip()}"}
            import traceback

            traceback.print_exc()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _worker(values: dict[str, Any]) -> CaseWorker | FloorWorker:
    if "floor" in values:
        return FloorWorker(values["floor"])
    case = Case.from_dict(values["case"])
    setting = case.setting
    return CaseWorker(case, Files(Path(values["root"]), setting.variant, setting.num_classes))


if __name__ == "__main__":
    main()
