"""`report`: a page and tables on the model of a training run."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from paddleseg_segformer.cli.common import (
    add_device_argument,
    add_import_argument,
    add_opts_argument,
    check_numbers,
    check_weights,
    set_device,
    set_up_logging,
)
from paddleseg_segformer.errors import UserError, printable
from paddleseg_segformer.files import check_folder


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags."""
    add = parser.add_argument
    add("run_dir", metavar="RUN_DIR", help="--save_dir of a training run")
    add("--out", metavar="DIR", help="folder of the report; by default RUN_DIR/report")
    add("--model_path", help="weights; by default the best model, else the newest checkpoint")
    add_opts_argument(parser, "override config values: val_dataset.dataset_root=DIR")
    add("--num_workers", type=int, default=2, help="threads that read images ahead")
    add("--num_shown", type=int, default=8, help="images shown of the worst, and of the best")
    add_import_argument(parser)
    add_device_argument(parser)


def run(args: Namespace) -> None:
    """Evaluate and write the report."""
    set_up_logging()
    check_numbers(args, num_shown=0, num_workers=1)
    if not Path(args.run_dir).is_dir():
        raise UserError(f"{args.run_dir}: no such folder. Name the --save_dir of a training run.")
    check_weights(args.model_path)
    check_folder(args.out or Path(args.run_dir) / "report")
    from paddleseg_segformer.report import write_report
    from paddleseg_segformer.report.figures import check_matplotlib

    check_matplotlib()
    set_device(args.device)
    report = write_report(
        args.run_dir,
        args.out,
        model_path=args.model_path,
        opts=args.opts,
        num_workers=args.num_workers,
        num_shown=args.num_shown,
    )
    print(printable(report.metrics.table()))
    print(f"page: {report.page}")
