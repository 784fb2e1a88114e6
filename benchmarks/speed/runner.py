"""The run: one process per case, one pass of each in turn, so that a busy machine slows all alike.

Only the processes of one setting live at the same time. Between two passes the run waits until the
threads of the last one have gone to sleep.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.processes import Worker, WorkerFailed
from benchmarks.speed.cases import REFERENCE, Case, Setting
from benchmarks.speed.files import Files
from benchmarks.speed.make import ensure, ensure_images, ensure_logits
from benchmarks.speed.worker import BENCHMARK, LABELS, LOGITS
from paddleseg_segformer.errors import UserError

logger = logging.getLogger(__name__)

PAUSE_S = 0.25  # OpenMP's threads spin for 0.2 s after their work


@dataclass(frozen=True)
class Plan:
    """How a run is made.

    Args:
        work_dir: folder of weights, graphs and images; kept, and used again by the next run.
        repeats: timed passes per case.
        warmup: passes before them.
        limit_s: longest time that one answer of a process may take.
    """

    work_dir: Path
    repeats: int = 10
    warmup: int = 3
    limit_s: float = 1200.0

    def __post_init__(self) -> None:
        if self.repeats < 1 or self.warmup < 0 or self.limit_s <= 0:
            raise UserError("repeats: expected 1 or more; warmup: 0 or more; limit: above 0.")


@dataclass
class Measurement:
    """What was found for one case; `error` where it failed."""

    case: Case
    ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)  # of all threads, spinning ones included
    load_s: float = 0.0
    peak_mib: float = 0.0
    beyond_empty_mib: float = 0.0
    label_agreement: float | None = None
    max_logit_difference: float | None = None
    error: str | None = None


@dataclass
class Group:
    """The cases of one setting, and the machine's speed while they ran."""

    setting: Setting
    measurements: list[Measurement]
    gflop_s: list[float] = field(default_factory=list)
    copy_gb_s: list[float] = field(default_factory=list)


def run(cases: dict[Setting, list[Case]], plan: Plan) -> Iterator[Group]:
    """Measure all cases; yield the cases of each setting when they are done."""
    for setting, members in cases.items():
        logger.info("%s: %d cases", setting, len(members))
        with tempfile.TemporaryDirectory() as folder:
            yield _Run(setting, plan, Path(folder)).measure(members)


