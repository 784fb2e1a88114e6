"""Audit of a data set: damaged files, wrong labels, and how often each class occurs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from paddleseg_segformer.data.datasets import SegmentationDataset
from paddleseg_segformer.data.loader import map_in_order
from paddleseg_segformer.data.transforms import count_ids
from paddleseg_segformer.errors import UserError


@dataclass
class AuditReport:
    """What an audit found.

    Args:
        classes: Class names.
        num_samples: Samples looked at.
        bad_files: One message for each sample that cannot be used; it names the file.
        unlabelled: Label files in which every pixel has the ignored id.
        num_pixels: Labelled pixels of each class.
        num_images: Images in which each class occurs.
        num_pixels_where_present: Labelled pixels of those images.
        num_ignored_pixels: Pixels with the ignored id.
        sizes_hw: How many images have each size, by "height x width".
    """

    classes: list[str]
    num_samples: int = 0
    bad_files: list[str] = field(default_factory=list)
    unlabelled: list[str] = field(default_factory=list)
    num_pixels: list[int] = field(default_factory=list)
    num_images: list[int] = field(default_factory=list)
    num_pixels_where_present: list[int] = field(default_factory=list)
    num_ignored_pixels: int = 0
    sizes_hw: dict[str, int] = field(default_factory=dict)

    @property
    def empty_classes(self) -> list[str]:
        """Return the names of the classes that never occur."""
        return [
            name for name, count in zip(self.classes, self.num_pixels, strict=True) if not count
        ]

    def class_weights(self) -> list[float]:
        """Return weights for the loss by median frequency balancing; 1 for classes without pixels.

        The frequency of a class is its share of the labelled pixels of the images in which it
        occurs; its weight is the median frequency of all classes / its own.

        Source: Eigen and Fergus, "Predicting Depth, Surface Normals and Semantic Labels", 2015.
        """
        pixels = np.asarray(self.num_pixels, np.float64)
        present = pixels > 0
        if not present.any():
            return [1.0] * len(self.classes)
        frequencies = pixels[present] / np.asarray(self.num_pixels_where_present)[present]
        weights = np.ones(len(self.classes))
        weights[present] = np.median(frequencies) / frequencies
        return [float(weight) for weight in weights]

    def to_dict(self) -> dict[str, Any]:
        """Return all that was found, ready for JSON."""
        return {
            **asdict(self),
            "empty_classes": self.empty_classes,
            "class_weights": self.class_weights(),
        }


@dataclass(frozen=True)
class _Finding:
    """What one sample adds to a report: an error, or the ids and counts of its label."""

    error: str = ""
    label_path: str = ""
    size_hw: tuple[int, int] = (0, 0)
    ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    counts: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))


def audit(
    dataset: SegmentationDataset, num_threads: int = 4, show_progress: bool = False
) -> AuditReport:
    """Read every sample of a data set and report on it; a bad file does not stop the audit.

    Args:
        dataset: Its transforms are not used.
        num_threads: Files read at a time.
        show_progress: Show a bar on standard error.
    """
    num_classes = dataset.num_classes
    report = AuditReport(list(dataset.label_set.classes))
    totals = np.zeros((3, num_classes), np.int64)
    with ThreadPoolExecutor(num_threads) as executor:
        findings = map_in_order(
            executor, lambda index: _inspect(dataset, index), range(len(dataset)), 4 * num_threads
        )
        bar = tqdm(findings, total=len(dataset), unit="image", disable=not show_progress)
        for finding in bar:
            _add(report, totals, finding, dataset.ignore_index)
    report.num_pixels, report.num_images, report.num_pixels_where_present = totals.tolist()
    return report


def _inspect(dataset: SegmentationDataset, index: int) -> _Finding:
    """Read one sample."""
    try:
        sample = dataset.read(index)
    except UserError as error:
        return _Finding(error=str(error))
    if sample.label is None:
        return _Finding(size_hw=(sample.image.shape[0], sample.image.shape[1]))
    ids, counts = count_ids(sample.label)
    return _Finding(
        label_path=sample.label_path or "",
        size_hw=(sample.label.shape[0], sample.label.shape[1]),
        ids=ids,
        counts=counts,
    )


def _add(report: AuditReport, totals: np.ndarray, finding: _Finding, ignore_index: int) -> None:
    """Add one sample; `totals` (3, K) are pixels, images, and labelled pixels of those images."""
    report.num_samples += 1
    if finding.error:
        report.bad_files.append(finding.error)
        return
    size = f"{finding.size_hw[0]}x{finding.size_hw[1]}"
    report.sizes_hw[size] = report.sizes_hw.get(size, 0) + 1
    is_labelled = finding.ids != ignore_index
    ids, counts = finding.ids[is_labelled], finding.counts[is_labelled]
    report.num_ignored_pixels += int(finding.counts[~is_labelled].sum())
    if finding.label_path and not len(ids):
        report.unlabelled.append(finding.label_path)
    totals[0, ids] += counts
    totals[1, ids] += 1
    totals[2, ids] += counts.sum()
