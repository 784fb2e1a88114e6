"""All deployments on one drawn image: each gives the labels of the model."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.deployment.deployments import MIN_AGREEMENT
from paddleseg_segformer.cli import main

pytestmark = pytest.mark.slow

# of deployments that need an extra
PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino"}


def test_every_way_that_is_here_gives_the_models_labels(programs, tmp_path: Path) -> None:
    required = ["dygraph", "paddle", *(f"cpp-{name}" for name in programs)]
    required += [name for name, package in PACKAGES.items() if find_spec(package)]
    path, work_dir = tmp_path / "report.json", tmp_path / "work"
    flags = ["--num_images", "1", "--threads", "1", "--json", str(path), "--work_dir", work_dir]
    flags += ["--cpp_dir", programs["paddle"].parent, "--require", *required]
    assert main(["compare_engines", *map(str, flags)]) == 0
    rows = {row["name"]: row for row in json.loads(path.read_text())["ways"]}
    for name in required:
        assert rows[name]["error"] is None and rows[name]["agreement"] >= MIN_AGREEMENT
        assert 0 < rows[name]["outcome"]["network_ms"] < rows[name]["outcome"]["ms"]
        assert rows[name]["outcome"]["peak_mib"] > 50
    assert rows["dygraph"]["agreement"] == 1.0
