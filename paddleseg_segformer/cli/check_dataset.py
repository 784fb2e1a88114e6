"""`check_dataset`: audit the data sets of a config; exit with status 1 if they are of no use."""

from __future__ import annotations

import argparse
import json
from functools import partial
from typing import TYPE_CHECKING, Any

from paddleseg_segformer.cli.common import add_config_arguments, check_outputs, load_config_from
from paddleseg_segformer.config.building import build_dataset
from paddleseg_segformer.data.audit import audit, audit_split, audit_training, audit_transforms
from paddleseg_segformer.data.audit_text import format_findings, format_report
from paddleseg_segformer.data.findings import Fault, Findings
from paddleseg_segformer.errors import Mistakes, UserError, printable
from paddleseg_segformer.files import write_text

if TYPE_CHECKING:
    from paddleseg_segformer.config import Config
    from paddleseg_segformer.data import SegmentationDataset

SPLITS = {"train": ("train",), "val": ("val",), "both": ("train", "val")}


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
        print(printable(format_report(name, reports[name])))
    for report in reports.values():
        findings.update(report.findings)
    findings.update(audit_split(reports, datasets))
    found = findings.to_list()
    print(printable(format_findings(found)))
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
