"""What the coverage-guided fuzzer found and kept goes through the readers; see `guided.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from guided_targets import TARGETS, accept

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"


@pytest.mark.parametrize("name", TARGETS)
def test_kept_files_are_read_or_refused(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(HERE.parent / "serving"), *sys.path])
    monkeypatch.setenv("PADDLESEG_SEGFORMER_MAX_PIXELS", str(1 << 18))
    target = TARGETS[name]
    run = target.start(tmp_path)
    for seed, content in target.seeds().items():
        assert accept(run, content), seed  # what damage starts from is sound
    kept = sorted((CORPUS / name).iterdir())
    assert kept
    outcomes = [accept(run, path.read_bytes()) for path in kept]
    assert not all(outcomes)
