"""Audit of a data set: what a person would see who looked at every file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from paddleseg_segformer.data.datasets import RawSample, SegmentationDataset
from paddleseg_segformer.data.findings import Findings
from paddleseg_segformer.data.headers import JPEG_START, is_transparent, orientation
from paddleseg_segformer.data.io import color_codes, decode_rgb, read_file
from paddleseg_segformer.data.loader import map_in_order
from paddleseg_segformer.data.normalize import Normalize
from paddleseg_segformer.data.resize import SizeRule
from paddleseg_segformer.data.similar import difference_hash, find_shared_videos, find_similar
from paddleseg_segformer.data.transforms import RandomPaddingCrop, count_ids
from paddleseg_segformer.errors import UserError

MAX_COLORS = 256  # of a label file that is an image of colours
MAX_SIZES = 20  # of images that the transforms are tried on
SEEDS = (0, 1, 2)  # that they are tried with
MAX_SHIFT, MAX_FACTOR = 2.0, 4.0  # of mean and spread after Normalize, from 0 and 1
MAX_SHARE_RATIO, MIN_SHARE = 10.0, 0.01  # of a class's shares in two data sets, and of the larger


@dataclass
class AuditReport:
    """The result of an audit.

    Args:
        classes: Class names.
        num_samples: Samples that were read.
        bad_files: One message for each sample that cannot be used; it names the file.
        num_pixels: Labelled pixels of each class.
        num_images: Images in which each class occurs.
        num_pixels_where_present: Labelled pixels of those images.
        num_ignored_pixels: Pixels with the ignored id.
        sizes_hw: How many images have each size, by "height x width".
        label_colors: Pixels of each colour 0xRRGGBB in label files that are colour images.
        findings: What is to be mended or looked at.
        digests: Of the content of each image file -> its first path.
        hashes: Of each image that is not flat, by its path; see `similar`.
        paths: Image and label of each sample.
    """

    classes: list[str]
    num_samples: int = 0
    bad_files: list[str] = field(default_factory=list)
    num_pixels: list[int] = field(default_factory=list)
    num_images: list[int] = field(default_factory=list)
    num_pixels_where_present: list[int] = field(default_factory=list)
    num_ignored_pixels: int = 0
    sizes_hw: dict[str, int] = field(default_factory=dict)
    label_colors: Counter[int] = field(default_factory=Counter)
    findings: Findings = field(default_factory=Findings, repr=False)
    digests: dict[bytes, str] = field(default_factory=dict, repr=False)
    hashes: dict[str, int] = field(default_factory=dict, repr=False)
    paths: set[tuple[str, str | None]] = field(default_factory=set, repr=False)

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
        """Return the result as plain data for JSON, without the findings."""
        fields = asdict(self)
        for name in ("findings", "digests", "hashes", "paths"):
            del fields[name]
        colors = [(*rgb_of(code), count) for code, count in self.label_colors.most_common()]
        return {
            **fields,
            "label_colors": colors,  # red, green, blue, pixels
            "unlabelled": self.findings.of("label-ignored"),
            "repeated": self.findings.of("image-repeated"),
            "turned": self.findings.of("image-turned"),
            "empty_classes": self.empty_classes,
            "class_weights": self.class_weights(),
        }


def rgb_of(code: int) -> tuple[int, int, int]:
    """Return red, green and blue of 0xRRGGBB."""
    return code >> 16, code >> 8 & 255, code & 255


@dataclass
class _Sample:
    """What the report needs of one sample, whose image and label are dropped at once."""

    image_path: str
    label_path: str | None
    found: list[tuple[str, str]] = field(default_factory=list)  # kinds and items
    error: UserError | None = None
    size_hw: tuple[int, int] = (0, 0)
    digest: bytes | None = None  # of the image file; None where the data set reads it itself
    hash: int | None = None
    moments: np.ndarray = field(default_factory=lambda: np.empty(0))  # (2, C): E(x), E(x^2)
    is_grey: bool = False
    ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # in the label
    counts: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # pixels of each
    colors: dict[int, int] = field(default_factory=dict)  # of a label that is a colour image


def audit(
    dataset: SegmentationDataset,
    num_threads: int = 4,
    show_progress: bool = False,
    name: str = "dataset",
) -> AuditReport:
    """Read every sample of a data set and report; a bad file does not stop the audit.

    Args:
        dataset: Of its transforms, `Normalize` and crops are compared with the images.
        num_threads: Files read at a time.
        show_progress: Show a bar on standard error.
        name: Of the data set, in findings.
    """
    report = AuditReport(list(dataset.label_set.classes))
    tally = _Tally(report, dataset.num_classes, dataset.ignore_index)
    indices = range(len(dataset))
    with ThreadPoolExecutor(num_threads) as executor:
        samples = map_in_order(executor, partial(_read, dataset), indices, 4 * num_threads)
        for sample in tqdm(samples, total=len(dataset), unit="image", disable=not show_progress):
            tally.add(sample)
    tally.finish(name, normalize_of(dataset))
    return report


def normalize_of(dataset: SegmentationDataset) -> Any:
    """Return a data set's `Normalize`, of this package or PaddleSeg's; None without one."""
    named = (item for item in dataset.transforms if type(item).__name__ == "Normalize")
    return dataset.normalize or next(named, None)


def _read(dataset: SegmentationDataset, index: int) -> _Sample:
    """Read one sample, each file once."""
    sample = _Sample(*dataset.samples[index])
    image_path, label_path = sample.image_path, sample.label_path
    reads_files = _is_inherited(dataset, "read") and _is_inherited(dataset, "read_files")
    reads_files &= not getattr(dataset, "tiles", None)
    image_file, label_file = b"", None
    try:
        if reads_files:
            image_file = read_file(Path(image_path))
            label_file = read_file(Path(label_path)) if label_path else None
            raw = dataset.decode_files(image_path, image_file, label_path, label_file)
        else:
            raw = dataset.read(index)
    except UserError as error:
        sample.error = error
        is_of_label = label_path is not None and str(error).startswith(f"{label_path}:")
        kind = getattr(error, "kind", "") or f"{'label' if is_of_label else 'image'}-unreadable"
        if is_of_label and label_file and _is_lossy(label_file):
            kind = "label-lossy"
        sample.found.append((kind, str(error)))
        if kind == "label-color" and label_path and label_file:
            sample.colors = _colors_of(Path(label_path), label_file)
        return sample
    _look_at_image(sample, raw.image, dataset)
    if reads_files:
        sample.digest = hashlib.blake2b(image_file, digest_size=16).digest()
        is_turned = getattr(dataset, "exif_orientation", True) and orientation(image_file) != 1
        if raw.label is not None and is_turned:
            sample.found.append(("image-turned", image_path))
        if dataset.img_channels in (1, 3) and is_transparent(image_file):
            sample.found.append(("image-alpha", image_path))
    if label_path and label_file and _is_lossy(label_file):
        sample.found.append(("label-lossy", label_path))
    if raw.label is not None and label_path:
        sample.ids, sample.counts = count_ids(raw.label)
        is_ignored = sample.ids == dataset.ignore_index
        if is_ignored.all():
            sample.found.append(("label-ignored", label_path))
        elif len(sample.ids) == 1:
            class_name = dataset.label_set.classes[sample.ids[0]]
            sample.found.append(("label-constant", f"{label_path}: {class_name}"))
    return sample


def _is_inherited(dataset: Any, method: str) -> bool:
    """Return whether a data set, of any class that fulfils `contracts.Data`, has our method."""
    return getattr(type(dataset), method, None) is getattr(SegmentationDataset, method)


def _look_at_image(sample: _Sample, image: np.ndarray, dataset: SegmentationDataset) -> None:
    """Note what an image (H, W, C) looks like."""
    height, width, num_channels = image.shape
    sample.size_hw = height, width
    sample.hash = difference_hash(image)
    planes = cv2.split(image)
    mean, std = np.asarray([cv2.meanStdDev(plane) for plane in planes])[:, :, 0, 0].T
    sample.moments = np.stack([mean, std**2 + mean**2])
    if num_channels == 3 and mean.min() == mean.max():  # the latter is cheap to tell
        sample.is_grey = all(np.array_equal(planes[0], plane) for plane in planes[1:])
    if not std.any():
        sample.found.append(("image-constant", f"{sample.image_path}: {image[0, 0].tolist()}"))
    normalize, is_mapped = normalize_of(dataset), getattr(dataset, "value_range", None)
    if isinstance(normalize, Normalize) and not is_mapped and (reason := normalize.misfit(image)):
        sample.found.append(("image-range", f"{sample.image_path}: {reason}"))
    crops = [item for item in dataset.transforms if isinstance(item, RandomPaddingCrop)]
    if crops and not any(isinstance(item, SizeRule) for item in dataset.transforms):
        crop_height, crop_width = crops[0].crop_hw
        share = min(height / crop_height, 1) * min(width / crop_width, 1)
        if share < 1:
            item = f"{sample.image_path}: {height}x{width} in a crop of {crop_height}x{crop_width}"
            sample.found.append(("image-small", f"{item}, {1 - share:.0%} of it padding"))


def _colors_of(path: Path, label_file: bytes) -> dict[int, int]:
    """Return the pixels of each colour 0xRRGGBB of a label; none where they are too many."""
    try:
        codes, counts = np.unique(color_codes(decode_rgb(path, label_file)), return_counts=True)
    except UserError:
        return {}
    if len(codes) > MAX_COLORS:
        return {}
    return dict(zip(codes.tolist(), counts.tolist(), strict=True))


def _is_lossy(content: bytes) -> bool:
    """Return whether a label file is a JPEG, or a WebP of that kind."""
    is_webp = content[8:12] == b"WEBP" and b"VP8 " in content[12:99]
    return is_webp or content.startswith(JPEG_START)


class _Tally:
    """The samples of one data set, added up into its report."""

    def __init__(self, report: AuditReport, num_classes: int, ignore_index: int) -> None:
        self._report = report
        self._ignore_index = ignore_index
        self._totals = np.zeros((3, num_classes), np.int64)  # see AuditReport's counts
        self._num_pixels = 0
        self._sums = np.zeros(1)  # of the images' moments, by their pixels
        self._image_of_label: dict[str, str] = {}
        self._label_of_image: dict[str, str | None] = {}
        self._image_of_name: dict[PurePath, str] = {}
        self._grey: list[str] = []

    def add(self, sample: _Sample) -> None:
        """Add one sample."""
        report, image_path, label_path = self._report, sample.image_path, sample.label_path
        report.num_samples += 1
        for kind, item in sample.found:
            report.findings.add(kind, item)
        self._compare_paths(image_path, label_path)
        report.label_colors.update(sample.colors)
        if sample.error:
            report.bad_files.append(str(sample.error))
            return
        height, width = sample.size_hw
        size = f"{height}x{width}"
        report.sizes_hw[size] = report.sizes_hw.get(size, 0) + 1
        if sample.hash is not None:
            report.hashes[image_path] = sample.hash
        if sample.digest:
            first = report.digests.setdefault(sample.digest, image_path)
            if first != image_path:
                report.findings.add("image-repeated", f"{image_path}: the image of {first}")
        self._num_pixels += height * width
        self._sums = self._sums + height * width * sample.moments
        if sample.is_grey:
            self._grey.append(image_path)
        is_labelled = sample.ids != self._ignore_index
        ids, counts = sample.ids[is_labelled], sample.counts[is_labelled]
        report.num_ignored_pixels += int(sample.counts[~is_labelled].sum())
        self._totals[0, ids] += counts
        self._totals[1, ids] += 1
        self._totals[2, ids] += counts.sum()

    def _compare_paths(self, image_path: str, label_path: str | None) -> None:
        """Compare the paths of a sample with those before it."""
        report = self._report
        if (image_path, label_path) in report.paths:
            report.findings.add("sample-repeated", image_path)
            return
        report.paths.add((image_path, label_path))
        if label_path:
            first = self._image_of_label.setdefault(label_path, image_path)
            if first != image_path:
                report.findings.add("label-repeated", f"{label_path}: of {first} and {image_path}")
        other_label = self._label_of_image.setdefault(image_path, label_path)
        if other_label != label_path:
            item = f"{image_path}: with the labels {other_label} and {label_path}"
            report.findings.add("image-repeated", item)
        other = self._image_of_name.setdefault(PurePath(image_path).with_suffix(""), image_path)
        if PurePath(other).suffix != PurePath(image_path).suffix:
            report.findings.add("name-repeated", f"{other} and {image_path}")

    def finish(self, name: str, normalize: Any) -> None:
        """Complete the report with what all samples show together."""
        report, findings = self._report, self._report.findings
        report.num_pixels, report.num_images, report.num_pixels_where_present = (
            self._totals.tolist()
        )
        if report.num_samples == 1:
            findings.add("list-short", name)
        if 0 < len(self._grey) < sum(report.sizes_hw.values()):
            findings.add("image-grey", *self._grey)
        num_labelled = sum(report.num_pixels)
        share = report.num_ignored_pixels / max(num_labelled + report.num_ignored_pixels, 1)
        if share > 0.5:
            findings.add("ignored-share", f"{name}: {share:.0%} of the pixels")
        if self._num_pixels and normalize and not findings.of("image-range"):
            self._compare_statistics(name, normalize)

    def _compare_statistics(self, name: str, normalize: Any) -> None:
        """Compare mean and spread of the images' channels with the constants."""
        mean, square = self._sums / self._num_pixels
        spread = np.sqrt(np.maximum(square - mean**2, 0))
        offset, scale = 255 * np.ravel(normalize.mean), 1 / (255 * np.ravel(normalize.std))
        if {offset.size, scale.size} - {1, mean.size}:
            return  # which the transforms refuse
        shift, factor = (mean - offset) * scale, spread * scale
        is_near = factor.min() >= 1 / MAX_FACTOR and factor.max() <= MAX_FACTOR
        if abs(shift).max() > MAX_SHIFT or not is_near:
            mean, spread = (np.round(values / 255, 3).tolist() for values in (mean, spread))
            self._report.findings.add(
                "normalize-far", f"{name}: the images have mean {mean} and std {spread}"
            )


