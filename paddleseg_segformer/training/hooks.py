"""Hooks of the training loop: averaged weights, log, evaluation, checkpoints, graceful stop."""

from __future__ import annotations

import datetime
import logging
import math
import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import paddle
from paddle import nn
from tqdm import tqdm

from paddleseg_segformer.config import Config
from paddleseg_segformer.config.building import NO_SCORE, TrainingParts
from paddleseg_segformer.errors import UserError, only_warned
from paddleseg_segformer.evaluation import Metrics, evaluate
from paddleseg_segformer.evaluation.calibration import PixelSample
from paddleseg_segformer.evaluation.evaluate import EvaluatedImage
from paddleseg_segformer.files import remove_folder
from paddleseg_segformer.inference.overlay import draw_confusion, side_by_side
from paddleseg_segformer.inference.pipeline import predict_label
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.models.stages import set_training
from paddleseg_segformer.training.checkpoints import (
    BestModel,
    checkpoints,
    save_best,
    save_checkpoint,
    verify_manifest,
)
from paddleseg_segformer.training.distributed import any_process, sum_over_processes
from paddleseg_segformer.training.sample_record import SampleRecord
from paddleseg_segformer.training.trainer import Hook, Trainer
from paddleseg_segformer.training.writers import Details, Writers

logger = logging.getLogger(__name__)

NUM_PICTURES = 3


