"""`predict`: write label maps and overlays for an image, a folder, a list of images or a video."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from tqdm import tqdm

from paddleseg_segformer.cli.common import (
    add_config_arguments,
    add_model_path_argument,
    load_config_from,
    set_device,
    set_up_logging,
    true_or_false,
)
from paddleseg_segformer.cli.inference_flags import (
    add_inference_arguments,
    settings_from_config,
    settings_with_flags,
)
from paddleseg_segformer.cli.large_pictures import is_large, predict_large
from paddleseg_segformer.cli.paddleseg_flags import add_paddleseg_flags
from paddleseg_segformer.cli.prediction_files import OUTPUTS, OVERLAYS, RESULTS, ResultFiles
from paddleseg_segformer.data.mosaic import write_mosaic
from paddleseg_segformer.errors import UserError, did_you_mean
from paddleseg_segformer.files import check_folder
from paddleseg_segformer.inference.image_sources import (
    ImageFile,
    find_images,
    is_video,
    read_ahead,
)
from paddleseg_segformer.inference.overlay import OVERLAY_ALPHA
from paddleseg_segformer.inference.plan import memory_line
from paddleseg_segformer.runtimes.engines import BACKENDS, MAX_SIDE_PX, PRECISIONS
from paddleseg_segformer.video import overlay_video

if TYPE_CHECKING:
    from paddleseg_segformer.data.labels import LabelSet
    from paddleseg_segformer.inference.arrays import Array
    from paddleseg_segformer.inference.pipeline import ImageLogits
    from paddleseg_segformer.inference.settings import InferenceSettings
    from paddleseg_segformer.predictor import Prediction, Predictor

logger = logging.getLogger(__name__)

WINDOW_SIDES_PX = (1024, 768, 512, 256)  # tried for images that do not fit into memory
LOG_INTERVAL_S = 30.0  # between lines on the windows of large images
# flags of exported models alone, with their defaults
EXPORT_FLAGS: dict[str, Any] = {
    "backend": "auto",
    "precision": "fp32",
    "cpu_threads": os.cpu_count() or 1,
    "use_trt": False,
    "max_side_px": MAX_SIDE_PX,
    "self_check": False,
}


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags: PaddleSeg's, where it has them."""
    add_config_arguments(parser, required=False)
    add_model_path_argument(parser)
    parser.add_argument(
        "--export_dir",
        help="folder of an exported model, instead of --config and --model_path; --backend, "
        "--precision, --cpu_threads, --use_trt, --max_side_px and --self_check are for it",
    )
    add_prediction_arguments(parser, "aug_pred")
    add_paddleseg_flags(parser, "predict")
    parser.set_defaults(has_png_overlays=False)


