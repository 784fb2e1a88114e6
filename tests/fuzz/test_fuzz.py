"""Damaged files: read, refused in one line, or a finding. See `run_cases.py`."""

from __future__ import annotations

import importlib.util
import json

import pytest
from run_cases import run

SMALL = {"images": 300, "yaml": 40, "weights": 60}
FULL = {"images": 20_000, "yaml": 5_000, "weights": 2_000}


def check(target: str, count: int) -> None:
    if target == "weights" and importlib.util.find_spec("torch") is None:
        pytest.skip("the weight files to damage are written by torch")
    report = run(target, count)
    print(json.dumps(report))
    assert report["findings"] == []
    assert report["accepted"] + report["refused"] == count
    assert min(report["accepted"], report["refused"]) > count / 50  # both ways are walked


@pytest.mark.parametrize("target", SMALL)
def test_some_damaged_files(target):
    check(target, SMALL[target])


@pytest.mark.slow
@pytest.mark.parametrize("target", FULL)
def test_many_damaged_files(target):
    check(target, FULL[target])


@pytest.mark.parametrize(
    ("target", "what"), [("crash", "ended with -11"), ("hang", "Timeout"), ("error", "KeyError")]
)
def test_crash_hang_and_wrong_error_are_findings(target, what):
    report = run(target, 1, first=1)
    assert [finding["case"] for finding in report["findings"]] == [1]
    assert what in report["findings"][0]["what"]
