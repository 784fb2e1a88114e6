"""`robustness`: a model on corrupted images, as in SegFormer's paper."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from paddleseg_segformer.cli.common import check_numbers, set_up_logging
from paddleseg_segformer.cli.data_flags import MODEL, add_data_arguments, load_data
from paddleseg_segformer.config.building import build_val_dataset
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.evaluation.corruptions import (
    CORRUPTIONS,
    MAX_SEVERITY,
    NOISE_SEVERITIES,
    library,
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags."""
    add = parser.add_argument
    add("model", metavar="MODEL", help=MODEL)
    workers = "processes that corrupt images"
    add_data_arguments(parser, "output/robustness", workers)
    add(
        "--corruptions",
        nargs="+",
        choices=list(CORRUPTIONS),
        default=list(CORRUPTIONS),
        metavar="NAME",
        help="those to evaluate; by default all 16 of the paper",
    )
    add(
        "--noise_severities",
        type=int,
        choices=range(1, MAX_SEVERITY + 1),
        default=NOISE_SEVERITIES,
        help="severities of noise; the paper has 3, and 5 of the other corruptions",
    )
    add("--batch_size", type=int, default=1, help="images whose windows are batched together")
    add(
        "--beside",
        nargs="+",
        default=[],
        metavar="DIR",
        help="--save_dir of other models' runs, drawn in the same picture",
    )


def run(args: Namespace) -> None:
    """Evaluate what is not evaluated yet, print the table, write the files."""
    set_up_logging()
    check_numbers(args, num_workers=1, batch_size=1)
    config = load_data(args, args.model)
    from paddleseg_segformer.report.figures import check_matplotlib

    library()
    check_matplotlib()
    from paddleseg_segformer.report.compare import check_fit, load_predictor
    from paddleseg_segformer.report.robustness import measure, read_robustness, write_robustness

    beside = dict(map(read_robustness, args.beside))
    if args.model in beside:
        raise UserError(f"--beside: {args.model} is the model itself. Leave it out.")
    predictor = load_predictor(args.model, args.device, args.backend)
    dataset = build_val_dataset(config)
    check_fit(args.model, predictor, dataset)
    result = measure(
        args.model,
        predictor,
        dataset,
        args.save_dir,
        corruptions=list(dict.fromkeys(args.corruptions)),
        noise_severities=args.noise_severities,
        absent_class=config.test_config.absent_class,
        num_workers=args.num_workers,
        batch_size=args.batch_size,
    )
    print(write_robustness(args.model, result, args.save_dir, beside))
