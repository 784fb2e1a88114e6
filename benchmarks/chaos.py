"""`chaos`: kills a training run at random moments and resumes it: what is left must be whole.

The run is the real command on a tiny drawn data set, with augmentation, averaged weights,
evaluation and loader workers, saving every other step. A kill is a SIGKILL, to the process alone or
to it and all its workers.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from tqdm import tqdm

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import check_folder, write_text
from paddleseg_segformer.street_scenes.dataset import generate
from paddleseg_segformer.yaml_files import dump_yaml

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "chaos.yml"
SIZE_HW = (64, 64)
CROP_HW = (32, 32)
SAVE_INTERVAL = 2
START_TIMEOUT_S = 180.0
ORPHAN_TIMEOUT_S = 20.0
POLL_S = 0.01
SHARE_AT_START = 0.2  # of the kills; the others come once the run trains
STARTED = re.compile(r"  iter \d+/")
RESUMED = re.compile(r"resumed from \S*iter_(\d+) at")


@dataclass
class Report:
    """What was done, and what went wrong."""

    kills: Counter[str] = field(default_factory=Counter)  # by what was killed, and when
    num_resumed: int = 0
    num_fresh: int = 0
    num_rounds: int = 0  # runs that came to their end
    longest_orphan_s: float = 0.0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kills = ", ".join(f"{number} {name}" for name, number in sorted(self.kills.items()))
        lines = [
            f"{self.kills.total()} kills in {self.seconds:.0f} s: {kills}",
            f"starts after a kill: {self.num_resumed} resumed from the newest checkpoint, "
            f"{self.num_fresh} afresh as there was none yet",
            f"workers of a killed process ended within {self.longest_orphan_s:.1f} s",
            f"{self.num_rounds} runs came to their end and were compared with an uninterrupted one",
            *(f"FAILED: {failure}" for failure in self.failures),
            "nothing was lost" if not self.failures else f"{len(self.failures)} failures",
        ]
        return "\n".join(lines)


class Chaos:
    """Kills runs in `folder` and checks what is left.

    Args:
        iters: steps of a run; a run that ends is compared, and another one begins.
        num_workers: processes that load its data.
        alive_s: a run that trains is killed after 0 to so many seconds.
    """

    def __init__(
        self, folder: Path, iters: int, num_workers: int, alive_s: float, seed: int
    ) -> None:
        self.folder = folder
        self.iters = iters
        self.num_workers = num_workers
        self.alive_s = alive_s
        self.random = random.Random(seed)
        self.report = Report()
        self.start_s = 5.0  # how long a start takes; measured at each
        self.round_dir = folder / "round_0"
        self.expected = -1  # iteration of the newest checkpoint when the run was started

    def run(self, num_kills: int) -> Report:
        """Kill so many times, let the last run come to its end, and compare."""
        begin = time.monotonic()
        write_inputs(self.folder, self.iters)
        with self._process(self.folder / "whole") as whole:
            with tqdm(total=num_kills, unit="kill", disable=None) as bar:
                while self.report.kills.total() < num_kills:
                    self._run_and_kill()
                    bar.update(self.report.kills.total() - bar.n)
            self._finish(self._start(self.round_dir))
            self._compare() if whole.wait() == 0 else self._fail("the uninterrupted run failed")
        self.report.seconds = time.monotonic() - begin
        return self.report

    def _run_and_kill(self) -> None:
        process = self._start(self.round_dir)
        at_start = self.random.random() < SHARE_AT_START
        delay_s = self.random.uniform(0, self.start_s if at_start else self.alive_s)
        if not at_start:
            self._wait_until_it_trains(process)
        if self._ends_within(process, delay_s):
            self._finish(process)
            return
        self._kill(process)
        self._check_what_is_left()

    def _start(self, save_dir: Path) -> subprocess.Popen[bytes]:
        with open(self._log(save_dir), "wb") as log:
            return subprocess.Popen(
                self._command(save_dir),
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            )

    def _command(self, save_dir: Path) -> list[str]:
        flags = {
            "config": self.folder / CONFIG,
            "save_dir": save_dir,
            "num_workers": self.num_workers,
            "save_interval": SAVE_INTERVAL,
            "keep_checkpoint_max": 2,
            "log_iters": 1,
            "seed": 1,
            "device": "cpu",
            "resume_model": "auto",
        }
        pairs = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
        job = [sys.executable, "-W", "ignore", "-m", "paddleseg_segformer", "train"]
        with_log = ["--use_vdl"] if find_spec("visualdl") else []
        return [*job, *pairs, "--do_eval", "--use_ema", *with_log]

    @contextmanager
    def _process(self, save_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Start a run; it ends with the block at the latest."""
        process = self._start(save_dir)
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    @staticmethod
    def _log(save_dir: Path) -> Path:
        return save_dir.with_suffix(".log")

    def _wait_until_it_trains(self, process: subprocess.Popen[bytes]) -> None:
        begin = time.monotonic()
        while process.poll() is None and not STARTED.search(self._printed()):
            if time.monotonic() - begin > START_TIMEOUT_S:
                self._fail(f"a run did not train within {START_TIMEOUT_S:.0f} s")
                return
            time.sleep(POLL_S)
        self.start_s = time.monotonic() - begin

    def _printed(self) -> str:
        return self._log(self.round_dir).read_text(encoding="utf-8", errors="replace")

    @staticmethod
    def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        is_saving = any(self.round_dir.glob(".*.part"))
        has_started = bool(STARTED.search(self._printed()))
        moment = "while saving" if is_saving else "between" if has_started else "at the start"
        with_workers = self.random.random() < 0.5
        if with_workers:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        self.report.kills[f"{'of all processes' if with_workers else 'alone'} {moment}"] += 1
        begin = time.monotonic()
        while processes := members(process.pid):
            if time.monotonic() - begin > ORPHAN_TIMEOUT_S:
                self._fail(f"processes outlived their killed parent: {processes}")
                os.killpg(process.pid, signal.SIGKILL)
                break
            time.sleep(POLL_S)
        waited_s = time.monotonic() - begin
        self.report.longest_orphan_s = max(self.report.longest_orphan_s, waited_s)

    def _check_what_is_left(self) -> None:
        """Verify every checkpoint that is there, and what the killed run said when it started."""
        from paddleseg_segformer.training.checkpoints import read_manifest, verify_manifest

        self._check_start()
        self.expected = -1
        newest = -1
        for folder in [*self.round_dir.glob("iter_*"), *self.round_dir.glob("best_model")]:
            try:
                verify_manifest(folder)
            except UserError as error:
                self._fail(f"unreadable after a kill: {error}")
                continue
            if folder.name != "best_model" and read_manifest(folder)["serial"] > newest:
                newest = read_manifest(folder)["serial"]
                self.expected = read_manifest(folder)["iteration"]

    def _check_start(self) -> None:
        """Compare where the run started with the newest checkpoint that there was."""
        printed = self._printed()
        found = RESUMED.search(printed)
        if "is damaged" in printed:
            self._fail("a checkpoint was damaged: " + printed)
        if found and int(found[1]) == self.expected:
            self.report.num_resumed += 1
        elif found or (self.expected >= 0 and STARTED.search(printed)):
            self._fail(f"expected a start from iteration {self.expected}, found: {printed[:2000]}")
        elif STARTED.search(printed):
            self.report.num_fresh += 1

    def _finish(self, process: subprocess.Popen[bytes]) -> None:
        """Let a run come to its end; keep it for the comparison, and begin another one."""
        if process.wait() != 0:
            last_line = self._printed().strip().rpartition("\n")[2]
            raise UserError(
                f"chaos: a run ended with status {process.returncode}: {last_line} (all of it: "
                f"{self._log(self.round_dir)})"
            )
        self._check_start()
        self.report.num_rounds += 1
        self.expected = -1
        self.round_dir = self.folder / f"round_{self.report.num_rounds}"

    def _compare(self) -> None:
        """Compare the runs that came to their end with the uninterrupted one."""
        for number in range(self.report.num_rounds):
            for name in (f"iter_{self.iters}", "best_model"):
                left, right = (
                    self.folder / run / name / "model.pdparams"
                    for run in ("whole", f"round_{number}")
                )
                if left.read_bytes() != right.read_bytes():
                    self._fail(f"{right}: not the weights of {left}")
            if logged(self.folder / f"round_{number}") != logged(self.folder / "whole"):
                self._fail(f"round_{number}: its log is not the uninterrupted run's")

    def _fail(self, failure: str) -> None:
        self.report.failures.append(failure)