class EMA(Hook):
    """Exponential moving average of the weights, of decay min(decay, (1 + t) / (10 + t)).

    Batch-norm statistics are averages already and are copied.
    """

    def __init__(self, model: nn.Layer, decay: float) -> None:
        self.model = model
        self.decay = decay
        self.averages = {key: tensor.clone().detach() for key, tensor in model.state_dict().items()}

    @paddle.no_grad()
    def after_step(self, trainer: Trainer) -> None:
        """Move the averages towards the weights."""
        decay = min(self.decay, (1 + trainer.iteration) / (10 + trainer.iteration))
        for key, tensor in self.model.state_dict().items():
            if tensor.stop_gradient:
                self.averages[key].set_value(tensor)
            else:
                self.averages[key].lerp_(tensor, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages into the model within a `with` block."""
        own = self.model.state_dict()
        trained = {key: tensor.clone() for key, tensor in own.items()}
        _copy(self.averages, own)
        try:
            yield
        finally:
            _copy(trained, own)

    def state_dict(self) -> dict[str, Any]:
        """Return the averages by parameter name."""
        return self.averages

    def set_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the averages of a checkpoint, if it has any."""
        if state:
            _copy(state, self.averages)
        else:
            logger.warning("the checkpoint has no averaged weights: they start from its weights")


@paddle.no_grad()
def _copy(source: Mapping[str, Any], target: Mapping[str, Any]) -> None:
    for key, tensor in target.items():
        tensor.set_value(source[key])


class Progress(Hook):
    """Every `log_iters` steps: a line in the log and a point per curve, means over the steps.

    On a terminal a bar shows each step, and the lines go to the file alone.

    Args:
        epoch_iters: steps in one pass over the data, for the epoch number.
        has_bar: show the bar, where standard error is a terminal.
    """

    def __init__(
        self, writers: Writers, log_iters: int, epoch_iters: float, has_bar: bool = False
    ) -> None:
        self.writers = writers
        self.log_iters = log_iters
        self.epoch_iters = epoch_iters
        self.has_bar = has_bar

    def before_train(self, trainer: Trainer) -> None:
        """Start the clock."""
        self.records: dict[str, list[float]] = defaultdict(list)
        self.bar = tqdm(
            total=trainer.iters,
            initial=trainer.iteration,
            unit="step",
            desc="train",
            dynamic_ncols=True,
            disable=None if self.has_bar else True,
        )

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()

    def after_step(self, trainer: Trainer) -> None:
        """Collect the step; at the end of a group write it."""
        record = trainer.step_record
        self.bar.set_postfix_str(f"loss {record['loss']:.4f}, lr {record['lr']:.2e}", False)
        self.bar.update()
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
            extra={"is_in_bar": not self.bar.disable},
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
    """Return the mean of the finite values; the loss of a skipped step is not one."""
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan


class ModelEvaluation:
    """Evaluates the current weights the way `tools/val.py` does, and draws a few results.

    Args:
        with_details: also sample pixels for `details`.
    """

    def __init__(
        self,
        config: Config,
        parts: TrainingParts,
        num_workers: int,
        rank: int,
        world_size: int,
        with_details: bool = False,
    ) -> None:
        assert parts.val_dataset is not None and config.val_dataset is not None
        self.model = parts.model
        self.dataset = parts.val_dataset
        self.absent_class = config.test_config.absent_class
        self.settings = config.test_config.inference_settings()
        self.preprocess = Preprocess.from_config(config)
        self.num_workers = max(num_workers, 1)
        self.rank, self.world_size = rank, world_size
        self.with_details = with_details
        self.last_metrics: Metrics | None = None

    def metrics(self) -> Metrics:
        """Return the metrics over the whole data set, whatever the number of processes."""
        self.sample = PixelSample(len(self.dataset), self.dataset.num_classes)
        self.last_metrics = evaluate(
            self.model,
            self.dataset,
            self.preprocess,
            self.settings,
            absent_class=self.absent_class,
            num_workers=self.num_workers,
            rank=self.rank,
            world_size=self.world_size,
            all_reduce=sum_over_processes,
            watch=self._sample_pixels if self.with_details else None,
        )
        return self.last_metrics

    def _sample_pixels(self, image: EvaluatedImage) -> None:
        assert image.sample.label is not None  # or `evaluate` refuses the image
        rows, columns = self.sample.choose(image.sample.label, self.dataset.ignore_index)
        scores = image.logits.log_probabilities(rows, columns)
        self.sample.add(scores, image.sample.label[rows, columns])

    def details(self) -> Details:
        """Return the weights, and the probabilities of this process's share of the images."""
        state = self.model.state_dict()
        weights = {name: tensor.numpy() for name, tensor in state.items() if tensor.ndim > 1}
        scores, labels = self.sample.pixels()
        return Details(weights, np.exp(scores), labels, self.dataset.label_set.classes)

    def pictures(self) -> list[tuple[str, np.ndarray]]:
        """Return image, label and prediction side by side, and the confusion matrix."""
        assert self.last_metrics is not None
        label_set = self.dataset.label_set
        confusion = draw_confusion(self.last_metrics.confusion, label_set.classes)
        drawn = [("Evaluate/confusion", confusion)]
        step = max(len(self.dataset) // NUM_PICTURES, 1)
        for index in range(0, len(self.dataset), step)[:NUM_PICTURES]:
            sample = self.dataset.read(index)
            label = predict_label(self.model, sample.image, self.preprocess, self.settings)
            picture = side_by_side(sample.image, sample.label, label, label_set)
            drawn.append((f"Evaluate/sample_{index}", picture))
        return drawn


@dataclass
class RunFolder:
    """Where a run writes its results, and its best model so far."""

    save_dir: Path
    config_yaml: str
    writers: Writers
    best: BestModel
    samples: Mapping[str, SampleRecord] = field(default_factory=dict)  # of each data set


class Evaluate(Hook):
    """Every `interval` steps and at the end: evaluate, write the figures, keep the best model.

    Args:
        ema: evaluate and keep the averaged weights instead.
        early_stop: evaluations without improvement before stopping.
        is_first: only the first process writes.
    """

    def __init__(
        self,
        evaluation: ModelEvaluation,
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
        """Evaluate every `interval` steps and at the end."""
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
                if self.evaluation.with_details:
                    self.run.writers.details(trainer.iteration, self.evaluation.details())
        set_training(network, trainer.frozen)
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


class LastScore(Hook):
    """Evaluate at the end of a run that did not on its way; a failure does not undo the run."""

    def __init__(self, evaluate: Evaluate) -> None:
        self.evaluate = evaluate

    def before_train(self, trainer: Trainer) -> None:
        """Find out whether a finished run was resumed that has its score."""
        has_score = self.evaluate.run.best.miou >= 0
        self.is_scored = has_score and trainer.iteration == trainer.iters

    def after_train(self, trainer: Trainer) -> None:
        """Evaluate the end of the run, unless it was stopped or has its score."""
        if trainer.iteration == trainer.iters and not self.is_scored:
            with only_warned(NO_SCORE):
                self.evaluate.after_step(trainer)


class Checkpoints(Hook):
    """Save a checkpoint every `interval` steps and at the end; keep the newest `keep`."""

    def __init__(self, run: RunFolder, interval: int, keep: int, ema: EMA | None = None) -> None:
        self.run = run
        self.interval = interval
        self.keep = keep
        self.ema = ema
        self.saved_iteration: int | None = None

    def before_train(self, trainer: Trainer) -> None:
        """Find out whether the run resumed from a checkpoint of its own folder."""
        if self._folder(trainer).is_dir():
            self.saved_iteration = trainer.iteration

    def after_step(self, trainer: Trainer) -> None:
        """Save every `interval` steps."""
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
            save_checkpoint(folder, trainer, self.ema, self.run.config_yaml, self.run.samples)
        except UserError as error:
            older = checkpoints(self.run.save_dir)
            remedy = "There is no older checkpoint: start again when this is fixed."
            if older:
                remedy = f"Fix this, then resume from {older[-1].name} with --resume_model auto."
            raise UserError(f"{error} {remedy}") from error
        self.saved_iteration = trainer.iteration
        older = [path for path in checkpoints(self.run.save_dir) if path != folder]
        surplus = older[: max(len(older) - self.keep + 1, 0)]
        if surplus:
            verify_manifest(folder)
        for path in surplus:
            remove_folder(path)


class TimeLimit(Hook):
    """Make the step that ends after `minutes` the last one of this run."""

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes

    def before_train(self, trainer: Trainer) -> None:
        """Start the clock."""
        self.end = time.monotonic() + 60 * self.minutes

    def after_step(self, trainer: Trainer) -> None:
        """Compare the clock."""
        if any_process(time.monotonic() >= self.end) and trainer.iteration < trainer.iters:
            logger.info("%g minutes are over at iter %d", self.minutes, trainer.iteration)
            trainer.iters = trainer.iteration


class GracefulStop(Hook):
    """SIGTERM or SIGINT saves and ends the run after the current step; a second one ends it now."""

    def before_train(self, trainer: Trainer) -> None:
        """Install the signal handlers."""
        self.trainer = trainer
        self.previous = {
            number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)
        }

    def close(self) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        logger.warning(
            "%s: stopping after this step; once more to stop at once", signal.Signals(number).name
        )
        self.trainer.stop_requested = True
        for taken, handler in self.previous.items():
            signal.signal(taken, handler)
