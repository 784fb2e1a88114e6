"""One line per run: quotients against the others, and on which machine; regressions by ratio."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.report import comparisons
from benchmarks.speed.runner import Group

FILE = Path(__file__).parents[1] / "history.jsonl"
TOLERANCE = 0.85  # of the best quotient before; less is no noise
MAX_DISTURBANCE = 0.1  # share of the processors that others may have had


def append(
    path: str | os.PathLike[str], groups: Sequence[Group], machine: Mapping[str, Any]
) -> None:
    """Append a run."""
    line = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "processor": machine["processor"],
        "cores": machine["cores"],
        "disturbance": machine["disturbance"],
        "quotients": {
            str(group.setting): {name: round(v, 3) for name, v in comparisons(group).items()}
            for group in groups
        },
    }
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the runs, the oldest first."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def regressions(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the quotients of the last run that are below the best before on such a machine.

    Runs on other processors, and those that others disturbed, are not compared.
    """
    runs = [run for run in runs if _is_quiet(run)]
    if not runs:
        return []
    last = runs[-1]
    best: dict[tuple[str, str], float] = {}
    for run in runs[:-1]:
        if all(run[key] == last[key] for key in ("processor", "cores")):
            for key, value in _quotients(run):
                best[key] = max(best.get(key, 0.0), value)
    return [
        f"{' '.join(key)}: {value:.2f}, before {best[key]:.2f}"
        for key, value in _quotients(last)
        if value < TOLERANCE * best.get(key, 0.0)
    ]


def _is_quiet(run: Mapping[str, Any]) -> bool:
    shares = (run["disturbance"].get(name, 0.0) for name in ("steal", "other_processes"))
    return sum(shares) <= MAX_DISTURBANCE


def _quotients(run: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], float]]:
    for setting, found in run["quotients"].items():
        for name, value in found.items():
            yield (setting, name), value


def _commit() -> str | None:
    """Return the commit of the code, or None where it is no checkout."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None
