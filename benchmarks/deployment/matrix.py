"""All deployments one after another, and what each gave against the reference."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.deployment.deployments import DEPLOYMENTS, MIN_AGREEMENT, Deployment
from benchmarks.deployment.job import Job, NotHere, Outcome, label_path
from benchmarks.deployment.material import Exports, Images
from benchmarks.deployment.worker import MISSING, MODULE
from benchmarks.processes import Worker, WorkerFailed
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.evaluation.metrics import ConfusionMatrix, Metrics

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """How the deployments are run; see `Job` for the rest.

    Args:
        limit_s: longest time that a deployment may take over all images.
    """

    model_path: str | None
    cpp_dir: str
    gradio_python: str = sys.executable
    threads: int = 2
    warmup: int = 3
    limit_s: float = 1800.0

    def __post_init__(self) -> None:
        if self.threads < 1 or self.warmup < 0 or self.limit_s <= 0:
            raise UserError("threads: expected 1 or more; warmup: 0 or more; limit: above 0.")


@dataclass
class Row:
    """What was found for one deployment.

    Args:
        missing: why it was not tried.
        error: why it failed.
        agreement: share of all pixels that have the reference's label.
        worst_agreement, worst_image: of the image that agrees least.
        miou: on the labels, where there are any.
    """

    name: str
    deployment: Deployment
    outcome: Outcome | None = None
    missing: str | None = None
    error: str | None = None
    agreement: float | None = None
    worst_agreement: float | None = None
    worst_image: str | None = None
    miou: float | None = None

    @property
    def fault(self) -> str | None:
        """Return why an exact deployment that was tried is not as it has to be."""
        if not self.deployment.is_exact:
            return None
        if self.agreement is not None and self.agreement < MIN_AGREEMENT:
            return f"{self.agreement:.4%} of the labels agree, expected {MIN_AGREEMENT:.2%}"
        return self.error


def compare(names: Sequence[str], images: Images, exports: Exports, plan: Plan) -> Iterator[Row]:
    """Run the deployments; yield each one's row when it is done.

    The first exact deployment that runs is the reference of those after it.
    """
    reference: list[np.ndarray] | None = None
    for name in names:
        row = Row(name, DEPLOYMENTS[name])
        with tempfile.TemporaryDirectory() as folder:
            labels = _run(row, images, exports, plan, Path(folder))
        if labels:
            if reference is None and row.deployment.is_exact:
                reference = labels
            _judge(row, images, labels, reference)
        yield row


def _run(
    row: Row, images: Images, exports: Exports, plan: Plan, folder: Path
) -> list[np.ndarray] | None:
    """Run a deployment in a process of its own and return its label maps, if it gave any."""
    deployment = row.deployment
    worker = None
    try:
        job = Job(
            run=deployment.run,
            options=deployment.options,
            reads=deployment.reads,
            precision=deployment.precision,
            export_dir=exports.folder(deployment.export),
            model_path=plan.model_path,
            images_dir=str(images.paths[0].parent),
            threads=plan.threads,
            warmup=plan.warmup,
            cpp_dir=plan.cpp_dir,
            gradio_python=plan.gradio_python,
            results=str(folder),
        )
        worker = Worker(MODULE, asdict(job), plan.threads, folder / "log", plan.limit_s)
        answer = worker.ask("run")
    except NotHere as error:
        row.missing = str(error)
        return None
    except (WorkerFailed, UserError) as error:
        row.error = " ".join(str(error).split())
        logger.warning("%s: %s", row.name, row.error)
        return None
    finally:
        if worker:
            worker.close()
    if MISSING in answer:
        row.missing = answer[MISSING]
        return None
    row.outcome = Outcome(**answer)
    return [np.load(label_path(folder, index)) for index in range(len(images.paths))]


def _judge(
    row: Row, images: Images, labels: list[np.ndarray], reference: list[np.ndarray] | None
) -> None:
    """Compare label maps with the reference's and with the truth."""
    if reference is not None:
        row.error = _wrong_shape(labels, reference, images)
        if row.error:
            return
        same = [one == other for one, other in zip(labels, reference, strict=True)]
        shares = [float(part.mean()) for part in same]
        worst = int(np.argmin(shares))
        row.agreement = sum(int(part.sum()) for part in same) / sum(part.size for part in same)
        row.worst_agreement, row.worst_image = shares[worst], images.sources[worst]
    if images.labels is not None and images.label_set is not None:
        row.miou = _miou(images, labels)


def _wrong_shape(
    labels: list[np.ndarray], reference: list[np.ndarray], images: Images
) -> str | None:
    for label, expected, source in zip(labels, reference, images.sources, strict=True):
        if label.shape != expected.shape:
            return f"{source}: found labels {label.shape}, expected {expected.shape}"
    return None


def _miou(images: Images, labels: list[np.ndarray]) -> float:
    assert images.labels is not None and images.label_set is not None
    label_set = images.label_set
    confusion = ConfusionMatrix(label_set.num_classes, label_set.ignore_index)
    for truth, label, source in zip(images.labels, labels, images.sources, strict=True):
        confusion.add(truth, label, source)
    return Metrics(confusion.counts, tuple(label_set.classes), len(labels)).miou
