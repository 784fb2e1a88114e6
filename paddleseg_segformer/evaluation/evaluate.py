"""Evaluation of a network on a labelled data set."""

from __future__ import annotations

import csv
import io
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from paddleseg_segformer.data.loader import read_ahead
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.evaluation.metrics import ConfusionMatrix, Metrics, image_row
from paddleseg_segformer.evaluation.roc import RocCounts, areas_under_curves
from paddleseg_segformer.files import write_text
from paddleseg_segformer.inference.pipeline import ImageLogits, Network, Pipeline
from paddleseg_segformer.inference.plan import memory_line
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings

if TYPE_CHECKING:
    from paddleseg_segformer.data.datasets import RawSample, SegmentationDataset
    from paddleseg_segformer.inference.memory_plan import MemoryPlan

logger = logging.getLogger(__name__)


class EvaluatedImage(NamedTuple):
    """One image of an evaluation."""

    sample: RawSample
    logits: ImageLogits
    prediction: np.ndarray  # ids (H, W)
    counts: np.ndarray  # confusion matrix (K, K)
    seconds: float  # from image to ids


def evaluate(
    network: Network,
    dataset: SegmentationDataset,
    preprocess: Preprocess,
    settings: InferenceSettings,
    *,
    absent_class: str | int = "nan",
    num_workers: int = 2,
    batch_size: int = 1,
    rank: int = 0,
    world_size: int = 1,
    all_reduce: Callable[[np.ndarray], np.ndarray] | None = None,
    per_image_csv: str | os.PathLike[str] | None = None,
    memory: MemoryPlan | None = None,
    watch: Callable[[EvaluatedImage], None] | None = None,
    with_auc: bool = False,
) -> Metrics:
    """Compare predictions with labels at the labels' own size.

    Args:
        network: See `Pipeline`; a layer is in evaluation mode for the time.
        dataset: Labelled images.
        preprocess: Preprocessing of the images; labels keep their size.
        settings: Windows, scales, flips and averaging.
        absent_class: See `Metrics`.
        num_workers: Threads that read images ahead.
        batch_size: Images whose windows go through the network together.
        rank: This process takes the images rank, rank + world_size, ...: each is counted once.
        world_size: Number of processes.
        all_reduce: Returns the sum of every process's integer array; needed for several processes.
        per_image_csv: Also write accuracy, mIoU and IoU of each image to this file; several
            processes add `.rank0` and so on to its stem.
        memory: See `Pipeline`.
        watch: Called with each image; nothing of it is kept here.
        with_auc: Also the areas under the ROC curves.

    Raises:
        UserError: no images, a missing or wrong label, or class counts that do not agree.
    """
    if not len(dataset):
        raise UserError("evaluation: the data set has no images. Check dataset_root and val_path.")
    if rank == 0:
        logger.info("evaluating %d images: %s", len(dataset), settings.describe())
    matrix = ConfusionMatrix(dataset.num_classes, dataset.ignore_index)
    roc = RocCounts(dataset.num_classes, dataset.ignore_index) if with_auc else None
    pipeline = Pipeline(network, preprocess, settings, memory)
    indices = range(rank, len(dataset), world_size)
    rows: list[dict[str, Any]] = []
    logs_memory = memory is not None and rank == 0  # at the first batch
    is_silent = None if rank == 0 else True  # None: where standard error is no terminal
    bar = tqdm(total=len(indices), unit="img", desc="evaluate", disable=is_silent)
    with _evaluation_mode(network), bar:
        samples = read_ahead(dataset, indices, num_workers)
        while batch := list(islice(samples, batch_size)):
            start = time.perf_counter()
            predictions = _predictions(pipeline, batch, matrix.num_classes, logs_memory)
            seconds = (time.perf_counter() - start) / len(batch)
            logs_memory = False
            for sample, (logits, prediction) in zip(batch, predictions, strict=True):
                if sample.label is None:
                    raise UserError(
                        f"{sample.image_path}: has no label; evaluation needs one for every image."
                    )
                path = sample.label_path or sample.image_path
                counts = matrix.add(sample.label, prediction, path)
                if roc:
                    for tile, probabilities in logits.probability_tiles():
                        tile_rows = sample.label[tile.top : tile.bottom]
                        roc.add(tile_rows[:, tile.left : tile.right], probabilities)
                if per_image_csv:
                    rows.append({"image": sample.image_path, **image_row(counts)})
                if watch:
                    watch(EvaluatedImage(sample, logits, prediction, counts, seconds))
            bar.update(len(batch))
    if per_image_csv:
        csv_path = Path(per_image_csv)
        if world_size > 1:
            csv_path = csv_path.with_name(f"{csv_path.stem}.rank{rank}{csv_path.suffix}")
        write_csv(csv_path, rows, dataset.label_set.classes)
    confusion, num_images = matrix.counts, len(indices)
    if all_reduce:
        confusion, num_images = all_reduce(confusion), int(all_reduce(np.array([num_images]))[0])
    auc = None
    if roc:
        auc = areas_under_curves(all_reduce(roc.counts) if all_reduce else roc.counts)
    return Metrics(confusion, tuple(dataset.label_set.classes), num_images, absent_class, auc)


def _predictions(
    pipeline: Pipeline, batch: list[RawSample], num_classes: int, logs_memory: bool
) -> list[tuple[ImageLogits, np.ndarray]]:
    """Return the logits and the predicted ids (H, W) of each image."""
    try:
        if logs_memory:
            line = memory_line(pipeline, batch[0].image.shape)
            logger.info("%s: %s", batch[0].image_path, line)
        logits = pipeline.batch([sample.image for sample in batch])
        predictions = [(image_logits, image_logits.labels()) for image_logits in logits]
    except UserError as error:
        raise UserError(f"{', '.join(sample.image_path for sample in batch)}: {error}") from None
    if logits[0].num_classes != num_classes:
        raise UserError(
            f"the network predicts {logits[0].num_classes} classes, the data set has "
            f"{num_classes}. Make num_classes of both equal."
        )
    return predictions


@contextmanager
def _evaluation_mode(network: Network) -> Iterator[None]:
    """Put a layer into evaluation mode and back into the mode it was in."""
    was_training = getattr(network, "training", False)
    if was_training:
        network.eval()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if was_training:
            network.train()  # type: ignore[attr-defined]


def write_csv(path: Path, rows: list[dict[str, Any]], classes: tuple[str, ...]) -> None:
    """Write one line per image, classes by name; a class absent from an image stays empty."""
    names = {str(index): name for index, name in enumerate(classes)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "accuracy", "mIoU", *names.values()])
    for row in rows:
        figures = [row[key] for key in ("accuracy", "mIoU", *names)]
        cells = ["" if value is None else f"{value:.6f}" for value in figures]
        writer.writerow([row["image"], *cells])
    write_text(path, text.getvalue())
