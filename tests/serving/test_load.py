"""The load test of the service, short; and that it sees what is wrong."""

from __future__ import annotations

import asyncio
import importlib
import re
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from paddleseg_segformer.data.io import encode_label
from paddleseg_segformer.data.labels import generic_label_set
from paddleseg_segformer.serving.answers import describe

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "deploy" / "serving" / "load_test.py"


def run(config: Path, *flags: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, "--config", config, "--backend", "onnxruntime", *flags]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_load_test_passes(exported: Path) -> None:
    # fewer end before the memory has reached its level
    done = run(exported, "--requests", 600, "--concurrency", 8, "--threads", 1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    found = re.search(r"statuses: (\d+) of 200, (\d+) of 400.* (\d+) of 422", done.stdout)
    # of the attacks some are images that can be decoded
    assert found and 540 <= int(found[1]) < 570 and int(found[2]) > 0 and int(found[3]) > 0


def test_load_test_sees_wrong_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    load_test = importlib.import_module("load_test")
    label = np.random.randint(0, 3, (9, 14)).astype(np.uint8)
    wrong = label.copy()
    wrong[4, 5] = 7
    other_status = httpx.Response(404, json={"error": "x"})
    full = httpx.Response(503, headers={"Retry-After": "1"}, json={"error": "x"})
    png = httpx.Response(200, headers={"Content-Type": "image/png"}, content=encode_label(label))
    masks = httpx.Response(200, json=describe(label, None, generic_label_set(8), with_masks=True))

    def problem(response: httpx.Response, expected: object) -> str:
        client = httpx.AsyncClient(
            transport=httpx.MockTransport(lambda request: response), base_url="http://localhost"
        )
        sent = load_test.Sent("kind", {"content": b"x"}, expected)
        return asyncio.run(load_test.send(client, sent)).problem

    for response in (png, masks):
        assert problem(response, label) == ""
        assert problem(response, wrong) == "only 99.2063% of the labels"
        assert problem(response, label[:8]) == "only 0.0000% of the labels"
    assert problem(full, label) == ""
    assert problem(other_status, label).startswith("status 404")
    assert problem(other_status, 404) == ""
    assert problem(other_status, 413) == "status 404, expected 413"
    assert problem(httpx.Response(503), label).startswith("status 503")  # does not say when
