"""`import_log`: another code base's training log as one of this package's runs."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from paddleseg_segformer.cli.common import add_import_argument, set_up_logging
from paddleseg_segformer.components import resolve
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import check_folder, make_folder, only_writer, write_text


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags."""
    add = parser.add_argument
    add(
        "logs",
        nargs="+",
        metavar="LOG",
        help="PaddleSeg's train.log, or *.log, *.log.json or scalars.json of mmsegmentation; "
        "several are parts of one run, the first one first",
    )
    add("--save_dir", required=True, help="new folder of the run: its log.jsonl, and the trackers'")
    add(
        "--trackers",
        nargs="*",
        default=["visualdl"],
        metavar="NAME",
        help="also write for these: visualdl, tensorboard, wandb, mlflow; no name: none",
    )
    add_import_argument(parser)


def run(args: Namespace) -> None:
    """Read the log and write it as ours."""
    set_up_logging()
    save_dir = Path(args.save_dir)
    check_folder(save_dir)
    if (save_dir / "log.jsonl").exists():
        raise UserError(
            f"{save_dir}: holds the log of a run (log.jsonl). Name a new folder, or remove it."
        )
    from paddleseg_segformer.training.foreign_logs import read_foreign_logs
    from paddleseg_segformer.training.writers import check_trackers

    points = read_foreign_logs(args.logs)
    check_trackers(args.trackers)
    with only_writer(make_folder(save_dir)):
        for name in args.trackers:
            tracker: Any = resolve("tracker", name)(save_dir, 0)  # a killed import left nothing
            for iteration, values in points:
                tracker.scalars(iteration, values)
            tracker.close()
        lines = (json.dumps({"iteration": step, **values}) for step, values in points)
        write_text(save_dir / "log.jsonl", "".join(f"{line}\n" for line in lines))
    scores = [values["Evaluate/mIoU"] for _, values in points if "Evaluate/mIoU" in values]
    best = f", best mIoU {max(scores):.4f}" if scores else ""
    print(
        f"{save_dir}: {len(points)} points of iterations {points[0].iteration} to "
        f"{points[-1].iteration}, {len(scores)} evaluations{best}"
    )
