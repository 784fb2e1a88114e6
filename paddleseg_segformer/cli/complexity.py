"""`complexity`: parameters, multiply-accumulates and activations, with the published figures."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddleseg_segformer.cli.common import (
    add_device_argument,
    check_outputs,
    set_device,
    size_hw,
)
from paddleseg_segformer.errors import UserError, did_you_mean
from paddleseg_segformer.files import write_text

if TYPE_CHECKING:
    from paddle import nn

    from paddleseg_segformer.config import Config

VARIANTS = ("B0", "B1", "B2", "B3", "B4", "B5")
HEADS = ("canonical", "mmseg")
# of a backbone; others change its cost
PLAIN_BACKBONE_KEYS = {"type", "pretrained", "drop_rate", "attn_drop_rate", "drop_path_rate"}
COUNTED = """\
GMACs: 1e9 multiply-accumulates of convolutions, linears and attention products for one image (the
paper calls them FLOPs), as published and as computed here. GiB: float32 outputs of all operators up
to the label map, without changes of layout, in both forms. Paper: tables 1 and 2 of it, Cityscapes
with 150 classes. Images per second: table 2 (V100); mmsegmentation's model card (its own head;
several GPUs, Cityscapes by windows); with --time here, image in memory to label map in memory.
"""
COLUMNS = (
    *("model", "size", "classes", "params M", "paper", "GMACs", "paper", "here", "GiB", "here"),
    *("img/s: paper", "mmseg", "here"),
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags."""
    add = parser.add_argument
    add("--models", nargs="+", default=list(VARIANTS), metavar="MODEL", help="B0 to B5")
    add(
        "--config",
        nargs="+",
        metavar="CONFIG",
        help="the models of these configs instead, Segmenters too: YAML files, or names of "
        "packaged ones",
    )
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
    add(
        "--time",
        type=int,
        metavar="N",
        help="also time N images of each size, one after the other, by the paper's rules: the "
        "first 5 do not count (the paper: 200)",
    )
    add_device_argument(parser)
    add("--parts", action="store_true", help="also print the figures of each part of the network")
    add("--json", metavar="FILE", help="also write all figures to this JSON file")


def run(args: Namespace) -> None:
    """Count, print the table, write the requested file."""
    for name in args.models:
        if name not in VARIANTS:
            raise UserError(f"--models: found {name!r}.{did_you_mean(name, VARIANTS)}")
    if min(args.num_classes) < 1:
        raise UserError(f"--num_classes: found {min(args.num_classes)}, expected 1 or more.")
    plain = {"models": list(VARIANTS), "num_classes": [150, 19], "head": "canonical"}
    for name, default in plain.items() if args.config else ():
        if getattr(args, name) != default:
            raise UserError(f"--{name} has no effect with --config. Leave one of them out.")
    if args.time is not None and args.time < 6:
        raise UserError(f"--time: found {args.time}, expected 6 or more: the first 5 do not count.")
    check_outputs(args.json)
    from paddleseg_segformer.config import load_config

    # all configs are read before Paddle is imported
    configs = {name: load_config(name) for name in args.config or ()}
    records = []
    device = set_device(args.device) if args.time else None
    for name, variant, model in _of_configs(configs) if configs else _published(args):
        for size in args.sizes:
            record = {"model": name, **_record(model, variant, size)}
            if args.time:
                record |= {"device": device, "fps": _fps(model, size, args.time)}
            records.append(record)
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


def _published(args: Namespace) -> Iterator[tuple[str, str, nn.Layer]]:
    """Yield name, variant and network of the published models asked for."""
    from paddleseg_segformer.analysis.complexity import build_published

    for variant in args.models:
        for num_classes in args.num_classes:
            yield variant, variant, build_published(variant, num_classes, args.head == "mmseg")


def _of_configs(configs: Mapping[str, Config]) -> Iterator[tuple[str, str, nn.Layer]]:
    """Yield name, variant ("" for none that was published) and network of configs' models.

    Raises:
        UserError: a model that cannot be counted.
    """
    from paddleseg_segformer.analysis.complexity import is_countable
    from paddleseg_segformer.config.building import build_model

    for name, config in configs.items():
        model = build_model(config)
        if not is_countable(model):
            raise UserError(
                f"{name}: the multiply-accumulates of {type(model).__name__} on "
                f"{type(model.backbone).__name__} are not known here. Name a SegFormer on a MiT or "
                "a ResNet, or a Segmenter."
            )
        backbone = config.model.get("backbone") or {}
        variant = str(backbone.get("type", "")).rpartition("_")[2]
        is_published = variant in VARIANTS and set(backbone) <= PLAIN_BACKBONE_KEYS
        yield Path(name).stem, variant if is_published else "", model


def _fps(model: nn.Layer, size: tuple[int, int], num_images: int) -> float:
    from paddleseg_segformer.analysis.latency import images_per_second
    from paddleseg_segformer.cpu import prepare_cpu

    prepare_cpu()
    model.eval()
    return images_per_second(model, size, num_images)


def _record(model: nn.Layer, variant: str, size: tuple[int, int]) -> dict[str, Any]:
    from paddleseg_segformer.analysis.complexity import (
        GMACS,
        MMSEG_FPS,
        PAPER_FPS,
        PARAMETERS_M,
        activation_bytes,
        count_macs,
        count_parameters,
    )
    from paddleseg_segformer.models import MixVisionTransformer, SegFormer, SegFormerMM

    is_paper = isinstance(model, SegFormer) and variant in VARIANTS
    has_activations = isinstance(model, (SegFormer, SegFormerMM)) and isinstance(
        model.backbone, MixVisionTransformer
    )
    return {
        "size_hw": size,
        "num_classes": model.num_classes,
        "parameters": count_parameters(model),
        "paper_parameters_m": PARAMETERS_M[variant] if is_paper else None,
        "paper_gmacs": GMACS.get((variant, size, model.num_classes)) if is_paper else None,
        "paper_fps": PAPER_FPS.get((variant, size)) if is_paper else None,
        "mmseg_fps": MMSEG_FPS.get((variant, size)),
        "macs": dict(count_macs(model, size, rewritten=False)),
        "macs_rewritten": dict(count_macs(model, size)),
        "activation_bytes": dict(activation_bytes(model, size, False)) if has_activations else {},
        "activation_bytes_rewritten": dict(activation_bytes(model, size))
        if has_activations
        else {},
        "head": {SegFormer: "canonical", SegFormerMM: "mmseg"}.get(type(model)),
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
        f"{gib:.2f}" if gib else "-",
        f"{gib_here:.2f}" if gib_here else "-",
        *(_or_dash(record.get(key)) for key in ("paper_fps", "mmseg_fps", "fps")),
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