class _Run:
    """The measurement of one setting."""

    def __init__(self, setting: Setting, plan: Plan, folder: Path) -> None:
        self.setting, self.plan, self.folder = setting, plan, folder
        self.files = Files(plan.work_dir, setting.variant, setting.num_classes)
        self.workers: dict[Case, Worker] = {}

    def measure(self, cases: Sequence[Case]) -> Group:
        reference = Case(REFERENCE, self.setting)
        found = {case: Measurement(case) for case in cases}
        group = Group(self.setting, list(found.values()))
        floor = self._start("floor", {"floor": self.setting.threads})
        try:
            ensure_images(self.files, self.setting.image_hw, self.setting.batch)
            if self.setting.task == "tail":
                ensure_logits(self.files, self.setting.image_hw, self.setting.batch)
            floor.ask("load")
            for measurement in group.measurements:
                self._attempt(measurement, self._load)
            for turn in range(-self.plan.warmup, self.plan.repeats):
                self._round(group, floor, is_timed=turn >= 0, first=turn)
            self._compare(found, reference)
        finally:
            floor.close()
            for worker in self.workers.values():
                worker.close()
        return group

    def _start(self, name: str, values: dict[str, Any]) -> Worker:
        log = self.folder / f"{name}.log"
        module = f"{BENCHMARK}.worker"
        return Worker(module, values, self.setting.threads, log, self.plan.limit_s)

    def _attempt(self, measurement: Measurement, step: Callable[[Measurement], None]) -> None:
        """Do a step of a case; where it fails, the case ends and the others go on."""
        if measurement.error is not None:
            return
        try:
            step(measurement)
        except (WorkerFailed, UserError) as error:
            measurement.error = " ".join(str(error).split())
            logger.warning("%s: %s", measurement.case.title, measurement.error)
            worker = self.workers.pop(measurement.case, None)
            if worker:
                worker.close()

    def _load(self, measurement: Measurement) -> None:
        case = measurement.case
        ensure(self.files, case.file)
        name = f"{case.engine}-{case.precision}"
        values = {"case": case.to_dict(), "root": str(self.plan.work_dir)}
        self.workers[case] = self._start(name, values)
        measurement.load_s = self.workers[case].ask("load")["load_s"]

    def _round(self, group: Group, floor: Worker, is_timed: bool, first: int) -> None:
        """Run one pass of every case, starting with another one each time."""
        members = group.measurements
        start = first % len(members)
        for measurement in (*members[start:], *members[:start]):
            time.sleep(PAUSE_S)
            self._attempt(measurement, self._time if is_timed else self._warm_up)
        time.sleep(PAUSE_S)
        if is_timed:
            rates = floor.ask("pass")
            group.gflop_s.append(rates["gflop_s"])
            group.copy_gb_s.append(rates["copy_gb_s"])

    def _warm_up(self, measurement: Measurement) -> None:
        self.workers[measurement.case].ask("pass")

    def _time(self, measurement: Measurement) -> None:
        answer = self.workers[measurement.case].ask("pass")
        measurement.ms.append(answer["ms"])
        measurement.cpu_ms.append(answer["cpu_ms"])

    def _compare(self, found: dict[Case, Measurement], reference: Case) -> None:
        """Read the memory, and compare the results with those of the reference."""
        for measurement in found.values():
            self._attempt(measurement, self._finish)
        if all(measurement.error for measurement in found.values()):
            return
        expected = self.folder / f"{reference.engine}-{reference.precision}"
        if reference not in found or found[reference].error is not None:
            reference_only = Measurement(reference)
            for step in (self._load, self._warm_up, self._finish):
                self._attempt(reference_only, step)
        for measurement in found.values():
            if measurement.error is None and (expected / LABELS).exists():
                difference_from(expected, self._result_folder(measurement), measurement)

    def _finish(self, measurement: Measurement) -> None:
        worker = self.workers[measurement.case]
        memory = worker.ask("memory")
        measurement.peak_mib = memory["peak_mib"]
        measurement.beyond_empty_mib = memory["beyond_empty_mib"]
        folder = self._result_folder(measurement)
        folder.mkdir()
        worker.ask("result", folder=str(folder))

    def _result_folder(self, measurement: Measurement) -> Path:
        return self.folder / f"{measurement.case.engine}-{measurement.case.precision}"


def difference_from(expected: Path, found: Path, measurement: Measurement) -> None:
    """Note how far a result is from the reference's.

    Logits at the input's size are compared with the reference's resized to it.
    """
    labels, expected_labels = (np.load(folder / LABELS) for folder in (found, expected))
    measurement.label_agreement = float((labels == expected_labels).mean())
    if not (found / LOGITS).exists() or not (expected / LOGITS).exists():
        return
    logits, reference = (np.load(folder / LOGITS, mmap_mode="r") for folder in (found, expected))
    if logits.shape[:2] == reference.shape[:2]:
        measurement.max_logit_difference = max(
            float(np.abs(one - resized(other, one.shape)).max())
            for image, reference_image in zip(logits, reference, strict=True)
            for one, other in zip(image, reference_image, strict=True)
        )


def resized(x: np.ndarray, hw: tuple[int, ...]) -> np.ndarray:
    """(h, w) -> (H, W), bilinearly."""
    from paddleseg_segformer.inference.interpolation import bilinear

    if x.shape == hw:
        return x
    rows, columns = (bilinear(a, b).dense() for a, b in zip(x.shape, hw, strict=True))
    return (rows @ x @ columns.T).astype(np.float32)
