"""Logs of a training run: scalars and pictures, as a JSON-lines file and for trackers.

A log that cannot be written does not end a run: the first lost point is a warning. A run that
resumes at iteration t drops what its log holds of later iterations, which it repeats; where a
tracker cannot forget, its class says so.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import re
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paddleseg_segformer.components import resolve
from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import one_line, printable
from paddleseg_segformer.files import atomic_path, make_folder, write_text
from paddleseg_segformer.yaml_files import dotted, parse_yaml

logger = logging.getLogger(__name__)

LOG = "log.txt"
Scalars = Mapping[str, float]
NUM_BUCKETS, NUM_THRESHOLDS = 50, 50  # of histograms, of curves of precision and recall


class Details(NamedTuple):
    """What an evaluation saw beside its scores.

    Args:
        weights: The network's, by name.
        probabilities: Of each class at sampled pixels, (n, K).
        labels: Their labelled ids, (n,).
        classes: Names of the K classes.
    """

    weights: Mapping[str, np.ndarray]
    probabilities: np.ndarray
    labels: np.ndarray
    classes: Sequence[str]


class Writer:
    """A log, which the hooks write to. Override what it can hold.

    Trackers are constructed with the run's folder, and with the iteration that the run resumes at;
    None keeps all that there is.
    """

    package: str | None = None  # that has to be installed
    takes_details = False  # whether `details` is called, which takes some time

    def config(self, text: str) -> None:
        """Write the config of the run, as YAML."""

    def scalars(self, iteration: int, values: Scalars) -> None:
        """Write scalars by tag (`Train/loss`)."""

    def image(self, iteration: int, tag: str, image: np.ndarray) -> None:
        """Write a picture, RGB uint8 (H, W, 3)."""

    def network(self, graph: Callable[[], Mapping[str, Any]]) -> None:
        """Write the graph of the network, which `graph` makes in the form of VisualDL."""

    def details(self, iteration: int, details: Details) -> None:
        """Write histograms of the weights, and each class's precision over its recall."""

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
                file.truncate(end)
                raise


def _is_before(line: bytes, start: int) -> bool:
    """Tell whether a line is complete, and of no iteration after `start`."""
    try:
        return bool(json.loads(line)["iteration"] <= start)
    except (ValueError, KeyError, TypeError):
        return False


class TextLog(logging.FileHandler):
    """The messages of a run as lines of `log.txt`, appended to on resume."""

    def __init__(self, save_dir: Path) -> None:
        super().__init__(save_dir / LOG, encoding="utf-8")
        self.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
        self.is_failing = False

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.is_failing:
            self.is_failing = True
            logger.warning("%s: lines are being lost", self.baseFilename)


@contextmanager
def logged(folder: Path | None, to_console: bool = False) -> Iterator[None]:
    """Write the messages of this package to a folder's `log.txt`, unless they go there anyway.

    Args:
        folder: None for no file.
        to_console: Also to standard output, unless they are shown anyway.
    """
    package = logging.getLogger("paddleseg_segformer")
    handlers: list[logging.Handler] = []
    if folder is not None:
        written = {getattr(other, "baseFilename", None) for other in package.handlers}
        if os.path.abspath(folder / LOG) not in written:
            handlers.append(TextLog(folder))
    if to_console and not package.hasHandlers():
        handlers.append(logging.StreamHandler(sys.stdout))
        handlers[-1].setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    level = package.level
    package.setLevel(level or logging.INFO)
    for handler in handlers:
        package.addHandler(handler)
    try:
        yield
    finally:
        package.setLevel(level)
        for handler in handlers:
            package.removeHandler(handler)
            handler.close()


