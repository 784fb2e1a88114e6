"""Audit of a data set: damaged files, wrong labels, class frequencies."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from paddleseg_segformer.data.datasets import SegmentationDataset
from paddleseg_segformer.data.headers import orientation
from paddleseg_segformer.data.loader import map_in_order
from paddleseg_segformer.data.transforms import count_ids
from paddleseg_segformer.errors import UserError


@dataclass
class AuditReport:
    """The result of an audit.

    Args:
        classes: Class names.
        num_samples: Samples that were read.
        bad_files: One message for each sample that cannot be used; it names the file.
        unlabelled: Label files in which every pixel has the ignored id.
        num_pixels: Labelled pixels of each class.
        num_images: Images in which each class occurs.
        num_pixels_where_present: Labelled pixels of those images.
        num_ignored_pixels: Pixels with the ignored id.
        sizes_hw: How many images have each size, by "height x width".
        repeated: One message for each image file whose content an earlier sample has.
        turned: Image files that are turned as their EXIF says, while labels are not.
        digests: Of the content of each image file; not in `to_dict`.
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
    repeated: list[str] = field(default_factory=list)
    turned: list[str] = field(default_factory=list)
    digests: dict[bytes, str] = field(default_factory=dict, repr=False)

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
        """Return the result as plain data for JSON."""
        fields = asdict(self)
        del fields["digests"]
        return {
            **fields,
            "empty_classes": self.empty_classes,
            "class_weights": self.class_weights(),
        }


class _Sample(NamedTuple):
    """What the report needs of one sample, whose image and label are dropped at once."""

    size: str  # height x width
    image_path: str
    digest: bytes | None  # of the image file; None where it is no file
    is_turned: bool
    label_path: str | None
    ids: np.ndarray  # in the label
    counts: np.ndarray  # pixels of each


def audit(
    dataset: SegmentationDataset, num_threads: int = 4, show_progress: bool = False
) -> AuditReport:
    """Read every sample of a data set and report; a bad file does not stop the audit.

    Args:
        dataset: Its transforms are not used.
        num_threads: Files read at a time.
        show_progress: Show a bar on standard error.
    """
    report = AuditReport(list(dataset.label_set.classes))
    totals = np.zeros((3, dataset.num_classes), np.int64)
    indices = range(len(dataset))
    with ThreadPoolExecutor(num_threads) as executor:
        samples = map_in_order(executor, partial(_read, dataset), indices, 4 * num_threads)
        for sample in tqdm(samples, total=len(dataset), unit="image", disable=not show_progress):
            report.num_samples += 1
            if isinstance(sample, UserError):
                report.bad_files.append(str(sample))
            else:
                _add(report, totals, sample, dataset.ignore_index)
    report.num_pixels, report.num_images, report.num_pixels_where_present = totals.tolist()
    return report


def _read(dataset: SegmentationDataset, index: int) -> _Sample | UserError:
    try:
        sample = dataset.read(index)
    except UserError as error:
        return error
    height, width = sample.image.shape[:2]
    label = np.empty(0, np.uint8) if sample.label is None else sample.label
    image, path = Path(sample.image_path), sample.image_path
    content = image.read_bytes() if image.is_file() else None
    return _Sample(
        f"{height}x{width}",
        path,
        None if content is None else hashlib.blake2b(content, digest_size=16).digest(),
        content is not None and sample.label is not None and orientation(content) != 1,
        sample.label_path,
        *count_ids(label),
    )


def _add(report: AuditReport, totals: np.ndarray, sample: _Sample, ignore_index: int) -> None:
    """Add one sample; `totals` (3, K) are pixels, images, and labelled pixels of those images."""
    report.sizes_hw[sample.size] = report.sizes_hw.get(sample.size, 0) + 1
    if sample.is_turned:
        report.turned.append(sample.image_path)
    if sample.digest:
        first = report.digests.setdefault(sample.digest, sample.image_path)
        if first != sample.image_path:
            report.repeated.append(f"{sample.image_path}: the image of {first}")
    is_labelled = sample.ids != ignore_index
    ids, counts = sample.ids[is_labelled], sample.counts[is_labelled]
    report.num_ignored_pixels += int(sample.counts[~is_labelled].sum())
    if sample.label_path and not len(ids):
        report.unlabelled.append(sample.label_path)
    totals[0, ids] += counts
    totals[1, ids] += 1
    totals[2, ids] += counts.sum()
