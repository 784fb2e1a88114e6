"""`resolution_sweep`: models at several sizes of the test images, whole and by windows."""

from __future__ import annotations

import logging
from argparse import ArgumentParser, Namespace

from paddleseg_segformer.cli.common import check_numbers, set_up_logging
from paddleseg_segformer.cli.data_flags import MODEL, add_data_arguments, load_data
from paddleseg_segformer.config.building import build_val_dataset
from paddleseg_segformer.errors import UserError

logger = logging.getLogger(__name__)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags."""
    add = parser.add_argument
    add("models", nargs="+", metavar="MODEL", help=MODEL)
    add_data_arguments(parser, "output/resolution_sweep", "threads that read images ahead")
    add(
        "--short_sides",
        nargs="+",
        type=int,
        required=True,
        metavar="PX",
        help="short sides of the images; their ratio is kept",
    )
    add("--window", type=int, required=True, metavar="PX", help="side of windows: training's crop")


def run(args: Namespace) -> None:
    """Evaluate, print the table, write picture and table."""
    set_up_logging()
    check_numbers(args, num_workers=1, short_sides=1, window=1)
    if len(set(args.models)) < len(args.models):
        raise UserError("MODEL: one is named twice. Name each once.")
    config = load_data(args, *args.models)
    from paddleseg_segformer.report.figures import check_matplotlib

    check_matplotlib()
    from paddleseg_segformer.report.compare import check_fit, load_predictor
    from paddleseg_segformer.report.resolution_sweep import sweep, write_sweep

    dataset = build_val_dataset(config)
    points = []
    for model in args.models:
        predictor = load_predictor(model, args.device, args.backend)
        check_fit(model, predictor, dataset)
        sides = list(dict.fromkeys(args.short_sides))
        for point in sweep(
            model,
            predictor,
            dataset,
            sides,
            args.window,
            absent_class=config.test_config.absent_class,
            num_workers=args.num_workers,
        ):
            window = f"windows of {point.window} px" if point.window else "whole"
            logger.info(
                "%s, short side %d px, %s: mIoU %.2f",
                *(model, point.short_side, window, 100 * point.miou),
            )
            points.append(point)
    print(write_sweep(points, args.save_dir))
