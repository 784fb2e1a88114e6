"""`predict`: write label maps, overlays and more for images, folders, lists or videos."""

from __future__ import annotations

import logging
import math
import os
import re
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from paddleseg_segformer.cli.common import (
    add_config_arguments,
    add_model_path_argument,
    check_numbers,
    set_up_logging,
    true_or_false,
)
from paddleseg_segformer.cli.inference_flags import add_inference_arguments
from paddleseg_segformer.cli.paddleseg_flags import add_paddleseg_flags
from paddleseg_segformer.cli.prediction_files import FILM_FOLDERS, OUTPUTS, RESULTS, ResultFiles
from paddleseg_segformer.cli.prediction_record import RunRecord
from paddleseg_segformer.cli.prediction_worker import Worker
from paddleseg_segformer.cloud import check_store, is_url
from paddleseg_segformer.data.mosaic import write_mosaic
from paddleseg_segformer.errors import UserError, did_you_mean, printable
from paddleseg_segformer.files import check_folder, make_folder, only_writer
from paddleseg_segformer.inference.image_sources import ImageFile, find_images, is_video
from paddleseg_segformer.inference.overlay import OVERLAY_ALPHA
from paddleseg_segformer.runtimes.engines import BACKENDS, MAX_SIDE_PX, MAX_STREAMS, PRECISIONS
from paddleseg_segformer.video import SUFFIXES, FilmOptions, predict_video

if TYPE_CHECKING:
    from paddleseg_segformer.inference.pipeline import ImageLogits, Pipeline
    from paddleseg_segformer.predictor import Predictor

logger = logging.getLogger(__name__)

LOG_INTERVAL_S = 30.0  # between lines on the windows of large images
# flags of videos alone, with their defaults
FILM_FLAGS = {"every": 1, "max_frames": None, "smooth": 0.0, "keep_audio": False}
MIN_STREAMED = 8  # images; for fewer, streams are not worth what OpenVINO compiles for them


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags: PaddleSeg's, where it has them."""
    add_config_arguments(parser, required=False)
    add_model_path_argument(parser)
    parser.add_argument(
        "--export_dir",
        help="folder of an exported model, instead of --config and --model_path; --backend, "
        "--precision, --cpu_threads, --streams, --use_trt, --max_side_px and --self_check are for "
        "it",
    )
    add_prediction_arguments(parser, "aug_pred")
    add_paddleseg_flags(parser, "predict")
    parser.set_defaults(has_png_overlays=False)


def add_prediction_arguments(parser: ArgumentParser, aug_flag: str | None) -> None:
    """Add what `predict` and `infer` have in common."""
    add = parser.add_argument
    add(
        "--image_path",
        help="image, folder, list file (.txt), or video (.mp4, .mkv, .mov ...); or a URL: "
        "s3://..., gs://...",
    )
    add("--file_list", help="list file, an image a line, relative to --image_path or to the list")
    add("--save_dir", default="output/result", help="folder of the results, or its URL: s3://...")
    add(
        "--backend",
        choices=BACKENDS,
        help="default auto: the fastest that is installed and reads what was exported",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        help="default auto: what export --speed chose, else fp32. fp16: paddle on GPU; bf16: "
        "openvino; int8: openvino, of an export with --format int8, or onnxruntime, with --format "
        "int8_onnx; int8-bf16: openvino, and bf16 for what is not int8",
    )
    add("--cpu_threads", type=int, help="threads of the network on the CPU; default: all cores")
    add(
        "--streams",
        type=int,
        metavar="N",
        help="images that are predicted at the same time, by OpenVINO or ONNX Runtime; they share "
        f"--cpu_threads. Default: one for each thread, at most {MAX_STREAMS}; 1 for fewer than "
        f"{MIN_STREAMED} images",
    )
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
        "--resume",
        action="store_true",
        help="go on where an earlier run of the same images, model and flags has stopped",
    )
    add(
        "--actors",
        type=int,
        metavar="N",
        help="share the images among N processes of Ray Data, each with a model",
    )
    add("--ray_address", help="of a Ray cluster, for --actors: auto, or ray://HOST:10001")
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
        metavar="NAME,...",
        help="what to write, of label (PNG of class ids; TIFF of large pictures), overlay, "
        "confidence (as of --save_confidence), polygons (GeoJSON of each image, COCO of all; in "
        "pixels), legend (legend.png, and beside each overlay), side_by_side (image and overlay), "
        "geotiff (class ids with the picture's georeference), and vectors (GeoPackage and GeoJSON "
        "in its coordinates). Of a video: label (FFV1, lossless), overlay, side_by_side. Default: "
        "label; with --overlay_alpha, and of a video, label,overlay",
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
    add("--every", type=int, default=1, metavar="N", help="of a video, each N-th frame alone")
    add("--max_frames", type=int, help="of a video, so many frames at most")
    add(
        "--smooth",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of a video, average the logits along the motion: share of the frames before, 0 (off) "
        "to below 1, such as 0.7",
    )
    add("--keep_audio", action="store_true", help="copy a video's sound into the overlays")
    add(
        "--live",
        action="store_true",
        help="--image_path is a URL (rtsp://, http:// ...) or a camera (/dev/video0), read "
        "until it ends, for --max_frames, or until Ctrl-C",
    )
    add(
        "--overlay_alpha",
        type=float,
        metavar="SHARE",
        help=f"opacity of the overlay's colours, 0..1; default {OVERLAY_ALPHA}",
    )
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
    is_film = args.live or is_video(args.image_path)
    _choose_outputs(args, is_film)
    if not 0 <= args.min_confidence <= 1:
        raise UserError(f"--min_confidence: found {args.min_confidence}, expected 0 to 1.")
    check_numbers(args, polygon_min_px=0, polygon_simplify_px=0, batch_size=1)
    (check_store if is_url(args.save_dir) else check_folder)(args.save_dir)
    is_check_alone = bool(args.self_check) and not (args.image_path or args.file_list)
    film = _film_options(args) if is_film else None
    has_images = not (film or is_check_alone)
    for flag, default in FILM_FLAGS.items():
        if has_images and getattr(args, flag) != default:
            raise UserError(f"--{flag} has an effect on videos alone. Leave it out, or name one.")
    rank, world_size = _share(args)
    files = ResultFiles(args)
    results = [f"{files.folder}/{folder}" for folder in RESULTS]
    images = _found_images(args, results) if has_images else []
    if args.export_dir and not args.streams:
        is_serial = film.is_serial if film else len(images) < MIN_STREAMED or args.batch_size > 1
        args.streams = 1 if is_serial or args.actors else 0
    if args.actors:
        _predict_on_ray(args, images, files)
        return
    worker = Worker(args)
    if is_check_alone:
        return
    predictor = worker.predictor
    logger.info("%s: %s", worker.runs_on, predictor.settings.describe())
    if film:
        _predict_film(predictor, args, film)
        return
    with ExitStack() as stack:
        if rank == 0 and not is_url(args.save_dir):
            stack.enter_context(only_writer(make_folder(args.save_dir)))
        record = RunRecord(worker.files, worker.identity(), images, rank, world_size)
        _predict_share(worker, record, images[rank::world_size], rank)


