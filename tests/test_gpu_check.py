"""`tools/gpu_check.py` on the CPU: every part that can run there does, the others are rows."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

PROGRAM = Path(__file__).resolve().parents[1] / "tools" / "gpu_check.py"


@pytest.fixture
def gpu_check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", PROGRAM)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_check", module)
    spec.loader.exec_module(module)
    return module


def test_a_part_that_fails_or_hangs_is_a_row(gpu_check: ModuleType) -> None:
    setting = gpu_check.Setting("cpu", ["B0"], [32], 1)
    (row,) = gpu_check.collect("speed", setting, 0.1)
    assert (row.status, row.note) == (gpu_check.FAILED, "stopped after its 0 s")
    wrong = gpu_check.Setting("cpu", ["B9"], [32], 1)
    (row,) = gpu_check.collect("to_static", wrong, 60.0)
    assert row.status == gpu_check.FAILED and "exit status 1" in row.note and "B9" in row.note


def test_a_difference_fails(gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gpu_check.TOLERANCES, "fp32", -1.0)
    rows = list(gpu_check.run_part("attention", gpu_check.Setting("cpu", ["B0"], [32], 1)))
    assert rows[0].status == gpu_check.FAILED and "standard deviations" in rows[0].note
    with pytest.raises(RuntimeError, match="differs by nan"):
        gpu_check._compared(np.full(2, np.nan), np.arange(2.0), 1.0)


def test_a_gpu_that_is_not_there_is_one_line(gpu_check: ModuleType, capsys) -> None:
    import paddle

    if paddle.is_compiled_with_cuda():
        pytest.skip("this Paddle has GPUs")
    assert gpu_check.main([]) == 1
    assert "--device gpu:0: not available" in capsys.readouterr().err


@pytest.mark.slow
def test_all_parts(gpu_check: ModuleType, tmp_path: Path, capsys) -> None:
    flags = ["--device", "cpu", "--variants", "B0", "--sides", "64", "--batch", "1"]
    assert gpu_check.main([*flags, "--json", str(tmp_path / "found.json")]) == 0
    content = json.loads((tmp_path / "found.json").read_text())
    found = defaultdict(set)
    for row in content["rows"]:
        found[row["part"]].add(row["status"])
    half = {"gradient_scaling", "sync_batch_norm"}  # GPUs alone have them
    assert {part for part in found if gpu_check.OK in found[part]} == set(gpu_check.PARTS) - half
    assert found["gradient_scaling"] == found["sync_batch_norm"] == {gpu_check.NOT_POSSIBLE}
    assert capsys.readouterr().out.count("| precision |") == len(gpu_check.PRECISIONS)
