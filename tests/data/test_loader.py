from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paddleseg_segformer.data.datasets import Cityscapes
from paddleseg_segformer.data.loader import Batch, TrainSampler, read_ahead, train_loader
from paddleseg_segformer.data.normalize import Normalize
from paddleseg_segformer.data.transforms import (
    PhotoMetricDistortion,
    RandomHorizontalFlip,
    RandomPaddingCrop,
    ResizeStepScaling,
)
from paddleseg_segformer.errors import UserError

BAD = "leftImg8bit/train/ulm/ulm_000001_leftImg8bit.png"


@pytest.fixture
def dataset(cityscapes: Path) -> Cityscapes:
    transforms = [
        ResizeStepScaling(0.5, 2.0, 0.25),
        RandomPaddingCrop((16, 16)),
        RandomHorizontalFlip(),
        PhotoMetricDistortion(),
        Normalize(),
    ]
    return Cityscapes(transforms, str(cityscapes))


def take(dataset: Cityscapes, count: int, **arguments: Any) -> list[Batch]:
    """Return the first batches of a loader, and close it."""
    arguments = {"batch_size": 2, "num_workers": 0, "seed": 1, **arguments}
    loader = train_loader(dataset, **arguments)
    batches = list(islice(loader, count))
    loader.close()
    return batches


