"""Flags on own data in any form: what is not to be concluded."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from paddleseg_segformer.annotations import Options


def add_annotation_arguments(parser: ArgumentParser) -> None:
    """Add a flag for each field of `Options`."""
    add = parser.add_argument
    add("--format", default="auto", help="form of the annotations, such as coco; auto: recognised")
    add("--labels", default="", help="names of the label files: '{stem}_mask.png'")
    add(
        "--label_values",
        type=_auto_or_numbers,
        default="auto",
        metavar="VALUES",
        help="what mask images hold: auto, ids, colors, or the value of each class: 0,255",
    )
    add(
        "--classes",
        type=Path,
        metavar="FILE",
        help="names of the classes (.txt), with colours (.csv), or lines `old: new` that rename, "
        "merge and leave out (.yml)",
    )
    add(
        "--background",
        default="auto",
        metavar="NAME",
        help="class of pixels that nothing was drawn on; none: they do not count",
    )
    add(
        "--value_range",
        type=_value_range,
        default="auto",
        metavar="RANGE",
        help="what stored values mean: auto, none, dtype, data, LOW,HIGH",
    )
    add(
        "--bands",
        type=_bands,
        default="all",
        help="numbers of the bands to be used, from 1: all, or 4,3,2",
    )
    add(
        "--exif",
        choices=("auto", "turned", "stored"),
        default="auto",
        help="whether labels fit images as their EXIF turns them, or as they are stored",
    )
    add("--val", type=float, default=0.2, metavar="SHARE", help="of the images, for validation")
    add(
        "--val_by",
        default="",
        metavar="PREFIX|COLUMN",
        help="validation images: the beginning of their paths; or of DATA's metadata.csv "
        "COLUMN=VALUE, or a COLUMN that says train, val and test, or what is to stay together",
    )
    add("--val_dir", type=Path, metavar="DIR", help="folder of the validation images")


def annotation_options(args: Namespace) -> Options:
    """Return what the flags say."""
    names = {field.name for field in fields(Options)}
    return Options(**{name: value for name, value in vars(args).items() if name in names})


def _auto_or_numbers(text: str) -> str | Sequence[int]:
    return text if text in ("auto", "ids", "colors") else _numbers(text)


def _bands(text: str) -> Sequence[int] | None:
    return None if text == "all" else _numbers(text)


def _numbers(text: str) -> list[int]:
    try:
        return [int(item) for item in text.split(",")]
    except ValueError:
        raise ArgumentTypeError(f"found {text!r}, expected numbers such as 1,2,3") from None


def _value_range(text: str) -> str | Sequence[float]:
    if "," not in text:
        return text
    try:
        return [float(item) for item in text.split(",")]
    except ValueError:
        raise ArgumentTypeError(f"found {text!r}, expected LOW,HIGH") from None
