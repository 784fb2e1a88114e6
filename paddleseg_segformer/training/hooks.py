"""What happens around the training steps: logging, evaluation, checkpoints, a graceful stop."""

from __future__ import annotations

import datetime
import logging
import math
import signal
import time
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Protocol

import numpy as np

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import remove_folder
from paddleseg_segformer.training.ema import EMA
from paddleseg_segformer.training.manifest import verify_manifest
from paddleseg_segformer.training.state import BestModel, checkpoints, save_best, save_checkpoint
from paddleseg_segformer.training.trainer import Hook, Trainer
from paddleseg_segformer.training.writers import Writers

if TYPE_CHECKING:
    from paddleseg_segformer.evaluation import Metrics

logger = logging.getLogger(__name__)


class Progress(Hook):
    """Every `log_iters` steps: a line on the console and a point per curve, means over the steps.

    Args:
        epoch_iters: steps in one pass over the data, for the epoch number.
    """

    def __init__(self, writers: Writers, log_iters: int, epoch_iters: float) -> None:
        self.writers = writers
        self.log_iters = log_iters
        self.epoch_iters = epoch_iters

    def before_train(self, trainer: Trainer) -> None:
        """Start the clock."""
        self.records: dict[str, list[float]] = defaultdict(list)

    def after_step(self, trainer: Trainer) -> None:
        """Collect the step; at the end of a group write it."""
        for name, value in trainer.step_record.items():
            self.records[name].append(value)
        if trainer.iteration % self.log_iters and trainer.iteration != trainer.iters:
            return
        mean = {name: _finite_mean(values) for name, values in self.records.items()}
        self.records.clear()
        images_per_s = mean["images"] / mean["step_s"]
        eta = datetime.timedelta(seconds=int((trainer.iters - trainer.iteration) * mean["step_s"]))
        logger.info(
            "iter %d/%d  epoch %.2f  loss %.4f  lr %.3e  %.2f images/s  "
            "step %.3f s (data %.3f s)  ETA %s",
            trainer.iteration,
            trainer.iters,
            trainer.iteration / self.epoch_iters,
            mean["loss"],
            mean["lr"],
            images_per_s,
            mean["step_s"],
            mean["data_s"],
            eta,
        )
        scalars = {
            "Train/loss": mean["loss"],
            "Train/lr": mean["lr"],
            "Train/images_per_s": images_per_s,
            "Train/data_s": mean["data_s"],
            "Train/compute_s": mean["step_s"] - mean["data_s"],
            **{f"Train/{name}": count for name, count in trainer.faults.state_dict().items()},
        }
        self.writers.scalars(trainer.iteration, scalars)


def _finite_mean(values: list[float]) -> float:
    """Return the mean of the finite values: a skipped step's loss is none."""
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan


class Evaluation(Protocol):
    """Evaluates the current weights."""

    def metrics(self) -> Metrics:
        """Return the figures over the whole data set; called on every process."""

    def pictures(self) -> list[tuple[str, np.ndarray]]:
        """Return (tag, RGB uint8 image) pairs; called on the first process, after `metrics`."""


@dataclass
class RunFolder:
    """Where a run leaves its results, and the best of them so far."""

    save_dir: Path
    config_yaml: str
    writers: Writers
    best: BestModel


