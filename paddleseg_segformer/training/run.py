"""One training run: config -> components -> hooks -> `Trainer.train()`."""

from __future__ import annotations

import logging
import random
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from paddleseg_segformer.analysis.complexity import count_parameters
from paddleseg_segformer.config import Config
from paddleseg_segformer.config.building import (
    build_dataset,
    build_hooks,
    build_loss,
    build_optimizer,
)
from paddleseg_segformer.cpu import prepare_cpu
from paddleseg_segformer.data import SegmentationDataset
from paddleseg_segformer.data.loader import Batch, train_loader
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.evaluation import Metrics, evaluate
from paddleseg_segformer.files import make_folder, write_text
from paddleseg_segformer.inference.overlay import draw_confusion, side_by_side
from paddleseg_segformer.inference.pipeline import predict_label
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.model_folder import CONFIG, build_model
from paddleseg_segformer.training.distributed import (
    check_same_in_all,
    data_parallel,
    init_distributed,
    lost_peers_explained,
    of_first_process,
    sum_over_processes,
)
from paddleseg_segformer.training.ema import EMA
from paddleseg_segformer.training.faults import FaultPolicy, Faults
from paddleseg_segformer.training.hooks import (
    Checkpoints,
    Evaluate,
    GracefulStop,
    Progress,
    RunFolder,
)
from paddleseg_segformer.training.optimizer import build_lr_schedule
from paddleseg_segformer.training.precision import Precision
from paddleseg_segformer.training.resume import check_config, find_checkpoint
from paddleseg_segformer.training.state import (
    BestModel,
    read_best,
    read_checkpoint,
    restore,
)
from paddleseg_segformer.training.trainer import Trainer
from paddleseg_segformer.training.writers import (
    JsonLinesWriter,
    VisualDLWriter,
    Writer,
    Writers,
    check_visualdl,
)

logger = logging.getLogger(__name__)

NUM_PICTURES = 3


@dataclass(frozen=True)
class RunOptions:
    """How to run, apart from what the config says."""

    save_dir: str = "output"
    num_workers: int = 0
    do_eval: bool = False
    use_vdl: bool = False
    use_ema: bool = False
    resume_model: str | None = None
    save_interval: int = 1000  # steps
    keep_checkpoint_max: int = 5
    log_iters: int = 10  # steps
    seed: int | None = None  # None: the checkpoint's on resume, else a random one
    precision: str = "fp32"
    amp_level: str = "O1"
    early_stop_intervals: int | None = None
    on_nonfinite: str = "stop"  # or skip: the step
    on_bad_sample: str = "stop"  # or skip: another sample takes its place
    max_skipped: int = 100  # steps, and samples

    def __post_init__(self) -> None:
        for name in ("save_interval", "keep_checkpoint_max", "log_iters"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name}: found {getattr(self, name)}, expected 1 or more.")
        if self.num_workers < 0:
            raise UserError(f"--num_workers: found {self.num_workers}, expected 0 or more.")
        self.fault_policy()
        if self.use_vdl:
            check_visualdl()

    def fault_policy(self) -> FaultPolicy:
        """Return what to do about faults."""
        return FaultPolicy(self.on_nonfinite, self.on_bad_sample, self.max_skipped)


def train(config: Config, options: RunOptions) -> BestModel:
    """Train as the config says; return the best evaluation (-1 where none was done)."""
    rank, world_size = init_distributed()
    folder = find_checkpoint(options.resume_model, Path(options.save_dir), rank)
    checkpoint = read_checkpoint(folder) if folder else None
    seed = _seed(options, checkpoint)
    dataset = _train_dataset(config)
    check_same_in_all("train_dataset, number of samples", len(dataset))
    val_dataset = _val_dataset(config) if options.do_eval else None
    save_dir = make_folder(options.save_dir)
    paddle.seed(seed)  # the initial weights; the trainer seeds every step
    model = build_model(config, load_pretrained=checkpoint is None)
    prepare_cpu(model)
    trainer = _build_trainer(config, options, seed, model, dataset, rank, world_size)
    ema = EMA(model, config.ema_decay) if options.use_ema else None
    if folder and checkpoint:
        restore(checkpoint, folder, trainer, ema)
        check_config(folder, config.to_yaml())
        logger.info("resumed from %s at iter %d", folder, trainer.iteration)
    writers = _writers(save_dir, options, rank, trainer.iteration)
    best = _best_so_far(save_dir, trainer.iteration)
    run = RunFolder(save_dir, config.to_yaml(), writers, best)
    epoch_iters = len(dataset) / (config.batch_size * config.accumulation_steps * world_size)
    # users' first: what they change is in the step's averages, evaluation and checkpoint
    trainer.hooks = [GracefulStop(), *build_hooks(config.hooks)]
    trainer.hooks.append(Progress(run.writers, options.log_iters, epoch_iters))
    interval = options.save_interval
    if ema:
        trainer.hooks.append(ema)
    if val_dataset is not None:
        evaluation = ModelEvaluation(config, model, val_dataset, options, rank, world_size)
        early_stop = options.early_stop_intervals
        trainer.hooks.append(Evaluate(evaluation, run, interval, ema, early_stop, rank == 0))
    if rank == 0:
        trainer.hooks.append(Checkpoints(run, interval, options.keep_checkpoint_max, ema))
        write_text(save_dir / CONFIG, run.config_yaml)
    _log_summary(config, seed, model, dataset, val_dataset, world_size)
    try:
        with lost_peers_explained():
            trainer.train()
    finally:
        run.writers.close()
    return run.best


