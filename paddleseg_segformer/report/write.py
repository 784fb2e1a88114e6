"""Writing a report's folder."""

from __future__ import annotations

import dataclasses
import logging
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import paddleseg_segformer
from paddleseg_segformer.config import Config
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.evaluation import Metrics
from paddleseg_segformer.evaluation.error_kinds import KINDS, SIZE_NAMES
from paddleseg_segformer.files import atomic_files, cut_name, make_folder, only_writer
from paddleseg_segformer.inference.overlay import legend, write_image
from paddleseg_segformer.inference.pipeline import Pipeline
from paddleseg_segformer.report import figures as draw
from paddleseg_segformer.report.curves import Curves, read_curves
from paddleseg_segformer.report.findings import Findings, ImageFigures, peak_memory_mib
from paddleseg_segformer.report.page import Shown, page_html
from paddleseg_segformer.report.pictures import image_strip, page_jpeg
from paddleseg_segformer.report.tables import plain, write_csv, write_json

if TYPE_CHECKING:
    from paddle import nn

    from paddleseg_segformer.data.datasets import SegmentationDataset
    from paddleseg_segformer.inference.preprocess import Preprocess
    from paddleseg_segformer.inference.settings import InferenceSettings

logger = logging.getLogger(__name__)

PAGE = "report.html"
RISKS = (0.01, 0.02, 0.05, 0.1)  # of what an "unknown" class by threshold leaves


@dataclass(frozen=True)
class Report:
    """What a report holds.

    Args:
        folder: Where its files are.
        metrics: As `evaluate` gives them.
        figures: All its figures as plain data; `report.json` holds the same.
        temperatures: Of the calibration: test_config.temperatures of `calibrated.yml`; none where
            confidence is best as it is.
    """

    folder: Path
    metrics: Metrics
    figures: dict[str, Any]
    temperatures: tuple[float, ...]

    @property
    def page(self) -> Path:
        """Return the path of the page."""
        return self.folder / PAGE


@dataclass(frozen=True)
class Subject:
    """What a report is on.

    Args:
        model_path: Of the weights.
        config: Of the model and its data.
        network: With those weights, in evaluation mode.
        dataset: That it was evaluated on.
        preprocess: Of the images.
        settings: As evaluated: windows, scales, flips.
        device: As Paddle names it.
        run_dir: What `train` wrote, for its curves; None for a model without a run.
        title: Of the page; by default the names of the model and of the data set.
    """

    model_path: Path
    config: Config
    network: nn.Layer
    dataset: SegmentationDataset
    preprocess: Preprocess
    settings: InferenceSettings
    device: str
    run_dir: Path | None = None
    title: str = ""


def write_report(
    run_dir: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    model_path: str | os.PathLike[str] | None = None,
    opts: Sequence[str] = (),
    num_workers: int = 2,
    num_shown: int = 8,
    title: str = "",
) -> Report:
    """Evaluate a training run's model on its `val_dataset` and write the report.

    The folder gets `report.html` (the page), `report.json`, `results.csv`, `images.csv`,
    `confusion.csv`, `confusion.png`, `iou.png`, `curves.csv`, `curves.png`, `calibration.csv`,
    `reliability.png`, `risk_coverage.png`, `worst/`, `best/`, and `calibrated.yml`, the model's
    config with the temperatures that `export --config` takes over. Other files in it stay.

    Args:
        run_dir: What `train` wrote.
        out: Folder of the report; by default `run_dir`/report.
        model_path: Weights; by default the run's best model, else its newest checkpoint.
        opts: Overrides of the config, such as "val_dataset.dataset_root=DIR".
        num_workers: Threads that read images ahead.
        num_shown: Images shown of the worst, and of the best.
        title: Of the page; by default the names of the model and of the data set.

    Raises:
        UserError: no run, no model or no `val_dataset`; or as of `evaluate`.
        MissingDependency: Matplotlib is not installed.
    """
    run_dir = Path(run_dir)
    found = Path(model_path) if model_path else _model_of(run_dir)
    draw.check_matplotlib()

    import paddle

    from paddleseg_segformer.config.building import build_evaluation
    from paddleseg_segformer.cpu import prepare_cpu
    from paddleseg_segformer.evaluation import evaluate
    from paddleseg_segformer.inference.memory_plan import plan_memory
    from paddleseg_segformer.inference.preprocess import Preprocess
    from paddleseg_segformer.model_folder import config_of
    from paddleseg_segformer.weights import load_weights

    config = config_of(found, opts)
    prepare_cpu()
    dataset, model = build_evaluation(config)
    load_weights(model, found)
    model.eval()
    subject = Subject(
        found,
        config,
        model,
        dataset,
        Preprocess.from_config(config),
        config.test_config.inference_settings(),
        paddle.get_device(),
        run_dir,
        title,
    )
    findings = Findings(len(dataset), dataset.num_classes, dataset.ignore_index)
    metrics = evaluate(
        model,
        dataset,
        subject.preprocess,
        subject.settings,
        absent_class=config.test_config.absent_class,
        num_workers=num_workers,
        memory=plan_memory(model, None, dataset.img_channels),
        watch=findings,
    )
    return write_findings(subject, metrics, findings, out or run_dir / "report", num_shown)


