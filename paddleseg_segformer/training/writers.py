"""Logs of a training run: scalars and pictures, as a JSON-lines file or for VisualDL.

A log that cannot be written does not end a run: the first lost point is a warning. A run that
resumes at iteration t drops what its log holds of later iterations, which it repeats.
"""

from __future__ import annotations

import json
import logging
import math
import os
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.files import atomic_path, make_folder

logger = logging.getLogger(__name__)

Scalars = Mapping[str, float]


class Writer:
    """A log, which the hooks write to. Override what it can hold."""

    def scalars(self, iteration: int, values: Scalars) -> None:
        """Write scalars by tag (`Train/loss`)."""

    def image(self, iteration: int, tag: str, image: np.ndarray) -> None:
        """Write a picture, RGB uint8 (H, W, 3)."""

    def close(self) -> None:
        """Flush and close."""


class JsonLinesWriter(Writer):
    """One JSON object per line in `log.jsonl`, appended to on resume.

    Args:
        start: iteration that the run resumes at; None keeps all that the file holds.
    """

    def __init__(self, save_dir: Path, start: int | None = None) -> None:
        self.path = make_folder(save_dir) / "log.jsonl"
        self.is_failing = False
        if start is not None and self.path.is_file():
            kept = [line for line in self.path.read_bytes().splitlines() if _is_before(line, start)]
            with atomic_path(self.path) as temporary:
                temporary.write_bytes(b"".join(line + b"\n" for line in kept))

    def scalars(self, iteration: int, values: Scalars) -> None:
        """Append one line, whole or not at all; non-finite numbers are left out."""
        finite = {tag: value for tag, value in values.items() if math.isfinite(value)}
        record = {"iteration": iteration, "time_s": round(time.time(), 3), **finite}
        line = (json.dumps(record) + "\n").encode()
        try:
            self._append(line)
            self.is_failing = False
        except OSError as error:
            if not self.is_failing:
                logger.warning("%s: points are being lost (%s)", self.path, error.strerror)
            self.is_failing = True

    def _append(self, line: bytes) -> None:
        with open(self.path, "ab", buffering=0) as file:
            end = file.tell()
            try:
                if file.write(line) != len(line):
                    raise OSError(0, "a part of the line could not be written")
            except OSError:
                os.truncate(self.path, end)
                raise


def _is_before(line: bytes, start: int) -> bool:
    """Tell whether a line is complete, and of no iteration after `start`."""
    try:
        return bool(json.loads(line)["iteration"] <= start)
    except (ValueError, KeyError, TypeError):
        return False


def check_visualdl() -> None:
    """Refuse `--use_vdl` before a run starts if VisualDL is missing.

    Raises:
        MissingDependency: VisualDL is not installed, or does not load.
    """
    with explained():
        import visualdl  # noqa: F401


class VisualDLWriter(Writer):
    """A VisualDL log in the run's folder (`visualdl --logdir SAVE_DIR`), appended to on resume.

    VisualDL itself warns once of lost points, and continues.

    Args:
        start: iteration that the run resumes at; None keeps all that the file holds.
    """

    def __init__(self, save_dir: Path, start: int | None = None) -> None:
        from visualdl import LogWriter

        name = "vdlrecords.run.log"
        path = make_folder(save_dir) / name
        if start is not None and path.is_file():
            kept = b"".join(_records_before(path.read_bytes(), start))
            with atomic_path(path) as temporary:
                temporary.write_bytes(kept)
        self.writer = LogWriter(logdir=str(save_dir), file_name=name, display_name=save_dir.name)

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


def _records_before(content: bytes, start: int) -> Iterator[bytes]:
    """Yield the complete records of a VisualDL log that are of no iteration after `start`.

    A record is its length in bytes (64 bits, little-endian) and a protocol buffer.
    """
    from google.protobuf.message import DecodeError
    from visualdl.proto.record_pb2 import Record

    position = 0
    while position + 8 <= len(content):
        (length,) = struct.unpack_from("<Q", content, position)
        end = position + 8 + length
        if end > len(content):  # cut short by a kill
            return
        try:
            record = Record.FromString(content[position + 8 : end])
        except DecodeError:  # after a record that a full disk cut short
            return
        if all(value.id <= start for value in record.values):
            yield content[position:end]
        position = end


class Writers:
    """Several writers as one."""

    def __init__(self, writers: list[Writer]) -> None:
        self.writers = writers

    def scalars(self, iteration: int, values: Scalars) -> None:
        """Write scalars to every log."""
        for writer in self.writers:
            writer.scalars(iteration, values)

    def image(self, iteration: int, tag: str, image: np.ndarray) -> None:
        """Write a picture to every log."""
        for writer in self.writers:
            writer.image(iteration, tag, image)

    def close(self) -> None:
        """Close every log."""
        for writer in self.writers:
            writer.close()
