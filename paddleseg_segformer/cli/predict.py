"""`predict`: write label maps and overlays for an image, a folder, a list of images or a video."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from paddleseg_segformer.cli.common import (
    add_config_arguments,
    add_model_path_argument,
    load_config_from,
    set_device,
    set_up_logging,
)
from paddleseg_segformer.cli.inference_flags import (
    add_inference_arguments,
    settings_from_config,
    settings_with_flags,
)
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import atomic_path
from paddleseg_segformer.inference.image_sources import (
    ImageFile,
    find_images,
    is_video,
    read_ahead,
)
from paddleseg_segformer.inference.overlay import OVERLAY_ALPHA, write_image
from paddleseg_segformer.runtimes.engines import BACKENDS, PRECISIONS

if TYPE_CHECKING:
    from paddleseg_segformer.data.labels import LabelSet
    from paddleseg_segformer.predictor import Prediction, Predictor

logger = logging.getLogger(__name__)

OVERLAY_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags: PaddleSeg's, where it has them."""
    add_config_arguments(parser, required=False)
    add_model_path_argument(parser)
    add = parser.add_argument
    add("--export_dir", help="folder of an exported model, instead of --config and --model_path")
    add(
        "--backend",
        choices=BACKENDS,
        help="engine of --export_dir; without it: the fastest that is installed and reads what was "
        "exported",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        help="of the computation of --export_dir; default fp32. int8 needs an export with --format "
        "int8",
    )
    add(
        "--self_check",
        action="store_true",
        help="first compare the engine with the labels that --export_dir expects for its fixture "
        "image; exit status 1 if they differ. Without --image_path nothing else is done",
    )
    add("--image_path", help="image, folder, list file (.txt), or video (.mp4, .avi, .mov)")
    add("--file_list", help="list file, an image a line, relative to --image_path or to the list")
    add("--save_dir", default="output/result", help="folder of the results")
    add_inference_arguments(parser, "aug_pred")
    add("--save_probabilities", action="store_true", help="also write (K, H, W) float16 .npy files")
    add("--overlay_alpha", type=float, default=OVERLAY_ALPHA, help="opacity of the colours, 0..1")
    add(
        "--custom_color",
        nargs="+",
        type=int,
        metavar="VALUE",
        help="red, green and blue of every class in turn, 0..255; without it: the data set's",
    )


def run(args: Namespace) -> None:
    """Predict all images; say at the end how many could not be."""
    set_up_logging()
    if not 0 <= args.overlay_alpha <= 1:
        raise UserError(f"--overlay_alpha: found {args.overlay_alpha}, expected 0 to 1.")
    is_check_alone = args.self_check and not (args.image_path or args.file_list)
    has_images = not (is_video(args.image_path) or is_check_alone)
    images = find_images(args.image_path, args.file_list) if has_images else []
    predictor, engine = _exported(args) if args.export_dir else _built(args)
    if args.custom_color:
        assert predictor.label_set is not None
        predictor.label_set = _recolored(predictor.label_set, args.custom_color)
    if is_check_alone:
        return
    logger.info("%s: %s", engine, predictor.settings.describe())
    if is_video(args.image_path):
        _predict_video(predictor, Path(args.image_path), args)
        return
    num_failed = _predict_images(predictor, images, args)
    if num_failed:
        raise UserError(f"{num_failed} of {len(images)} images could not be predicted; see above.")
    logger.info("%d images written to %s", len(images), args.save_dir)


def _exported(args: Namespace) -> tuple[Predictor, str]:
    """Return the predictor of `--export_dir`, and its engine in words."""
    from paddleseg_segformer.predictor import Predictor
    from paddleseg_segformer.runtimes.engine_network import EngineNetwork
    from paddleseg_segformer.runtimes.self_check import self_check

    if args.memory_budget_mib is not None:
        raise UserError("--memory_budget_mib is of no use here: engines keep their own memory.")
    if args.config or args.model_path:
        raise UserError("--export_dir stands instead of --config and --model_path: give one.")
    predictor = Predictor.from_export(
        args.export_dir,
        args.device,
        threads=os.cpu_count() or 1,
        precision=args.precision or "fp32",
        backend=args.backend or "auto",
    )
    network = predictor.pipeline.network
    assert isinstance(network, EngineNetwork)
    if args.self_check:
        logger.info(self_check(network, args.export_dir).line)
    base = predictor.settings
    predictor.settings = settings_with_flags(args, base, "aug_pred", args.aug_pred)
    return predictor, network.description


