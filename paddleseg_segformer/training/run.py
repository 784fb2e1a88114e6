"""One training run: config -> components -> hooks -> `Trainer.train()`."""

from __future__ import annotations

import logging
import random
import shlex
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import paddle

from paddleseg_segformer.analysis.complexity import count_parameters
from paddleseg_segformer.components import resolve
from paddleseg_segformer.config import Config, load_config
from paddleseg_segformer.config.building import TrainingParts, build_training
from paddleseg_segformer.contracts import CONTRACTS, check
from paddleseg_segformer.cpu import prepare_cpu
from paddleseg_segformer.data import SegmentationDataset
from paddleseg_segformer.data.cache import make_cache
from paddleseg_segformer.data.class_sampling import ClassSampler, class_presence
from paddleseg_segformer.data.loader import Batch, train_loader
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import make_folder, only_writer, write_text
from paddleseg_segformer.model_folder import CONFIG, start_from_pretrained
from paddleseg_segformer.models.stages import set_training
from paddleseg_segformer.training.checkpoints import (
    BEST,
    BestModel,
    find_checkpoint,
    read_best,
    read_checkpoint,
    restore,
)
from paddleseg_segformer.training.distillation import Distillation, Learners, Teacher
from paddleseg_segformer.training.distributed import (
    check_same_in_all,
    data_parallel,
    init_distributed,
    lost_peers_explained,
    of_first_process,
)
from paddleseg_segformer.training.faults import Faults
from paddleseg_segformer.training.hooks import (
    EMA,
    Checkpoints,
    Evaluate,
    GracefulStop,
    LastScore,
    ModelEvaluation,
    Progress,
    RunFolder,
    TimeLimit,
)
from paddleseg_segformer.training.network_graph import network_graph
from paddleseg_segformer.training.options import RunOptions
from paddleseg_segformer.training.sample_record import SampleRecord
from paddleseg_segformer.training.trainer import Hook, Precision, Trainer
from paddleseg_segformer.training.writers import (
    JsonLinesWriter,
    Writer,
    Writers,
    check_trackers,
    logged,
)

logger = logging.getLogger(__name__)


def train(config: Config, options: RunOptions) -> BestModel:
    """Train as the config says; return the best evaluation, and whether the run came to its end."""
    rank, world_size = init_distributed()
    folder = find_checkpoint(options.resume_model, Path(options.save_dir), rank)
    checkpoint = read_checkpoint(folder) if folder else None
    seed = options.seed
    if seed is None:  # the processes of one run draw the same random one
        drawn = of_first_process(random.SystemRandom().randrange(2**31))
        seed = checkpoint["seed"] if checkpoint else int(drawn)
    trackers = options.all_trackers(config.trackers or ())
    check_trackers(trackers)
    paddle.seed(seed)  # of the initial weights; the trainer seeds every step
    parts = build_training(config, options.do_eval)
    check_same_in_all("train_dataset, number of samples", len(parts.dataset))
    check_same_in_all("val_dataset, number of samples", len(parts.val_dataset or ()))
    sets = {"train_dataset": parts.dataset, "val_dataset": parts.val_dataset}
    samples = {
        name: SampleRecord.of(data.samples) for name, data in sets.items() if data is not None
    }
    save_dir = make_folder(options.save_dir)
    with ExitStack() as stack:
        if rank == 0:
            stack.enter_context(only_writer(save_dir))
            stack.enter_context(logged(save_dir))
        if not checkpoint:
            _check_frozen(config)
            start_from_pretrained(parts.model, config)
        prepare_cpu(parts.model)
        trainer = make_trainer(config, options, parts, seed, rank, world_size)
        if folder and checkpoint:
            restore(checkpoint, folder, trainer, config.to_yaml(), samples)
        start = trainer.iteration if options.resume_model else None
        writers = _writers(save_dir, start, trackers) if rank == 0 else []
        best = read_best(save_dir)
        best.iteration = best.iteration or trainer.iteration  # from here early stopping counts
        run = RunFolder(save_dir, config.to_yaml(), Writers(writers), best, samples)
        trainer.hooks = _hooks(config, options, parts, run, checkpoint, rank, world_size)
        if rank == 0 and not _says(save_dir / CONFIG, run.config_yaml):
            write_text(save_dir / CONFIG, run.config_yaml)
        batch = config.batch_size * config.accumulation_steps * world_size
        run.writers.config(run.config_yaml)
        run.writers.network(lambda: _graph(parts))
        logger.info("config\n%s", run.config_yaml.rstrip())
        logger.info(
            "%s: %.3f M parameters; %d training samples%s; batch %d (%d processes); %d "
            "iterations = %.1f passes; seed %d",
            type(parts.model).__name__,
            count_parameters(parts.model) / 1e6,
            len(parts.dataset),
            f", {len(parts.val_dataset)} for evaluation" if parts.val_dataset is not None else "",
            batch,
            world_size,
            config.iters,
            config.iters * batch / len(parts.dataset),
            seed,
        )
        try:
            with lost_peers_explained():
                trainer.train()
        finally:
            run.writers.close()
        best.is_finished = trainer.iteration == trainer.iters
        if best.is_finished:
            model, score = save_dir / f"iter_{trainer.iteration}", ""
            if (save_dir / BEST).is_dir():
                model, score = save_dir / BEST, f" (mIoU {best.miou:.4f})"
            command = f"predict --model_path {shlex.quote(str(model))} --image_path IMAGES"
            logger.info(
                "model: %s%s; next: python -m paddleseg_segformer %s", model, score, command
            )
        return best


