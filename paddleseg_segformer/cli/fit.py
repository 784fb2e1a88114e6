"""`fit`: own data in one command, to a trained, reported and exported model."""

from __future__ import annotations

import dataclasses
import logging
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace

from paddleseg_segformer.cli.annotation_flags import add_annotation_arguments, annotation_options
from paddleseg_segformer.cli.common import (
    add_device_argument,
    add_import_argument,
    add_opts_argument,
    set_device,
    set_up_logging,
)
from paddleseg_segformer.files import check_folder
from paddleseg_segformer.fitting.options import MODELS, FitOptions
from paddleseg_segformer.fitting.prepare import detect_data

logger = logging.getLogger(__name__)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags."""
    add = parser.add_argument
    add("data", metavar="DATA", help="folder or file of your images and annotations, of any form")
    add("--out", help="folder of all results; by default output/ and the name of DATA")
    add(
        "--model",
        default="b0",
        help=f"{', '.join(MODELS)}; or a config (.yml) whose model is taken",
    )
    add("--minutes", type=float, help="time of the whole run, kept within 10 %%")
    add("--epochs", type=float, help="passes over the training images")
    add("--iters", type=int, help="optimizer steps")
    add(
        "--size",
        type=_size,
        default="auto",
        metavar="PX",
        help="side of the training crops in px; auto: by the sizes of images and objects",
    )
    add("--batch_size", type=int, help="images per step; by default by the memory at hand")
    add_annotation_arguments(parser)
    add("--test", type=float, default=0.0, metavar="SHARE", help="of the images, kept for a test")
    add(
        "--pretrained",
        default="auto",
        help="start weights: auto (what is in the cache), none, a path, a URL or a name",
    )
    add("--freeze", type=int, default=0, metavar="STAGES", help="stages that keep start weights")
    add(
        "--export",
        nargs="+",
        default=["auto"],
        metavar="FORMAT",
        help="formats, as of the job export; auto: ONNX where it is installed, else Paddle",
    )
    add("--seed", type=int, default=0, help="of the split and of the training")
    add_opts_argument(
        parser, "replace what the recipe chose, such as lr_scheduler.learning_rate=2.0e-4"
    )
    add("--resume", action="store_true", help="go on with a run in --out that was stopped")
    add("--dry_run", action="store_true", help="print conclusions and recipe, and write nothing")
    add_import_argument(parser)
    add_device_argument(parser)


def _size(text: str) -> int | None:
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise ArgumentTypeError(f"found {text!r}, expected auto or a number of px") from None


def run(args: Namespace) -> None:
    """Fit."""
    begun_s = time.monotonic()
    set_up_logging()
    names = {field.name for field in dataclasses.fields(FitOptions)}
    own = {name: value for name, value in vars(args).items() if name in names}
    options = FitOptions(**own, annotations=annotation_options(args))
    if not options.dry_run:
        check_folder(options.out_dir)
    detected = None if options.resume else detect_data(options)
    device = set_device(args.device)

    from paddleseg_segformer.fitting.run import run as run_fit

    logger.info("device %s", device)
    report = run_fit(options, detected, begun_s)
    if options.dry_run:
        print(report.config_yaml)
