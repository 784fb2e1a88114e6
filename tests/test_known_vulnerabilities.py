"""The audit of the locked versions, with a pip-audit that gives each of its answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SAFE = '{"name": "numpy", "version": "2.0", "vulns": []}'
BAD = '{"name": "pillow", "version": "9.0", "vulns": [{"id": "B-2"}, {"id": "A-1"}]}'
UNKNOWN = '{"name": "own", "skip_reason": "Dependency not found on PyPI"}'


@pytest.mark.parametrize(
    ("answer", "status", "expected"),
    [
        ([SAFE], 0, "lock.txt: 1 of 1 packages checked, 0 with known vulnerabilities\n"),
        ([SAFE, BAD], 1, "lock.txt: pillow 9.0: A-1, B-2\nlock.txt: 2 of 2 packages checked, 1 "),
        ([SAFE, UNKNOWN], 0, "lock.txt: 1 of 2 packages checked, 0 with known vulnerabilities\n"
         "lock.txt: not checked, the service does not know them: own\n"),
        ([UNKNOWN], 0, "lock.txt: vulnerabilities not checked, the service knows none of its"),
        (None, 0, "lock.txt: vulnerabilities not checked, the service did not answer (no route)"),
    ],
)  # fmt: skip
def test_what_was_not_checked_is_said(tmp_path, answer, status, expected) -> None:
    fake = tmp_path / "pip_audit"
    fake.mkdir()
    if answer is None:
        code = "import sys; print('no route', file=sys.stderr); sys.exit(1)"
    else:
        code = f"print('{{\"dependencies\": [{', '.join(answer)}]}}')"
    (fake / "__main__.py").write_text(code)
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "known_vulnerabilities.py"), "lock.txt"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (status, "")
    assert done.stdout.startswith(expected)
