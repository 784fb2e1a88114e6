"""The notebooks of examples/: without outputs in the repository, and they run as they stand."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
ORDER = ("own_data", "explore_model", "deploy")  # each uses what the first one leaves
PARAMETERS = {"own_data": 'DATA, LENGTH, OUT = None, {"iters": 20}, "output/own"'}


def read(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "examples" / f"{name}.ipynb").read_text(encoding="utf-8"))


def test_every_notebook_is_known() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.ipynb")} == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_notebook_has_code_that_compiles_and_no_outputs(name: str) -> None:
    cells = [cell for cell in read(name)["cells"] if cell["cell_type"] == "code"]
    assert sum("parameters" in cell["metadata"].get("tags", ()) for cell in cells) == 1
    for cell in cells:
        assert cell["outputs"] == [] and cell["execution_count"] is None
        ast.parse("".join(cell["source"]))


@pytest.mark.slow
def test_notebooks_run_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for package in ("matplotlib", "onnxruntime", "fastapi"):
        pytest.importorskip(package)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{os.environ.get('PYTHONPATH', '')}")
    for name in ORDER:
        notebook = nbformat.reads(json.dumps(read(name)), as_version=4)
        nbformat.validate(notebook)
        for cell in notebook.cells:
            if name in PARAMETERS and "parameters" in cell.metadata.get("tags", ()):
                cell.source = PARAMETERS[name]
        options = {"timeout": 600, "resources": {"metadata": {"path": str(tmp_path)}}}
        nbclient.NotebookClient(notebook, kernel_name="python3", **options).execute()
        texts = [
            output["text"]
            for cell in notebook.cells
            if cell.cell_type == "code"
            for output in cell.outputs
            if output.output_type == "stream" and output.name == "stdout"
        ]
        printed = "".join(texts)
        expected = {
            "own_data": "annotations are cityscapes",
            "explore_model": "of the labels stay",
            "deploy": "'ready'",
        }
        assert expected[name] in printed
