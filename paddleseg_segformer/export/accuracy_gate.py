"""Accuracy check of INT8: label agreement and mIoU against float32, on the same images."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from paddleseg_segformer.data.datasets import RawSample
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.evaluation.metrics import ConfusionMatrix, Metrics
from paddleseg_segformer.predictor import Predictor

logger = logging.getLogger(__name__)

MAX_MIOU_DROP = 0.5  # points
MIN_AGREEMENT = 0.95  # of the labels, where no image is labelled
PRECISIONS = ("fp32", "int8")


@dataclass(frozen=True)
class AccuracyGate:
    """Compares INT8 with float32, and refuses too large a loss.

    Args:
        samples: Images, labelled or not; all of them or none.
        max_miou_drop: mIoU that may be lost, in points, where they are labelled.
        min_agreement: Share of labels that must be equal, where they are not.
        is_loss_allowed: Warn instead of refusing.
    """

    samples: Iterable[RawSample]
    max_miou_drop: float = MAX_MIOU_DROP
    min_agreement: float = MIN_AGREEMENT
    is_loss_allowed: bool = False

    def check(self, folder: Path, engine: str = "openvino") -> dict[str, Any]:
        """Return what was measured on an export in an engine, for `deploy.yaml`.

        Raises:
            UserError: too much is lost.
        """
        quality = measure(folder, self.samples, engine)
        logger.info("int8: %s", _report(quality))
        fault = self._fault(quality)
        if fault and not self.is_loss_allowed:
            raise UserError(
                f"INT8 is refused: {_report(quality)}; {fault}. Calibrate on more images like those"
                " it is for (--calibration_size, --calibration_images), leave int8 out of --format,"
                " or accept the loss with --allow_int8_loss. The export was discarded."
            )
        if fault:
            logger.warning("int8: %s; written all the same (--allow_int8_loss)", fault)
        return quality

    def _fault(self, quality: dict[str, Any]) -> str:
        """Return which bound is broken, if one is."""
        if "miou_fp32" not in quality:
            is_enough = quality["label_agreement"] >= self.min_agreement
            return "" if is_enough else f"expected {self.min_agreement:.1%} or more equal labels"
        drop = 100 * (quality["miou_fp32"] - quality["miou_int8"])
        return "" if drop <= self.max_miou_drop else f"allowed is a loss of {self.max_miou_drop:g}"


def measure(folder: Path, samples: Iterable[RawSample], engine: str = "openvino") -> dict[str, Any]:
    """Return label agreement of INT8 with float32, and mIoU of both where samples have labels.

    Args:
        folder: An export that holds INT8 and float32 for the engine.
        engine: A key of `ENGINES`.
    """
    threads = os.cpu_count() or 1
    predictors = [
        Predictor.from_export(folder, "cpu", threads, precision, engine) for precision in PRECISIONS
    ]
    deploy_labels = predictors[0].label_set
    assert deploy_labels is not None  # of every export
    matrices = [
        ConfusionMatrix(deploy_labels.num_classes, deploy_labels.ignore_index) for _ in PRECISIONS
    ]
    num_equal = num_pixels = num_images = 0
    for sample in tqdm(samples, unit="img", desc="int8 against fp32", disable=None):
        labels = [predictor.predict_read([sample.image])[0].label for predictor in predictors]
        num_equal += int((labels[0] == labels[1]).sum())
        num_pixels += labels[0].size
        num_images += 1
        if sample.label is not None:
            for matrix, found in zip(matrices, labels, strict=True):
                matrix.add(sample.label, found, sample.label_path or sample.image_path)
    if not num_pixels:
        raise UserError("int8: found no images to compare it with float32 on.")
    quality: dict[str, Any] = {
        "gate_images": num_images,
        "label_agreement": num_equal / num_pixels,
    }
    if matrices[0].counts.any():
        for precision, matrix in zip(PRECISIONS, matrices, strict=True):
            metrics = Metrics(matrix.counts, tuple(deploy_labels.classes), num_images)
            quality[f"miou_{precision}"] = float(np.round(metrics.miou, 6))
    return quality


def _report(quality: dict[str, Any]) -> str:
    """Return the figures in one line."""
    line = f"{quality['label_agreement']:.2%} of the labels equal float32's"
    if "miou_fp32" in quality:
        line += f", mIoU {100 * quality['miou_int8']:.2f} after {100 * quality['miou_fp32']:.2f}"
    else:
        line += ", no labelled images to compare mIoU on"
    return f"{line} ({quality['gate_images']} images)"
