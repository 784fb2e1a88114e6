"""Flags of `--speed`: how much may be lost for how much speed, and the images that tell."""

from __future__ import annotations

import logging
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paddleseg_segformer.cli.int8_flags import calibration_samples, check_numbers
from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export.checks import INT8_FORMATS

if TYPE_CHECKING:
    from paddle import nn

    from paddleseg_segformer.config import Config
    from paddleseg_segformer.export import Quantization, Samples
    from paddleseg_segformer.export.speed_ladder import SpeedLadder

logger = logging.getLogger(__name__)

SPEED_NAMES = ("exact", "fast", "faster", "fastest")  # keys of `speed_ladder.SPEEDS`
DATASET_KEYS = (  # of val_dataset that hold for other lists of the same kind of images too
    *("num_classes", "img_channels", "ignore_index", "classes", "palette", "reduce_zero_label"),
    *("label_values", "value_range", "label_colors", "exif_orientation"),
)


def add_speed_arguments(parser: ArgumentParser) -> None:
    """Add the flags."""
    add = parser.add_argument_group("speed").add_argument
    add(
        "--speed",
        choices=SPEED_NAMES,
        help="measure faster forms of the network on this machine (queries merged by stage, bf16, "
        "INT8, combinations) and write the fastest one that loses no more than this allows: in "
        "points of mIoU 0, 0.1, 0.5, 1",
    )
    add(
        "--data",
        metavar="LIST",
        help="list file of images with labels that forms are compared on; without it: val_dataset",
    )
    add("--max_class_drop", type=float, help="points of IoU that any class may lose")
    add("--allow_loss", action="store_true", help="write the fastest form whatever it loses")


def check_speed(args: Namespace, formats: list[str], output_op: str) -> None:
    """Refuse flags that do not go together, and packages that are missing.

    Raises:
        UserError: there are such.
    """
    if args.speed is None:
        given = [name for name in ("data", "max_class_drop", "allow_loss") if getattr(args, name)]
        if given:
            raise UserError(f"--{given[0]} has no effect without --speed. Add it.")
        return
    check_numbers(args)
    if args.allow_int8_loss:
        raise UserError("--allow_int8_loss has no effect with --speed. Use --allow_loss.")
    if args.max_class_drop is not None and not args.max_class_drop >= 0:
        raise UserError(
            f"--max_class_drop: found {args.max_class_drop:g}, expected 0 or more points."
        )
    if chosen := [name for name in formats if name in INT8_FORMATS]:
        raise UserError(f"--format {chosen[0]}: --speed writes INT8 where it is best. Drop it.")
    if output_op != "none":
        raise UserError(f"--speed: found --output_op {output_op}, expected none: it needs logits.")
    if args.data and not Path(args.data).is_file():
        raise UserError(f"{args.data}: no such file (--data).")
    with explained():
        import matplotlib.figure  # noqa: F401  of the picture: said now, not at the end


@contextmanager
def speed_ladder(
    args: Namespace, config: Config, model: nn.Layer, export: Any
) -> Iterator[SpeedLadder]:
    """Yield the ladder of the flags; the exports of its forms are removed at the end.

    Args:
        export: As of `SpeedLadder`.
    """
    from paddleseg_segformer.export import speed_ladder as ladders

    rng = np.random.default_rng(args.int8_seed)
    samples = _samples(args, config, model, rng)
    quantization = None if args.speed == "exact" else _quantization(args, config, rng)
    bound = ladders.SPEEDS[args.speed]
    changes = {"miou": args.max_miou_drop, "class_iou": args.max_class_drop}
    changes = {name: value for name, value in changes.items() if value is not None}
    if bound is None and (changes or args.allow_loss):
        raise UserError("--speed exact loses nothing. Take another, or leave out what may be lost.")
    if bound:
        bound = ladders.ANY_LOSS if args.allow_loss else replace(bound, **changes)
    with tempfile.TemporaryDirectory() as folder:
        yield ladders.SpeedLadder(model, export, samples, bound, quantization, Path(folder))


def _samples(args: Namespace, config: Config, model: nn.Layer, rng: np.random.Generator) -> Samples:
    """Return the images that forms are compared on.

    Raises:
        UserError: there is no labelled data set.
    """
    from paddleseg_segformer.config.building import build_dataset
    from paddleseg_segformer.export import Samples

    section: dict[str, Any] | None = config.val_dataset
    if args.data:
        kept = {key: value for key, value in (section or {}).items() if key in DATASET_KEYS}
        path = Path(args.data).absolute()
        section = {"num_classes": model.num_classes, **kept}
        section |= {"type": "Dataset", "mode": "val", "val_path": str(path)}
        section["dataset_root"] = str(path.parent)
    if not section:
        raise UserError("--speed: the config has no val_dataset. Name labelled images with --data.")
    dataset = build_dataset(section, "--data" if args.data else "val_dataset")
    chosen = rng.permutation(len(dataset))[: args.gate_images]
    return Samples(dataset.read, sorted(chosen.tolist()))


def _quantization(args: Namespace, config: Config, rng: np.random.Generator) -> Quantization | None:
    """Return the calibration of INT8, or None where it cannot be made."""
    from paddleseg_segformer.export import Quantization

    if find_spec("openvino") and not find_spec("nncf"):
        logger.warning("without INT8, for lack of NNCF. Run: pip install 'nncf>=3.4'")
        return None
    try:
        calibration, _ = calibration_samples(args, config, rng)
    except UserError as error:
        logger.warning("without INT8: %s", error)
        return None
    return Quantization(calibration, seed=args.int8_seed)
