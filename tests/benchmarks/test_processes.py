"""A worker's end: nothing that it has started stays behind."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.processes import Worker, WorkerFailed


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks into Linux's /proc")
def test_what_a_worker_has_started_ends_with_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    worker = Worker("parent_worker", {}, 1, tmp_path / "log", 60.0)
    pid = worker.ask("start")["pid"]
    assert is_running(pid)
    with pytest.raises(WorkerFailed, match="KeyError"):
        worker.ask("stop")
    worker.close()
    worker.close()  # once more does no harm
    for _ in range(100):
        if not is_running(pid):
            break
        time.sleep(0.05)
    assert not is_running(pid)
