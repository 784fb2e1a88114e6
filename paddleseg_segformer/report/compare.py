"""Two models on the same images: where they agree, what each does better, and whether by chance."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from paddleseg_segformer.data.labels import generic_label_set
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.evaluation import ConfusionMatrix, Metrics, evaluate
from paddleseg_segformer.evaluation.bootstrap import Difference, image_areas, paired_difference
from paddleseg_segformer.evaluation.evaluate import EvaluatedImage
from paddleseg_segformer.files import atomic_files, cut_name, make_folder
from paddleseg_segformer.inference.overlay import legend, write_image
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.report.page import Number, Strip, cell, percent, shell, strips_html, table
from paddleseg_segformer.report.pictures import COMPARED, comparison_strip, page_jpeg
from paddleseg_segformer.report.tables import plain, write_csv, write_json
from paddleseg_segformer.runtimes.deploy_config import FILE_NAME

if TYPE_CHECKING:
    from paddleseg_segformer.data.datasets import SegmentationDataset
    from paddleseg_segformer.data.labels import LabelSet

logger = logging.getLogger(__name__)

PAGE = "compare.html"


class ImagePair(NamedTuple):
    """Both models on one image; shares are of its labelled pixels."""

    path: str
    differing: float  # predicted differently
    only_first: float  # right in A alone
    only_second: float
    accuracy: tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """Two models on a data set.

    Args:
        names: Paths of A and B.
        metrics: Of A and B.
        agreement: Share of the labelled pixels that both predict alike.
        difference: IoU of B less that of A, by class and in the mean, with a paired test.
        images: In the order of the data set.
    """

    names: tuple[str, str]
    metrics: tuple[Metrics, Metrics]
    agreement: float
    difference: Difference
    images: list[ImagePair]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain data for JSON; NaN becomes None."""
        classes = (*self.metrics[0].classes, "mean")
        ious = [[*of_model.iou, of_model.miou] for of_model in self.metrics]
        corrected = [*holm(self.difference.p[:-1]), self.difference.p[-1]]
        columns = (*ious, *self.difference, corrected)
        keys = ("iou_a", "iou_b", "difference", "low", "high", "p", "p_holm")
        return {
            "a": self.names[0],
            "b": self.names[1],
            "num_images": len(self.images),
            "agreement": self.agreement,
            "accuracy": [of_model.accuracy for of_model in self.metrics],
            "classes": {
                name: dict(zip(keys, plain(row), strict=True))
                for name, row in zip(classes, zip(*columns, strict=True), strict=True)
            },
        }

    def table(self) -> str:
        """Return a table for the terminal: a line per class, then the mean; in %."""
        classes = self.to_dict()["classes"]
        width = max(map(len, classes))
        lines = [f"{'class':<{width}}       A       B   B - A     p"]
        for name, row in classes.items():
            shares = [row[key] for key in ("iou_a", "iou_b", "difference")]
            cells = ["-" if share is None else f"{100 * share:.2f}" for share in shares]
            p = "-" if row["p"] is None else f"{row['p']:.3f}"
            lines.append(f"{name:<{width}} " + " ".join(f"{cell:>7}" for cell in (*cells, p)))
        agreement = f"{100 * self.agreement:.2f} % of the labelled pixels predicted alike"
        return "\n".join([*lines, f"{len(self.images)} images, {agreement}"])


def load_predictor(
    path: str | os.PathLike[str], device: str | None = None, backend: str = "auto"
) -> Predictor:
    """Return the predictor of an export's folder, a model folder or a weight file.

    Raises:
        UserError: it is none.
    """
    path = Path(path)
    if path.name == FILE_NAME or (path / FILE_NAME).is_file():
        return Predictor.from_export(path, device, os.cpu_count() or 1, backend=backend)
    return Predictor.from_pretrained(path, device=device)


