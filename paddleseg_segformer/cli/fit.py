"""`fit`: own data in one command, to a trained, reported and exported model."""

from __future__ import annotations

import dataclasses
import logging
from argparse import ArgumentParser, Namespace

from paddleseg_segformer.cli.common import (
    add_device_argument,
    add_import_argument,
    set_device,
    set_up_logging,
)
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import check_folder
from paddleseg_segformer.fitting.options import MODELS, FitOptions

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
    add("--format", default="auto", help="form of the annotations; auto: found out")
    add("--classes", metavar="FILE", help="names of the classes, a name a line; or a YAML file ...")
    add("--val", type=float, default=0.2, help="share of the images for validation")
    add("--val_by", metavar="PREFIX", help="validation images by the beginnings of their names ...")
    add("--val_dir", metavar="DIR", help="folder of the validation images")
    add("--background", metavar="NAME", help="class of pixels without an object; none: ignored")
    add("--bands", default="all", help="bands of the images, such as 1,2,3")
    add(
        "--value_range",
        nargs="+",
        default=["auto"],
        metavar="RANGE",
        help="what stored values mean: auto, dtype, or LOW HIGH",
    )
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
    add(
        "--opts",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="replace what the recipe chose, such as lr_scheduler.learning_rate=2.0e-4",
    )
    add("--resume", action="store_true", help="go on with a run in --out that was stopped")
    add("--dry_run", action="store_true", help="print conclusions and recipe, and write nothing")
    add_import_argument(parser)
    add_device_argument(parser)


def _size(text: str) -> int | None:
    return None if text == "auto" else int(text)


def run(args: Namespace) -> None:
    """Fit."""
    set_up_logging()
    names = {field.name for field in dataclasses.fields(FitOptions)}
    options = FitOptions(**{name: value for name, value in vars(args).items() if name in names})
    if not options.dry_run:
        check_folder(options.out_dir)
    device = set_device(args.device)

    from paddleseg_segformer.fitting.run import run as run_fit

    logger.info("device %s", device)
    report = run_fit(options)
    if options.dry_run:
        print(report.config_yaml)