def write_inputs(folder: Path, iters: int) -> None:
    """Write data set and config of the runs into a new `folder`.

    Raises:
        UserError: there is such a folder, and it is not one of earlier runs.
    """
    if folder.exists() and not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: exists, and this job makes its folder anew. Choose another.")
    shutil.rmtree(folder, ignore_errors=True)
    scenes = generate(folder / "scenes", 12, 2, SIZE_HW, num_workers=0)
    crop = {"type": "RandomPaddingCrop", "crop_size": [CROP_HW[1], CROP_HW[0]]}
    random_transforms = [{"type": "RandomHorizontalFlip"}, {"type": "RandomDistort"}]
    config = {
        "batch_size": 2,
        "iters": iters,
        "model": {
            "type": "SegFormer",
            "num_classes": 19,
            "embedding_dim": 16,
            "backbone": {
                "type": "MixVisionTransformer_B0",
                "embed_dims": [8, 16, 20, 32],
                "depths": [1, 1, 1, 1],
            },
        },
        "train_dataset": {
            "type": "Cityscapes",
            "dataset_root": str(scenes),
            "mode": "train",
            "transforms": [crop, *random_transforms, {"type": "Normalize"}],
        },
        "val_dataset": {
            "type": "Cityscapes",
            "dataset_root": str(scenes),
            "mode": "val",
            "transforms": [{"type": "Normalize"}],
        },
        "lr_scheduler": {"type": "PolynomialDecay", "learning_rate": 0.001, "power": 1.0},
    }
    write_text(folder / CONFIG, dump_yaml(config))


