"""`train`: train the model that a config describes."""

from __future__ import annotations

import dataclasses
import logging
import math
from argparse import ArgumentParser, Namespace
from functools import partial

from paddleseg_segformer.cli.common import (
    add_config_arguments,
    set_device,
    set_up_logging,
    with_imports,
)
from paddleseg_segformer.cli.paddleseg_flags import add_paddleseg_flags
from paddleseg_segformer.config.building import build_training
from paddleseg_segformer.config.schema import load_config
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import check_folder
from paddleseg_segformer.training.options import RunOptions

logger = logging.getLogger(__name__)

OVERRIDES = (  # flags that stand for a key of the config
    *("iters", "batch_size", "accumulation_steps"),
    *("freeze_stages", "class_balanced_sampling", "cache", "cache_gib"),
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags: PaddleSeg's, where it has them."""
    add_config_arguments(parser)
    add = parser.add_argument
    stop_or_skip = ("stop", "skip")
    add("--save_dir", default="output", help="folder of checkpoints and logs")
    add("--iters", type=int, help="optimizer steps; overrides the config")
    add("--batch_size", type=int, help="images per process and step; overrides the config")
    add("--learning_rate", type=float, help="base learning rate; overrides the config")
    add("--num_workers", type=int, default=0, help="data worker processes; 0: none")
    add(
        "--do_eval",
        action="store_true",
        help="evaluate every save_interval, keep the best model; without it: once, at the end",
    )
    add("--use_vdl", action="store_true", help="write a VisualDL log into save_dir")
    add(
        "--trackers",
        nargs="+",
        metavar="NAME",
        help="logs to write into save_dir beside those of the config: visualdl, tensorboard, wandb "
        "(offline), mlflow, or your own",
    )
    add("--use_ema", action="store_true", help="average the weights, and evaluate the average")
    add(
        "--resume_model",
        help="checkpoint folder to resume from (output/iter_1000), or auto: the newest undamaged "
        "one in save_dir, or a new run",
    )
    add("--save_interval", type=int, default=1000, help="steps between checkpoints and evaluations")
    add("--keep_checkpoint_max", type=int, default=5, help="newest checkpoints to keep")
    add("--log_iters", type=int, default=10, help="steps per line of the log")
    add("--seed", type=int, help="of all randomness; by default the checkpoint's, or a random one")
    add(
        "--precision",
        choices=("fp32", "fp16", "bf16"),
        default="fp32",
        help="of the forward pass, on GPU",
    )
    add(
        "--amp_level",
        choices=("O1", "O2"),
        default="O1",
        help="mixed precision: O1 by operator, O2 nearly all",
    )
    add("--to_static_training", action="store_true", help="train the compiled static graph")
    add(
        "--freeze_stages",
        type=int,
        help="stages of the backbone held fixed, from its input; overrides the config",
    )
    add(
        "--class_balanced_sampling",
        type=float,
        metavar="SHARE",
        help="share of the samples for which a class is drawn first, each alike, then an image "
        "that has it; overrides the config",
    )
    add("--cache", metavar="ram|DIR", help="keep decoded samples in memory or in a folder")
    add("--cache_gib", type=float, help="the most that the cache may hold; overrides the config")
    add("--accumulation_steps", type=int, help="batches per optimizer step; overrides the config")
    add("--early_stop_intervals", type=int, help="evaluations without improvement before stopping")
    add(
        "--max_minutes",
        type=float,
        help="stop after the step that ends later, with a checkpoint and the last evaluation",
    )
    add(
        "--on_nonfinite",
        choices=stop_or_skip,
        default="stop",
        help="at a non-finite loss or gradient: stop, or skip the step",
    )
    add(
        "--on_bad_sample",
        choices=stop_or_skip,
        default="stop",
        help="at a sample that cannot be read: stop, or replace it by another one",
    )
    add(
        "--max_skipped",
        type=int,
        default=100,
        help="steps, and samples, that may be skipped before the run stops",
    )
    add_paddleseg_flags(parser, "train")


def run(args: Namespace) -> None:
    """Train."""
    set_up_logging()
    fields = [field.name for field in dataclasses.fields(RunOptions)]  # each is a flag of this job
    options = RunOptions(**{name: getattr(args, name) for name in fields})
    check_folder(options.save_dir)
    config = load_config(args.config, args.opts, partial(build_training, do_eval=args.do_eval))
    overrides = {name: getattr(args, name) for name in OVERRIDES if getattr(args, name) is not None}
    if args.learning_rate is not None:
        if not 0 <= args.learning_rate < math.inf:
            raise UserError(f"--learning_rate: found {args.learning_rate}, expected 0 or more.")
        overrides["lr_scheduler"] = {**config.lr_scheduler, "learning_rate": args.learning_rate}
    if args.to_static_training:
        overrides["to_static_training"] = True
    config = with_imports(dataclasses.replace(config, **overrides), args.imports)
    device = set_device(args.device)

    from paddleseg_segformer.training.run import train

    logger.info("device %s", device)
    if config.val_dataset and not args.do_eval:
        logger.info("without --do_eval the model is evaluated once, at the end of the run")
    train(config, options)
