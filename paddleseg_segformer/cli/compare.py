"""`compare`: two models or exports on the same labelled images."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from paddleseg_segformer.cli.common import (
    add_device_argument,
    add_import_argument,
    check_weights,
    set_up_logging,
)
from paddleseg_segformer.config import load_config
from paddleseg_segformer.config.building import build_val_dataset
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import check_folder
from paddleseg_segformer.runtimes.engines import BACKENDS


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags."""
    add = parser.add_argument
    for name in ("A", "B"):
        add(
            f"model_{name.lower()}",
            metavar=name,
            help="a model folder, a weight file, or the folder of an export",
        )
    add("data", metavar="DATA", help="config whose val_dataset has the images: a YAML, or its name")
    add("--save_dir", default="output/compare", help="folder of the page and tables")
    add(
        "--opts",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="override values of DATA: val_dataset.dataset_root=DIR",
    )
    add("--backend", choices=BACKENDS, default="auto", help="engine that runs exports")
    add("--num_workers", type=int, default=2, help="threads that read images ahead")
    add("--num_shown", type=int, default=8, help="images shown of those that differ most")
    add_import_argument(parser)
    add_device_argument(parser)


def run(args: Namespace) -> None:
    """Compare, print the table, write the page."""
    set_up_logging()
    for name, least in (("num_shown", 0), ("num_workers", 1)):
        if getattr(args, name) < least:
            found = getattr(args, name)
            raise UserError(f"--{name}: found {found}, expected {least} or more.")
    check_weights(args.model_a)
    check_weights(args.model_b)
    check_folder(args.save_dir)
    config = load_config(args.data, args.opts, build_val_dataset)
    if config.val_dataset is None:
        raise UserError(f"{args.data}: has no val_dataset, on which models are compared. Add it.")
    from paddleseg_segformer.report.compare import compare, load_predictor, write_comparison

    predictors = (
        load_predictor(args.model_a, args.device, args.backend),
        load_predictor(args.model_b, args.device, args.backend),
    )
    dataset = build_val_dataset(config)
    names = (args.model_a, args.model_b)
    comparison = compare(*predictors, dataset, names, num_workers=args.num_workers)
    page = write_comparison(comparison, predictors, dataset, args.save_dir, args.num_shown)
    print(comparison.table())
    print(f"page: {page}")
