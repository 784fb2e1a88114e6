"""`check_dataset`: audit the data sets of a config; exit with status 1 if they are of no use."""

from __future__ import annotations

import argparse
import json
from functools import partial
from typing import TYPE_CHECKING, Any

from paddleseg_segformer.cli.common import add_config_arguments, check_outputs, load_config_from
from paddleseg_segformer.config.building import build_dataset
from paddleseg_segformer.data.audit import (
    AuditReport,
    audit,
    audit_split,
    audit_training,
    audit_transforms,
    rgb_of,
)
from paddleseg_segformer.data.findings import EXAMPLES, Fault, Findings
from paddleseg_segformer.errors import Mistakes, UserError
from paddleseg_segformer.files import write_text

if TYPE_CHECKING:
    from paddleseg_segformer.config import Config
    from paddleseg_segformer.data import SegmentationDataset

SPLITS = {"train": ("train",), "val": ("val",), "both": ("train", "val")}
MAX_COLORS = 40  # that are listed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's flags."""
    add_config_arguments(parser)
    add = parser.add_argument
    add("--split", choices=SPLITS, default="both", help="data sets to audit")
    add("--num_workers", type=int, default=4, help="threads that read files")
    add("--json", metavar="FILE", help="also write the report to this JSON file")


def run(args: argparse.Namespace) -> None:
    """Print a report for each data set, and what was found.

    Raises:
        UserError: an error was found; see `data.findings`; or the config has no such data set.
    """
    check_outputs(args.json)
    config = load_config_from(args, partial(_datasets, args, Findings()))
    findings, reports = Findings(), {}
    datasets = _datasets(args, findings, config)
    for name, dataset in datasets.items():
        reports[name] = audit(dataset, max(1, args.num_workers), True, name)
        if name == "train_dataset":
            audit_training(reports[name], name)
            audit_transforms(dataset, reports[name], config.batch_size, name)
        print(format_report(name, reports[name]))
    for report in reports.values():
        findings.update(report.findings)
    findings.update(audit_split(reports, datasets))
    found = findings.to_list()
    print(format_findings(found))
    if args.json:
        content = {name: report.to_dict() for name, report in reports.items()}
        write_text(args.json, json.dumps({**content, "findings": found}, indent=2) + "\n")
    errors = [f"{item['kind']} ({item['count']})" for item in found if item["severity"] == "error"]
    if errors:
        raise UserError(f"{', '.join(errors)}: a run would stop or be meaningless. See above.")


def _datasets(
    args: argparse.Namespace, findings: Findings, config: Config
) -> dict[str, SegmentationDataset]:
    """Return the data sets of `--split` by name; masks of 0 and 255 are read as classes 0 and 1.

    Args:
        findings: Those masks are added to.
    """
    names = [f"{split}_dataset" for split in SPLITS[args.split]]
    sections = {name: section for name in names if (section := getattr(config, name))}
    if not sections:
        raise UserError(
            f"{args.config}: has no {' and no '.join(names)}. Add one, or choose another --split."
        )
    mistakes, datasets = Mistakes(), {}
    for name, section in sections.items():
        if section["type"]:
            with mistakes:
                datasets[name] = _build(section, name, findings)
    mistakes.raise_all()
    return datasets


def _build(section: dict[str, Any], name: str, findings: Findings) -> Any:
    """Build a data set; masks of 0 and 255 are noted, and read as classes 0 and 1."""
    try:
        return build_dataset(section, name)
    except Fault as fault:
        if fault.kind != "label-binary":
            raise
        findings.add(fault.kind, str(fault))
        return build_dataset({**section, "label_values": [0, 255]}, name)


def format_findings(found: list[dict[str, Any]]) -> str:
    """Return the findings as text, each once."""
    lines = [f"findings: {len(found)}" if found else "nothing was found"]
    for item in found:
        lines.append(f"{item['severity']} {item['kind']} ({item['count']}): {item['sentence']}")
        lines += [f"  {example}" for example in item["examples"]]
        if item["count"] > EXAMPLES:
            lines.append(f"  ... and {item['count'] - EXAMPLES} more")
    return "\n".join(lines)


def format_report(name: str, report: AuditReport) -> str:
    """Return the report of one data set as text."""
    sizes = sorted(report.sizes_hw.items(), key=lambda item: -item[1])
    lines = [
        f"{name}: {report.num_samples} samples; height x width "
        + ", ".join(f"{size} ({count})" for size, count in sizes[:5])
        + (f" and {len(sizes) - 5} other sizes" if len(sizes) > 5 else ""),
        *_class_table(report),
        *_color_table(report),
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


def _color_table(report: AuditReport) -> list[str]:
    """Return the lines on the colours of labels that are colour images."""
    if not report.label_colors:
        return []
    total = sum(report.label_colors.values())
    colors = report.label_colors.most_common(MAX_COLORS)
    lines = [f"colours of the labels: {len(report.label_colors)}, the most frequent first"]
    for code, count in colors:
        lines.append(f"  {list(rgb_of(code))!s:16} {100 * count / total:>7.3f} %")
    listed = ", ".join(str(list(rgb_of(code))) for code, _ in colors)
    lines.append("to read them, in the order of the classes, then those without a class:")
    lines.append(f"  label_colors: [{listed}]")
    return lines