def compare(
    first: Predictor,
    second: Predictor,
    dataset: SegmentationDataset,
    names: tuple[str, str] = ("A", "B"),
    *,
    num_workers: int = 2,
) -> Comparison:
    """Evaluate two models on the same images, each with its own preprocessing and windows.

    Args:
        first: A.
        second: B.
        dataset: Labelled images.
        names: Of A and B.
        num_workers: Threads that read images ahead.

    Raises:
        UserError: classes or values of the images differ between the models and the data set.
    """
    label_set = dataset.label_set
    for name, predictor in zip(names, (first, second), strict=True):
        check_fit(name, predictor, dataset)
    matrix = ConfusionMatrix(dataset.num_classes, dataset.ignore_index)
    areas: list[tuple[np.ndarray, np.ndarray]] = []
    images: list[ImagePair] = []
    num_equal = 0

    def watch(image: EvaluatedImage) -> None:
        nonlocal num_equal
        sample, label = image.sample, image.sample.label
        assert label is not None  # or `evaluate` refuses the image
        other = second.pipeline(sample.image).labels()
        counts = matrix.add(label, other, sample.label_path or sample.image_path)
        areas.append((image_areas(image.counts), image_areas(counts)))
        is_counted = label != dataset.ignore_index
        is_right = [(ids == label)[is_counted] for ids in (image.prediction, other)]
        is_equal = (image.prediction == other)[is_counted]
        num_equal += int(is_equal.sum())
        images.append(
            ImagePair(
                sample.image_path,
                _share(~is_equal),
                _share(is_right[0] & ~is_right[1]),
                _share(is_right[1] & ~is_right[0]),
                (_share(is_right[0]), _share(is_right[1])),
            )
        )

    pipeline = first.pipeline
    metrics = evaluate(
        pipeline.network,
        dataset,
        pipeline.preprocess,
        pipeline.settings,
        num_workers=num_workers,
        watch=watch,
    )
    others = Metrics(matrix.counts, tuple(label_set.classes), len(images))
    one, two = (np.stack([pair[index] for pair in areas]) for index in (0, 1))
    return Comparison(
        names,
        (metrics, others),
        num_equal / max(int(matrix.counts.sum()), 1),
        paired_difference(one, two),
        images,
    )


def holm(p: np.ndarray) -> np.ndarray:
    """Return p values corrected for their number, (K,); NaN stays.

    Source: Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979.
    """
    corrected = np.full(len(p), np.nan)
    order = [index for index in np.argsort(p) if not np.isnan(p[index])]
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p[index]))
        corrected[index] = largest
    return corrected


def write_comparison(
    comparison: Comparison,
    predictors: tuple[Predictor, Predictor],
    dataset: SegmentationDataset,
    out: str | os.PathLike[str],
    num_shown: int = 8,
) -> Path:
    """Write the page `compare.html`, `compare.json`, `classes.csv`, `images.csv` and pictures.

    Returns:
        The path of the page.
    """
    out = Path(out)
    content = comparison.to_dict()
    order = sorted(range(len(comparison.images)), key=lambda i: -comparison.images[i].differing)
    strips = []
    with atomic_files(out) as folder:
        pictures = make_folder(folder / "most_different")
        for number, index in enumerate(order[:num_shown], 1):
            sample, image = dataset.read(index), comparison.images[index]
            assert sample.label is not None  # it was evaluated
            one, two = (predictor.pipeline(sample.image).labels() for predictor in predictors)
            strip = comparison_strip(sample.image, sample.label, (one, two), dataset.label_set)
            name = f"{number:02d}_{cut_name(Path(image.path).stem)}.jpg"
            write_image(pictures / name, strip)
            caption = (
                f"{image.path} · {percent(image.differing)} differ · accuracy "
                f"{percent(image.accuracy[0])} and {percent(image.accuracy[1])}"
            )
            strips.append(Strip(caption, f"{pictures.name}/{name}", page_jpeg(strip)))
        write_image(pictures / "legend.png", legend(dataset.label_set))
        page = _page(comparison, content, dataset.label_set, strips)
        (folder / PAGE).write_text(page, encoding="utf-8")
        write_json(folder, "compare", content)
        keys = content["classes"]["mean"]
        rows = ([name, *row.values()] for name, row in content["classes"].items())
        write_csv(folder, "classes", ["class", *keys], rows)
        header = ["image", "differing", "only_a_right", "only_b_right", "accuracy_a", "accuracy_b"]
        write_csv(folder, "images", header, ([*i[:4], *i.accuracy] for i in comparison.images))
    logger.info("comparison: %s", out / PAGE)
    return out / PAGE


