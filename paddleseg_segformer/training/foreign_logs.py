"""Training logs of PaddleSeg and mmsegmentation, read as points of this package's curves.

Read are PaddleSeg's `train.log` and what mmsegmentation writes: 0.x (mmcv) `*.log` and
`*.log.json`, 1.x (mmengine) `*.log` and `vis_data/scalars.json`. Their names become our tags
(`Train/loss`, `Evaluate/mIoU` ...); scores are shares of 1, times are of one step.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from paddleseg_segformer.data.lists import split_byte_order_mark
from paddleseg_segformer.errors import UserError

logger = logging.getLogger(__name__)

_COLORS = re.compile(r"\x1b\[[\d;]*m")
_STEP = re.compile(r"(?:\[TRAIN\].*?\biter: *|\bIter(?:\(train\))?\s+\[ *)(\d+)/\d+[\],](.*)")
_EPOCH_STEP = re.compile(r"\bEpoch(?:\(train\))?\s+\[(\d+)\]\[ *(\d+)/(\d+)\](.*)")
_SCORES = re.compile(r"\b(?:Iter|Epoch)\(val\)\s+(?:\[\d+\])?\[ *(\d+)(?:/\d+)?\](.*)")
_PADDLESEG_SCORES = re.compile(r"\[EVAL\] *#Images: *\d+(.*)")
_PADDLESEG_CLASSES = "[EVAL] Class IoU:"
_SAVED = re.compile(r"Saving checkpoint at (\d+) iterations|\[EVAL\].* was saved at iter (\d+)")
_FIELD = re.compile(r"((?:IoU|Acc)\.[^:]+|[A-Za-z_][\w.]*): *([-+\w.]+)")
_HAS_ITS_END = re.compile(r"\| *ETA [\d:]+$|\}$")

# names that are not figures, or none of those that they stand among
_NOT_OF_STEPS = {"mode", "epoch", "iter", "step", "eta", "base_lr"}
_NOT_SCORES = {"mode", "epoch", "iter", "step", "eta", "lr", "time", "data_time", "memory"}
_STEP_TAGS = {
    "ips": "images_per_s",
    "reader_cost": "data_s",
    "data_time": "data_s",
    "batch_cost": "step_s",
    "time": "step_s",
}
_SCORE_TAGS = {"aAcc": "accuracy", "Acc": "accuracy"}


class Point(NamedTuple):
    """Figures of one iteration, by tag."""

    iteration: int
    values: dict[str, float]


def read_foreign_logs(paths: Sequence[str | os.PathLike[str]]) -> list[Point]:
    """Return the points of one training run, in the order of its iterations.

    Where iterations begin again, the run went on from a checkpoint: what it repeats replaces what
    was there. Damaged lines are left out, with one warning for each file.

    Args:
        paths: Its log, or the parts of it from the first to the last.

    Raises:
        UserError: no such file; or nothing of a run in it.
    """
    run = _Run()
    for path in map(Path, paths):
        if not path.is_file():
            found = "a folder" if path.is_dir() else "nothing"
            raise UserError(
                f"{path}: expected a training log, found {found}. Name PaddleSeg's train.log, or "
                "*.log, *.log.json or vis_data/scalars.json of mmsegmentation."
            )
        _read(path, run)
    return run.points


def _read(path: Path, run: _Run) -> None:
    encoding, content = split_byte_order_mark(path.read_bytes())
    lines = _COLORS.sub("", content.decode(encoding, "replace")).splitlines(keepends=True)
    text, damaged, num_points, num_restarts = _Text(run), [], run.num_added, run.num_restarts
    for number, line in enumerate(lines, 1):
        try:
            if line.startswith("{"):
                _read_record(json.loads(line), run)
            else:
                text.read(line)
        except _EpochwiseError:
            raise UserError(
                f"{path}, line {number}: iterations begin anew in each epoch, and the file does "
                "not say how many an epoch has. Name the text log (*.log) of the run."
            ) from None
        except (ValueError, RecursionError):
            damaged.append(number)
    if run.num_added == num_points:
        raise UserError(
            f"{path}: found no step and no score of a training run. Expected PaddleSeg's "
            "train.log, or *.log, *.log.json or vis_data/scalars.json of mmsegmentation."
        )
    if damaged:
        logger.warning(
            "%s: lines left out that are damaged: %d, the first is line %d",
            path,
            len(damaged),
            damaged[0],
        )
    if run.num_restarts > num_restarts:
        count = run.num_restarts - num_restarts
        logger.info("%s: the run was continued from a checkpoint, times: %d", path, count)


class _EpochwiseError(Exception):
    pass


class _Run:
    """The points of a run so far."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.num_added = 0
        self.num_restarts = 0
        self.iteration = 0  # of the last step
        self.interval = 0  # iterations between the last two steps
        self.reached = 0  # as `iteration`, or that of a checkpoint since
        self.epoch = 0  # as mmcv's JSON says

    def add(self, iteration: int, values: Mapping[str, float]) -> None:
        finite = {tag: value for tag, value in values.items() if math.isfinite(value)}
        self.points.append(Point(iteration, finite))
        self.num_added += 1

    def step(self, iteration: int, figures: Mapping[str, float]) -> None:
        """Add a step's line; go back to it where the run had got further."""
        if "loss" not in figures:
            raise ValueError("no loss")
        if iteration <= self.iteration:
            self.points = [point for point in self.points if point.iteration < iteration]
            self.num_restarts += 1
        elif self.iteration:
            self.interval = iteration - self.iteration
        self.iteration = self.reached = iteration
        values = {
            f"Train/{_STEP_TAGS.get(name, name)}": value
            for name, value in figures.items()
            if name not in _NOT_OF_STEPS
        }
        step_s = values.pop("Train/step_s", None)
        if step_s is not None:
            values["Train/compute_s"] = step_s - values.get("Train/data_s", 0.0)
        self.add(iteration, values)

    def scores(
        self, figures: Mapping[str, float], iteration: int, is_percent: bool = False
    ) -> None:
        """Add an evaluation; nothing where there are no scores."""
        values = {}
        for name, value in figures.items():
            kind, _, class_name = name.partition(".")
            if name in _NOT_SCORES or (class_name and kind != "IoU"):
                continue
            share = value / 100 if is_percent else value
            if abs(share) > 1:
                raise ValueError(f"{name} is no share")
            tag = f"IoU/{class_name}" if class_name else _SCORE_TAGS.get(name, name)
            values[f"Evaluate/{tag}"] = share
        if values and not iteration:
            raise ValueError("an evaluation before the first step: of which iteration?")
        if values:
            self.add(iteration, values)

    def iteration_of(self, number: int) -> int:
        """Return the iteration of an evaluation by mmcv, which numbers some by their batches."""
        is_next = self.iteration < number <= self.iteration + self.interval
        return number if is_next else self.reached


