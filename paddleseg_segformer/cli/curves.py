"""`curves`: a page on the curves and settings of training runs, to publish or to compare them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from paddleseg_segformer.cli.common import set_up_logging
from paddleseg_segformer.errors import UserError, printable
from paddleseg_segformer.files import check_folder


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags."""
    add = parser.add_argument
    add(
        "run_dirs",
        nargs="+",
        metavar="RUN_DIR",
        help="--save_dir of training runs, or of import_log",
    )
    add("--save_dir", default="output/curves", help="folder of the page and tables")


def run(args: Namespace) -> None:
    """Write the page."""
    set_up_logging()
    for folder in args.run_dirs:
        if not Path(folder).is_dir():
            raise UserError(f"{folder}: no such folder. Name the --save_dir of a training run.")
    check_folder(args.save_dir)
    from paddleseg_segformer.report.figures import check_matplotlib

    check_matplotlib()
    from paddleseg_segformer.report.runs import PAGE, write_runs

    for found in write_runs(args.run_dirs, args.save_dir):
        best = (
            f"best mIoU {found.best[1]:.4f} at {found.best[0]}" if found.best else "not evaluated"
        )
        print(printable(f"{found.name}: {found.num_iters} iterations, {best}"))
    print(f"page: {Path(args.save_dir) / PAGE}")
