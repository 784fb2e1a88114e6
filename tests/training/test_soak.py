"""Hundreds of cycles of training and evaluation in one process: nothing grows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from benchmarks.chaos import members

ROOT = Path(__file__).resolve().parents[2]
WARM_UP = 50  # cycles


class Sample(NamedTuple):
    """What a run holds after a cycle."""

    rss_kib: int
    workers_rss_kib: int
    num_files: int
    num_threads: int
    num_processes: int


def sample(pid: int) -> Sample:
    pids = [int(member.split()[0]) for member in members(pid)]
    memory = {member: rss_kib(member) for member in pids}
    return Sample(
        memory.pop(pid),
        sum(memory.values()),
        len(os.listdir(f"/proc/{pid}/fd")),
        len(os.listdir(f"/proc/{pid}/task")),
        len(pids),
    )


def rss_kib(pid: int) -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def run_cycles(folder: Path, num_cycles: int) -> list[Sample]:
    """Train with an evaluation, a checkpoint and pictures every other step; sample each cycle."""
    flags = f"--iters {2 * num_cycles} --save_interval 2 --num_workers 1 --do_eval --use_ema"
    if find_spec("visualdl"):
        flags += " --use_vdl"
    command = [sys.executable, "-W", "ignore", "-m", "paddleseg_segformer", "train"]
    process = subprocess.Popen(
        [*command, "--config", str(folder / "tiny.yml"), "--save_dir", str(folder / "out")]
        + flags.split(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    samples = [sample(process.pid) for line in process.stdout if "evaluation at iter" in line]
    assert process.wait() == 0 and len(samples) == num_cycles
    assert members(process.pid) == []
    return samples


@pytest.mark.slow
def test_three_hundred_cycles_leak_nothing(folder):
    samples = np.array(run_cycles(folder, 300))
    windows = [np.median(samples[start : start + 25], axis=0) for start in range(0, 300, 25)]
    for index, window in enumerate(windows):
        print(25 * index, *window.astype(int))
    early, late = windows[WARM_UP // 25], windows[-1]
    growth = dict(zip(Sample._fields, late / early - 1, strict=True))
    assert growth["rss_kib"] < 0.02 and growth["workers_rss_kib"] < 0.02
    assert growth["num_threads"] <= 0 and growth["num_processes"] <= 0
    files = samples[:, Sample._fields.index("num_files")]  # one more while a log is written
    assert files[-25:].min() == files[WARM_UP : WARM_UP + 25].min()
