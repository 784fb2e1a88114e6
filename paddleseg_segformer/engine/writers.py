"""Where a run's numbers and pictures go: the console, a JSON-lines file, VisualDL."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from paddleseg_segformer.files import make_folder

logger = logging.getLogger(__name__)

Scalars = Mapping[str, float]


class Writer:
    """Takes what the hooks measure. Override what the destination can show."""

    def scalars(self, iteration: int, values: Scalars) -> None:
        """Take numbers by tag (`Train/loss`)."""

    def image(self, iteration: int, tag: str, image: np.ndarray) -> None:
        """Take an RGB uint8 (H, W, 3) picture."""

    def close(self) -> None:
        """Flush and close."""


class JsonLinesWriter(Writer):
    """One JSON object per line in `log.jsonl`, appended to on resume."""

    def __init__(self, save_dir: Path) -> None:
        path = make_folder(save_dir) / "log.jsonl"
        self.file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (closed by close)

    def scalars(self, iteration: int, values: Scalars) -> None:
        """Append one line."""
        record = {"iteration": iteration, "time_s": round(time.time(), 3)}
        self.file.write(json.dumps({**record, **values}) + "\n")

    def close(self) -> None:
        """Close the file."""
        self.file.close()


class VisualDLWriter(Writer):
    """A VisualDL log in the run's folder (`visualdl --logdir SAVE_DIR`), appended to on resume."""

    def __init__(self, save_dir: Path) -> None:
        from visualdl import LogWriter

        self.writer = LogWriter(
            logdir=str(save_dir), file_name="vdlrecords.run.log", display_name=save_dir.name
        )

    def scalars(self, iteration: int, values: Scalars) -> None:
        """Add one point to each curve."""
        for tag, value in values.items():
            self.writer.add_scalar(tag=tag, step=iteration, value=float(value))
        self.writer.flush()

    def image(self, iteration: int, tag: str, image: np.ndarray) -> None:
        """Add a picture."""
        self.writer.add_image(tag=tag, img=image, step=iteration)

    def close(self) -> None:
        """Flush and close the log."""
        self.writer.close()


class Writers:
    """Several writers as one."""

    def __init__(self, writers: list[Writer]) -> None:
        self.writers = writers

    def scalars(self, iteration: int, values: Scalars) -> None:
        """Give numbers to every writer."""
        for writer in self.writers:
            writer.scalars(iteration, values)

    def image(self, iteration: int, tag: str, image: np.ndarray) -> None:
        """Give a picture to every writer."""
        for writer in self.writers:
            writer.image(iteration, tag, image)

    def close(self) -> None:
        """Close every writer."""
        for writer in self.writers:
            writer.close()