def _predict_share(worker: Worker, record: RunRecord, share: list[ImageFile], rank: int) -> None:
    """Predict what is left of this process's images; note how it ended."""
    args, predictor = worker.args, worker.predictor
    left = record.begin(share, args.resume)
    if args.benchmark and left:
        worker.warm_up(left[0])
    start_s = time.monotonic()
    failures = _follow(worker(left), len(left), rank, predictor.pipeline)
    worker.files.finish()
    if args.benchmark:
        network: Any = predictor.pipeline.network
        num_done = len(left) - len(failures)
        threads = f", {network.options.threads} threads" if network.device == "cpu" else ""
        num_streams = network.options.streams
        streams = f" in {num_streams} streams" if num_streams > 1 else ""
        rate = num_done / (time.monotonic() - start_s)
        print(
            f"{num_done} images, batch size {args.batch_size}, {network.options.precision}"
            f"{threads}{streams}, {worker.runs_on}, {rate:.2f} images/s; ms per image:"
        )
        print(worker.timer.report(max(1, num_done)))
    record.end(failures, len(share), len(left))


def _choose_outputs(args: Namespace, is_film: bool) -> None:
    """Set the flags of what is written that were left out."""
    has_alpha = args.overlay_alpha is not None
    args.overlay_alpha = args.overlay_alpha if has_alpha else OVERLAY_ALPHA
    if not 0 <= args.overlay_alpha <= 1:
        raise UserError(f"--overlay_alpha: found {args.overlay_alpha}, expected 0 to 1.")
    if args.outputs is None:
        args.outputs = ("label", "overlay") if is_film or has_alpha else ("label",)
    if has_alpha and not {"overlay", "side_by_side"} & set(args.outputs):
        raise UserError("--overlay_alpha has no effect without --outputs overlay. Add it.")