def add_prediction_arguments(parser: ArgumentParser, aug_flag: str | None) -> None:
    """Add what `predict` and `infer` have in common."""
    add = parser.add_argument
    add("--image_path", help="image, folder, list file (.txt), or video (.mp4, .avi, .mov)")
    add("--file_list", help="list file, an image a line, relative to --image_path or to the list")
    add("--save_dir", default="output/result", help="folder of the results")
    add(
        "--backend",
        choices=BACKENDS,
        help="default auto: the fastest that is installed and reads what was exported",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        help="default fp32. fp16: paddle on GPU; bf16: openvino; int8: openvino, of an export "
        "with --format int8; int8-bf16: the same, and bf16 for what is not int8",
    )
    add("--cpu_threads", type=int, help="threads of the network on the CPU; default: all cores")
    add(
        "--use_trt",
        nargs="?",
        const=True,
        type=true_or_false,
        metavar="True|False",
        help="TensorRT, with --backend paddle --device gpu and a Paddle that was built with it",
    )
    add(
        "--max_side_px",
        type=int,
        help=f"default {MAX_SIDE_PX}: longest side that may go through the network at once; larger "
        "images need a sliding window",
    )
    add(
        "--self_check",
        action="store_true",
        default=None,
        help="first compare the labels with those that the export expects for its fixture image; "
        "exit status 1 if they differ. Without --image_path nothing else is done",
    )
    add("--batch_size", type=int, default=1, help="images whose windows are computed together")
    add(
        "--benchmark",
        nargs="?",
        const=True,
        default=False,
        type=true_or_false,
        metavar="True|False",
        help="print the time of each step, after a warm-up",
    )
    add_inference_arguments(parser, aug_flag)
    add("--save_probabilities", action="store_true", help="also write (K, H, W) float16 .npy files")
    add(
        "--outputs",
        type=_outputs,
        default=("label", "overlay"),
        metavar="NAME,...",
        help="what to write, of label (PNG of class ids; TIFF of large pictures), overlay, "
        "confidence (as of --save_confidence), polygons (GeoJSON of each image, COCO of all; in "
        "pixels), legend (legend.png, and beside each overlay), geotiff (class ids with the "
        "picture's georeference), and vectors (GeoPackage and GeoJSON in its coordinates)",
    )
    add(
        "--mosaic",
        action="store_true",
        help="--image_path is a folder of georeferenced tiles, which are one picture",
    )
    add("--polygon_min_px", type=int, default=0, help="leave out regions of fewer pixels")
    add(
        "--polygon_simplify_px",
        type=float,
        default=0.0,
        help="leave out corners that lie no farther than this from the line without them; default "
        "0: outlines follow the pixels",
    )
    add(
        "--polygon_classes",
        nargs="+",
        default=[],
        metavar="CLASS",
        help="only regions of these classes, by name or id",
    )
    add(
        "--save_confidence",
        action="store_true",
        help="also write the probability of each pixel's class as grey PNG files, 255 for certain; "
        "calibrated where test_config.temperatures is set",
    )
    add(
        "--min_confidence",
        type=float,
        default=0.0,
        help="give pixels of a lower confidence, 0..1, the ignored id: unknown",
    )
    add(
        "--class_confidence",
        nargs="+",
        type=_class_confidence,
        default=[],
        metavar="CLASS=MIN",
        help="--min_confidence of single classes, by name or id: car=0.7 3=0.5",
    )
    add("--overlay_alpha", type=float, default=OVERLAY_ALPHA, help="opacity of the colours, 0..1")
    add(
        "--custom_color",
        nargs="+",
        type=int,
        metavar="VALUE",
        help="red, green and blue of every class in turn, 0..255; without it: the data set's",
    )