def _build_trainer(
    config: Config,
    options: RunOptions,
    seed: int,
    model: nn.Layer,
    dataset: SegmentationDataset,
    rank: int,
    world_size: int,
) -> Trainer:
    schedule = build_lr_schedule(config.lr_scheduler, config.iters)
    loss, coefficient = build_loss(config.loss, dataset.ignore_index)

    def batches(start: int) -> Generator[Batch, None, None]:
        return train_loader(
            dataset,
            config.batch_size,
            options.num_workers,
            seed,
            start_iter=start,
            rank=rank,
            world_size=world_size,
            max_replaced=options.fault_policy().max_replaced,
        )

    network = model
    if config.to_static_training:
        if world_size > 1 and paddle.get_device().startswith("cpu"):
            raise UserError(
                "to_static_training: several processes on CPU synchronise batch norm in dygraph "
                "only. Set it to false, or train in one process."
            )
        network = paddle.jit.to_static(model, full_graph=True)
    return Trainer(
        data_parallel(network),
        build_optimizer(config.optimizer, model, schedule),
        schedule,
        lambda logits, label: coefficient * loss(logits, label),
        batches,
        dataset.normalize.on_device if dataset.normalize else _as_float,
        config.iters,
        precision=Precision(options.precision, options.amp_level),
        accumulation_steps=config.accumulation_steps,
        seed=seed,
        rank=rank,
        faults=Faults(options.fault_policy()),
        sample_names=lambda batch: [dataset.samples[index][0] for index in batch.indices],
    )


def _seed(options: RunOptions, checkpoint: dict[str, Any] | None) -> int:
    """Return the seed of the run; the processes of one run draw the same random one."""
    if options.seed is not None:
        return options.seed
    if checkpoint:
        return checkpoint["seed"]
    return int(of_first_process(np.array([random.SystemRandom().randrange(2**31)]))[0])


def _best_so_far(save_dir: Path, iteration: int) -> BestModel:
    """Return the best model's figures as the first process reads them, for all processes."""
    best = read_best(save_dir)
    if best.iteration == 0:
        best.iteration = iteration  # from here an early stop waits for a better one
    bits = np.array([best.miou]).view(np.int64)
    (miou,) = of_first_process(bits).view(np.float64)
    return BestModel(float(miou), int(of_first_process(np.array([best.iteration]))[0]))


def _train_dataset(config: Config) -> SegmentationDataset:
    if config.train_dataset is None:
        raise UserError("the config has no train_dataset, which training needs. Add one.")
    return build_dataset(config.train_dataset, "train_dataset")


def _val_dataset(config: Config) -> SegmentationDataset:
    if config.val_dataset is None:
        raise UserError(
            "--do_eval: the config has no val_dataset. Add one, or leave --do_eval out."
        )
    return build_dataset(config.val_dataset, "val_dataset")


def _as_float(image: Tensor) -> Tensor:
    return image.astype("float32")


def _writers(save_dir: Path, options: RunOptions, rank: int, iteration: int) -> Writers:
    if rank > 0:
        return Writers([])
    start = iteration if options.resume_model else None
    writers: list[Writer] = [JsonLinesWriter(save_dir, start)]
    if options.use_vdl:
        writers.append(VisualDLWriter(save_dir, start))
    return Writers(writers)


class ModelEvaluation:
    """Evaluates the current weights the way `tools/val.py` does, and draws a few results."""

    def __init__(
        self,
        config: Config,
        model: nn.Layer,
        dataset: SegmentationDataset,
        options: RunOptions,
        rank: int,
        world_size: int,
    ) -> None:
        self.model = model
        self.dataset = dataset
        self.test_config = config.test_config
        self.settings = config.test_config.inference_settings()
        section = config.val_dataset or {}
        self.preprocess = Preprocess.from_transforms(section.get("transforms", []))
        self.num_workers = options.num_workers
        self.rank, self.world_size = rank, world_size
        self.last_metrics: Metrics | None = None

    def metrics(self) -> Metrics:
        """Return the metrics over the whole data set, whatever the number of processes."""
        self.last_metrics = evaluate(
            self.model,
            self.dataset,
            self.preprocess,
            self.settings,
            absent_class=self.test_config.absent_class,
            num_workers=max(self.num_workers, 1),
            rank=self.rank,
            world_size=self.world_size,
            all_reduce=sum_over_processes,
        )
        return self.last_metrics

    def pictures(self) -> list[tuple[str, np.ndarray]]:
        """Return image, label and prediction side by side, and the confusion matrix."""
        assert self.last_metrics is not None
        drawn = [
            (
                "Evaluate/confusion",
                draw_confusion(self.last_metrics.confusion, self.dataset.label_set.classes),
            )
        ]
        step = max(len(self.dataset) // NUM_PICTURES, 1)
        for index in range(0, len(self.dataset), step)[:NUM_PICTURES]:
            sample = self.dataset.read(index)
            label = predict_label(self.model, sample.image, self.preprocess, self.settings)
            picture = side_by_side(sample.image, sample.label, label, self.dataset.label_set)
            drawn.append((f"Evaluate/sample_{index}", picture))
        return drawn


def _log_summary(
    config: Config,
    seed: int,
    model: nn.Layer,
    dataset: SegmentationDataset,
    val_dataset: SegmentationDataset | None,
    world_size: int,
) -> None:
    batch = config.batch_size * config.accumulation_steps * world_size
    logger.info("config\n%s", config.to_yaml().rstrip())
    logger.info(
        "%s: %.3f M parameters; %d training samples%s; batch %d (%d processes); %d "
        "iterations = %.1f passes; seed %d",
        type(model).__name__,
        count_parameters(model) / 1e6,
        len(dataset),
        f", {len(val_dataset)} for evaluation" if val_dataset is not None else "",
        batch,
        world_size,
        config.iters,
        config.iters * batch / len(dataset),
        seed,
    )
