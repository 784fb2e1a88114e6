"""The curves and settings of one or several training runs as a page, to publish or to compare."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import product
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import atomic_files
from paddleseg_segformer.model_folder import CONFIG
from paddleseg_segformer.report.curves import Curves, read_curves
from paddleseg_segformer.report.figures import INK, figure_of, inline_svg, save_png
from paddleseg_segformer.report.page import Number, cell, number, percent, shell, table
from paddleseg_segformer.report.tables import write_csv
from paddleseg_segformer.yaml_files import dotted, parse_yaml

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

PAGE = "curves.html"
SCORE, ACCURACY, LOSS = "Evaluate/mIoU", "Evaluate/accuracy", "Train/loss"
PANELS = {
    "loss": LOSS,
    "mIoU on the validation set": SCORE,
    "learning rate": "Train/lr",
    "pixel accuracy": ACCURACY,
}
_CLASS = "Evaluate/IoU/"
# told apart by colour-blind readers, on white and on black; then once more in other strokes
_COLORS = ("#3987e5", "#d9730d", "#199e70", "#b558b8", "#c9a100", "#d0455e", "#4bb3c9", "#8a8a8a")
_STROKES = tuple(product(("-", "--", ":"), _COLORS))


@dataclass(frozen=True)
class Run:
    """One run's curves and settings.

    Args:
        name: Of the run, as the page shows it.
        curves: Its points by tag.
        settings: Values of its config by their dotted keys; none where it has no config.
        config: The same as YAML.
    """

    name: str
    curves: Curves
    settings: Mapping[str, str]
    config: str

    @property
    def best(self) -> tuple[int, float] | None:
        """Return iteration and mIoU of the best evaluation, the first of equal ones."""
        return max(self.curves.get(SCORE, ()), key=lambda point: point[1], default=None)

    @property
    def num_iters(self) -> int:
        """Return the last iteration that was logged."""
        return max(points[-1][0] for points in self.curves.values())

    def at_best(self, tag: str) -> float | None:
        """Return a figure of the best evaluation."""
        return dict(self.curves.get(tag, ())).get(self.best[0]) if self.best else None


def read_run(run_dir: str | os.PathLike[str]) -> Run:
    """Return what a run's folder says of it.

    Raises:
        UserError: no such folder, or nothing was logged in it.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder. Name the --save_dir of a training run.")
    curves = read_curves(folder)
    if not curves:
        raise UserError(
            f"{folder}: found no log of a run (log.jsonl, vdlrecords.*.log). Name the --save_dir "
            "of a training run; logs of other code bases: import_log."
        )
    config = folder / CONFIG
    text = config.read_text(encoding="utf-8") if config.is_file() else ""
    values = dotted(parse_yaml(text, str(config))) if text else {}
    settings = {
        key: value if isinstance(value, str) else json.dumps(value, default=str)
        for key, value in values.items()
    }
    return Run(str(run_dir), curves, settings, text)


def write_runs(
    run_dirs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]
) -> list[Run]:
    """Write `curves.html`, `curves.csv`, `curves.png` and `runs.csv` on one or several runs.

    Raises:
        UserError: a folder is no run's, or there are more runs than can be told apart.
        MissingDependency: Matplotlib is not installed.
    """
    if len(run_dirs) > len(_STROKES):
        raise UserError(f"runs: found {len(run_dirs)}, expected at most {len(_STROKES)}.")
    runs = [read_run(run_dir) for run_dir in run_dirs]
    figure = runs_figure(runs)
    with atomic_files(out) as folder:
        save_png(figure, folder / "curves.png")
        points = (
            [run.name, tag, *point]
            for run in runs
            for tag, curve in run.curves.items()
            for point in curve
        )
        write_csv(folder, "curves", ["run", "tag", "iteration", "value"], points)
        write_csv(folder, "runs", ["run", *_COLUMNS], ([r.name, *_figures(r)] for r in runs))
        (folder / PAGE).write_text(_page(runs, inline_svg(figure)), encoding="utf-8")
    logger.info("curves: %s", Path(out) / PAGE)
    return runs


_COLUMNS = (
    "iterations",
    "best_mIoU",
    "at_iteration",
    "accuracy_there",
    "last_loss",
    "images_per_s",
)


def _figures(run: Run) -> list[float | None]:
    """Return a run's figures in the order of `_COLUMNS`; None where it did not log one."""
    best_at, best = run.best or (None, None)
    losses = run.curves.get(LOSS, [])
    speeds = [value for _, value in run.curves.get("Train/images_per_s", ())]
    return [
        run.num_iters,
        best,
        best_at,
        run.at_best(ACCURACY),
        losses[-1][1] if losses else None,
        median(speeds) if speeds else None,
    ]


