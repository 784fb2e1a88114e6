"""Commands that are killed at random moments leave nothing half written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = int(os.environ.get("KILLS", "5"))  # of each job; the figures in docs/reliability.md: 100
DRIVER = Path(__file__).with_name("kill_driver.py")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("job", ["export", "convert", "predict", "report", "fit"])
def test_a_killed_command_loses_nothing(job, tmp_path):
    command = [sys.executable, "-W", "ignore", DRIVER, tmp_path / "kills", job, str(KILLS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    print(report)
    assert report["kills"] == KILLS
