"""The figures of a report, by Matplotlib, on paper and on screens light or dark."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.evaluation.bootstrap import Intervals
from paddleseg_segformer.evaluation.calibration import METHODS, NUM_BINS, Calibration
from paddleseg_segformer.report.curves import Curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

INK = "#767676"  # of text and axes: readable on white and on black
COLORS = ("#3987e5", "#d9730d", "#199e70")  # told apart by colour-blind readers, on both too
DPI = 120
_MAX_WRITTEN_CLASSES = 20  # with the numbers in the confusion matrix
_MAX_NAMED_CLASSES = 60


def check_matplotlib() -> None:
    """Refuse a report before anything is computed if Matplotlib is missing.

    Raises:
        MissingDependency: it is not installed, or does not load.
    """
    with explained():
        import matplotlib.figure  # noqa: F401


def curves_figure(curves: Curves) -> Figure:
    """Draw loss, learning rate, and mIoU with accuracy over the iterations."""
    panels: dict[str, tuple[str, ...]] = {
        "loss": ("Train/loss",),
        "learning rate": ("Train/lr",),
        "validation": ("Evaluate/mIoU", "Evaluate/accuracy"),
    }
    figure, axes = figure_of(11, 3, len(panels))
    for panel, (title, tags) in zip(axes, panels.items(), strict=True):
        for tag, color in zip(tags, COLORS, strict=False):
            if points := curves.get(tag):
                steps, values = zip(*points, strict=True)
                marker = "o" if len(points) < 30 else None
                name = tag.partition("/")[2]
                panel.plot(steps, values, color=color, marker=marker, markersize=3, label=name)
        panel.set_title(title, color=INK)
        panel.set_xlabel("iteration")
        if len(tags) > 1 and panel.lines:
            panel.legend(frameon=False, labelcolor=INK)
    return figure


def iou_figure(iou: np.ndarray, intervals: Intervals, classes: Sequence[str]) -> Figure:
    """Draw the IoU of each class with its confidence interval, the best at the top."""
    order = [index for index in np.argsort(iou) if not np.isnan(iou[index])]
    figure, (panel,) = figure_of(7, 1 + 0.2 * max(len(order), 4), 1)
    errors = np.stack([iou - intervals.low, intervals.high - iou])[:, order]
    places = np.arange(len(order))
    panel.barh(places, 100 * iou[order], color=COLORS[0], height=0.7)
    panel.errorbar(
        100 * iou[order], places, xerr=100 * np.maximum(errors, 0), fmt="none", ecolor=INK
    )
    panel.set_yticks(places, [classes[index] for index in order], fontsize=8)
    panel.set_ylim(-0.7, len(order) - 0.3)
    panel.set_xlim(0, 100)
    panel.set_xlabel("IoU in %, with 95 % confidence intervals")
    return figure


def confusion_figure(confusion: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw the confusion matrix: of each row's labelled pixels, the share predicted as a column."""
    share = 100 * confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    num_classes = len(classes)
    side = float(np.clip(1.5 + 0.36 * num_classes, 4, 12))
    figure, (panel,) = figure_of(side + 1, side, 1)
    picture = panel.imshow(share, cmap=_shades(COLORS[0]), vmin=0, vmax=100)
    panel.set_xlabel("predicted")
    panel.set_ylabel("labelled")
    if num_classes <= _MAX_NAMED_CLASSES:
        size = 8 if num_classes <= _MAX_WRITTEN_CLASSES else 5
        panel.set_xticks(range(num_classes), classes, rotation=90, fontsize=size)
        panel.set_yticks(range(num_classes), classes, fontsize=size)
    if num_classes <= _MAX_WRITTEN_CLASSES:
        for (row, column), value in np.ndenumerate(share):
            if value >= 0.5:
                color = "white" if value > 55 else INK
                text = f"{value:.0f}"
                panel.text(column, row, text, ha="center", va="center", color=color, fontsize=7)
    bar = figure.colorbar(picture, ax=panel, fraction=0.04, pad=0.02)
    bar.set_label("% of the labelled pixels", color=INK)
    bar.ax.tick_params(colors=INK)
    bar.outline.set_visible(False)
    return figure


def _shades(color: str) -> Colormap:
    """Return the shades from the page's own background to a color."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("shades", [f"{color}00", color])


def reliability_figure(calibration: Calibration) -> Figure:
    """Draw accuracy against confidence, before and after calibration, and how often each occurs."""
    shown = dict.fromkeys(("none", "one", calibration.best))
    figure, axes = figure_of(4 * len(shown), 4, len(shown))
    edges = np.linspace(0, 1, NUM_BINS + 1)
    for panel, method in zip(axes, shown, strict=True):
        quality = calibration.qualities[method]
        share, accuracy, _ = quality.bins
        width = 1 / NUM_BINS
        panel.bar(
            edges[:-1], np.nan_to_num(accuracy), width, align="edge", color=COLORS[0], alpha=0.85
        )
        panel.bar(edges[:-1], share, width, align="edge", color=COLORS[1], alpha=0.6)
        panel.plot([0, 1], [0, 1], color=INK, linestyle="--", linewidth=1)
        panel.set_title(f"{METHODS[method]}\nECE {100 * quality.ece:.2f} %", color=INK, fontsize=9)
        panel.set_xlabel("confidence")
        panel.set_xlim(0, 1)
        panel.set_ylim(0, 1)
    axes[0].set_ylabel("accuracy (blue), share of pixels (orange)")
    return figure


def risk_figure(calibration: Calibration) -> Figure:
    """Draw the share of wrong pixels among those that are kept, by the share that is kept."""
    figure, (panel,) = figure_of(6, 3.5, 1)
    for method, color in zip(dict.fromkeys(("none", calibration.best)), COLORS, strict=False):
        quality = calibration.qualities[method]
        panel.plot(100 * quality.coverage, 100 * quality.risk, color=color, label=METHODS[method])
    panel.set_xlabel("coverage: % of the pixels kept, the most confident first")
    panel.set_ylabel("risk: % of them wrong")
    panel.set_xlim(0, 100)
    panel.set_ylim(0)
    panel.legend(frameon=False, labelcolor=INK)
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure on white."""
    figure.savefig(path, dpi=DPI, facecolor="white")


def inline_svg(figure: Figure) -> str:
    """Return a figure as an SVG element without background."""
    import matplotlib as mpl

    text = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def figure_of(
    width: float, height: float, num_columns: int, num_rows: int = 1
) -> tuple[Figure, list[Axes]]:
    """Return a figure of a size in inches and its panels, row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes: list[Any] = list(figure.subplots(num_rows, num_columns, squeeze=False).flat)
    for panel in axes:
        panel.tick_params(colors=INK, labelsize=8)
        panel.xaxis.label.set_color(INK)
        panel.yaxis.label.set_color(INK)
        for name, spine in panel.spines.items():
            spine.set_color(INK)
            spine.set_visible(name in ("left", "bottom"))
    return figure, axes
