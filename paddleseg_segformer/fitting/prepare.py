"""Data of any form as a config's sections, with what was concluded of it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

from paddleseg_segformer.annotations import Detected, detect, prepare
from paddleseg_segformer.annotations.classes import BACKGROUNDS
from paddleseg_segformer.annotations.convert import SPLIT
from paddleseg_segformer.fitting.options import FitOptions

logger = logging.getLogger(__name__)


class PreparedData(NamedTuple):
    """A data set that can be trained on.

    Args:
        sections: `train_dataset` and `val_dataset` without transforms.
        conclusions: On its form, each with its reason; and warnings.
        background: Id of the class of pixels that no object covers; None without one.
    """

    sections: dict[str, dict[str, Any]]
    conclusions: list[str]
    background: int | None


def detect_data(options: FitOptions) -> Detected:
    """Detect the form of the data and log the conclusions, in seconds and without Paddle.

    Raises:
        UserError: the data cannot be understood, or in several ways.
    """
    detected = detect(options.data, options.annotations)
    logger.info("%s\n%s", options.data, "\n".join(detected.lines()))
    return detected


def prepare_data(detected: Detected, folder: Path) -> PreparedData:
    """Write labels, lists and the split of detected data into a folder of its own.

    Raises:
        UserError: a file is damaged, or does not fit its image.
    """
    conclusions = detected.lines()
    prepared = prepare(detected, folder, num_threads=os.cpu_count() or 1, show_progress=True)
    sections = {f"{mode}_dataset": prepared.section(mode) for mode in ("train", "val")}
    found = ", ".join(f"{count} images for {name}" for name, count in prepared.num_samples.items())
    conclusions.append(f"{found} ({SPLIT} has a reason for each image; else --val)")
    conclusions += [f"warning: {text}" for text in prepared.warnings]
    logger.info("\n".join(conclusions[len(detected.lines()) :]))
    unlabelled = detected.class_map.unlabelled
    named = (name for name in prepared.classes if name.lower() in BACKGROUNDS)
    background = (
        detected.classes[unlabelled] if unlabelled < len(detected.classes) else next(named, None)
    )
    found_id = prepared.classes.index(background) if background in prepared.classes else None
    return PreparedData(sections, conclusions, found_id)