class VisualDLWriter(Writer):
    """A VisualDL log in the run's folder (`visualdl --logdir SAVE_DIR`), appended to on resume.

    VisualDL itself warns once of lost points, and continues.
    """

    package = "visualdl"
    takes_details = True
    FILE = "vdlrecords.run.log"

    def __init__(self, save_dir: Path, start: int | None = None) -> None:
        from visualdl import LogWriter

        path = make_folder(save_dir) / self.FILE
        if start is not None and path.is_file():
            kept = b"".join(_records_before(path.read_bytes(), start))
            with atomic_path(path) as temporary:
                temporary.write_bytes(kept)
        self.save_dir = save_dir
        self.is_new = not path.is_file()
        self.writer = LogWriter(
            logdir=str(save_dir), file_name=self.FILE, display_name=save_dir.name
        )

    def config(self, text: str) -> None:
        """Write the numbers and names of the config as hyper-parameters, beside the scores."""
        if not self.is_new:  # a run has one set of them
            return
        settings = {
            key: str(value) if isinstance(value, bool) else value
            for key, value in dotted(parse_yaml(text, "config")).items()
            if isinstance(value, int | float | str)
        }
        self.writer.add_hparams(settings, ["Evaluate/mIoU", "Evaluate/accuracy", "Train/loss"])
        self.text("config", text)

    def text(self, tag: str, text: str) -> None:
        """Write a text."""
        self.writer.add_text(tag=tag, text_string=text, step=0)
        self.writer.flush()

    def network(self, graph: Callable[[], Mapping[str, Any]]) -> None:
        """Write the network's graph, of a new run."""
        if self.is_new:
            write_text(self.save_dir / "vdlgraph.run.log", json.dumps(graph()))

    def scalars(self, iteration: int, values: Scalars) -> None:
        """Add one point to each curve."""
        for tag, value in values.items():
            self.writer.add_scalar(tag=_vdl_tag(tag), step=iteration, value=float(value))
        self.writer.flush()

    def details(self, iteration: int, details: Details) -> None:
        """Add histograms and curves of precision and recall.

        The curves are counted here: VisualDL 2.5.3 cannot with NumPy 1.24 or later.
        """
        from visualdl.component.base_component import pr_curve_raw

        for name, values in details.weights.items():
            self.writer.add_histogram(f"Weights/{name}", values, iteration, buckets=NUM_BUCKETS)
        now_ms = round(1000 * time.time())
        for index, name in enumerate(details.classes):
            bucket = (details.probabilities[:, index] * (NUM_THRESHOLDS - 1)).astype(int)
            is_class = details.labels == index
            tp, fp = (  # of all that are at least as probable as the bucket
                np.bincount(bucket[chosen], minlength=NUM_THRESHOLDS)[::-1].cumsum()[::-1]
                for chosen in (is_class, ~is_class)
            )
            curves = (tp / np.maximum(tp + fp, 1), tp / max(tp[0], 1))
            counts = (tp, fp, fp[0] - fp, tp[0] - tp)
            tag, columns = _vdl_tag(f"Evaluate/{name}"), (x.tolist() for x in (*counts, *curves))
            record = pr_curve_raw(tag, *columns, iteration, now_ms)
            self.writer._get_file_writer().add_record(record)
        self.writer.flush()

    def image(self, iteration: int, tag: str, image: np.ndarray) -> None:
        """Add a picture."""
        self.writer.add_image(tag=tag, img=image, step=iteration)

    def close(self) -> None:
        """Flush and close the log."""
        self.writer.close()


def _vdl_tag(tag: str) -> str:
    """Return a tag that VisualDL takes: `%` stands for a slash in its files."""
    return tag.replace("%", "_")


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


class TensorBoardWriter(Writer):
    """An event file in the run's folder (`tensorboard --logdir SAVE_DIR`), by tensorboardX.

    A resumed run adds a file, which tells TensorBoard to forget the repeated iterations.
    """

    package = "tensorboardX"
    takes_details = True

    def __init__(self, save_dir: Path, start: int | None = None) -> None:
        from tensorboardX import SummaryWriter

        purge_step = None if start is None else start + 1
        self.writer = SummaryWriter(str(make_folder(save_dir)), purge_step=purge_step)

    def config(self, text: str) -> None:
        self.writer.add_text("config", f"```yaml\n{text}\n```")

    def scalars(self, iteration: int, values: Scalars) -> None:
        for tag, value in values.items():
            self.writer.add_scalar(tag, float(value), iteration)
        self.writer.flush()

    def image(self, iteration: int, tag: str, image: np.ndarray) -> None:
        self.writer.add_image(tag, image, iteration, dataformats="HWC")

    def details(self, iteration: int, details: Details) -> None:
        for name, values in details.weights.items():
            self.writer.add_histogram(f"Weights/{name}", values, iteration)
        for index, name in enumerate(details.classes):
            is_class, shares = details.labels == index, details.probabilities[:, index]
            self.writer.add_pr_curve(f"Evaluate/{name}", is_class, shares, iteration)

    def close(self) -> None:
        self.writer.close()