def _read_record(record: Any, run: _Run) -> None:
    """Read a line of JSON."""
    if not isinstance(record, dict):
        raise ValueError("no record")
    numbers = {
        name: float(value) for name, value in record.items() if isinstance(value, int | float)
    }
    if "mode" in record:  # mmcv
        iteration = int(numbers["iter"]) if "iter" in numbers else 0
        if record["mode"] == "val":
            run.scores(numbers, run.iteration_of(iteration))
        elif record["mode"] == "train":
            epoch = int(numbers.get("epoch", 0))
            if epoch > run.epoch > 0 and iteration < run.iteration:
                raise _EpochwiseError
            run.epoch = epoch
            run.step(iteration, numbers)
    elif "step" in numbers:  # mmengine
        step = int(numbers["step"])
        if "loss" in numbers:
            run.step(step, numbers)
        else:  # runs by epochs number evaluations by epochs
            run.scores(numbers, max(step, run.reached), is_percent=True)


class _Text:
    """Reads the lines of a text log into a run."""

    def __init__(self, run: _Run) -> None:
        self.run = run
        self.columns: list[str] = []  # of the table of classes that is being read
        self.classes: dict[str, float] = {}  # what it says, IoU in %
        self.array: str | None = None  # the IoU of each class as PaddleSeg prints them, so far

    def read(self, line: str) -> None:
        """Read a line, with its end unless it was cut short."""
        is_cut = not (line.endswith(("\n", "\r")) or _HAS_ITS_END.search(line))
        line = line.strip()
        run = self.run
        if not line.startswith(("|", "+")):
            self.columns = []  # the table is at its end
        if self.array is not None or _PADDLESEG_CLASSES in line:
            self._read_array(line)
        elif line.startswith("|"):
            self._read_row([cell.strip() for cell in line.strip("|").split("|")])
        elif found := _STEP.search(line) or _EPOCH_STEP.search(line):
            _refuse_cut(is_cut)
            self.classes = {}
            if found.re is _STEP:
                iteration, fields = int(found[1]), found[2]
            else:
                iteration = (int(found[1]) - 1) * int(found[3]) + int(found[2])
                fields = found[4]
            figures = _figures(fields)
            if "loss" not in figures and "mIoU" in figures:  # the oldest mmcv
                run.scores(figures, iteration)
            else:
                run.step(iteration, figures)
        elif found := _PADDLESEG_SCORES.search(line):
            _refuse_cut(is_cut)
            run.scores(_figures(found[1]), run.reached)
        elif found := _SCORES.search(line):
            _refuse_cut(is_cut)
            is_mmcv = ", " in found[2] or " - mmseg - " in line
            iteration = run.iteration_of(int(found[1])) if is_mmcv else run.reached
            figures = _figures(found[2])
            if "mIoU" not in figures and "aAcc" not in figures:  # how far it has come
                return
            by_class = {f"IoU.{name}": value for name, value in self.classes.items()}
            if is_mmcv:
                by_class = {name: value / 100 for name, value in by_class.items()}
            self.classes = {}
            run.scores(by_class | figures, iteration, is_percent=not is_mmcv)
        elif found := _SAVED.search(line):
            iteration = int(found[1] or found[2])
            if iteration > run.reached:
                run.reached = iteration
                last = run.points[-1] if run.points else None
                if found[2] and last and "Evaluate/mIoU" in last.values:
                    run.points[-1] = last._replace(iteration=iteration)

    def _read_row(self, cells: list[str]) -> None:
        """Read a row of mmsegmentation's table of classes."""
        if cells[0] == "Class" and "IoU" in cells:
            self.columns, self.classes = cells, {}
        elif len(cells) == len(self.columns):
            self.classes[cells[0]] = float(cells[self.columns.index("IoU")])

    def _read_array(self, line: str) -> None:
        """Read the array of IoU that follows PaddleSeg's scores, of one or several lines."""
        text = (self.array or "") + " " + line.rpartition(_PADDLESEG_CLASSES)[2]
        is_whole = text.rstrip().endswith("]")
        self.array = None if is_whole else text
        if is_whole and self.run.points and "Evaluate/mIoU" in self.run.points[-1].values:
            shares = map(float, text.strip(" []").split())
            values = {f"Evaluate/IoU/{index}": share for index, share in enumerate(shares)}
            self.run.points[-1].values.update(
                {tag: share for tag, share in values.items() if math.isfinite(share)}
            )


def _refuse_cut(is_cut: bool) -> None:
    """Refuse the last line of a file without its end: its last number may lack digits."""
    if is_cut:
        raise ValueError("cut short")


def _figures(text: str) -> dict[str, float]:
    """Return the numbers of `name: number, name: number ...`."""
    figures = {}
    for name, value in _FIELD.findall(text):
        try:
            figures[name.strip()] = float(value)
        except ValueError:
            continue  # a name, a date
    return figures
