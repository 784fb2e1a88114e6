"""Runs the tests in every supported set of versions: `nox`, one of them: `nox -s paddle-3.0`.

Each cell gets an environment of its own, by uv where that is installed, and replaces its row of
docs/compatibility.md. A cell whose Python is not on this machine is skipped, as the last lines say,
and keeps its row. Other tests than `TESTS`: `nox -- -m "not slow and not gpu" tests/models`.
"""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from datetime import date
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import nox

TABLE = Path("docs/compatibility.md")
RESULTS = Path("build/compatibility")  # what pytest writes
TESTS = ("--numprocesses=auto", "--maxprocesses=8", "-m", "check and not slow and not gpu")
TOOLS = ("httpx", "pytest>=8", "pytest-xdist>=3.6")
# columns of the table that are packages, and the distributions that they may come from
PACKAGES = {
    "Paddle": ("paddlepaddle", "paddlepaddle-gpu"),
    "numpy": ("numpy",),
    "OpenCV": ("opencv-python-headless", "opencv-python"),
    "PaddleSeg": ("paddleseg",),
    "ONNX Runtime": ("onnxruntime",),
}
COLUMNS = ("cell", "Python", *PACKAGES, "passed", "failed", "skipped", "date", "processor")
VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "sse4_2": "SSE4.2", "asimd": "NEON"}
INTRODUCTION = """# Compatibility

What the tests that matter most (those of `make check`) gave in environments of these versions.
`make test-matrix` makes the environments, runs the tests and writes this table. A cell that names
no version takes the newest. Skipped are tests of packages that a cell does not have.
"""


class Cell(NamedTuple):
    """A set of versions: what is asked for, beside the newest of everything else."""

    python: str
    pins: tuple[str, ...] = ()
    extras: str = "cpu,openvino,serve"
    has_paddleseg: bool = False


OPENCV_4_5 = "opencv-python-headless==4.5.5.64"
CELLS = {
    "python-3.10": Cell("3.10"),
    "python-3.11": Cell("3.11"),
    "python-3.12": Cell("3.12"),
    "python-3.13": Cell("3.13"),
    "paddle-2.6": Cell(
        "3.11",
        ("paddlepaddle==2.6.2", "setuptools", "numpy<2", OPENCV_4_5),
        "openvino,serve",
    ),
    "paddle-3.0": Cell("3.11", ("paddlepaddle==3.0.0",)),
    "paddle-3.1": Cell("3.11", ("paddlepaddle==3.1.1",)),
    "paddle-3.2": Cell("3.11", ("paddlepaddle==3.2.2",)),
    "numpy-1.26": Cell("3.11", ("numpy==1.26.4", OPENCV_4_5)),
    "numpy-2.0": Cell("3.12", ("numpy==2.0.2", "opencv-python-headless==4.12.0.88")),
    "paddleseg-numpy-1": Cell(
        "3.11", ("numpy<2", OPENCV_4_5), "cpu,openvino,serve,paddleseg", True
    ),
    "paddleseg-numpy-2": Cell("3.13", (), "cpu,openvino,serve,paddleseg,visualdl", True),
    "int8": Cell("3.13", (), "cpu,int8,serve"),
}

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
if versions.is_dir():  # pyenv offers those that this variable names
    os.environ.setdefault("PYENV_VERSION", ":".join(sorted(os.listdir(versions))))


def run_cell(session: nox.Session) -> None:
    """Install a cell, run the tests in it, and write its row."""
    name = session.name
    cell = CELLS[name]
    junit = RESULTS / f"{name}.xml"
    junit.unlink(missing_ok=True)
    session.install("-e", f".[{cell.extras}]", *cell.pins, *TOOLS)
    if cell.has_paddleseg:  # what it depends on but cannot stand beside numpy 2 is not needed
        session.install("--no-deps", "paddleseg==2.8.0")
    else:
        check = ("uv",) if session.venv_backend == "uv" else ("python", "-m")
        session.run(*check, "pip", "check", silent=True, external=True)
    command = ("python", "-m", "pytest", "-q", f"--junitxml={junit}")
    session.run(
        *command, *(session.posargs or TESTS), success_codes=[0, 1, 2]
    )  # 2: an import failed
    counts = read_junit(junit)
    write_row({"cell": name, **installed(session), **counts, **today()})
    if counts["failed"]:
        session.error(f"{counts['failed']} tests failed; see above, or {junit}")


for name, cell in CELLS.items():
    nox.session(run_cell, name=name, python=cell.python)


def read_junit(path: Path) -> dict[str, int]:
    """Return how many tests passed, failed (errors among them) and were skipped."""
    counts: Counter[str] = Counter()
    for suite in ElementTree.parse(path).getroot().iter("testsuite"):
        total, skipped = int(suite.attrib["tests"]), int(suite.attrib["skipped"])
        failed = int(suite.attrib["failures"]) + int(suite.attrib["errors"])
        counts.update(passed=total - failed - skipped, failed=failed, skipped=skipped)
    return {column: counts[column] for column in ("passed", "failed", "skipped")}


def installed(session: nox.Session) -> dict[str, str]:
    """Return the versions that the cell's environment holds, by column."""
    code = "import json, platform, importlib.metadata as m; print(json.dumps({'python': "
    code += "platform.python_version()} | {d.name.lower(): d.version for d in m.distributions()}))"
    found = json.loads(str(session.run("python", "-c", code, silent=True)).splitlines()[-1])
    row = {"Python": found["python"]}
    for column, names in PACKAGES.items():
        row[column] = next((found[name] for name in names if name in found), "-")
    return row


def today() -> dict[str, str]:
    """Return the date, and the processor with its widest vectors."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    fields = {key.strip(): value for key, _, value in (line.partition(":") for line in lines)}
    model = fields.get("model name", platform.processor() or platform.machine()).strip()
    flags = fields.get("flags", fields.get("Features", "")).split()
    vectors = next((title for flag, title in VECTORS.items() if flag in flags), "")
    return {"date": date.today().isoformat(), "processor": f"{model} {vectors}".strip()}


def write_row(row: dict[str, object], path: Path = TABLE) -> None:
    """Replace a cell's row in the table, or add it; rows stand in the order of the cells."""
    rows = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("| ") and not line.startswith("| cell "):
                rows[line.split("|")[1].strip()] = line
    rows[str(row["cell"])] = f"| {' | '.join(str(row[column]) for column in COLUMNS)} |"
    lines = [
        rows.get(name, f"| {name} |{' not run |' + ' |' * (len(COLUMNS) - 2)}") for name in CELLS
    ]
    head = [f"| {' | '.join(COLUMNS)} |", "|" + "-|" * len(COLUMNS)]
    path.write_text("\n".join([INTRODUCTION, *head, *lines, ""]), encoding="utf-8")
