"""`visualize`: draw a network's attention and class maps over its images."""

from __future__ import annotations

import logging
import re
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paddleseg_segformer.cli.common import (
    add_config_arguments,
    add_model_path_argument,
    load_config_from,
    set_device,
    set_up_logging,
)
from paddleseg_segformer.config.building import build_model
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import check_folder, cut_name
from paddleseg_segformer.inference.image_sources import find_images, read_ahead
from paddleseg_segformer.inference.overlay import write_image

if TYPE_CHECKING:
    from paddle import Tensor

    from paddleseg_segformer.predictor import Predictor

logger = logging.getLogger(__name__)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags."""
    add_config_arguments(parser, required=False)
    add_model_path_argument(parser)
    add = parser.add_argument
    add("--image_path", help="image, folder, or list file (.txt); no windows are cut")
    add("--save_dir", default="output/visualize", help="folder of the pictures")
    add(
        "--patch",
        nargs=2,
        type=int,
        metavar=("Y", "X"),
        help="pixel of the image whose patch's attention is drawn; by default the centre",
    )
    add("--layer", type=int, default=-1, help="block of the encoder, over all stages; -1: the last")
    add(
        "--heads", nargs="*", type=int, help="attention heads to draw with their mean; default: all"
    )
    add(
        "--classes",
        nargs="+",
        type=int,
        metavar="ID",
        help="classes whose maps are drawn (MaskSegmenter), by default those that are predicted; "
        "with --explain the classes that are explained",
    )
    add(
        "--explain",
        nargs="+",
        choices=("gradient", "occlusion"),
        help="draw what a class owes to each part of the image, at the pixel of --patch or, "
        "without it, wherever --classes are predicted: attention of --layer weighted by gradients, "
        "or the probability that is lost where a square is covered",
    )
    add("--occlusion_px", type=int, default=32, help="side of the covered squares in px")


def run(args: Namespace) -> None:
    """Draw the pictures of all images."""
    set_up_logging()
    from paddleseg_segformer.predictor import Predictor

    if not args.model_path:
        raise UserError("--model_path is missing: name the weights to visualize (.pdparams).")
    if args.occlusion_px < 1:
        raise UserError(f"--occlusion_px: found {args.occlusion_px}, expected 1 or more.")
    check_folder(args.save_dir)
    images = find_images(args.image_path)
    config = load_config_from(args, build_model)
    device = set_device(args.device)
    predictor = Predictor.from_config(config, args.model_path)
    logger.info("%s: %d images", device, len(images))
    for image, pixels in read_ahead(images, predictor.read):
        if isinstance(pixels, UserError):
            raise pixels
        folder = Path(args.save_dir) / image.name
        try:
            written = _draw(predictor, pixels, folder, args)
        except UserError as error:
            raise UserError(f"{image.path}: {error}") from None
        logger.info("%s: %d pictures", folder, written)


def _draw(predictor: Predictor, image: np.ndarray, folder: Path, args: Namespace) -> int:
    """Write one image's pictures; return how many."""
    from paddleseg_segformer.analysis.attention_maps import (
        attention_picture,
        has_class_maps,
        patch_attention,
        pixel_in_input,
    )

    pixel = tuple(args.patch) if args.patch else (image.shape[0] // 2, image.shape[1] // 2)
    if not all(0 <= place < side for place, side in zip(pixel, image.shape, strict=False)):
        raise UserError(
            f"--patch: found y {pixel[0]}, x {pixel[1]}, expected a pixel of the image, which is "
            f"{image.shape[0]} px high and {image.shape[1]} px wide."
        )
    pipeline = predictor.pipeline
    resized, steps = pipeline.preprocess.resize(image)
    x = _network_input(predictor, resized)
    network: Any = pipeline.network
    size_hw = (resized.shape[0], resized.shape[1])
    attention = patch_attention(
        network.backbone, x, pixel_in_input(pixel, steps, size_hw), args.layer
    )
    heads = list(range(len(attention.weights))) if args.heads is None else args.heads
    if any(not 0 <= head < len(attention.weights) for head in heads):
        raise UserError(
            f"--heads: found {heads}, expected 0 to {len(attention.weights) - 1} in layer "
            f"{attention.layer}."
        )
    pictures = {f"head{head}": attention_picture(resized, attention, head) for head in heads}
    pictures["mean"] = attention_picture(resized, attention, None)
    for name, picture in pictures.items():
        write_image(folder / f"attention_layer{attention.layer}_{name}.png", picture)
    count = len(pictures)
    if args.explain:
        in_input = pixel_in_input(pixel, steps, size_hw) if args.patch or not args.classes else None
        count += _explain(predictor, resized, x, in_input, folder, args)
        if not has_class_maps(network):
            return count
    return count + _draw_classes(predictor, resized, x, folder, args)


def _explain(
    predictor: Predictor,
    image: np.ndarray,
    x: Tensor,
    pixel: tuple[int, int] | None,
    folder: Path,
    args: Namespace,
) -> int:
    """Write what the chosen classes owe to the parts of the image; return how many pictures."""
    from paddleseg_segformer.analysis.attention_maps import heat_picture
    from paddleseg_segformer.analysis.explanations import (
        choose_target,
        gradient_attention,
        occlusion,
    )

    model: Any = predictor.pipeline.network
    for class_id in args.classes or [None]:
        target = choose_target(model, x, pixel, class_id)
        for way in args.explain:
            if way == "gradient":
                found = gradient_attention(model, x, target, args.layer)
            else:
                found = occlusion(model, x, target, args.occlusion_px)
            limits = 0.0, float(found.values.max())
            picture = heat_picture(image, found.values, found.square_px, limits)
            name = f"{way}_class{target.class_id}_{_file_name(predictor, target.class_id)}.png"
            write_image(folder / name, picture)
    return len(args.classes or [None]) * len(args.explain)


def _file_name(predictor: Predictor, class_id: int) -> str:
    assert predictor.label_set is not None
    return cut_name(re.sub(r"\W+", "_", predictor.label_set.classes[class_id]))


def _network_input(predictor: Predictor, image: np.ndarray) -> Tensor:
    import paddle

    x = paddle.to_tensor(np.ascontiguousarray(image.transpose(2, 0, 1))).unsqueeze(0)
    normalize = predictor.pipeline.preprocess.normalize
    return normalize.on_device(x) if normalize else x.astype("float32")


def _draw_classes(
    predictor: Predictor, image: np.ndarray, x: Tensor, folder: Path, args: Namespace
) -> int:
    """Write the class maps of a mask transformer; return how many."""
    from paddleseg_segformer.analysis.attention_maps import (
        class_maps,
        has_class_maps,
        heat_picture,
    )

    model: Any = predictor.pipeline.network
    if not args.classes and not has_class_maps(model):
        return 0
    maps = class_maps(model, x)
    classes = args.classes or _predicted(model, x)
    if not all(0 <= class_id < len(maps) for class_id in classes):
        raise UserError(f"--classes: found {classes}, expected ids of 0 to {len(maps) - 1}.")
    side = model.backbone.patch_size
    for class_id in classes:
        picture = heat_picture(image, maps[class_id], side, (-1.0, 1.0))
        name = f"class{class_id}_{_file_name(predictor, class_id)}.png"
        write_image(folder / name, picture)
    return len(classes)


def _predicted(model: Any, x: Tensor) -> list[int]:
    """Return the classes that are predicted somewhere."""
    import paddle

    with paddle.no_grad():
        return np.unique(model(x).argmax(axis=1).numpy()).tolist()
