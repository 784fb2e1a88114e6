"""Evaluation of label maps in files, such as those that several runs of `predict` wrote."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from paddleseg_segformer.data.io import read_label
from paddleseg_segformer.data.lists import walk_files
from paddleseg_segformer.data.loader import map_in_order
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.evaluation.evaluate import write_csv
from paddleseg_segformer.evaluation.metrics import ConfusionMatrix, Metrics, image_row
from paddleseg_segformer.inference.image_sources import name_results

if TYPE_CHECKING:
    from paddleseg_segformer.data.datasets import SegmentationDataset

logger = logging.getLogger(__name__)


def find_predictions(dataset: SegmentationDataset, folders: Sequence[Path]) -> list[Path]:
    """Return the label map of each image, found by its name: the image's, below a common folder.

    Which folder the names are relative to, as it was in prediction, is told by the names that are
    there. Label maps of other images are left out, with a warning.

    Raises:
        UserError: no such folder, an image without a label map, or with several.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder (--predictions).")
        for file in walk_files(folder):
            if file.suffix.lower() != ".png":
                continue
            name = file.relative_to(folder).as_posix()[: -len(".png")]
            if name in found:
                raise UserError(
                    f"{file}: {found[name]} is of the same image. Keep the right one of the two."
                )
            found[name] = file
    images = [os.path.abspath(dataset.samples[index][0]) for index in range(len(dataset))]
    common = Path(os.path.commonpath([os.path.dirname(image) for image in images]))
    names: dict[str, str] = {}
    for root in (common, *common.parents):
        named = name_results([Path(image) for image in images], root)
        candidate = {str(path): name.replace(os.sep, "/") for path, name in named}
        if _num_found(candidate, found) > _num_found(names, found) or not names:
            names = candidate
        if _num_found(names, found) == len(names):
            break
    missing = [image for image, name in names.items() if name not in found]
    if missing:
        raise UserError(
            f"{missing[0]}: has no label map {names[missing[0]]}.png in "
            f"{', '.join(map(str, folders))} ({len(missing)} of {len(names)} images have none). "
            "Predict the rest with --resume, or name all folders."
        )
    if extra := sorted(found.keys() - set(names.values())):
        logger.warning("%d label maps are of no image here: %s ...", len(extra), found[extra[0]])
    return [found[names[image]] for image in images]


def _num_found(names: dict[str, str], found: dict[str, Path]) -> int:
    return sum(name in found for name in names.values())


def evaluate_predictions(
    dataset: SegmentationDataset,
    files: Sequence[Path],
    *,
    absent_class: str | int = "nan",
    num_workers: int = 2,
    per_image_csv: str | os.PathLike[str] | None = None,
) -> Metrics:
    """Compare label maps with labels, as `evaluate` compares what a network predicts.

    Args:
        dataset: Labelled images, which are not read where labels have files.
        files: Label map (H, W) of each image; see `find_predictions`.
        absent_class, num_workers, per_image_csv: As of `evaluate`.

    Raises:
        UserError: a missing or wrong label, or a label map of another size or with other ids.
    """
    matrix = ConfusionMatrix(dataset.num_classes, dataset.ignore_index)
    rows: list[dict[str, Any]] = []

    def read(index: int) -> tuple[int, np.ndarray | None, np.ndarray]:
        return index, dataset.read_label(index), read_label(files[index])

    with (
        ThreadPoolExecutor(max(1, num_workers)) as executor,
        tqdm(total=len(files), unit="img", desc="evaluate", disable=None) as bar,
    ):
        ahead = 2 * max(1, num_workers)
        for index, label, prediction in map_in_order(executor, read, range(len(files)), ahead):
            image_path, label_path = dataset.samples[index]
            if label is None:
                raise UserError(
                    f"{image_path}: has no label; evaluation needs one for every image."
                )
            wrong = (prediction < 0) | (prediction >= dataset.num_classes)
            if wrong.any():
                raise UserError(
                    f"{files[index]}: found the id {prediction[wrong][0]} ({wrong.sum()} pixels), "
                    f"expected 0 to {dataset.num_classes - 1}. Predict without --min_confidence "
                    "and --class_confidence, with a model of these classes."
                )
            if prediction.shape != label.shape:
                sizes = ["x".join(map(str, array.shape)) for array in (prediction, label)]
                raise UserError(
                    f"{files[index]}: is {sizes[0]} (height x width), but the label "
                    f"{label_path or image_path} is {sizes[1]}. They must be of the same image."
                )
            counts = matrix.add(label, prediction, label_path or image_path)
            if per_image_csv:
                rows.append({"image": image_path, **image_row(counts)})
            bar.update()
    classes = tuple(dataset.label_set.classes)
    if per_image_csv:
        write_csv(Path(per_image_csv), rows, classes)
    return Metrics(matrix.counts, classes, len(files), absent_class)