def _graph(parts: TrainingParts) -> dict[str, Any]:
    """Return the network's graph as it evaluates."""
    parts.model.eval()
    try:
        return network_graph(parts.model, parts.dataset.img_channels)
    finally:
        set_training(parts.model, parts.frozen)


def _says(path: Path, config_yaml: str) -> bool:
    """Tell whether a config file means the same, whatever its comments, which then stay."""
    try:
        return path.is_file() and load_config(path).to_yaml() == config_yaml
    except UserError:
        return False


def _writers(save_dir: Path, start: int | None, trackers: Sequence[str]) -> list[Writer]:
    """Return the log of figures, and the trackers."""
    writers: list[Writer] = [JsonLinesWriter(save_dir, start)]
    for name in trackers:
        writer: Any = resolve("tracker", name)(save_dir, start)
        check(writer, CONTRACTS["tracker"], f"tracker {name}")
        writers.append(writer)
    return writers


def _check_frozen(config: Config) -> None:
    """Refuse to hold random weights fixed."""
    backbone = config.model.get("backbone")
    sections = [config.model, backbone if isinstance(backbone, dict) else {}]
    if config.freeze_stages and not any(section.get("pretrained") for section in sections):
        raise UserError(
            f"freeze_stages is {config.freeze_stages}, but these stages would start from random "
            "weights. Name weights: --opts model.backbone.pretrained=PATH, or leave the key out."
        )


def make_trainer(
    config: Config,
    options: RunOptions,
    parts: TrainingParts,
    seed: int,
    rank: int,
    world_size: int,
) -> Trainer:
    """Return a trainer without hooks, at its first iteration."""
    dataset, network = parts.dataset, parts.model

    if config.cache:
        if getattr(type(dataset), "make_sample", None) is not SegmentationDataset.make_sample:
            raise UserError(
                f"cache: {type(dataset).__name__} makes its samples itself, so that they cannot be "
                "kept. Leave cache out."
            )
        dataset.cache = make_cache(config.cache, config.cache_gib, len(dataset))
    draw = None
    if config.class_balanced_sampling:
        presence = class_presence(dataset, rank == 0, options.on_bad_sample == "skip")
        draw = ClassSampler(presence, config.class_balanced_sampling)

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
            draw=draw,
        )

    if config.to_static_training:
        if world_size > 1 and paddle.get_device().startswith("cpu"):
            raise UserError(
                "to_static_training: several processes on CPU synchronise batch norm in dygraph "
                "only. Set it to false, or train in one process."
            )
        network = paddle.jit.to_static(network, full_graph=True)
    precision = Precision(options.precision, options.amp_level)
    if config.qat is not None and (config.to_static_training or precision.enabled):
        raise UserError(
            "qat: trains in dygraph and float32. Leave --to_static_training and --precision out."
        )
    distillation, learners = None, parts.model
    if config.distill and parts.distill_loss:
        if config.to_static_training and config.distill.feature_coef:
            raise UserError(
                "distill.feature_coef: found with to_static_training, whose graph hides the "
                "features. Set one of them to 0 or false."
            )
        teacher = Teacher(config.distill.teacher)
        distillation = Distillation(
            parts.model, teacher, config.distill, parts.distill_loss, precision.autocast
        )
        learners = Learners(parts.model, distillation)
        distillation = data_parallel(distillation)
    return Trainer(
        data_parallel(network),
        parts.optimizer_of(learners),
        parts.schedule,
        parts.loss,
        batches,
        dataset.normalize.on_device if dataset.normalize else lambda x: x.astype("float32"),
        config.iters,
        precision=precision,
        accumulation_steps=config.accumulation_steps,
        seed=seed,
        rank=rank,
        frozen=parts.frozen,
        faults=Faults(options.fault_policy()),
        sample_names=lambda batch: [dataset.samples[index][0] for index in batch.indices],
        distillation=distillation,
    )


def _hooks(
    config: Config,
    options: RunOptions,
    parts: TrainingParts,
    run: RunFolder,
    checkpoint: dict[str, Any] | None,
    rank: int,
    world_size: int,
) -> list[Hook]:
    epoch_iters = len(parts.dataset) / (config.batch_size * config.accumulation_steps * world_size)
    # users' first, so that averages, evaluation and checkpoint include what they change
    limits = [TimeLimit(options.max_minutes)] if options.max_minutes else []
    progress = Progress(run.writers, options.log_iters, epoch_iters, has_bar=rank == 0)
    hooks = [GracefulStop(), *limits, *parts.hooks, progress]
    ema = EMA(parts.model, config.ema_decay) if options.use_ema else None
    if ema:
        hooks.append(ema)
        if checkpoint:
            ema.set_state_dict(checkpoint["ema"])
    save = Checkpoints(run, options.save_interval, options.keep_checkpoint_max, ema)
    saving: list[Hook] = [save] if rank == 0 else []
    if parts.val_dataset is None:
        return [*hooks, *saving]
    evaluation = ModelEvaluation(
        config, parts, options.num_workers, rank, world_size, run.writers.take_details
    )
    early_stop = options.early_stop_intervals or config.early_stop_intervals
    if early_stop and not options.do_eval:
        logger.warning("early_stop_intervals has no effect without --do_eval")
        early_stop = None
    evaluate = Evaluate(evaluation, run, options.save_interval, ema, early_stop, rank == 0)
    if options.do_eval:
        return [*hooks, evaluate, *saving]
    return [*hooks, *saving, LastScore(evaluate)]