def write_findings(
    subject: Subject,
    metrics: Metrics,
    findings: Findings,
    out: str | os.PathLike[str],
    num_shown: int = 8,
) -> Report:
    """Write the report of an evaluation that `findings` watched; see `write_report`."""
    out = Path(out)
    curves = read_curves(subject.run_dir) if subject.run_dir else {}
    calibration = findings.calibration
    temperatures = calibration.temperatures[calibration.best] if calibration else ()
    settings = subject.settings.replace({"temperatures": temperatures})
    pipeline = Pipeline(subject.network, subject.preprocess, settings)
    ranking = findings.ranking
    num_shown = min(num_shown, (len(ranking) + 1) // 2)
    content = _figures(subject, metrics, findings)
    drawn = {"iou": draw.iou_figure(metrics.iou, findings.intervals, metrics.classes)}
    drawn["confusion"] = draw.confusion_figure(metrics.confusion, metrics.classes)
    if curves:
        drawn["curves"] = draw.curves_figure(curves)
    if calibration:
        drawn["reliability"] = draw.reliability_figure(calibration)
        drawn["risk_coverage"] = draw.risk_figure(calibration)
    test_config = dataclasses.replace(
        subject.config.test_config, temperatures=list(temperatures) or None
    )
    calibrated = dataclasses.replace(subject.config, test_config=test_config)
    with atomic_files(out) as folder:
        shown = {
            name: _write_pictures(make_folder(folder / name), images, subject.dataset, pipeline)
            for name, images in (
                ("worst", ranking[:num_shown]),
                ("best", ranking[: -num_shown - 1 : -1]),
            )
        }
        for name, figure in drawn.items():
            draw.save_png(figure, folder / f"{name}.png")
        _write_tables(folder, metrics, findings, curves)
        write_json(folder, "report", content)
        (folder / "calibrated.yml").write_text(calibrated.to_yaml(), encoding="utf-8")
        page = page_html(
            content, {name: draw.inline_svg(item) for name, item in drawn.items()}, shown
        )
        (folder / PAGE).write_text(page, encoding="utf-8")
    logger.info("report: %s", out / PAGE)
    if subject.run_dir:
        _link_from_visualdl(subject.run_dir, out / PAGE)
    return Report(out, metrics, content, temperatures)


def _model_of(run_dir: Path) -> Path:
    """Return the run's best model, else its newest checkpoint."""
    from paddleseg_segformer.training.checkpoints import BEST, checkpoints

    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: no such folder. Name the --save_dir of a training run.")
    best = run_dir / BEST
    if best.is_dir():
        return best
    if found := checkpoints(run_dir):
        return found[-1]
    raise UserError(
        f"{run_dir}: found neither {BEST} nor a checkpoint iter_N. Name the --save_dir of a "
        "training run; for weights of another kind: val --report."
    )


def _link_from_visualdl(run_dir: Path, page: Path) -> None:
    """Add the page's address to a run's VisualDL record, if it has one, and once."""
    from paddleseg_segformer.training.writers import VisualDLWriter

    record, address = run_dir / VisualDLWriter.FILE, page.absolute().as_uri()
    if not record.is_file() or not find_spec("visualdl"):
        return
    if address.encode() in record.read_bytes():
        return
    try:
        with only_writer(run_dir):
            writer = VisualDLWriter(run_dir)
            writer.text("report", f"report of the best model: {address}")
            writer.close()
    except UserError:  # the run goes on, and its record is its own
        logger.info("%s: a run writes into it, so its record got no link to the report", run_dir)


def _write_pictures(
    folder: Path, images: Sequence[ImageFigures], dataset: SegmentationDataset, pipeline: Pipeline
) -> list[Shown]:
    """Write a strip of each image and the legend; return what the page shows."""
    shown = []
    for number, image in enumerate(images, 1):
        sample = dataset.read(image.index)
        assert sample.label is not None  # it was evaluated
        logits = pipeline(sample.image)
        label_set = dataset.label_set
        maps = sample.label, logits.labels(), logits.confidence()
        strip = image_strip(sample.image, *maps, label_set)
        name = f"{number:02d}_{cut_name(Path(image.path).stem)}.jpg"
        write_image(folder / name, strip)
        shown.append(Shown(image, f"{folder.name}/{name}", page_jpeg(strip)))
    write_image(folder / "legend.png", legend(dataset.label_set))
    return shown


def _figures(subject: Subject, metrics: Metrics, findings: Findings) -> dict[str, Any]:
    """Return all figures as plain data for JSON; NaN becomes None."""
    from paddleseg_segformer.analysis.complexity import count_parameters
    from paddleseg_segformer.training.sample_record import fingerprint

    intervals, section = findings.intervals, subject.config.val_dataset or {}
    per_class = {
        name: {
            **figures,
            "iou_low": intervals.low[index],
            "iou_high": intervals.high[index],
            "boundary_iou": findings.boundary_iou[index],
            "boundary_f": findings.boundary_f[index],
            "color": list(subject.dataset.label_set.palette[index]),
        }
        for index, (name, figures) in enumerate(metrics.to_dict()["classes"].items())
    }
    content = metrics.to_dict() | {
        "title": subject.title,
        "mIoU_interval": intervals.miou,
        "boundary_IoU": _mean(findings.boundary_iou),
        "boundary_F": _mean(findings.boundary_f),
        "classes": per_class,
        "confusions": _confusions(metrics),
        "error_kinds": dict(zip(KINDS, findings.error_kinds.tolist(), strict=True)),
        "objects": {
            size: dict(zip(("labelled", "found", "pixels", "right_pixels"), column, strict=True))
            for size, column in zip(SIZE_NAMES, findings.objects.T.tolist(), strict=True)
        },
        "calibration": _calibration(findings),
        "images": [dataclasses.asdict(image) for image in findings.images],
        "speed": {
            "median_ms_per_image": 1000 * findings.median_seconds,
            "peak_memory_mib": peak_memory_mib(),
            "parameters": count_parameters(subject.network),
            "device": subject.device,
        },
        "model": {
            "model_path": str(subject.model_path),
            "type": type(subject.network).__name__,
            "inference": subject.settings.describe(),
            "config": subject.config.to_yaml(),
        },
        "data": {
            "type": section.get("type"),
            "mode": section.get("mode"),
            "samples": fingerprint(subject.dataset.samples),
        },
        "environment": {
            "date": time.strftime("%Y-%m-%d %H:%M"),
            "paddleseg_segformer": paddleseg_segformer.__version__,
            **_versions(),
            "python": platform.python_version(),
            "system": platform.platform(),
            "processor": f"{_processor()}, {os.cpu_count()} cores",
        },
    }
    whole: dict[str, Any] = plain(content)
    return whole


def _confusions(metrics: Metrics, count: int = 10) -> list[dict[str, Any]]:
    """Return the pairs of classes that most wrong pixels are of."""
    wrong = metrics.confusion - np.diag(metrics.intersection)
    order = np.argsort(wrong, axis=None)[::-1][:count]
    return [
        {
            "labelled": metrics.classes[row],
            "predicted": metrics.classes[column],
            "share_of_errors": wrong[row, column] / wrong.sum(),
            "share_of_class": wrong[row, column] / metrics.labelled[row],
        }
        for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True)
        if wrong[row, column]
    ]