def _built(args: Namespace) -> tuple[Predictor, str]:
    """Return the predictor of a config and weights, and its device."""
    for flag in ("backend", "precision", "self_check"):
        if getattr(args, flag):
            raise UserError(f"--{flag} has no effect without --export_dir. Add --export_dir.")
    if not args.model_path:
        raise UserError("give --config and --model_path, or --export_dir, or --model_path alone.")
    device = set_device(args.device)
    from paddle.nn import Layer

    from paddleseg_segformer.inference.memory_plan import plan_memory
    from paddleseg_segformer.predictor import Predictor

    config = load_config_from(args)
    settings = settings_from_config(args, config.test_config, "aug_pred")
    predictor = Predictor.from_config(config, args.model_path, **vars(settings))
    network = predictor.pipeline.network
    assert isinstance(network, Layer)
    predictor.pipeline.memory = plan_memory(network, args.memory_budget_mib, predictor.img_channels)
    return predictor, device


def _recolored(label_set: LabelSet, values: Sequence[int]) -> LabelSet:
    """Return the label set with the colours of `--custom_color`."""
    num_classes = label_set.num_classes
    if len(values) != 3 * num_classes or not all(0 <= value <= 255 for value in values):
        raise UserError(
            f"--custom_color: found {len(values)} values, expected {3 * num_classes} in 0..255: "
            f"red, green and blue of {num_classes} classes."
        )
    colors = np.reshape(values, (-1, 3)).tolist()
    palette = tuple((red, green, blue) for red, green, blue in colors)
    return dataclasses.replace(label_set, palette=palette)


def _predict_images(predictor: Predictor, images: Sequence[ImageFile], args: Namespace) -> int:
    """Predict and save; return how many images failed. Each of these is reported by name."""
    from paddleseg_segformer.inference.plan import memory_line

    num_failed, is_told = 0, False
    read = read_ahead(images, predictor.img_channels)
    for image, pixels in tqdm(read, total=len(images), unit="img", disable=None):
        try:
            if isinstance(pixels, UserError):
                raise pixels
            if not is_told:
                logger.info("%s: %s", image.path, memory_line(predictor.pipeline, pixels.shape))
                is_told = True
            prediction = predictor(pixels)
            prediction.label  # noqa: B018  computed here, where its errors are this image's
        except UserError as error:
            num_failed += 1
            message = str(error)
            if str(image.path) not in message:
                message = f"{image.path}: {message}"
            tqdm.write(f"failed: {message}", file=sys.stderr)
            continue
        _save(prediction, image, args)
    return num_failed


def _save(prediction: Prediction, image: ImageFile, args: Namespace) -> None:
    """Write one image's results, in sub-folders as the images are."""
    save_dir = Path(args.save_dir)
    prediction.save(save_dir / "pseudo_color_prediction" / f"{image.name}.png")
    suffix = image.path.suffix.lower()
    suffix = suffix if suffix in OVERLAY_SUFFIXES else ".png"
    overlay = prediction.overlay(args.overlay_alpha)
    write_image(save_dir / "added_prediction" / f"{image.name}{suffix}", overlay)
    if args.save_probabilities:
        with atomic_path(save_dir / "probabilities" / f"{image.name}.npy") as temporary:
            np.save(temporary, prediction.probabilities.astype(np.float16))


def _predict_video(predictor: Predictor, path: Path, args: Namespace) -> None:
    """Write the overlay video; say how fast it went."""
    from paddleseg_segformer.video import overlay_video

    destination = Path(args.save_dir) / "added_prediction" / f"{path.stem}.mp4"
    num_frames, rate = overlay_video(predictor, path, destination, args.overlay_alpha)
    logger.info("%s: %d frames, %.2f frames/s", destination, num_frames, rate)