def audit_transforms(
    dataset: SegmentationDataset, report: AuditReport, batch_size: int, name: str
) -> None:
    """Add what the transforms of a training set do with images of its sizes."""
    if not _is_inherited(dataset, "make_sample"):
        return
    shapes: dict[tuple[int, ...], str] = {}
    for size in list(report.sizes_hw)[:MAX_SIZES]:
        height, width = map(int, size.split("x"))
        image = np.zeros((height, width, dataset.img_channels), np.uint8)
        label = np.zeros(
            (height, width), np.uint8 if 0 <= dataset.ignore_index <= 255 else np.int32
        )
        sample = RawSample(image, label, f"an image of {size}", None)
        try:
            found = {dataset.transformed(sample, seed)[0].shape for seed in SEEDS}
        except (UserError, RuntimeError) as error:
            report.findings.add("transform-fails", f"{name}: {error}")
            return
        shapes |= dict.fromkeys(found, size)
    if len(shapes) > 1 and batch_size > 1:
        examples = [f"{size} becomes {h}x{w}" for (_, h, w), size in shapes.items()]
        report.findings.add("sizes-mixed", f"{name}: {', '.join(examples[:3])}")


def audit_split(
    reports: Mapping[str, AuditReport], datasets: Mapping[str, SegmentationDataset]
) -> Findings:
    """Return what the data sets of a config show together.

    Args:
        reports: Of the data sets; the first is that of the training.
        datasets: By the same names.
    """
    findings = Findings()
    constants = {name: _constants(normalize_of(dataset)) for name, dataset in datasets.items()}
    if len({*constants.values()}) > 1:
        stated = [f"{name} has {text}" for name, text in constants.items()]
        findings.add("normalize-differs", ", ".join(stated))
    elif set(constants.values()) == {_constants(None)}:
        findings.add("normalize-missing", *constants)
    ranges = {name: _declared(dataset) for name, dataset in datasets.items()}
    if len({*ranges.values()}) > 1:
        findings.add("value-range-differs", ", ".join(f"{k} has {v}" for k, v in ranges.items()))
    first = next(iter(reports.values()))
    if any(any(report.num_pixels) for report in reports.values()):
        absent = [set(report.empty_classes) for report in reports.values()]
        findings.add("class-absent", *(x for x in first.classes if all(x in y for y in absent)))
    if len(reports) == 2:
        _compare(findings, *reports.items())
    return findings


