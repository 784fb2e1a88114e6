"""mIoU against the size of the test images, whole and by windows.

A positional encoding that is tied to the training size loses where whole images are larger; windows
of the training size hide it.

Source: Xie et al., "SegFormer", 2021, table 1c.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from paddleseg_segformer.evaluation import evaluate
from paddleseg_segformer.files import atomic_files
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.report.figures import COLORS, INK, save_png
from paddleseg_segformer.report.tables import write_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from paddleseg_segformer.data.datasets import SegmentationDataset


class SweepPoint(NamedTuple):
    """One model at one size."""

    model: str
    short_side: int  # of the images, in px
    window: int | None  # side of the windows in px, or None for whole images
    miou: float  # 0..1


def sweep(
    name: str,
    predictor: Predictor,
    dataset: SegmentationDataset,
    short_sides: Sequence[int],
    window: int,
    *,
    absent_class: str | int = "nan",
    num_workers: int = 2,
) -> Iterator[SweepPoint]:
    """Yield the mIoU of a model on images resized to each size, whole and by windows.

    Labels keep their size; so do predictions, which are resized back. Windows overlap by a quarter
    of their side, as in the paper's tests on Cityscapes. Where the image is no larger than a
    window, both are the same, and only the whole image is evaluated.

    Args:
        name: Of the model.
        predictor: Its size rules are replaced by the sweep's.
        dataset: Labelled images.
        short_sides: Of the images in px; their ratio is kept.
        window: Side of the windows in px: the training crop's.
        absent_class: See `Metrics`.
        num_workers: Threads that read images ahead.
    """
    pipeline = predictor.pipeline
    normalize = [x for x in pipeline.preprocess.sections if x["type"] == "Normalize"]
    stride = window - window // 4
    whole = dataclasses.replace(predictor.settings, is_slide=False)
    windows = InferenceSettings(
        is_slide=True,
        crop_size_hw=(window, window),
        stride_hw=(stride, stride),
        align_corners=whole.align_corners,
    )
    for side in short_sides:
        preprocess = dataclasses.replace(
            Preprocess.from_transforms([{"type": "ResizeByShort", "short_size": side}, *normalize]),
            value_range=pipeline.preprocess.value_range,
        )
        for settings in (whole, windows) if side > window else (whole,):
            metrics = evaluate(
                pipeline.network,
                dataset,
                preprocess,
                settings,
                absent_class=absent_class,
                num_workers=num_workers,
            )
            yield SweepPoint(name, side, window if settings.is_slide else None, metrics.miou)


def write_sweep(points: Sequence[SweepPoint], out: str | os.PathLike[str]) -> str:
    """Write `resolution_sweep.csv` and `resolution_sweep.png`.

    Returns:
        The table for the terminal.
    """
    out = Path(out)
    with atomic_files(out) as folder:
        save_png(sweep_figure(points), folder / "resolution_sweep.png")
        header = ["model", "short_side_px", "window_px", "miou"]
        write_csv(folder, "resolution_sweep", header, points)
    lines = [f"{'mIoU in %':<32}" + "".join(f"{side:>8}" for side in _sides(points)) + "  px"]
    for (model, window), miou in _series(points).items():
        kind = f"windows of {window}" if window else "whole"
        cells = "".join(
            f"{100 * miou[side]:8.1f}" if side in miou else f"{'-':>8}" for side in _sides(points)
        )
        lines.append(f"{model[-16:]:<17}{kind:<15}{cells}")
    return "\n".join([*lines, f"picture: {out / 'resolution_sweep.png'}"])


def sweep_figure(points: Sequence[SweepPoint]) -> Figure:
    """Draw mIoU against the short side: a colour for each model, windows dashed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), layout="constrained")
    panel = figure.subplots()
    models = list(dict.fromkeys(point.model for point in points))
    for (model, window), miou in _series(points).items():
        panel.plot(
            list(miou),
            [100 * value for value in miou.values()],
            color=COLORS[models.index(model) % len(COLORS)],
            linestyle="--" if window else "-",
            marker="o",
            markersize=4,
            label=f"{model[-40:]}, " + (f"windows of {window} px" if window else "whole"),
        )
    panel.set_xlabel("short side of the test images in px", color=INK)
    panel.set_ylabel("mIoU in %", color=INK)
    panel.set_xticks(_sides(points))
    panel.tick_params(colors=INK, labelsize=8)
    panel.grid(alpha=0.3)
    panel.legend(frameon=False, fontsize=8)
    return figure


def _sides(points: Sequence[SweepPoint]) -> list[int]:
    return sorted({point.short_side for point in points})


def _series(points: Sequence[SweepPoint]) -> Mapping[tuple[str, int | None], dict[int, float]]:
    """Return mIoU by short side, ascending, of each model whole and by windows."""
    series: dict[tuple[str, int | None], dict[int, float]] = {}
    for point in sorted(points, key=lambda point: point.short_side):
        series.setdefault((point.model, point.window), {})[point.short_side] = point.miou
    return series
