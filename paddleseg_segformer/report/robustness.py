"""Robustness: a model on corrupted images, beside the paper's figures.

A cell is one corruption at one severity over the whole data set. Each is a file that is written
when it is finished, so that a run that was killed goes on where it was.

Source: Xie et al., "SegFormer", 2021, table 5, figure 7.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paddleseg_segformer.data.cache import worker_context
from paddleseg_segformer.data.loader import prepare_worker
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.evaluation import Metrics, evaluate
from paddleseg_segformer.evaluation.corruptions import (
    CORRUPTIONS,
    DISTRIBUTION,
    MAX_SEVERITY,
    NOISE_SEVERITIES,
    CorruptedImages,
)
from paddleseg_segformer.files import atomic_files, make_folder, only_writer, sha256, write_text
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.report.figures import COLORS, INK, save_png
from paddleseg_segformer.report.tables import write_csv, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from paddleseg_segformer.data.datasets import SegmentationDataset

logger = logging.getLogger(__name__)

CLEAN = "clean"
# mIoU in % on Cityscapes: clean, then in the order of `CORRUPTIONS`
PAPER = {
    "SegFormer-B5": (
        *(82.4, 69.1, 68.6, 64.1, 69.8, 57.8, 63.4, 52.3, 72.8),
        *(81.0, 77.7, 80.1, 58.8, 40.7, 68.4, 78.5, 49.9),
    ),
    "DeepLabv3+ ResNet-101": (
        *(77.1, 59.1, 56.3, 47.7, 57.3, 13.2, 13.9, 16.3, 36.9),
        *(59.2, 54.5, 41.5, 37.4, 11.9, 47.8, 55.1, 22.7),
    ),
    "DeepLabv3+ MobileNetV2": (
        *(72.0, 53.5, 49.0, 45.3, 49.1, 6.4, 7.0, 6.6, 16.6),
        *(51.7, 46.7, 32.4, 27.2, 13.7, 38.9, 47.4, 17.3),
    ),
    "PSPNet": (
        *(78.8, 59.8, 53.2, 44.4, 53.9, 11.0, 15.4, 15.4, 34.2),
        *(60.4, 51.8, 30.6, 21.4, 8.4, 42.7, 34.4, 16.2),
    ),
}


@dataclass(frozen=True)
class Robustness:
    """mIoU of a model on corrupted images.

    Args:
        clean: On the images as they are, 0..1.
        severities: mIoU by corruption, of severity 1 and up.
    """

    clean: float
    severities: Mapping[str, Sequence[float]]

    def mean(self, corruption: str) -> float:
        """Return the mIoU over the severities of a corruption."""
        return float(np.mean(self.severities[corruption]))

    def degradation(self, corruption: str) -> float:
        """Return the share of the clean mIoU that a corruption costs."""
        return 1 - self.mean(corruption) / self.clean if self.clean else float("nan")


def measure(
    model: str | os.PathLike[str],
    predictor: Predictor,
    dataset: SegmentationDataset,
    out: str | os.PathLike[str],
    *,
    corruptions: Sequence[str] = tuple(CORRUPTIONS),
    noise_severities: int = NOISE_SEVERITIES,
    absent_class: str | int = "nan",
    num_workers: int = 2,
    batch_size: int = 1,
) -> Robustness:
    """Evaluate a model on corrupted images; cells that a run before this one finished are kept.

    Args:
        model: Its path, which tells it from other models.
        predictor: The model, with its preprocessing and windows.
        dataset: Labelled images, 8-bit RGB.
        out: Folder of the cells.
        corruptions: Names.
        noise_severities: Severities of noise; the others have five.
        absent_class: See `Metrics`.
        num_workers: Processes that corrupt images.
        batch_size: Images whose windows go through the network together.

    Raises:
        UserError: the folder holds cells of another model, of other data or settings, or another
            run writes into it; or as of `evaluate`.
    """
    cells = [(CLEAN, 0)]
    for name in corruptions:
        is_noise = CORRUPTIONS[name] == "noise"
        most = noise_severities if is_noise else MAX_SEVERITY
        cells += [(name, severity) for severity in range(1, most + 1)]
    folder = make_folder(Path(out) / "cells")
    key = _key(Path(model), predictor, dataset)
    found: dict[str, list[float]] = {}
    pool = ProcessPoolExecutor(num_workers, mp_context=worker_context(), initializer=prepare_worker)
    with only_writer(folder), pool:
        for number, (name, severity) in enumerate(cells, 1):
            path = folder / f"{name}_{severity}.json"
            confusion = _read_cell(path, key)
            if confusion is None:
                logger.info("%s, severity %d: %d of %d", name, severity, number, len(cells))
                is_clean = name == CLEAN
                metrics = evaluate(
                    predictor.pipeline.network,
                    dataset if is_clean else CorruptedImages(dataset, name, severity, pool),
                    predictor.pipeline.preprocess,
                    predictor.settings,
                    num_workers=num_workers,
                    batch_size=batch_size,
                )
                confusion = metrics.confusion
                write_text(path, json.dumps({"key": key, "confusion": confusion.tolist()}))
            classes = tuple(dataset.label_set.classes)
            metrics = Metrics(confusion, classes, len(dataset), absent_class)
            found.setdefault(name, []).append(metrics.miou)
    (clean,) = found.pop(CLEAN)
    return Robustness(clean, found)


def _key(model: Path, predictor: Predictor, dataset: SegmentationDataset) -> dict[str, Any]:
    """Return what a cell depends on beside its corruption."""
    files = (
        sorted(path for path in model.iterdir() if path.is_file()) if model.is_dir() else [model]
    )
    digest = hashlib.sha256("".join(f"{path.name} {sha256(path)}\n" for path in files).encode())
    pairs = (dataset.samples[index] for index in range(len(dataset)))
    listed = "".join(
        f"{Path(path).name} {os.path.getsize(path)}\n" for pair in pairs for path in pair if path
    )
    return {
        "model": digest.hexdigest(),
        "data": hashlib.sha256(listed.encode("utf-8", "replace")).hexdigest(),
        "preprocess": predictor.pipeline.preprocess.to_dict(),
        "inference": predictor.settings.to_dict(),
        "library": version(DISTRIBUTION),
    }


def _read_cell(path: Path, key: dict[str, Any]) -> np.ndarray | None:
    """Return the confusion matrix of a finished cell; None where there is none."""
    if not path.is_file():
        return None
    try:
        cell = json.loads(path.read_text(encoding="utf-8"))
        confusion, of_run = np.array(cell["confusion"], np.int64), cell["key"]
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{path}: is no finished cell. Remove it, or take another folder."
        ) from None
    if of_run != json.loads(json.dumps(key)):
        differing = [name for name in key if of_run.get(name) != key[name]]
        raise UserError(
            f"{path}: was made with another {', '.join(differing) or 'setting'}. Choose another "
            "--save_dir, or remove this one."
        )
    return confusion


def read_robustness(folder: str | os.PathLike[str]) -> tuple[str, Robustness]:
    """Return a model's name and figures, as `write_robustness` left them in a folder.

    Raises:
        UserError: there are none.
    """
    path = Path(folder) / "robustness.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        severities = {
            str(name): [float(value) for value in values]
            for name, values in content["severities"].items()
        }
        return str(content["model"]), Robustness(float(content["clean"]), severities)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{path}: expected the figures of a finished run. Name the --save_dir of one."
        ) from None


def write_robustness(
    name: str,
    result: Robustness,
    out: str | os.PathLike[str],
    beside: Mapping[str, Robustness] | None = None,
) -> str:
    """Write `robustness.csv`, `robustness.json` and `robustness.png`.

    Args:
        name: Of the model.
        result: Its figures.
        out: Folder of the files.
        beside: Other models' figures, drawn in the same picture.

    Returns:
        The table for the terminal.
    """
    out = Path(out)
    paper = {
        model: dict(zip((CLEAN, *CORRUPTIONS), values, strict=True))
        for model, values in PAPER.items()
    }
    numbers = range(1, MAX_SEVERITY + 1)
    header = ["group", "corruption", *(f"severity_{number}" for number in numbers)]
    header += ["mean", "degradation", *(f"paper: {model}" for model in paper)]
    rows: list[list[Any]] = [["", CLEAN, *[None] * MAX_SEVERITY, 100 * result.clean, None]]
    for corruption, values in result.severities.items():
        missing = [None] * (MAX_SEVERITY - len(values))
        means = 100 * result.mean(corruption), 100 * result.degradation(corruption)
        percents = [100 * value for value in values]
        rows.append([CORRUPTIONS[corruption], corruption, *percents, *missing, *means])
    for row in rows:
        row += [values[row[1]] for values in paper.values()]
    over_all = np.array([row[MAX_SEVERITY + 2 :] for row in rows[1:]], float).mean(axis=0)
    rows.append(["", "mean", *[None] * MAX_SEVERITY, *over_all.tolist()])
    with atomic_files(out) as folder:
        save_png(severity_figure({name: result, **(beside or {})}), folder / "robustness.png")
        write_csv(folder, "robustness", header, rows)
        plain = {name: list(values) for name, values in result.severities.items()}
        write_json(
            folder, "robustness", {"model": name, "clean": result.clean, "severities": plain}
        )
    titles = [*map(str, numbers), "mean", "lost %"]
    head = "".join(f"{title:>7}" for title in titles)
    lines = [f"{'mIoU in %':<17}{head}{'SegFormer-B5*':>15}"]
    for _, corruption, *figures in rows:
        shown = ["-" if figure is None else f"{figure:.1f}" for figure in figures]
        texts = "".join(f"{text:>7}" for text in shown[: len(titles)])
        lines.append(f"{corruption:<17}{texts}{shown[len(titles)]:>15}")
    lines.append("* of the paper, on Cityscapes; noise of 3 severities")
    return "\n".join([*lines, f"picture: {out / 'robustness.png'}"])


def severity_figure(results: Mapping[str, Robustness]) -> Figure:
    """Draw mIoU against severity, a panel for each corruption, a line for each model."""
    from matplotlib.figure import Figure

    shown = list(next(iter(results.values())).severities)
    num_rows = -(-len(shown) // 4)
    figure = Figure(figsize=(11, 2.4 * num_rows + 0.5), layout="constrained")
    panels = figure.subplots(num_rows, 4, sharex=True, sharey=True, squeeze=False).ravel()
    for panel, corruption in zip(panels, shown, strict=False):
        for index, (name, result) in enumerate(results.items()):
            values = [result.clean, *result.severities.get(corruption, ())]
            panel.plot(
                range(len(values)),
                [100 * value for value in values],
                color=COLORS[index % len(COLORS)],
                linestyle=("-", "--", ":")[index // len(COLORS) % 3],
                marker="o",
                markersize=3,
                label=name[-40:],
            )
        panel.set_title(corruption.replace("_", " "), color=INK, fontsize=9)
        panel.tick_params(colors=INK, labelsize=8)
        panel.grid(alpha=0.3)
    for panel in panels[len(shown) :]:
        panel.set_visible(False)
    panels[0].set_ylim(0, 100)
    panels[0].set_xticks(range(MAX_SEVERITY + 1))
    figure.supxlabel("severity, 0: clean", color=INK, fontsize=9)
    figure.supylabel("mIoU in %", color=INK, fontsize=9)
    if len(results) > 1:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure
