"""`complexity`: parameters, multiply-accumulates and activations, with the published figures."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from paddleseg_segformer.cli.common import check_outputs, size_hw
from paddleseg_segformer.errors import UserError, did_you_mean
from paddleseg_segformer.files import write_text

if TYPE_CHECKING:
    from paddle import nn

VARIANTS = ("B0", "B1", "B2", "B3", "B4", "B5")
HEADS = ("canonical", "mmseg")
COUNTED = """\
GMACs: 1e9 multiply-accumulates of convolutions, linears and attention products for one image (the
paper calls them FLOPs), as published and as computed here. GiB: float32 outputs of all operators up
to the label map, without changes of layout, in both forms. Paper: tables 1 and 2 of it, Cityscapes
with 150 classes.
"""
COLUMNS = ("model", "size", "classes", "params M", "paper", "GMACs", "paper", "here", "GiB", "here")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags."""
    add = parser.add_argument
    add("--models", nargs="+", default=list(VARIANTS), metavar="MODEL", help="B0 to B5")
    add(
        "--sizes",
        nargs="+",
        type=size_hw,
        default=[(512, 512), (1024, 1024), (1024, 2048)],
        metavar="SIZE",
        help="px, a side or HEIGHTxWIDTH",
    )
    add("--num_classes", nargs="+", type=int, default=[150, 19], metavar="K", help="classes")
    add("--head", choices=HEADS, default="canonical", help="the paper's, or mmsegmentation's")
    add("--parts", action="store_true", help="also print the figures of each part of the network")
    add("--json", metavar="FILE", help="also write all figures to this JSON file")


def run(args: Namespace) -> None:
    """Count, print the table, write the requested file."""
    for name in args.models:
        if name not in VARIANTS:
            raise UserError(f"--models: found {name!r}.{did_you_mean(name, VARIANTS)}")
    if min(args.num_classes) < 1:
        raise UserError(f"--num_classes: found {min(args.num_classes)}, expected 1 or more.")
    check_outputs(args.json)
    from paddleseg_segformer.analysis.complexity import build_published

    records = []
    for variant in args.models:
        for num_classes in args.num_classes:
            model = build_published(variant, num_classes, args.head == "mmseg")
            for size in args.sizes:
                records.append({**_record(model, variant, size, args.head), "head": args.head})
    print(COUNTED)
    rows = [COLUMNS, *(_cells(record) for record in records)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    if args.parts:
        for record in records:
            print(_parts(record))
    if args.json:
        write_text(args.json, json.dumps(records, indent=1))


def _record(model: nn.Layer, variant: str, size: tuple[int, int], head: str) -> dict[str, Any]:
    from paddleseg_segformer.analysis.complexity import (
        GMACS,
        PARAMETERS_M,
        activation_bytes,
        count_macs,
        count_parameters,
    )

    is_paper = head == "canonical"
    return {
        "model": variant,
        "size_hw": size,
        "num_classes": model.num_classes,
        "parameters": count_parameters(model),
        "paper_parameters_m": PARAMETERS_M[variant] if is_paper else None,
        "paper_gmacs": GMACS.get((variant, size, model.num_classes)) if is_paper else None,
        "macs": dict(count_macs(model, size, rewritten=False)),
        "macs_rewritten": dict(count_macs(model, size)),
        "activation_bytes": dict(activation_bytes(model, size, rewritten=False)),
        "activation_bytes_rewritten": dict(activation_bytes(model, size)),
    }


def _cells(record: dict[str, Any]) -> tuple[str, ...]:
    height, width = record["size_hw"]
    gmacs, here = (sum(record[key].values()) / 1e9 for key in ("macs", "macs_rewritten"))
    gib, gib_here = (
        sum(record[key].values()) / 2**30
        for key in ("activation_bytes", "activation_bytes_rewritten")
    )
    return (
        record["model"],
        f"{height}x{width}",
        str(record["num_classes"]),
        f"{record['parameters'] / 1e6:.3f}",
        _or_dash(record["paper_parameters_m"]),
        f"{gmacs:.2f}",
        _or_dash(record["paper_gmacs"]),
        f"{here:.2f}",
        f"{gib:.2f}",
        f"{gib_here:.2f}",
    )


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _parts(record: dict[str, Any]) -> str:
    height, width = record["size_hw"]
    lines = [f"\n{record['model']} {height}x{width}, {record['num_classes']} classes"]
    for title, key, unit in (("GMACs", "macs", 1e9), ("GiB", "activation_bytes", 2**30)):
        before, here = record[key], record[f"{key}_rewritten"]
        lines.append(f"  {title}, published form and here")
        for part in dict.fromkeys((*before, *here)):
            figures = (counts.get(part, 0) / unit for counts in (before, here))
            lines.append(f"    {part:32}" + "".join(f"{figure:10.3f}" for figure in figures))
    return "\n".join(lines)