def _calibration(findings: Findings) -> dict[str, Any] | None:
    calibration = findings.calibration
    if calibration is None:
        return None
    best = calibration.qualities[calibration.best]
    kept = {str(risk): best.kept(risk) for risk in RISKS}
    return {
        "methods": {name: item.to_dict() for name, item in calibration.qualities.items()},
        "best": calibration.best,
        "temperatures": calibration.temperatures,
        "num_pixels": calibration.num_pixels,
        "num_images": calibration.num_images,
        "unknown_below": {
            risk: dict(zip(("threshold", "coverage", "risk"), item, strict=True)) if item else None
            for risk, item in kept.items()
        },
    }


def _write_tables(folder: Path, metrics: Metrics, findings: Findings, curves: Curves) -> None:
    """Write the CSV files."""
    write = partial(write_csv, folder)
    intervals = findings.intervals
    columns = {
        "iou": metrics.iou,
        "iou_low": intervals.low,
        "iou_high": intervals.high,
        "f1": metrics.f1,
        "precision": metrics.precision,
        "recall": metrics.recall,
        "boundary_iou": findings.boundary_iou,
        "boundary_f": findings.boundary_f,
        "labelled_px": metrics.labelled,
    }
    write("results", ["class", *columns], zip(metrics.classes, *columns.values(), strict=True))
    header = ["image", "height", "width", "mIoU", "accuracy", "confidence", "seconds", *KINDS]
    rows = (
        [i.path, *i.size_hw, i.miou, i.accuracy, i.confidence, i.seconds, *i.error_kinds]
        for i in findings.images
    )
    write("images", header, rows)
    named = ([name, *row] for name, row in zip(metrics.classes, metrics.confusion, strict=True))
    write("confusion", ["labelled \\ predicted", *metrics.classes], named)
    if curves:
        points = ([tag, *point] for tag, curve in curves.items() for point in curve)
        write("curves", ["tag", "iteration", "value"], points)
    if findings.calibration:
        risks = (
            [method, *point]
            for method, item in findings.calibration.qualities.items()
            for point in zip(item.coverage, item.risk, item.threshold, strict=True)
        )
        write("calibration", ["method", "coverage", "risk", "threshold"], risks)


def _mean(values: np.ndarray) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")


def _versions() -> dict[str, str]:
    from importlib import metadata

    import paddle

    return {
        "paddlepaddle": paddle.__version__,
        **{name: metadata.version(name) for name in ("numpy", "matplotlib")},
    }


def _processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