class Evaluate(Hook):
    """Every `interval` steps and at the end: evaluate, write the figures, keep the best model.

    Args:
        ema: evaluate and keep the averaged weights instead.
        early_stop: stop after so many evaluations without a better one.
        is_first: only the first process writes.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        run: RunFolder,
        interval: int,
        ema: EMA | None = None,
        early_stop: int | None = None,
        is_first: bool = True,
    ) -> None:
        self.evaluation = evaluation
        self.run = run
        self.interval = interval
        self.ema = ema
        self.early_stop = early_stop
        self.is_first = is_first

    def after_step(self, trainer: Trainer) -> None:
        """Evaluate when it is time."""
        if trainer.iteration % self.interval and trainer.iteration != trainer.iters:
            return
        start = time.perf_counter()
        network = trainer.network
        network.eval()
        with self.ema.applied() if self.ema else nullcontext():
            metrics = self.evaluation.metrics()
            self._keep_best(trainer, metrics)
            if self.is_first:
                for tag, image in self.evaluation.pictures():
                    self.run.writers.image(trainer.iteration, tag, image)
        network.train()
        if self.is_first:
            self._report(trainer.iteration, metrics, time.perf_counter() - start)
        waited = trainer.iteration - self.run.best.iteration
        if self.early_stop and waited >= self.early_stop * self.interval:
            logger.info("no better mIoU in %d evaluations: stopping", self.early_stop)
            trainer.stop_requested = True

    def _keep_best(self, trainer: Trainer, metrics: Metrics) -> None:
        best = self.run.best
        if not metrics.miou > best.miou:  # a NaN is never the best
            return
        best.miou, best.iteration = metrics.miou, trainer.iteration
        if self.is_first:
            save_best(self.run.save_dir, best, trainer.network, self.run.config_yaml)

    def _report(self, iteration: int, metrics: Metrics, seconds: float) -> None:
        logger.info(
            "evaluation at iter %d (%.1f s)\n%s\nbest mIoU %.4f at iter %d",
            iteration,
            seconds,
            metrics.table(),
            self.run.best.miou,
            self.run.best.iteration,
        )
        scalars = {"Evaluate/mIoU": metrics.miou, "Evaluate/accuracy": metrics.accuracy}
        for name, iou in zip(metrics.classes, metrics.iou, strict=True):
            if np.isfinite(iou):
                scalars[f"Evaluate/IoU/{name}"] = float(iou)
        self.run.writers.scalars(iteration, scalars)


class Checkpoints(Hook):
    """Save all that resume needs every `interval` steps and at the end; keep the newest `keep`."""

    def __init__(self, run: RunFolder, interval: int, keep: int, ema: EMA | None = None) -> None:
        self.run = run
        self.interval = interval
        self.keep = keep
        self.ema = ema
        self.saved_iteration: int | None = None

    def before_train(self, trainer: Trainer) -> None:
        """Look whether the run is taken up from a checkpoint of its own folder."""
        if self._folder(trainer).is_dir():
            self.saved_iteration = trainer.iteration

    def after_step(self, trainer: Trainer) -> None:
        """Save when it is time."""
        if trainer.iteration % self.interval == 0:
            self._save(trainer)

    def after_train(self, trainer: Trainer) -> None:
        """Save the end of the run, unless it was just saved."""
        if self.saved_iteration != trainer.iteration:
            self._save(trainer)
        if trainer.iteration < trainer.iters:
            logger.info(
                "stopped at iter %d; continue with --resume_model %s",
                trainer.iteration,
                self._folder(trainer),
            )

    def _folder(self, trainer: Trainer) -> Path:
        return self.run.save_dir / f"iter_{trainer.iteration}"

    def _save(self, trainer: Trainer) -> None:
        folder = self._folder(trainer)
        try:
            save_checkpoint(folder, trainer, self.ema, self.run.config_yaml)
        except UserError as error:
            raise UserError(f"{error} {self._remedy()}") from error
        self.saved_iteration = trainer.iteration
        older = [path for path in checkpoints(self.run.save_dir) if path != folder]
        surplus = older[: max(len(older) - self.keep + 1, 0)]
        if surplus:
            verify_manifest(folder)
        for path in surplus:
            remove_folder(path)

    def _remedy(self) -> str:
        """Say how to go on after a checkpoint that could not be saved."""
        older = checkpoints(self.run.save_dir)
        if not older:
            return "There is no older checkpoint: start again when this is mended."
        return f"Mend this, then go on from {older[-1].name} with --resume_model auto."


class GracefulStop(Hook):
    """SIGTERM or SIGINT end the run after the current step, saved; a second one, at once."""

    def before_train(self, trainer: Trainer) -> None:
        """Take over the signals."""
        self.trainer = trainer
        self.previous = {
            number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)
        }

    def close(self) -> None:
        """Give the signals back."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        logger.warning(
            "%s: stopping after this step; once more to stop at once", signal.Signals(number).name
        )
        self.trainer.stop_requested = True
        for taken, handler in self.previous.items():
            signal.signal(taken, handler)
