"""`erf`: draw effective receptive fields, of one or several models, over images."""

from __future__ import annotations

import logging
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paddleseg_segformer.cli.common import (
    add_device_argument,
    add_import_argument,
    check_numbers,
    set_device,
    set_up_logging,
)
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import check_folder
from paddleseg_segformer.inference.image_sources import ImageFile, find_images

if TYPE_CHECKING:
    from paddle import nn

    from paddleseg_segformer.config import Config

logger = logging.getLogger(__name__)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags."""
    add = parser.add_argument
    add(
        "models",
        nargs="+",
        metavar="MODEL",
        help="a model folder, a Hugging Face folder, a weight file; a config (YAML) gives random "
        "weights",
    )
    add("--image_path", help="image, folder, or list file (.txt)")
    add("--num_images", type=int, default=100, help="images that are averaged, the first ones")
    add("--size", type=int, default=1024, help="side in px that images are resized to")
    add("--gradient", choices=("relu", "abs"), default="relu", help="its positive part, or all")
    add("--each", action="store_true", help="also draw the fields of every single image")
    add("--seed", type=int, default=0, help="of random weights")
    add("--save_dir", default="output/erf", help="folder of erf.png, erf.csv and erf.npz")
    add_import_argument(parser)
    add_device_argument(parser)


def run(args: Namespace) -> None:
    """Compute, print the sides, write picture and tables."""
    set_up_logging()
    check_numbers(args, num_images=1, size=1)
    for model in args.models:
        if not os.path.exists(model):
            raise UserError(f"{model}: no such model. Name a weight file, a folder or a YAML file.")
    check_folder(args.save_dir)
    images = find_images(args.image_path)[: args.num_images]

    from paddleseg_segformer.report.figures import check_matplotlib

    check_matplotlib()
    set_device(args.device)
    from paddleseg_segformer.report.receptive_fields import write_fields

    fields, singles = {}, {}
    for path in args.models:
        model, config = _load(path, args.seed)
        logger.info("%s: %d images of %d px", path, len(images), args.size)
        fields[path], singles[path] = _fields(model, config, images, args)
    pictures = (
        {
            image.name: {path: singles[path][i] for path in args.models}
            for i, image in enumerate(images)
        }
        if args.each
        else {}
    )
    print(write_fields(fields, pictures, args.save_dir))


def _load(path: str, seed: int) -> tuple[nn.Layer, Config]:
    """Return a model in evaluation mode, and the config that says how images are prepared."""
    import paddle

    from paddleseg_segformer.config import load_config
    from paddleseg_segformer.config.building import build_model
    from paddleseg_segformer.model_folder import config_of
    from paddleseg_segformer.weights import load_weights

    is_config = Path(path).suffix in (".yml", ".yaml")
    config = load_config(path) if is_config else config_of(path)
    paddle.seed(seed)
    model = build_model(config)
    if not is_config:
        load_weights(model, path)
    model.eval()
    return model, config


def _fields(
    model: nn.Layer, config: Config, images: Sequence[ImageFile], args: Namespace
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the average fields (5, size, size), and with --each those of every image."""
    import cv2

    from paddleseg_segformer.analysis.receptive_field import receptive_fields
    from paddleseg_segformer.data.io import read_image
    from paddleseg_segformer.inference.preprocess import Preprocess

    preprocess = Preprocess.from_config(config)
    num_channels = model.backbone.in_channels
    total, singles = np.zeros((5, args.size, args.size)), []
    for image in images:
        pixels = read_image(image.path, num_channels, preprocess.value_range)
        sized = cv2.resize(pixels, (args.size, args.size), interpolation=cv2.INTER_AREA)
        sized = sized.reshape(args.size, args.size, num_channels)
        normalize = preprocess.normalize
        planes = normalize.planes(sized) if normalize else sized.transpose(2, 0, 1)
        found = receptive_fields(model, [planes.astype(np.float32)], args.gradient)
        total += found
        if args.each:
            singles.append(found)
    return total / len(images), singles
