"""`benchmark`: time, memory and agreement of engines in one interleaved run."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from argparse import ArgumentParser, Namespace
from importlib.util import find_spec
from pathlib import Path

from benchmarks import older_processor
from benchmarks.speed.cases import (
    ENGINES,
    PRECISIONS,
    TASKS,
    VARIANTS,
    all_cases,
    ladder_cases,
)
from paddleseg_segformer.cli.common import check_outputs, set_up_logging, size_hw
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import check_folder

logger = logging.getLogger(__name__)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags."""
    add = parser.add_argument
    add(
        "--engines",
        nargs="+",
        metavar="ENGINE",
        help=f"of {', '.join(ENGINES)}; without it: those whose packages are installed",
    )
    add("--tasks", nargs="+", default=["network"], metavar="TASK", help=f"of {', '.join(TASKS)}")
    add("--models", nargs="+", default=["B0"], metavar="MODEL", help=f"of {', '.join(VARIANTS)}")
    add(
        "--sizes",
        nargs="+",
        type=size_hw,
        default=[(512, 512)],
        metavar="SIZE",
        help="px, a side or HEIGHTxWIDTH; of the window for the task slide",
    )
    add("--batch_sizes", nargs="+", type=int, default=[1], metavar="N", help="images per pass")
    add("--threads", nargs="+", type=int, default=[2], metavar="N", help="threads per process")
    add(
        "--precisions", nargs="+", default=["fp32"], metavar="P", help=f"of {', '.join(PRECISIONS)}"
    )
    add(
        "--ladder",
        action="store_true",
        help="the cells of the speed ladder: B0, B1, B2, B5 at 512, B0, B1, B2 at 1024, windows of "
        "1024; exact, merged and INT8 against the fastest others. --tasks, --models, --sizes, "
        "--batch_sizes and --precisions have no effect",
    )
    add(
        "--history",
        metavar="FILE",
        help="append this run's quotients as one line; with --ladder by default "
        "benchmarks/history.jsonl",
    )
    add("--num_classes", type=int, default=19, help="classes of the model")
    add(
        "--isa",
        choices=["avx2"],
        help="run as on a processor without AVX-512 and VNNI; needs Linux and a C compiler",
    )
    add("--base", default="paddleseg", metavar="ENGINE", help="engine that speeds are relative to")
    add("--repeats", type=int, default=10, help="timed passes per case")
    add("--warmup", type=int, default=3, help="passes before them")
    add("--limit_s", type=float, default=1200.0, help="longest time of one pass or load, s")
    add("--work_dir", default="output/benchmark", help="weights and graphs, kept between runs")
    add("--json", metavar="FILE", help="also write all figures to this JSON file")
    add("--plot", metavar="FILE", help="also draw the medians to this PNG file; needs matplotlib")


def run(args: Namespace) -> None:
    """Measure, print a table per setting, write the files that were asked for."""
    if args.isa:
        folder = Path(args.work_dir).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        older_processor.restart(folder)
    set_up_logging()
    if args.base not in ENGINES:
        raise UserError(f"--base: found {args.base!r}, expected one of {', '.join(ENGINES)}.")
    check_folder(args.work_dir)
    check_outputs(args.json, args.plot)
    if args.plot:
        import matplotlib  # noqa: F401  missing: said before the run, not after it
    engines = args.engines or installed_engines()
    cases = (
        ladder_cases(engines, args.threads[0])
        if args.ladder
        else all_cases(
            engines,
            args.tasks,
            args.models,
            args.sizes,
            args.batch_sizes,
            args.threads,
            args.precisions,
            args.num_classes,
        )
    )

    from benchmarks.speed import history, machine, report
    from benchmarks.speed.runner import Plan
    from benchmarks.speed.runner import run as measure

    plan = Plan(Path(args.work_dir), args.repeats, args.warmup, args.limit_s)
    facts = machine.describe()
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    groups, before = [], machine.counters()
    for group in measure(cases, plan):
        groups.append(group)
        print(report.table(group, args.base), flush=True)
        if args.json:
            report.write_json(args.json, groups, args.base, plan, facts, command)
    own_s = sum(os.times()[:4])  # ours and our processes', which have ended
    facts["disturbance"] = machine.disturbance(before, machine.counters(), own_s)
    print(f"\nmeanwhile: {facts['disturbance']}")
    if args.ladder:
        print(report.ladder(groups))
    if args.json:
        report.write_json(args.json, groups, args.base, plan, facts, command)
    if args.plot:
        report.write_plot(args.plot, groups)
    if args.history or args.ladder:
        history.append(args.history or history.FILE, groups, facts)
    if all(item.error for group in groups for item in group.measurements):
        raise UserError("no case could be measured; the reasons stand above.")


def installed_engines() -> list[str]:
    """Return the engines whose packages are installed."""
    return [
        name
        for name, engine in ENGINES.items()
        if all(find_spec(package) is not None for package in engine.packages)
    ]
