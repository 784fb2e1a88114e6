"""One training run: config -> components -> hooks -> `Trainer.train()`."""

from __future__ import annotations

import logging
import random
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor

from paddleseg_segformer.analysis.complexity import count_parameters
from paddleseg_segformer.config import Config
from paddleseg_segformer.config.building import TrainingParts, build_training
from paddleseg_segformer.cpu import prepare_cpu
from paddleseg_segformer.data.loader import Batch, train_loader
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.evaluation import Metrics, evaluate
from paddleseg_segformer.files import make_folder, write_text
from paddleseg_segformer.inference.overlay import draw_confusion, side_by_side
from paddleseg_segformer.inference.pipeline import predict_label
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.model_folder import CONFIG, start_from_pretrained
from paddleseg_segformer.training.checkpoints import (
    BestModel,
    find_checkpoint,
    read_best,
    read_checkpoint,
    restore,
)
from paddleseg_segformer.training.distributed import (
    check_same_in_all,
    data_parallel,
    init_distributed,
    lost_peers_explained,
    of_first_process,
    sum_over_processes,
)
from paddleseg_segformer.training.faults import FaultPolicy, Faults
from paddleseg_segformer.training.hooks import (
    EMA,
    Checkpoints,
    Evaluate,
    GracefulStop,
    Progress,
    RunFolder,
)
from paddleseg_segformer.training.trainer import Precision, Trainer
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
    on_bad_sample: str = "stop"  # or skip: another sample replaces it
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
        """Return how faults are handled."""
        return FaultPolicy(self.on_nonfinite, self.on_bad_sample, self.max_skipped)


def train(config: Config, options: RunOptions) -> BestModel:
    """Train as the config says; return the best evaluation (-1 where none was done)."""
    rank, world_size = init_distributed()
    folder = find_checkpoint(options.resume_model, Path(options.save_dir), rank)
    checkpoint = read_checkpoint(folder) if folder else None
    seed = options.seed
    if seed is None:  # the processes of one run draw the same random one
        drawn = of_first_process(random.SystemRandom().randrange(2**31))
        seed = checkpoint["seed"] if checkpoint else int(drawn)
    paddle.seed(seed)  # of the initial weights; the trainer seeds every step
    parts = build_training(config, options.do_eval)
    check_same_in_all("train_dataset, number of samples", len(parts.dataset))
    save_dir = make_folder(options.save_dir)
    if not checkpoint:
        start_from_pretrained(parts.model, config)
    prepare_cpu(parts.model)
    trainer = _trainer(config, options, parts, seed, rank, world_size)
    if folder and checkpoint:
        restore(checkpoint, folder, trainer, config.to_yaml())
    ema = EMA(parts.model, config.ema_decay) if options.use_ema else None
    if ema and checkpoint:
        ema.set_state_dict(checkpoint["ema"])
    start = trainer.iteration if options.resume_model else None
    writers: list[Writer] = [JsonLinesWriter(save_dir, start)] if rank == 0 else []
    if options.use_vdl and rank == 0:
        writers.append(VisualDLWriter(save_dir, start))
    best = read_best(save_dir)
    best.iteration = best.iteration or trainer.iteration  # from here early stopping counts
    run = RunFolder(save_dir, config.to_yaml(), Writers(writers), best)
    interval = options.save_interval
    batch_images = config.batch_size * config.accumulation_steps * world_size
    # users' first: what they change is in the step's averages, evaluation and checkpoint
    trainer.hooks = [GracefulStop(), *parts.hooks]
    epoch_iters = len(parts.dataset) / batch_images
    trainer.hooks.append(Progress(run.writers, options.log_iters, epoch_iters))
    if ema:
        trainer.hooks.append(ema)
    if parts.val_dataset is not None:
        evaluation = ModelEvaluation(config, parts, options.num_workers, rank, world_size)
        early_stop = options.early_stop_intervals
        trainer.hooks.append(Evaluate(evaluation, run, interval, ema, early_stop, rank == 0))
    if rank == 0:
        trainer.hooks.append(Checkpoints(run, interval, options.keep_checkpoint_max, ema))
        write_text(save_dir / CONFIG, run.config_yaml)
    logger.info("config\n%s", run.config_yaml.rstrip())
    logger.info(
        "%s: %.3f M parameters; %d training samples%s; batch %d (%d processes); %d "
        "iterations = %.1f passes; seed %d",
        type(parts.model).__name__,
        count_parameters(parts.model) / 1e6,
        len(parts.dataset),
        f", {len(parts.val_dataset)} for evaluation" if parts.val_dataset is not None else "",
        batch_images,
        world_size,
        config.iters,
        config.iters / epoch_iters,
        seed,
    )
    try:
        with lost_peers_explained():
            trainer.train()
    finally:
        run.writers.close()
    return run.best


def _trainer(
    config: Config,
    options: RunOptions,
    parts: TrainingParts,
    seed: int,
    rank: int,
    world_size: int,
) -> Trainer:
    dataset, network = parts.dataset, parts.model

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

    if config.to_static_training:
        if world_size > 1 and paddle.get_device().startswith("cpu"):
            raise UserError(
                "to_static_training: several processes on CPU synchronise batch norm in dygraph "
                "only. Set it to false, or train in one process."
            )
        network = paddle.jit.to_static(network, full_graph=True)
    return Trainer(
        data_parallel(network),
        parts.optimizer,
        parts.schedule,
        parts.loss,
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


def _as_float(image: Tensor) -> Tensor:
    return image.astype("float32")


class ModelEvaluation:
    """Evaluates the current weights the way `tools/val.py` does, and draws a few results."""

    def __init__(
        self, config: Config, parts: TrainingParts, num_workers: int, rank: int, world_size: int
    ) -> None:
        assert parts.val_dataset is not None and config.val_dataset is not None
        self.model = parts.model
        self.dataset = parts.val_dataset
        self.absent_class = config.test_config.absent_class
        self.settings = config.test_config.inference_settings()
        self.preprocess = Preprocess.from_transforms(config.val_dataset.get("transforms", []))
        self.num_workers = max(num_workers, 1)
        self.rank, self.world_size = rank, world_size
        self.last_metrics: Metrics | None = None

    def metrics(self) -> Metrics:
        """Return the metrics over the whole data set, whatever the number of processes."""
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
        )
        return self.last_metrics

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
