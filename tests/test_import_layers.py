"""The layers that pyproject.toml lists hold, and no module imports itself in a circle."""

from __future__ import annotations

import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

pytest.importorskip("importlinter", reason="import-linter is not installed")
grimp = pytest.importorskip("grimp")

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "paddleseg_segformer"


def test_layers_hold() -> None:
    # in a process of its own: it switches the loggers of this one off
    code = "from importlinter import cli; raise SystemExit(cli.lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_module_is_in_a_circle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    graph = grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)
    imported = {
        module: graph.find_modules_directly_imported_by(module) - {PACKAGE}
        for module in graph.modules
    }
    TopologicalSorter(imported).prepare()  # raises CycleError, which names the circle


def test_imports_in_functions_count_and_those_for_types_do_not() -> None:
    graph = grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)
    in_function = f"{PACKAGE}.cli.train", f"{PACKAGE}.training.run"
    for_types = f"{PACKAGE}.contracts", f"{PACKAGE}.training.trainer"
    assert in_function[1] in graph.find_modules_directly_imported_by(in_function[0])
    assert for_types[1] not in graph.find_modules_directly_imported_by(for_types[0])
