"""`compare`: two models or exports on the same labelled images."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from paddleseg_segformer.cli.common import check_numbers, set_up_logging
from paddleseg_segformer.cli.data_flags import MODEL, add_data_arguments, load_data
from paddleseg_segformer.config.building import build_val_dataset
from paddleseg_segformer.errors import printable


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags."""
    add = parser.add_argument
    for name in ("A", "B"):
        add(f"model_{name.lower()}", metavar=name, help=MODEL)
    add_data_arguments(parser, "output/compare", "threads that read images ahead")
    add("--num_shown", type=int, default=8, help="images shown of those that differ most")


def run(args: Namespace) -> None:
    """Compare, print the table, write the page."""
    set_up_logging()
    check_numbers(args, num_shown=0, num_workers=1)
    config = load_data(args, args.model_a, args.model_b)
    from paddleseg_segformer.report.compare import compare, load_predictor, write_comparison

    predictors = (
        load_predictor(args.model_a, args.device, args.backend),
        load_predictor(args.model_b, args.device, args.backend),
    )
    dataset = build_val_dataset(config)
    names = (args.model_a, args.model_b)
    comparison = compare(*predictors, dataset, names, num_workers=args.num_workers)
    page = write_comparison(comparison, predictors, dataset, args.save_dir, args.num_shown)
    print(printable(comparison.table()))
    print(f"page: {page}")