def _outputs(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if unknown := [name for name in names if name not in OUTPUTS]:
        raise ArgumentTypeError(f"found {unknown[0]!r}.{did_you_mean(unknown[0], OUTPUTS)}")
    return names


def _class_confidence(text: str) -> tuple[str, float]:
    name, _, number = text.rpartition("=")
    try:
        limit = float(number)
    except ValueError:
        limit = math.nan
    if not name or not 0 <= limit <= 1:
        raise ArgumentTypeError(f"found {text!r}, expected CLASS=MIN with MIN from 0 to 1")
    return name, limit


def run(args: Namespace) -> None:
    """Predict all images, or the frames of a video.

    Raises:
        UserError: a flag or the model is wrong, or images failed (each was reported by name).
    """
    set_up_logging()
    if not 0 <= args.overlay_alpha <= 1:
        raise UserError(f"--overlay_alpha: found {args.overlay_alpha}, expected 0 to 1.")
    if not 0 <= args.min_confidence <= 1:
        raise UserError(f"--min_confidence: found {args.min_confidence}, expected 0 to 1.")
    for flag in ("polygon_min_px", "polygon_simplify_px"):
        if getattr(args, flag) < 0:
            raise UserError(f"--{flag}: found {getattr(args, flag)}, expected 0 or more.")
    if args.batch_size < 1:
        raise UserError(f"--batch_size: found {args.batch_size}, expected 1 or more.")
    check_folder(args.save_dir)
    is_check_alone = bool(args.self_check) and not (args.image_path or args.file_list)
    has_images = not (is_video(args.image_path) or is_check_alone)
    if is_video(args.image_path) and not os.path.isfile(args.image_path):
        raise UserError(f"{args.image_path}: no such file (--image_path).")
    for flag in ("save_confidence", "min_confidence", "class_confidence"):
        if is_video(args.image_path) and getattr(args, flag):
            raise UserError(f"--{flag} has no effect on a video. Leave it out, or name images.")
    files = ResultFiles(args)
    results = [Path(args.save_dir) / folder for folder in RESULTS]
    images = _found_images(args, results) if has_images else []
    predictor, runs_on = _exported(args) if args.export_dir else _built(args)
    if args.custom_color:
        assert predictor.label_set is not None
        predictor.label_set = _recolored(predictor.label_set, args.custom_color)
    if is_check_alone:
        return
    logger.info("%s: %s", runs_on, predictor.settings.describe())
    if not has_images:
        destination = Path(args.save_dir) / OVERLAYS / f"{Path(args.image_path).stem}.mp4"
        num_frames, rate = overlay_video(
            predictor, args.image_path, destination, args.overlay_alpha
        )
        logger.info("%s: %d frames, %.2f frames/s", destination, num_frames, rate)
        return
    timer = Timer()
    if args.benchmark:
        network = predictor.pipeline.network = _TimedNetwork(predictor.pipeline.network, timer)
        _predict(list(read_ahead(images[:1], predictor.read)), predictor, timer)
        timer.seconds.clear()  # the first call sets up memory
    large = [image for image in images if is_large(image.path)]
    others = [image for image in images if image not in large] if large else images
    num_done = _predict_images(predictor, others, args, files, timer) if others else 0
    for image in large:
        try:
            predict_large(predictor, image, files)
            num_done += 1
        except UserError as error:
            _report(image, error)
    files.finish()
    logger.info("%d images written to %s", num_done, args.save_dir)
    if args.benchmark:
        threads = f", {network.options.threads} threads" if network.device == "cpu" else ""
        print(
            f"{num_done} images, batch size {args.batch_size}, {network.options.precision}"
            f"{threads}, {runs_on}; ms per image:"
        )
        print(timer.report(max(1, num_done)))
    if num_done < len(images):
        failed = len(images) - num_done
        raise UserError(f"{failed} of {len(images)} images could not be predicted; see above.")


def _found_images(args: Namespace, results: Sequence[Path]) -> list[ImageFile]:
    """Return the images to predict; with `--mosaic`, one for all."""
    if not args.mosaic:
        return find_images(args.image_path, args.file_list, results)
    folder = Path(args.image_path or "")
    if args.file_list or not args.image_path or not folder.is_dir():
        raise UserError("--mosaic needs a folder of tiles as --image_path, and no --file_list.")
    name = folder.absolute().name
    path = write_mosaic(folder, Path(args.save_dir) / f"{name}.vrt", results)
    return [ImageFile(path, name)]


def _exported(args: Namespace) -> tuple[Predictor, str]:
    """Return the predictor of `--export_dir`, and what it runs on in words."""
    from paddleseg_segformer.predictor import Predictor
    from paddleseg_segformer.runtimes.engine_network import EngineNetwork
    from paddleseg_segformer.runtimes.self_check import self_check

    if args.memory_budget_mib is not None:
        raise UserError("--memory_budget_mib has no effect with --export_dir. Leave it out.")
    if args.config or args.model_path:
        raise UserError("--export_dir replaces --config and --model_path: give one of them.")
    given = {
        flag: default if getattr(args, flag) is None else getattr(args, flag)
        for flag, default in EXPORT_FLAGS.items()
    }
    threads, is_checked = given.pop("cpu_threads"), given.pop("self_check")
    predictor = Predictor.from_export(args.export_dir, args.device, threads, **given)
    network = predictor.pipeline.network
    assert isinstance(network, EngineNetwork)
    if is_checked:
        logger.info(self_check(network, args.export_dir).line)
    settings = settings_with_flags(args, predictor.settings, "aug_pred", args.aug_pred)
    predictor.settings = _with_room_for(args, settings)
    return predictor, network.description


def _built(args: Namespace) -> tuple[Predictor, str]:
    """Return the predictor of a config and weights, and its device."""
    for flag in (*EXPORT_FLAGS, "benchmark"):
        if getattr(args, flag):
            raise UserError(f"--{flag} has no effect without --export_dir. Add --export_dir.")
    if not args.model_path:
        raise UserError("give --config and --model_path, or --export_dir, or --model_path alone.")
    from paddleseg_segformer.config.building import build_model

    config = load_config_from(args, build_model)
    settings = _with_room_for(args, settings_from_config(args, config.test_config, "aug_pred"))
    device = set_device(args.device)
    from paddle.nn import Layer

    from paddleseg_segformer.inference.memory_plan import plan_memory
    from paddleseg_segformer.predictor import Predictor

    predictor = Predictor.from_config(config, args.model_path, **vars(settings))
    network = predictor.pipeline.network
    assert isinstance(network, Layer)
    predictor.pipeline.memory = plan_memory(network, args.memory_budget_mib, predictor.img_channels)
    return predictor, device


def _with_room_for(args: Namespace, settings: InferenceSettings) -> InferenceSettings:
    """Let the windows of `--batch_size` images go through the network together."""
    if args.window_batch or args.batch_size == 1:
        return settings
    return settings.replace({"window_batch": max(settings.window_batch or 1, args.batch_size)})


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


def _predict_images(
    predictor: Predictor,
    images: Sequence[ImageFile],
    args: Namespace,
    files: ResultFiles,
    timer: Timer,
) -> int:
    """Write the results of all images, in batches; return how many there were."""
    source = read_ahead(images, predictor.read)
    num_done = 0
    room = _Room(predictor)
    with tqdm(total=len(images), unit="img", disable=None) as progress:
        predictor.pipeline.watch = _Windows(progress)
        while True:
            with timer("read"):
                batch = list(islice(source, args.batch_size))
            if not batch:
                return num_done
            for settings, items in room.groups(batch):
                predictor.settings = settings
                for image, prediction in _predict(items, predictor, timer):
                    with timer("write"):
                        files.save(prediction, image)
                    num_done += 1
            predictor.settings = room.settings
            progress.update(len(batch))


_Read = tuple[ImageFile, np.ndarray | UserError]


class _Room:
    """Tells the plan of larger images; chooses windows where they do not fit as a whole."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.settings = predictor.settings
        self.fitting = 0  # values of the largest image that fits
        self.told = 0  # of the last one whose plan was told

    def groups(self, batch: list[_Read]) -> list[tuple[InferenceSettings, list[_Read]]]:
        """Return the images that are predicted as asked, and each other one with its windows."""
        found: list[tuple[InferenceSettings, list[_Read]]] = [(self.settings, [])]
        for item in batch:
            image, pixels = item
            settings = self.settings if isinstance(pixels, UserError) else self._for(image, pixels)
            if settings is self.settings:
                found[0][1].append(item)
            else:
                found.append((settings, [item]))
        return found if found[0][1] else found[1:]

    def _for(self, image: ImageFile, pixels: np.ndarray) -> InferenceSettings:
        is_larger = pixels.size > 2 * self.told
        is_known = pixels.size <= self.fitting or not self.predictor.pipeline.memory
        if is_known and not is_larger:
            return self.settings
        line, excess = self._plan(self.settings, pixels)
        if is_larger:
            self.told = pixels.size
            if line:
                logger.info("%s: %s", image.path, line)
        if not excess:
            self.fitting = max(self.fitting, pixels.size)
            return self.settings
        for side in () if self.settings.is_slide else WINDOW_SIDES_PX:
            crop, stride = (side, side), (3 * side // 4, 3 * side // 4)
            windows = {"is_slide": True, "is_one_step": False, "crop_size_hw": crop}
            settings = self.settings.replace({**windows, "stride_hw": stride})
            if not self._plan(settings, pixels)[1]:
                logger.warning(
                    "%s: %s. It is predicted in windows of %dx%d px instead, which may give other "
                    "labels; --is_slide chooses them.",
                    image.path, excess, side, side,
                )  # fmt: skip
                return settings
        return self.settings

    def _plan(self, settings: InferenceSettings, pixels: np.ndarray) -> tuple[str, str]:
        """Return the plan of an image in a line, and why it does not fit into memory; or "" each.

        Both are "" where the image is refused for another reason: that comes with its prediction.
        """
        self.predictor.settings = settings
        try:
            return memory_line(self.predictor.pipeline, pixels.shape), ""
        except UserError as error:
            message = str(error).partition(". ")[0]
            return "", message if message.startswith("memory:") else ""
        finally:
            self.predictor.settings = self.settings


class _Windows:
    """Shows how many windows of an image are done: in a bar, or without a terminal in the log."""

    def __init__(self, bar: tqdm[Any]) -> None:
        self.bar = bar
        self.shown_s = time.monotonic()

    def __call__(self, logits: ImageLogits) -> None:
        """Show it, for images of several windows."""
        if logits.num_windows == 1:
            return
        line = f"window {min(logits.num_computed, logits.num_windows)} of {logits.num_windows}"
        if not self.bar.disable:
            self.bar.set_postfix_str(line)
        elif time.monotonic() - self.shown_s > LOG_INTERVAL_S:
            self.shown_s = time.monotonic()
            logger.info(line)


def _predict(
    batch: Sequence[tuple[ImageFile, np.ndarray | UserError]], predictor: Predictor, timer: Timer
) -> list[tuple[ImageFile, Prediction]]:
    """Return the predictions; images that fail are reported by name and left out."""
    try:
        images = []
        for _, pixels in batch:
            if isinstance(pixels, UserError):
                raise pixels
            images.append(pixels)
        with timer("predict"):
            predictions = predictor.predict_read(images)
            for prediction in predictions:
                prediction.label  # noqa: B018  computed here, where its errors are these images'
    except UserError as error:
        if len(batch) > 1:  # the others of the batch are not to blame
            return [item for one in batch for item in _predict([one], predictor, timer)]
        [(image, _)] = batch
        _report(image, error)
        return []
    return [(image, made) for (image, _), made in zip(batch, predictions, strict=True)]


def _report(image: ImageFile, error: UserError) -> None:
    """Say why an image could not be predicted."""
    message = str(error) if str(image.path) in str(error) else f"{image.path}: {error}"
    tqdm.write(f"failed: {message}", file=sys.stderr)


class Timer:
    """Adds up the time of each step."""

    STEPS: ClassVar = {
        "read": "waiting for images, which are read meanwhile",
        "predict": "all that lies between image and label map",
        "network": "part of predict",
        "write": "label map and overlay",
    }

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        """Add the time that the block takes."""
        start = time.perf_counter()
        yield
        self.seconds[step] += time.perf_counter() - start

    def report(self, num_images: int) -> str:
        """Return a line for each step: ms per image."""
        return "\n".join(
            f"{step:<8}{1000 * self.seconds[step] / num_images:>10.1f}  {meaning}"
            for step, meaning in self.STEPS.items()
        )


class _TimedNetwork:
    """A network whose calls are timed."""

    def __init__(self, network: Any, timer: Timer) -> None:
        self._network = network
        self._timer = timer

    def __call__(self, x: Array) -> Array:
        with self._timer("network"):
            output: Array = self._network(x)
        return output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)
