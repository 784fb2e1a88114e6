"""`check_dataset`: audit the data sets of a config; exit with status 1 if a file is unusable."""

from __future__ import annotations

import argparse
import json

from paddleseg_segformer.cli.common import add_config_arguments, load_config_from
from paddleseg_segformer.data.audit import AuditReport, audit
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import write_text

SPLITS = {"train": ("train",), "val": ("val",), "both": ("train", "val")}
MAX_LISTED = 20


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
        UserError: a file cannot be used, or the config has no such data set.
    """
    from paddleseg_segformer.config.building import build_dataset

    config = load_config_from(args)
    reports = {}
    for split in SPLITS[args.split]:
        section = getattr(config, f"{split}_dataset")
        if section is None and args.split == "both":
            continue
        if section is None:
            raise UserError(f"{args.config}: no {split}_dataset. Choose another --split.")
        name = f"{split}_dataset"
        dataset = build_dataset({**section, "transforms": []}, name)
        reports[name] = audit(dataset, max(1, args.num_workers), show_progress=True)
        print(format_report(name, reports[name]))
    if not reports:
        raise UserError(f"{args.config}: neither train_dataset nor val_dataset. Add one.")
    if args.json:
        content = {name: report.to_dict() for name, report in reports.items()}
        write_text(args.json, json.dumps(content, indent=2) + "\n")
    num_bad = sum(len(report.bad_files) for report in reports.values())
    if num_bad:
        raise UserError(f"{num_bad} samples cannot be used; they are listed above.")


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
        *_listing("samples that cannot be used", report.bad_files),
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


def _listing(title: str, items: list[str]) -> list[str]:
    """Return the lines of a list with its length; none for an empty list."""
    if not items:
        return []
    more = [f"  ... and {len(items) - MAX_LISTED} more"] if len(items) > MAX_LISTED else []
    return [f"{title}: {len(items)}", *(f"  {item}" for item in items[:MAX_LISTED]), *more]
