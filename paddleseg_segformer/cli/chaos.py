"""`chaos`: kill a training run again and again, take it up each time, and compare the end."""

from __future__ import annotations

import argparse
from pathlib import Path

from paddleseg_segformer.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this job."""
    add = parser.add_argument
    add("--save_dir", default="output/chaos", help="folder of the runs; it is made anew")
    add("--kills", type=int, default=100, help="number of SIGKILLs")
    add("--iters", type=int, default=300, help="steps of a run")
    add("--num_workers", type=int, default=2, help="processes that load data")
    add("--alive_s", type=float, default=3.0, help="a run trains for at most so many seconds")
    add("--seed", type=int, default=0, help="seed of the moments of the kills")


def run(args: argparse.Namespace) -> None:
    """Print the report; end with an error if anything was lost."""
    if not Path("/proc/self/stat").is_file():
        raise UserError("chaos: this system has no /proc, where it looks for processes. Use Linux.")
    for name in ("kills", "iters"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name}: found {getattr(args, name)}, expected 1 or more.")
    from paddleseg_segformer.analysis.chaos import Chaos

    chaos = Chaos(Path(args.save_dir), args.iters, args.num_workers, args.alive_s, args.seed)
    report = chaos.run(args.kills)
    print(report)
    if report.failures:
        raise UserError(f"chaos: {len(report.failures)} failures, see above.")
