"""`check_dataset`: audit the data sets of a config; exit with status 1 if they are of no use."""

from __future__ import annotations

import argparse
import json
import re
from functools import partial
from typing import TYPE_CHECKING, Any

from paddleseg_segformer.cli.common import add_config_arguments, check_outputs, load_config_from
from paddleseg_segformer.config.building import build_dataset
from paddleseg_segformer.data.audit import AuditReport, audit
from paddleseg_segformer.errors import Mistakes, UserError
from paddleseg_segformer.files import write_text

if TYPE_CHECKING:
    from paddleseg_segformer.config import Config
    from paddleseg_segformer.data import SegmentationDataset

SPLITS = {"train": ("train",), "val": ("val",), "both": ("train", "val")}
MAX_LISTED = 20
EXAMPLES = 3  # of each kind of unusable sample


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's flags."""
    add_config_arguments(parser)
    add = parser.add_argument
    add("--split", choices=SPLITS, default="both", help="data sets to audit")
    add("--num_workers", type=int, default=4, help="threads that read files")
    add("--json", metavar="FILE", help="also write the report to this JSON file")


def run(args: argparse.Namespace) -> None:
    """Print a report for each data set.

    Raises:
        UserError: a file cannot be used, images are in both data sets, or they are normalised
            differently; or the config has no such data set.
    """
    check_outputs(args.json)
    config = load_config_from(args, partial(_datasets, args))
    reports = {}
    for name, dataset in _datasets(args, config).items():
        reports[name] = audit(dataset, max(1, args.num_workers), show_progress=True)
        print(format_report(name, reports[name]))
    if args.json:
        content = {name: report.to_dict() for name, report in reports.items()}
        write_text(args.json, json.dumps(content, indent=2) + "\n")
    problems = []
    num_bad = sum(len(report.bad_files) for report in reports.values())
    if num_bad:
        problems.append(f"{num_bad} samples cannot be used; they are listed above.")
    if len(reports) == 2:
        train, val = reports["train_dataset"].digests, reports["val_dataset"].digests
        shared = [f"{path}: the image of {train[key]}" for key, path in val.items() if key in train]
        print("\n".join(_listing("images of val_dataset that are in train_dataset", shared)))
        if shared:
            problems.append(f"{len(shared)} images are in both data sets.")
        assert config.train_dataset and config.val_dataset
        constants = [_normalisation(config.train_dataset), _normalisation(config.val_dataset)]
        if constants[0] != constants[1]:
            problems.append(
                f"train_dataset has {constants[0]}, val_dataset {constants[1]}: make them equal."
            )
    if problems:
        raise UserError(" ".join(problems))


def _datasets(args: argparse.Namespace, config: Config) -> dict[str, SegmentationDataset]:
    """Return the data sets of `--split` by name, without transforms."""
    names = [f"{split}_dataset" for split in SPLITS[args.split]]
    sections = {name: section for name in names if (section := getattr(config, name))}
    if not sections:
        raise UserError(
            f"{args.config}: has no {' and no '.join(names)}. Add one, or choose another --split."
        )
    mistakes = Mistakes()
    datasets = {
        name: mistakes.attempt(build_dataset, {**section, "transforms": []}, name)
        for name, section in sections.items()
        if section["type"]
    }
    mistakes.raise_all()
    return datasets


def _normalisation(section: dict[str, Any]) -> str:
    """Describe what a data set's images are normalised with."""
    for transform in section.get("transforms") or ():
        if isinstance(transform, dict) and transform.get("type") == "Normalize":
            mean, std = (transform.get(key, [0.5]) for key in ("mean", "std"))
            same = [values[:1] if len({*values}) == 1 else values for values in (mean, std)]
            return f"Normalize with mean {list(same[0])} and std {list(same[1])}"
    return "no Normalize"


def format_report(name: str, report: AuditReport) -> str:
    """Return the report of one data set as text."""
    sizes = sorted(report.sizes_hw.items(), key=lambda item: -item[1])
    lines = [
        f"{name}: {report.num_samples} samples; height x width "
        + ", ".join(f"{size} ({count})" for size, count in sizes[:5])
        + (f" and {len(sizes) - 5} other sizes" if len(sizes) > 5 else ""),
        *_class_table(report),
        *_listing("classes that never occur", report.empty_classes),
        *_listing("labels without a labelled pixel", report.unlabelled),
        *_listing("images that an earlier sample has", report.repeated),
        *_listing("images turned by their EXIF, beside labels that are not", report.turned),
        *_listing("samples that cannot be used", _by_kind(report.bad_files), len(report.bad_files)),
    ]
    return "\n".join(lines) + "\n"


def _class_table(report: AuditReport) -> list[str]:
    """Return the lines on the classes."""
    total = sum(report.num_pixels) + report.num_ignored_pixels
    if not total:
        return ["no labelled pixels"]
    weights = report.class_weights()
    lines = [f"{'id':>4}  {'class':24} {'pixels':>9} {'images':>8} {'weight':>8}"]
    rows = zip(report.classes, report.num_pixels, report.num_images, weights, strict=True)
    for index, (name, pixels, images, weight) in enumerate(rows):
        share = f"{100 * pixels / total:.3f} %"
        lines.append(f"{index:>4}  {name[:24]:24} {share:>9} {images:>8} {weight:>8.3f}")
    lines.append(f"ignored: {100 * report.num_ignored_pixels / total:.3f} % of the pixels")
    lines.append(
        "class weights by median frequency balancing (median frequency / frequency; frequency = "
        "pixels of the class / labelled pixels of the images that hold it):"
    )
    lines.append(f"  weight: [{', '.join(f'{weight:.4g}' for weight in weights)}]")
    return lines


def _by_kind(messages: list[str]) -> list[str]:
    """Return three messages of each kind, the last with the number of others."""
    kinds: dict[str, list[str]] = {}
    for message in messages:
        kinds.setdefault(re.sub(r"\d+", "#", message.partition(": ")[2]), []).append(message)
    lines = []
    for same in kinds.values():
        lines += same[:EXAMPLES]
        if len(same) > EXAMPLES:
            lines[-1] += f" (and {len(same) - EXAMPLES} more of this kind)"
    return lines


def _listing(title: str, items: list[str], count: int | None = None) -> list[str]:
    """Return the lines of a list with its length, or `count`; none for an empty list."""
    if not items:
        return []
    more = [f"  ... and {len(items) - MAX_LISTED} more"] if len(items) > MAX_LISTED else []
    return [f"{title}: {count or len(items)}", *(f"  {item}" for item in items[:MAX_LISTED]), *more]