def runs_figure(runs: Sequence[Run]) -> Figure:
    """Draw loss, mIoU, learning rate and accuracy over the iterations, a line for each run."""
    figure, axes = figure_of(11, 7, 2, 2)
    for panel, (title, tag) in zip(axes, PANELS.items(), strict=True):
        for run, (style, color) in zip(runs, _STROKES, strict=False):
            if not (points := run.curves.get(tag)):
                continue
            steps, values = zip(*points, strict=True)
            is_noisy = tag == LOSS and len(points) >= 100
            if is_noisy:
                panel.plot(steps, values, color=color, alpha=0.2, linewidth=0.7)
            drawn = smoothed(values) if is_noisy else values
            marker = "o" if len(points) < 30 else None
            panel.plot(steps, drawn, style, color=color, marker=marker, markersize=3,
                       linewidth=1.4, label=run.name)  # fmt: skip
        panel.set_title(title, color=INK)
        panel.set_xlabel("iteration")
    if len(runs) > 1:
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", frameon=False, labelcolor=INK,
                      ncols=2, fontsize=8)  # fmt: skip
    return figure


def smoothed(values: Sequence[float]) -> np.ndarray:
    """Return means over windows of a fiftieth of the points, smaller ones at the ends."""
    half = max(len(values) // 100, 1)
    sums = np.cumsum([0.0, *values])
    places = np.arange(len(values))
    low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def _page(runs: Sequence[Run], drawn: str) -> str:
    best = max((run.best[1] for run in runs if run.best), default=None)
    tiles = [(str(len(runs)), "run" if len(runs) == 1 else "runs")]
    tiles.append((f"{max(run.num_iters for run in runs)}", "iterations at most"))
    if best is not None:
        tiles.insert(0, (percent(best), "best mIoU on a validation set"))
    sections = {
        "Runs": _runs_table(runs),
        "Curves": f"<figure>{drawn}</figure>",
        "Classes": _classes(runs),
        "Settings that differ": _settings(runs),
        "Configs": "".join(
            f"<details><summary>{escape(run.name)}</summary><pre>{escape(run.config)}</pre></details>"
            for run in runs
            if run.config
        ),
    }
    title = f"Training run {runs[0].name}" if len(runs) == 1 else "Training runs compared"
    return shell(title, ", ".join(run.name for run in runs), tiles, sections)


def _runs_table(runs: Sequence[Run]) -> str:
    header = ("run", "iterations", "best mIoU %", "at iteration", "accuracy % there", "last loss",
              "images/s")  # fmt: skip
    digits = (0, None, 0, None, 4, 2)  # None: a share
    rows = (
        [
            _named(index, run),
            *(
                Number(None, "")
                if value is None
                else cell(value)
                if places is None
                else number(value, places)
                for value, places in zip(_figures(run), digits, strict=True)
            ),
        ]
        for index, run in enumerate(runs)
    )
    return table(header, rows)


def _classes(runs: Sequence[Run]) -> str:
    """Return the IoU of each class at the best evaluation, a column for each run."""
    tags = dict.fromkeys(tag for run in runs for tag in run.curves if tag.startswith(_CLASS))
    rows = ([escape(tag[len(_CLASS) :]), *(cell(run.at_best(tag)) for run in runs)] for tag in tags)
    if not tags:
        return ""
    return "<p>IoU in % where the mIoU is best.</p>" + table(["class", *map(_short, runs)], rows)


def _settings(runs: Sequence[Run]) -> str:
    known = [run for run in runs if run.settings]
    keys = dict.fromkeys(key for run in known for key in run.settings)
    differing = [key for key in keys if len({run.settings.get(key) for run in known}) > 1]
    if not differing:
        return ""
    rows = (
        [escape(key), *(escape(run.settings.get(key, "")) for run in known)] for key in differing
    )
    return table(["key", *map(_short, known)], rows, num_text=1 + len(known))


def _short(run: Run) -> str:
    return run.name if len(run.name) <= 30 else f"…{run.name[-29:]}"


def _named(index: int, run: Run) -> str:
    style, color = _STROKES[index]
    border = {"-": "solid", "--": "dashed", ":": "dotted"}[style]
    line = f"border:0;border-top:3px {border} {color};height:0;width:22px;vertical-align:4px"
    return f'<span class="chip" style="{line}"></span>{escape(run.name)}'