def logged(run: Path) -> list[dict[str, float]]:
    """Return the lines of a run's log without what depends on time."""
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if not re.search(r"_s$", key)}
        for line in lines
    ]


def members(group: int) -> list[str]:
    """Return pid and command of the processes of a group that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text(encoding="utf-8", errors="replace")
        except OSError:  # it has just ended
            continue
        name, _, rest = text.partition("(")[2].rpartition(")")
        fields = rest.split()
        if int(fields[2]) == group and fields[0] not in "ZX":
            found.append(f"{stat.parent.name} {name}")
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this job."""
    add = parser.add_argument
    add("--save_dir", default="output/chaos", help="folder of the runs; it is made anew")
    add("--kills", type=int, default=100, help="number of SIGKILLs")
    add("--iters", type=int, default=300, help="steps of a run")
    add("--num_workers", type=int, default=2, help="processes that load data")
    add("--alive_s", type=float, default=3.0, help="a run trains for at most so many seconds")
    add("--seed", type=int, default=0, help="seed of the moments of the kills")


def run(args: argparse.Namespace) -> None:
    """Print the report; end with an error if anything was lost."""
    if not Path("/proc/self/stat").is_file():
        raise UserError("chaos: this system has no /proc, where it looks for processes. Use Linux.")
    for name in ("kills", "iters"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name}: found {getattr(args, name)}, expected 1 or more.")
    check_folder(args.save_dir)
    chaos = Chaos(Path(args.save_dir), args.iters, args.num_workers, args.alive_s, args.seed)
    report = chaos.run(args.kills)
    print(report)
    if report.failures:
        raise UserError(f"chaos: {len(report.failures)} failures, see above.")
