"""Annotation files with one wrong value each are read, or refused in one line."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forms
import pytest

from paddleseg_segformer import UserError
from paddleseg_segformer.annotations import Options, detect, prepare

pytest.importorskip("pycocotools")

VALUES = (None, "x", -1, 1e30, [], {}, [1], True, "", 0, float("nan"), {"a": 1}, "1,2;3")
TRIES = 20


def places(content: Any, place: tuple = ()) -> Iterator[tuple]:
    """Yield the place of every value below the whole."""
    keys = content if isinstance(content, dict) else range(min(len(content), 4))
    for key in keys:
        yield (*place, key)
        if isinstance(content[key], (dict, list)):
            yield from places(content[key], (*place, key))


@pytest.mark.parametrize("name", ["coco", "labelme", "labelstudio"])
def test_one_wrong_value_is_no_traceback(name: str, tmp_path: Path) -> None:
    forms.WRITERS[name](tmp_path / "data")
    path = next(iter(sorted((tmp_path / "data").rglob("*.json"))))
    original = path.read_text(encoding="utf-8")
    rng = random.Random(0)
    refused = 0
    for _ in range(TRIES):
        content = json.loads(original)
        *parents, key = rng.choice([*places(content)])
        parent = content
        for item in parents:
            parent = parent[item]
        parent[key] = rng.choice(VALUES)
        path.write_text(json.dumps(content), encoding="utf-8")
        try:
            prepare(detect(tmp_path / "data", Options(val=0.34)), tmp_path / "out")
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert 0 < refused < TRIES