def check_fit(name: str, predictor: Predictor, dataset: SegmentationDataset) -> None:
    """Refuse a model of other classes or values than the data set's."""
    label_set, of_data = predictor.label_set, dataset.label_set
    if label_set and label_set.num_classes != of_data.num_classes:
        raise UserError(
            f"{name}: has {label_set.num_classes} classes, the data set {of_data.num_classes}. "
            "Compare models of the same classes."
        )
    numbered = generic_label_set(of_data.num_classes).classes
    if label_set and numbered not in (label_set.classes, of_data.classes):
        for index, (one, two) in enumerate(zip(label_set.classes, of_data.classes, strict=True)):
            if one.lower() != two.lower():
                raise UserError(
                    f"{name}: class {index} is {one!r}, in the data set {two!r}. Compare models of "
                    "the same classes in the same order."
                )
    ranges = predictor.pipeline.preprocess.value_range, dataset.value_range
    declared = [item.declared if item else None for item in ranges]
    if declared[0] != declared[1]:
        raise UserError(
            f"{name}: takes images of value_range {declared[0]}, the data set has {declared[1]}. "
            "Set the data set's value_range to the model's."
        )


def _page(
    comparison: Comparison, content: dict[str, Any], label_set: LabelSet, strips: list[Strip]
) -> str:
    classes = content["classes"]
    mean = classes["mean"]
    tiles = [
        (percent(content["agreement"]), "of the labelled pixels predicted alike"),
        (percent(mean["iou_a"]), "mIoU of A"),
        (percent(mean["iou_b"]), "mIoU of B"),
        (
            _signed(mean["difference"]),
            f"B less A, 95 %: {_signed(mean['low'])} to {_signed(mean['high'])}",
        ),
        ("–" if mean["p"] is None else f"{mean['p']:.3f}", "p of no difference in mIoU"),
    ]
    keys = ("iou_a", "iou_b", "difference", "low", "high")
    rows = (
        [escape(name), *(cell(row[key]) for key in keys), _p(row["p"]), _p(row["p_holm"])]
        for name, row in classes.items()
    )
    header = ("class", "IoU of A", "IoU of B", "B less A", "from", "to", "p", "p, corrected")
    images = (
        [
            escape(image.path),
            *map(cell, (image.differing, image.only_first, image.only_second, *image.accuracy)),
        ]
        for image in comparison.images
    )
    names = ("image", "differ", "only A right", "only B right", "accuracy of A", "accuracy of B")
    colors = dict(zip(label_set.classes, map(list, label_set.palette), strict=True))
    note = (
        "In %. “from” and “to” are the ends of the 95 % confidence interval of the difference: a "
        "paired bootstrap over images, which takes them as independent. p is the probability of "
        "so large a difference if there was none; corrected for the number of classes by Holm's "
        "method."
    )
    sections = {
        "Classes": f"<p>{note}</p>{table(header, rows)}",
        "Where they differ most": strips_html(colors, COMPARED, strips),
        "All images": f"<p>In % of the labelled pixels.</p>{table(names, images)}",
    }
    subtitle = f"A: {content['a']} · B: {content['b']} · {content['num_images']} images"
    return shell("Two models compared", subtitle, tiles, sections)


def _share(mask: np.ndarray) -> float:
    return float(mask.mean()) if mask.size else 0.0


def _signed(difference: float | None) -> str:
    return "–" if difference is None else f"{100 * difference:+.2f} %"


def _p(value: float | None) -> Number:
    return Number(value, "" if value is None else f"{value:.3f}")
