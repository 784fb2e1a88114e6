"""Runs damaged files through the package: `python tests/fuzz/run_cases.py images 20000`.

The cases run in a child process, so that a crash of the interpreter or a hang is one finding among
others. Each case follows from its number alone: `... images 1 --first 4711` repeats one.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

HANG_S = 120  # on a busy machine importing PaddleSeg alone takes 20
MEMORY_BYTES = 12 << 30
MAX_FINDINGS = 20


def run(target: str, count: int, first: int = 0) -> dict[str, Any]:
    """Run `count` cases; return the counts, the slowest case, and what went wrong."""
    report: dict[str, Any] = {"target": target, "slowest_s": 0.0, "slowest": None, "findings": []}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        next_case = first
        while next_case < first + count and len(report["findings"]) < MAX_FINDINGS:
            command = [sys.executable, __file__, target, str(first + count - next_case)]
            command += ["--first", str(next_case), "--log", str(log)]
            child = subprocess.run(command, capture_output=True, text=True)
            next_case = _collect(log, report, next_case)
            if child.returncode:
                if next_case == first:
                    raise RuntimeError(f"the cases cannot be run:\n{child.stderr}")
                ended = f"ended with {child.returncode}: {child.stderr[-3000:]}"
                report["findings"].append({"case": next_case - 1, "what": ended})
    return report


def _collect(log: Path, report: dict[str, Any], next_case: int) -> int:
    """Add the child's log to the report; return the case after its last one."""
    for line in log.read_text().splitlines() if log.exists() else []:
        entry = json.loads(line)
        next_case = entry["case"] + 1
        if "what" in entry:
            report["findings"].append(entry)
        elif "outcome" in entry:
            report[entry["outcome"]] = report.get(entry["outcome"], 0) + 1
        if entry.get("seconds", 0) > report["slowest_s"]:
            report["slowest_s"], report["slowest"] = entry["seconds"], entry["case"]
    log.unlink(missing_ok=True)
    return next_case


def run_here(target: str, first: int, count: int, log: Path) -> None:
    """Run the cases in this process, each noted before and after."""
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    import faulty_targets

    from paddleseg_segformer.errors import UserError

    targets = faulty_targets.TARGETS
    if target not in targets:
        from fuzz_targets import TARGETS as targets
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with tempfile.TemporaryDirectory() as folder, open(log, "a") as file:
        case = targets[target](Path(folder))
        for number in range(first, first + count):
            _note(file, {"case": number})
            faulthandler.dump_traceback_later(HANG_S, exit=True)
            start = time.perf_counter()
            try:
                case(random.Random(number))
                entry = {"outcome": "accepted"}
            except UserError as error:
                said = str(error)
                entry = {"outcome": "refused"} if is_plain(said) else {"what": f"lines: {said}"}
            except Exception:
                entry = {"what": traceback.format_exc()[-3000:]}
            faulthandler.cancel_dump_traceback_later()
            _note(file, {"case": number, "seconds": time.perf_counter() - start, **entry})


def is_plain(message: str) -> bool:
    """Return whether a message is one line, or a list of mistakes of a line each."""
    first, *others = message.splitlines()
    return not others or (
        first.endswith("mistakes:") and all(line.startswith("  ") for line in others)
    )


def _note(file: Any, entry: dict[str, Any]) -> None:
    file.write(json.dumps(entry) + "\n")
    file.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("target", help="images, yaml or weights")
    parser.add_argument("count", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--log", type=Path)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if args.log:
        run_here(args.target, args.first, args.count, args.log)
    else:
        print(json.dumps(run(args.target, args.count, args.first), indent=1))
