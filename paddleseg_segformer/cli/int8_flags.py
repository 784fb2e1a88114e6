"""Flags of INT8: calibration images, and the accuracy that may be lost."""

from __future__ import annotations

import logging
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

import numpy as np

from paddleseg_segformer.components import img_channels_of
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export.checks import INT8_FORMATS

if TYPE_CHECKING:
    from paddleseg_segformer.config import Config
    from paddleseg_segformer.export import Quantization, Samples

logger = logging.getLogger(__name__)

FLAGS = ("calibration_images", "calibration_size", "gate_images", "max_miou_drop")
CALIBRATION_SIZE, GATE_IMAGES = 64, 32


def add_int8_arguments(parser: ArgumentParser) -> None:
    """Add the flags of `--format int8`, `int8_onnx` and of `--speed`."""
    add = parser.add_argument_group("int8").add_argument
    add(
        "--calibration_images",
        metavar="PATH",
        help="folder or list file of images to calibrate on; without it: those of train_dataset",
    )
    add("--calibration_size", type=int, help=f"how many of them; default {CALIBRATION_SIZE}")
    add(
        "--gate_images",
        type=int,
        help="how many images of val_dataset float32 and INT8 are compared on; default "
        f"{GATE_IMAGES}, all for --speed",
    )
    add(
        "--max_miou_drop",
        type=float,
        help="points of mIoU that INT8, or the form that --speed chooses, may lose on them; "
        "default 0.5, or the speed's. Without labelled images 95%% of the labels have to be equal",
    )
    add("--allow_int8_loss", action="store_true", help="write INT8 even if it loses more")
    add("--int8_seed", type=int, default=0, help="seed of the choice of images and windows")


def quantization_of(args: Namespace, config: Config, formats: list[str]) -> Quantization | None:
    """Return what the flags and the config say of INT8; None where it is not exported.

    Raises:
        UserError: flags without effect, wrong numbers, or no images to calibrate on.
    """
    if not set(INT8_FORMATS) & set(formats):
        given = [name for name in FLAGS if getattr(args, name) is not None]
        if given or args.allow_int8_loss:
            name = given[0] if given else "allow_int8_loss"
            raise UserError(f"--{name} has no effect without --format int8. Add it.")
        return None

    from paddleseg_segformer.export import Quantization
    from paddleseg_segformer.export.accuracy_gate import MAX_MIOU_DROP, AccuracyGate

    check_numbers(args)
    num_gate = GATE_IMAGES if args.gate_images is None else args.gate_images
    drop = MAX_MIOU_DROP if args.max_miou_drop is None else args.max_miou_drop
    rng = np.random.default_rng(args.int8_seed)
    calibration, others = calibration_samples(args, config, rng)
    gate = _labelled(config, num_gate, others, rng)
    return Quantization(
        calibration,
        AccuracyGate(gate, max_miou_drop=drop, is_loss_allowed=args.allow_int8_loss),
        args.int8_seed,
    )


def check_numbers(args: Namespace) -> None:
    """Refuse counts below 1 and a negative loss.

    Raises:
        UserError: there is one.
    """
    counts = [args.calibration_size, args.gate_images]
    if any(count is not None and count < 1 for count in counts):
        raise UserError("--calibration_size and --gate_images: expected 1 or more.")
    drop = args.max_miou_drop
    if drop is not None and not drop >= 0:
        raise UserError(f"--max_miou_drop: found {drop:g}, expected 0 or more points.")


def calibration_samples(
    args: Namespace, config: Config, rng: np.random.Generator
) -> tuple[Samples, Samples]:
    """Return some images to calibrate on, and all others; all again where there are no others.

    Raises:
        UserError: there is none.
    """
    size = args.calibration_size or CALIBRATION_SIZE
    samples = _images(args.calibration_images, config)
    order = [samples.indices[index] for index in rng.permutation(len(samples))]
    if len(order) < size and args.calibration_size is not None:
        logger.warning("--calibration_size %d: there are %d images", size, len(order))
    chosen, others = order[:size], order[size:]
    return type(samples)(samples.read, chosen), type(samples)(samples.read, others or chosen)


def _images(path: str | None, config: Config) -> Samples:
    """Return the images of a folder or list, or of the training set."""
    from paddleseg_segformer.config.building import build_dataset
    from paddleseg_segformer.data.datasets import RawSample
    from paddleseg_segformer.data.io import read_image
    from paddleseg_segformer.data.values import ValueRange
    from paddleseg_segformer.export import Samples
    from paddleseg_segformer.inference.image_sources import find_images

    if path:
        try:
            files = find_images(path)
        except UserError as error:
            named = str(error).replace("--image_path", "--calibration_images")
            raise UserError(named) from None
        section = config.val_dataset or config.train_dataset or {}
        form = img_channels_of(section) or 3, ValueRange.of(section.get("value_range"))

        def read(index: int) -> RawSample:
            file = files[index].path
            return RawSample(read_image(file, *form), None, str(file), None)

        return Samples(read, range(len(files)))
    if not config.train_dataset:
        raise UserError(
            "format int8: the config has no train_dataset to calibrate on. Name images with "
            "--calibration_images."
        )
    try:
        dataset = build_dataset(config.train_dataset, "train_dataset")
    except UserError as error:
        raise UserError(f"{error} Or name images with --calibration_images.") from None
    return Samples(dataset.read, range(len(dataset)))


def _labelled(config: Config, count: int, others: Samples, rng: np.random.Generator) -> Samples:
    """Return images of the config's val_dataset, or of `others` where it cannot be read."""
    from paddleseg_segformer.config.building import build_dataset
    from paddleseg_segformer.export import Samples

    reason = "the config has no val_dataset"
    if config.val_dataset:
        try:
            dataset = build_dataset(config.val_dataset, "val_dataset")
            chosen = rng.permutation(len(dataset))[:count]
            return Samples(dataset.read, sorted(chosen.tolist()))
        except UserError as error:
            reason = str(error)
    logger.warning(
        "int8: compared with float32 by label agreement alone, without mIoU, for lack of labelled "
        "images: %s",
        reason,
    )
    unlabelled = Samples(lambda index: others.read(index)._replace(label=None), others.indices)
    return Samples(unlabelled.read, unlabelled.indices[:count])