def _declared(dataset: SegmentationDataset) -> str:
    """Describe what the values that a data set stores mean."""
    value_range = getattr(dataset, "value_range", None)
    return f"value_range {value_range.declared}" if value_range else "no value_range"


def audit_training(report: AuditReport, name: str) -> None:
    """Add what a training set alone has to have."""
    num_present = np.count_nonzero(report.num_pixels)
    num_read = report.num_samples - len(report.bad_files)
    if num_read and not num_present:
        report.findings.add("train-unlabelled", name)
    if num_present == 1 and len(report.classes) > 1:
        only = report.classes[int(np.argmax(report.num_pixels))]
        report.findings.add("train-one-class", f"{name}: {only}")


def _compare(
    findings: Findings, train: tuple[str, AuditReport], val: tuple[str, AuditReport]
) -> None:
    """Add what a training set (name, report) and a validation set have in common, or not."""
    (train_name, ours), (val_name, theirs) = train, val
    if ours.paths == theirs.paths:
        findings.add("lists-equal", f"{len(ours.paths)} samples")
    else:
        shared = ours.digests.keys() & theirs.digests.keys()
        for digest, path in theirs.digests.items():
            if digest in shared:
                findings.add("image-in-two-splits", f"{path}: the image of {ours.digests[digest]}")
        known = {theirs.digests[digest] for digest in shared}
        hashes = {path: value for path, value in theirs.hashes.items() if path not in known}
        for path, other in find_similar(ours.hashes, hashes).items():
            findings.add("image-similar", f"{path} and {other}")
        for video, counts in find_shared_videos(ours.hashes, hashes).items():
            text = f"{video}: {counts[0]} images of {train_name}, {counts[1]} of {val_name}"
            findings.add("video-in-two-splits", text)
    if ours.classes == theirs.classes:
        _compare_classes(findings, train, val)


def _compare_classes(
    findings: Findings, train: tuple[str, AuditReport], val: tuple[str, AuditReport]
) -> None:
    """Add what differs in the classes' shares of the labelled pixels."""
    shares = [_shares(report.num_pixels) for _, report in (train, val)]
    for name, ours, theirs in zip(train[1].classes, *shares, strict=True):
        text = f"{name}: {ours:.2%} of {train[0]}, {theirs:.2%} of {val[0]}"
        low, high = sorted((ours, theirs))
        if not ours and theirs:
            findings.add("class-not-trained", text)
        elif not theirs and ours:
            findings.add("class-not-scored", text)
        elif high >= MIN_SHARE and high > MAX_SHARE_RATIO * low:
            findings.add("class-shares-differ", text)


def _shares(num_pixels: Sequence[int]) -> list[float]:
    total = max(sum(num_pixels), 1)
    return [count / total for count in num_pixels]


def _constants(normalize: Any) -> str:
    """Describe what images are normalised with."""
    if normalize is None:
        return "no Normalize"
    values = (np.ravel(item).tolist() for item in (normalize.mean, normalize.std))
    mean, std = (item[:1] if len({*item}) == 1 else item for item in values)
    return f"Normalize with mean {mean} and std {std}"
