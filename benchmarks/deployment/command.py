"""`compare_engines`: the same images through every deployment option."""

from __future__ import annotations

import logging
import shlex
import shutil
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.deployment.deployments import DEPLOYMENTS, MIN_AGREEMENT, chosen_deployments
from paddleseg_segformer.cli.common import check_outputs, check_weights, set_up_logging
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import check_folder, write_text

if TYPE_CHECKING:
    from benchmarks.deployment.material import Exports, Images
    from benchmarks.deployment.matrix import Row

logger = logging.getLogger(__name__)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags."""
    add = parser.add_argument
    add(
        "--model_path",
        help="model folder, or weights that say what they are of; without it and --export_dir: a "
        "SegFormer-B0 with random weights",
    )
    add("--export_dir", help="export of these weights; without it: exported into --work_dir")
    add(
        "--images",
        metavar="PATH",
        help="image, folder or list file (.txt); without it: those of --labels, or drawn scenes",
    )
    add(
        "--labels",
        metavar="CONFIG",
        help="config whose val_dataset holds the images with labels, for mIoU",
    )
    add(
        "--num_images", type=int, default=20, help="most images, taken at equal steps from the list"
    )
    add(
        "--ways",
        nargs="+",
        metavar="NAME",
        help=f"deployments: of {', '.join(DEPLOYMENTS)}; without it: all",
    )
    add(
        "--require",
        nargs="+",
        default=[],
        metavar="NAME",
        help="deployments that must run here, or all of --ways: a missing one is an error",
    )
    add("--cpp_dir", default="build/cpp", help="where the C++ programs were built")
    add(
        "--gradio_python",
        metavar="PYTHON",
        default=sys.executable,
        help="interpreter that has Gradio and this package",
    )
    add("--threads", type=int, default=2, help="threads of each deployment on the CPU")
    add("--warmup", type=int, default=3, help="passes of each image size before the timing")
    add("--limit_s", type=float, default=1800.0, help="longest time of one deployment, s")
    add("--work_dir", default="output/compare_engines", help="images and exports of this run")
    add("--json", metavar="FILE", help="also write all figures to this JSON file")
    add("--markdown", metavar="FILE", help="also write the table to this file")


def run(args: Namespace) -> None:
    """Compare, print the table, write the files that were asked for.

    Raises:
        UserError: a flag is wrong; or, after the table, an exact deployment gives other labels, or
            a required one did not run.
    """
    set_up_logging()
    names, required = chosen_deployments(args.ways, args.require)
    check_weights(args.model_path)
    check_outputs(args.json, args.markdown)
    check_folder(args.work_dir)

    from benchmarks.deployment import report
    from benchmarks.deployment.matrix import Plan, compare
    from benchmarks.speed import machine

    images, exports = _material(args)
    plan = Plan(
        exports.model_path,
        args.cpp_dir,
        args.gradio_python,
        args.threads,
        args.warmup,
        args.limit_s,
    )
    rows = []
    for row in compare(names, images, exports, plan):
        rows.append(row)
        logger.info("%s: %s", row.name, _summary(row))
    facts = machine.describe()
    table = report.markdown(rows, images, facts, args.threads)
    print(f"\n{table}", end="")
    if args.markdown:
        write_text(args.markdown, table)
    if args.json:
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        report.write_json(args.json, rows, images, facts, args.threads, command)
    check(rows, required)


def _material(args: Namespace) -> tuple[Images, Exports]:
    """Return images and exports; those of an earlier run are deleted."""
    from benchmarks.deployment.material import Exports, make_images, make_model

    work_dir, model_path = Path(args.work_dir), args.model_path
    images = make_images(work_dir / "images", args.images, args.labels, args.num_images)
    if args.export_dir:
        return images, Exports(work_dir, model_path, args.export_dir)
    int8_flags: list[str] = []
    if not model_path:
        model_path = str(make_model(work_dir / "model"))
        images_dir = str(work_dir / "images")  # for want of others; random weights lose a lot
        int8_flags = ["--calibration_images", images_dir, "--allow_int8_loss", "--no-verify"]
    shutil.rmtree(work_dir / "exports", ignore_errors=True)
    return images, Exports(work_dir / "exports", model_path, int8_flags=int8_flags)


def _summary(row: Row) -> str:
    if row.missing or row.outcome is None:
        return f"not run: {row.missing}" if row.missing else f"failed: {row.error}"
    agreement = "" if row.agreement is None else f", {row.agreement:.4%} of the labels"
    return f"{row.outcome.ms:.1f} ms per image{agreement}"


def check(rows: list[Row], required: set[str]) -> None:
    """Refuse rows in which an exact deployment gives other labels, or a required one did not run.

    Raises:
        UserError: below the bound, failed, or required and not run.
    """
    faults = [f"{row.name}: {row.fault}" for row in rows if row.fault]
    for row in rows:
        if row.name in required and not row.fault and (row.missing or row.error):
            faults.append(f"{row.name}: required, but {row.missing or row.error}")
    if faults:
        raise UserError(f"{len(faults)} of {len(rows)} deployments fell short. {'; '.join(faults)}")
    if sum(row.deployment.is_exact and row.outcome is not None for row in rows) < 2:
        raise UserError(
            "fewer than two exact deployments ran, so nothing was held against "
            f"{MIN_AGREEMENT:.2%}. The table says what is missing; name more --ways."
        )
