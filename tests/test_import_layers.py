"""The layers that pyproject.toml lists hold, and no module imports itself in a circle."""

from __future__ import annotations

from graphlib import TopologicalSorter
from pathlib import Path

import pytest

linter = pytest.importorskip("importlinter.cli", reason="import-linter is not installed")
grimp = pytest.importorskip("grimp")

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "paddleseg_segformer"


def test_layers_hold(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)
    status = linter.lint_imports(config_filename="pyproject.toml", no_cache=True)
    assert status == linter.EXIT_STATUS_SUCCESS, capsys.readouterr().out


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