def _share(args: Namespace) -> tuple[int, int]:
    """Return which share of the images is this process's, as the launcher says: rank and number.

    Raises:
        UserError: flags that do not go together with several processes, actors or resuming.
    """
    rank, world_size = (
        int(os.environ.get(name) or default)
        for name, default in (("PADDLE_TRAINER_ID", 0), ("PADDLE_TRAINERS_NUM", 1))
    )
    if args.actors is not None and args.actors < 1:
        raise UserError(f"--actors: found {args.actors}, expected 1 or more.")
    if args.ray_address and not args.actors:
        raise UserError("--ray_address has no effect without --actors. Add --actors.")
    if args.actors and world_size > 1:
        raise UserError("--actors: found several processes of a launcher, expected one.")
    if args.actors and args.benchmark:
        raise UserError("--benchmark measures one process. Leave out --actors.")
    if world_size > 1 and (args.live or is_video(args.image_path)):
        raise UserError(f"{args.image_path}: a video is not shared. Start it without launch.")
    if "polygons" in args.outputs and (args.actors or args.resume or world_size > 1):
        raise UserError(
            "--outputs polygons: coco.json holds all images of one run. Leave out --actors, "
            "--resume and launch, or make the polygons of the label maps afterwards."
        )
    if world_size > 1:  # the processes of one machine share its processors
        num_local = int(os.environ.get("PADDLE_LOCAL_SIZE") or world_size)
        num_threads = max(1, (os.cpu_count() or 1) // num_local)
        os.environ.setdefault("OMP_NUM_THREADS", str(num_threads))
        if args.export_dir:
            args.cpu_threads = args.cpu_threads or num_threads
    return rank, world_size


def _predict_on_ray(args: Namespace, images: list[ImageFile], files: ResultFiles) -> None:
    """Let actors of Ray predict all images."""
    from paddleseg_segformer.cli.ray_actors import RayActors

    for name in ("save_dir", "export_dir", "model_path", "config"):  # actors have another folder
        path = getattr(args, name)
        if path and not is_url(path) and (name == "save_dir" or os.path.exists(path)):
            setattr(args, name, os.path.abspath(path))
    with ExitStack() as stack:
        actors = stack.enter_context(RayActors(args.actors, args.ray_address, args.device))
        if args.export_dir:
            args.cpu_threads = args.cpu_threads or actors.num_cpus
        description, facts = actors.call(_describe, args)
        logger.info("%d actors, each on %s", args.actors, description)
        if not is_url(args.save_dir):
            stack.enter_context(only_writer(make_folder(args.save_dir)))
        record = RunRecord(files, facts, images, 0, 1)
        left = record.begin(images, args.resume)
        failures = _follow(actors.map(partial(Worker, args), left), len(left))
    record.end(failures, len(images), len(left))


def _describe(args: Namespace) -> tuple[str, dict[str, str]]:
    """Return what a worker runs on and its settings in words, and its identity."""
    worker = Worker(args)
    return f"{worker.runs_on}: {worker.predictor.settings.describe()}", worker.identity()


def _follow(
    outcomes: Iterable[tuple[ImageFile, str]],
    num_images: int,
    rank: int = 0,
    pipeline: Pipeline | None = None,
) -> list[tuple[ImageFile, str]]:
    """Show the progress of outcomes, and each failure; return the failures."""
    failures: list[tuple[ImageFile, str]] = []
    shown_s = time.monotonic()
    with tqdm(total=num_images, unit="img", disable=True if rank else None) as progress:
        if pipeline:
            pipeline.watch = _Windows(progress)
        for num_done, (image, error) in enumerate(outcomes, 1):
            if error:
                tqdm.write(f"failed: {printable(error)}", file=sys.stderr)
                failures.append((image, error))
            progress.update()
            if progress.disable and time.monotonic() - shown_s > LOG_INTERVAL_S:
                shown_s = time.monotonic()
                logger.info("%d of %d images", num_done, num_images)
    return failures


def _film_options(args: Namespace) -> FilmOptions:
    """Return how a video is to be predicted; refuse flags that are for images alone."""
    if not args.live and not os.path.isfile(args.image_path):
        raise UserError(f"{args.image_path}: no such file (--image_path).")
    images_alone = ("save_confidence", "save_probabilities", "min_confidence", "class_confidence")
    for flag in (*images_alone, "resume", "actors"):
        if getattr(args, flag):
            raise UserError(f"--{flag} has no effect on a video. Leave it out, or name images.")
    if unknown := [name for name in args.outputs if name not in FILM_FOLDERS]:
        raise UserError(
            f"--outputs: {unknown[0]} has no effect on a video. Known: {', '.join(FILM_FOLDERS)}."
        )
    return FilmOptions(args.every, args.max_frames, args.smooth, args.keep_audio, args.live)


def _predict_film(predictor: Predictor, args: Namespace, options: FilmOptions) -> None:
    """Write the results of a video."""
    name = Path(args.image_path).stem
    if args.live:
        name = re.sub(r"\W+", "_", args.image_path.rpartition("@")[2]).strip("_")  # no password
    paths = {
        kind: Path(args.save_dir) / FILM_FOLDERS[kind] / f"{name}{SUFFIXES[kind]}"
        for kind in args.outputs
    }
    num_frames, rate = predict_video(predictor, args.image_path, paths, options, args.overlay_alpha)
    written = ", ".join(map(str, paths.values()))
    logger.info("%s: %d frames, %.2f frames/s", written, num_frames, rate)


def _found_images(args: Namespace, results: Sequence[str]) -> list[ImageFile]:
    """Return the images to predict; with `--mosaic`, one for all."""
    if not args.mosaic:
        return find_images(args.image_path, args.file_list, results)
    tiles = Path(args.image_path or "")
    if args.file_list or not args.image_path or not tiles.is_dir() or is_url(args.save_dir):
        raise UserError(
            "--mosaic needs a folder of tiles as --image_path, no --file_list, and a local "
            "--save_dir."
        )
    name = tiles.absolute().name
    path = Path(args.save_dir) / f"{name}.vrt"
    write_mosaic(tiles, path, [Path(folder) for folder in results])
    return [ImageFile(path, name)]


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