class WandbWriter(Writer):
    """A run of Weights & Biases in the run's folder, offline unless `$WANDB_MODE` says otherwise.

    `wandb sync SAVE_DIR/wandb/offline-*` uploads it. A resumed run is the same run there, of which
    the server keeps what it got first.
    """

    package = "wandb"

    def __init__(self, save_dir: Path, start: int | None = None) -> None:
        import wandb

        self.wandb = wandb
        id_file = make_folder(save_dir) / "wandb" / "run_id"
        is_new = start is None or not id_file.is_file()
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "paddleseg_segformer"),
            name=save_dir.name,
            dir=str(save_dir),
            id=None if is_new else id_file.read_text("utf-8").strip(),
            resume="allow",
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings=wandb.Settings(console="off", silent=True),
        )
        write_text(id_file, self.run.id)

    def config(self, text: str) -> None:
        self.run.config.update(parse_yaml(text, "config"), allow_val_change=True)

    def scalars(self, iteration: int, values: Scalars) -> None:
        self.run.log(dict(values), step=iteration)

    def image(self, iteration: int, tag: str, image: np.ndarray) -> None:
        self.run.log({tag: self.wandb.Image(image)}, step=iteration)

    def close(self) -> None:
        self.run.finish()


class MlflowWriter(Writer):
    """A run of MLflow in `mlruns` of the run's folder, or on the server of `$MLFLOW_TRACKING_URI`.

    `mlflow ui --backend-store-uri SAVE_DIR/mlruns` shows it. A resumed run is the same run there,
    which holds repeated iterations twice.
    """

    package = "mlflow"

    def __init__(self, save_dir: Path, start: int | None = None) -> None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # needed from MLflow 3.7 on
        from mlflow.tracking import MlflowClient

        local = (make_folder(save_dir) / "mlruns").absolute().as_uri()
        self.client = MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", local))
        id_file = save_dir / "mlflow_run_id"
        if start is not None and id_file.is_file():
            self.run_id = id_file.read_text("utf-8").strip()
            self.client.update_run(self.run_id, status="RUNNING")
            return
        name = "paddleseg_segformer"
        found = self.client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self.client.create_experiment(name)
        self.run_id = self.client.create_run(experiment, run_name=save_dir.name).info.run_id
        write_text(id_file, self.run_id)

    def config(self, text: str) -> None:
        self.client.log_text(self.run_id, text, "config.yml")

    def scalars(self, iteration: int, values: Scalars) -> None:
        for tag, value in values.items():
            name = re.sub(r"[^\w\-./ ]", "_", tag)  # what MLflow allows in names
            self.client.log_metric(self.run_id, name, float(value), step=iteration)

    def image(self, iteration: int, tag: str, image: np.ndarray) -> None:
        self.client.log_image(self.run_id, image, f"{tag}/{iteration}.png")

    def close(self) -> None:
        self.client.set_terminated(self.run_id)


TRACKERS: dict[str, type[Writer]] = {
    "visualdl": VisualDLWriter,
    "tensorboard": TensorBoardWriter,
    "wandb": WandbWriter,
    "mlflow": MlflowWriter,
}


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers before a run starts.

    Raises:
        UserError: no tracker of this name.
        MissingDependency: its package is not installed, or does not load.
    """
    for name in names:
        if package := getattr(resolve("tracker", name), "package", None):
            with explained():
                importlib.import_module(package)


class Writers:
    """Several writers as one; one that fails is reported once, and the run goes on."""

    def __init__(self, writers: list[Writer]) -> None:
        self.writers = writers
        self.failing: set[int] = set()

    def config(self, text: str) -> None:
        """Write the config to every log."""
        self._each(lambda writer: writer.config(text))

    def scalars(self, iteration: int, values: Scalars) -> None:
        """Write scalars to every log."""
        self._each(lambda writer: writer.scalars(iteration, values))

    def image(self, iteration: int, tag: str, image: np.ndarray) -> None:
        """Write a picture to every log."""
        self._each(lambda writer: writer.image(iteration, tag, image))

    def network(self, graph: Callable[[], Mapping[str, Any]]) -> None:
        """Write the network's graph to the logs that take details, if it can be traced."""
        for writer in self.writers:
            if getattr(writer, "takes_details", False):
                try:
                    writer.network(graph)
                except Exception as error:  # of Paddle's tracing, of any type
                    logger.info("the network's graph is not drawn (%s)", one_line(error))

    @property
    def take_details(self) -> bool:
        """Tell whether any log takes details; users' may know nothing of them."""
        return any(getattr(writer, "takes_details", False) for writer in self.writers)

    def details(self, iteration: int, details: Details) -> None:
        """Write details to the logs that take them."""
        self._each(
            lambda writer: (
                writer.details(iteration, details)
                if getattr(writer, "takes_details", False)
                else None
            )
        )

    def close(self) -> None:
        """Close every log."""
        self._each(lambda writer: writer.close())

    def _each(self, write: Callable[[Writer], Any]) -> None:
        for index, writer in enumerate(self.writers):
            try:
                write(writer)
            except Exception as error:  # of a tracker's client, of any type
                if index not in self.failing:
                    name = type(writer).__name__
                    logger.warning("%s: points are being lost (%s)", name, one_line(error))
                self.failing.add(index)