def assert_equal(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def indices(sampler: TrainSampler, count: int) -> list[list[int]]:
    return [[index for index, _ in keys] for keys in islice(sampler, count)]


def test_every_epoch_shows_each_sample_once_in_a_new_order() -> None:
    order = sum(indices(TrainSampler(10, 2, seed=3), 15), [])
    epochs = [order[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_batch_may_be_larger_than_the_data_set() -> None:
    (batch,) = indices(TrainSampler(3, 8, seed=0), 1)
    assert sorted(batch[:3]) == sorted(batch[3:6]) == [0, 1, 2]


@pytest.mark.parametrize("start", [1, 7, 23])
def test_start_iter_resumes(start: int) -> None:
    unbroken = list(islice(TrainSampler(10, 4, seed=5), start + 6))
    resumed = list(islice(TrainSampler(10, 4, seed=5, start_iter=start), 6))
    assert resumed == unbroken[start:]


def test_ranks_share_one_order_without_overlap() -> None:
    alone = indices(TrainSampler(16, 8, seed=2), 4)
    ranks = [indices(TrainSampler(16, 4, seed=2, rank=rank, world_size=2), 4) for rank in (0, 1)]
    assert [left + right for left, right in zip(*ranks, strict=True)] == alone


def test_every_sample_has_its_own_seed() -> None:
    seeds = [seed for keys in islice(TrainSampler(5, 5, seed=0), 20) for _, seed in keys]
    assert len(set(seeds)) == 100 and all(0 <= seed < 2**32 for seed in seeds)
    other = [seed for keys in islice(TrainSampler(5, 5, seed=1), 20) for _, seed in keys]
    assert not set(seeds) & set(other)


def test_batches_are_stacked_arrays(dataset: Cityscapes) -> None:
    (batch,) = take(dataset, 1, batch_size=3)
    assert batch.img.shape == (3, 3, 16, 16) and batch.img.dtype == np.uint8
    assert batch.label.shape == (3, 16, 16) and batch.indices.shape == (3,)
    np.testing.assert_array_equal(batch.img[1], dataset[_keys(3)[1]][0])


class Sleep:
    """A transform that takes its time."""

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.04)
        return data


def test_workers_work_side_by_side_and_ahead(cityscapes: Path) -> None:
    loader = train_loader(Cityscapes([Sleep()], str(cityscapes)), 2, 2, seed=0)
    next(loader)
    start = time.monotonic()
    list(islice(loader, 12))
    assert time.monotonic() - start < 0.8 * 24 * 0.04  # a single one needs all of it
    time.sleep(0.3)
    start = time.monotonic()
    next(loader)
    assert time.monotonic() - start < 0.04  # made while nobody waited
    loader.close()


def _keys(batch_size: int) -> list[tuple[int, int]]:
    return next(iter(TrainSampler(7, batch_size, seed=1)))


def test_workers_give_the_same_batches(dataset: Cityscapes) -> None:
    alone = take(dataset, 9)
    assert_equal(take(dataset, 9, num_workers=2), alone)
    assert_equal(take(dataset, 4, num_workers=1, start_iter=5), alone[5:])


def test_two_runs_are_equal_and_seeds_differ(dataset: Cityscapes) -> None:
    assert_equal(take(dataset, 3), take(dataset, 3))
    assert not np.array_equal(take(dataset, 1)[0].img, take(dataset, 1, seed=2)[0].img)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_sample_names_the_file_and_ends_at_once(dataset: Cityscapes, num_workers: int) -> None:
    root = Path(dataset.samples[0][0]).parents[3]
    (root / BAD).write_bytes((root / BAD).read_bytes()[:200])
    before = _children()
    start = time.monotonic()
    with pytest.raises(UserError, match=BAD):
        take(dataset, 20, num_workers=num_workers)
    assert time.monotonic() - start < 30
    assert _wait_until(lambda: _children() <= before)


def test_closing_ends_the_workers(dataset: Cityscapes) -> None:
    before = _children()
    loader = train_loader(dataset, 2, 2, seed=0)
    next(loader)
    assert _children() - before
    loader.close()
    assert _children() <= before  # at once, not some time later


class Stall:
    """A transform that takes a minute, but for the first sample."""

    is_first = True

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        if not self.is_first:
            time.sleep(60)
        self.is_first = False
        return data


def test_closing_ends_workers_in_the_middle_of_a_sample(cityscapes: Path) -> None:
    before = _children()
    loader = train_loader(Cityscapes([Stall()], str(cityscapes)), 1, 1, seed=0)
    next(loader)
    start = time.monotonic()
    loader.close()
    assert _children() <= before and time.monotonic() - start < 5


def run_script(root: Path, code: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program with `loader`, a loader of two workers, and `pids`, their process ids."""
    start = f"""
import multiprocessing, os, signal
from itertools import islice
from paddleseg_segformer.data.datasets import Cityscapes
from paddleseg_segformer.data.loader import train_loader
if __name__ == "__main__":
    loader = train_loader(Cityscapes([], {str(root)!r}), 1, 2, seed=0)
    list(islice(loader, 3))
    pids = [child.pid for child in multiprocessing.active_children()]
"""
    script = root / "script.py"
    script.write_text(start + code)
    return subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        timeout=60,
        start_new_session=True,
    )


def test_workers_end_with_a_killed_parent(cityscapes: Path) -> None:
    code = "    print(*pids, flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    process = run_script(cityscapes, code)
    pids = [int(pid) for pid in process.stdout.split()]
    assert process.returncode == -signal.SIGKILL and pids
    assert _wait_until(lambda: not any(_is_alive(pid) for pid in pids))


def test_sigterm_to_the_whole_group_lets_the_step_finish(cityscapes: Path) -> None:
    code = """
    signal.signal(signal.SIGTERM, lambda *_: None)
    os.killpg(0, signal.SIGTERM)
    print(len(list(islice(loader, 20))))
    loader.close()
"""
    process = run_script(cityscapes, code)
    assert (process.returncode, process.stdout) == (0, b"20\n")


def test_transform_that_cannot_be_sent_is_explained(dataset: Cityscapes) -> None:
    dataset.transforms.insert(0, lambda data: data)
    with pytest.raises(UserError, match="set num_workers to 0"):
        take(dataset, 1, num_workers=1)


def test_killed_worker_is_an_error_not_a_hang(dataset: Cityscapes) -> None:
    before = _children()
    loader = train_loader(dataset, 2, 2, seed=0)
    next(loader)
    os.kill(min(_children() - before), signal.SIGKILL)
    with pytest.raises(UserError, match="was killed, most often for lack of memory"):
        for _ in range(100):
            next(loader)


def test_samples_of_different_sizes_are_refused(cityscapes: Path) -> None:
    dataset = Cityscapes([ResizeStepScaling(0.5, 2.0, 0.25)], str(cityscapes))
    with pytest.raises(UserError, match=r"different shapes .*aachen_.*crop of fixed size"):
        take(dataset, 3, batch_size=7)


def test_empty_data_set_and_batch_are_refused() -> None:
    with pytest.raises(UserError, match="the data set is empty"):
        TrainSampler(0, 2, seed=0)
    with pytest.raises(UserError, match="batch_size is 0"):
        TrainSampler(2, 0, seed=0)


@pytest.mark.parametrize("num_threads", [0, 3])
def test_read_ahead_keeps_the_order(dataset: Cityscapes, num_threads: int) -> None:
    order = [6, 2, 2, 0, 5]
    samples = list(read_ahead(dataset, order, num_threads))
    assert [sample.image[0, 0, 0] for sample in samples] == order


def test_read_ahead_names_a_bad_file(dataset: Cityscapes) -> None:
    root = Path(dataset.samples[0][0]).parents[3]
    (root / BAD).unlink()
    with pytest.raises(UserError, match=BAD):
        list(read_ahead(dataset, range(7), 2))


def test_read_ahead_is_bounded() -> None:
    class Counting:
        def __init__(self) -> None:
            self.num_read = 0

        def read(self, index: int) -> int:
            self.num_read += 1
            return index

    dataset = Counting()
    samples: Iterator[Any] = read_ahead(dataset, range(1000), 2)
    next(samples)
    time.sleep(0.05)
    assert dataset.num_read <= 6


def _children() -> set[int | None]:
    """Return the process ids of this process's workers."""
    return {child.pid for child in multiprocessing.active_children()}


def _wait_until(condition: Any, timeout_s: float = 20) -> bool:
    """Return True once the condition holds, False if it does not within the time."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _is_alive(pid: int) -> bool:
    """Tell whether a process runs; one that only waits to be collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_system_that_starts_no_workers_is_one_line(dataset, monkeypatch) -> None:
    """As where /dev/shm cannot be written to."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", fail)
    with pytest.raises(UserError, match=r"Read-only file system.*: they need /dev/shm"):
        next(train_loader(dataset, 2, 2, seed=0))
