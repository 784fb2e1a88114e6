"""`infer`: predict images with an exported model, without its training config.

    python -m paddleseg_segformer infer --config output/export/deploy.yaml --image_path photos

Size rules, normalisation, windows and colours come from `deploy.yaml`. Paddle is imported only
where it is the engine.
"""

from __future__ import annotations

import os
import sys
import time
from argparse import ArgumentParser, Namespace
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.runtimes.engines import BACKENDS, PRECISIONS

if TYPE_CHECKING:
    import numpy as np

    from paddleseg_segformer.inference.arrays import Array
    from paddleseg_segformer.inference.image_sources import ImageFile
    from paddleseg_segformer.predictor import Prediction, Predictor

seconds: defaultdict[str, float] = defaultdict(float)  # spent on each step


@contextmanager
def timed(step: str) -> Iterator[None]:
    """Add the time that the block takes to `seconds`."""
    start = time.perf_counter()
    yield
    seconds[step] += time.perf_counter() - start


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags: PaddleSeg's, where it has them."""
    add = parser.add_argument
    add("--config", required=True, help="deploy.yaml of the export, or its folder")
    add("--image_path", help="image, folder, list file (.txt), or video (.mp4, .avi, .mov)")
    add(
        "--self_check",
        action="store_true",
        help="first compare the engine with the labels that the export expects for its fixture "
        "image; exit status 1 if they differ. Without --image_path nothing else is done",
    )
    add("--save_dir", default="output/infer", help="folder of the results")
    add("--device", default="cpu", help="cpu, gpu or gpu:1")
    add("--cpu_threads", type=int, default=os.cpu_count(), help="threads of the network on the CPU")
    add(
        "--backend",
        choices=BACKENDS,
        default="auto",
        help="engine; auto: the fastest that is installed and reads what was exported",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="fp16: paddle on GPU; bf16: openvino; int8: openvino, of an export with --format "
        "int8; int8-bf16: the same, and bf16 for what is not int8",
    )
    add(
        "--use_trt",
        nargs="?",
        const=True,
        default=False,
        type=lambda text: {"true": True, "false": False}[text.lower()],
        metavar="True|False",
        help="TensorRT, with --backend paddle --device gpu and a Paddle that was built with it",
    )
    add("--batch_size", type=int, default=1, help="images whose windows are computed together")
    add("--benchmark", action="store_true", help="print the time of each step, after a warm-up")
    add("--is_slide", action="store_true", help="sliding window instead of the whole image")
    for flag, what in (("--crop_size", "sliding window"), ("--stride", "step between windows")):
        add(flag, nargs=2, type=int, metavar=("W", "H"), help=f"{what}: width and height in px")
    add("--scales", nargs="+", type=float, help="average over these scales")
    add("--flip_horizontal", action="store_true", help="average with the mirrored image")
    add("--flip_vertical", action="store_true", help="average with the image upside down")
    add(
        "--average", choices=("logits", "softmax"), help="what is averaged; without it: as exported"
    )
    add("--window_batch", type=int, help="most windows that go through the network together")
    add(
        "--max_side_px",
        type=int,
        default=8192,
        help="longest side that may go through the network at once; larger images need a sliding "
        "window",
    )


def run(args: Namespace) -> None:
    """Predict all images, or the frames of a video.

    Raises:
        UserError: the export or a flag is wrong, or images failed (each was reported by name).
    """
    from paddleseg_segformer.inference.image_sources import find_images, is_video

    is_check_alone = args.self_check and not args.image_path
    has_images = not (is_check_alone or is_video(args.image_path))
    images = find_images(args.image_path) if has_images else []
    predictor = make_predictor(args)
    if has_images:
        predict_images(images, predictor, args)
    elif not is_check_alone:
        predict_video(Path(args.image_path), predictor, args)


def predict_images(images: Sequence[ImageFile], predictor: Predictor, args: Namespace) -> None:
    """Write the results of all images, in batches."""
    from paddleseg_segformer.inference.image_sources import read_ahead

    if args.benchmark:  # the first calls set up memory
        predict(list(read_ahead(images[:1], predictor.img_channels)), predictor)
        seconds.clear()
    source = read_ahead(images, predictor.img_channels)
    num_done = 0
    while True:
        with timed("read"):
            batch = list(islice(source, max(1, args.batch_size)))
        if not batch:
            break
        for image, prediction in predict(batch, predictor):
            with timed("write"):
                save(prediction, Path(args.save_dir), image.name)
            num_done += 1
    print(f"{num_done} images written to {args.save_dir}")
    if args.benchmark:
        print(report(num_done, args))
    if num_done < len(images):
        failed = len(images) - num_done
        raise UserError(f"{failed} of {len(images)} images could not be predicted; see above.")


def predict_video(path: Path, predictor: Predictor, args: Namespace) -> None:
    """Write the video with the classes' colours over each frame."""
    from paddleseg_segformer.video import overlay_video

    destination = Path(args.save_dir) / "added_prediction" / f"{path.stem}.mp4"
    num_frames, rate = overlay_video(predictor, path, destination)
    print(f"{destination}: {num_frames} frames, {rate:.2f} frames/s")


def make_predictor(args: Namespace) -> Predictor:
    """Load the export, with the flags on top of its settings."""
    from paddleseg_segformer.cli.inference_flags import settings_with_flags
    from paddleseg_segformer.inference.preprocess import Preprocess
    from paddleseg_segformer.inference.settings import InferenceSettings
    from paddleseg_segformer.predictor import Predictor
    from paddleseg_segformer.runtimes.engine_network import load_network
    from paddleseg_segformer.runtimes.self_check import self_check

    network = load_network(
        args.config,
        args.backend,
        args.device,
        args.cpu_threads,
        args.precision,
        use_trt=args.use_trt,
    )
    network.max_side_px = args.max_side_px
    args.engine = network.description
    if args.self_check:
        print(self_check(network, args.config).line)
    deploy = network.deploy
    exported = InferenceSettings.from_dict(deploy.inference)
    args.window_batch = args.window_batch or max(exported.window_batch or 1, args.batch_size)

    class TimedNetwork:
        pad_multiple = network.pad_multiple
        takes_numpy = network.takes_numpy

        def __call__(self, x: Array) -> Array:
            with timed("network"):
                return network(x)

    return Predictor(
        TimedNetwork(),
        Preprocess.from_dict(deploy.preprocess),
        settings_with_flags(args, exported, aug_flag="", is_augmented=True),
        deploy.label_set,
        args.device,
        img_channels=deploy.input.num_channels,
    )


def predict(
    batch: Sequence[tuple[ImageFile, np.ndarray | UserError]], predictor: Predictor
) -> list[tuple[ImageFile, Prediction]]:
    """Return the predictions; images that failed are reported on stderr and left out."""
    images, arrays = [], []
    for image, pixels in batch:
        if isinstance(pixels, UserError):
            print(f"failed: {pixels}", file=sys.stderr)
        else:
            images.append(image)
            arrays.append(pixels)
    try:
        with timed("predict"):
            predictions = predictor(list(arrays))
            for prediction in predictions:
                prediction.label  # noqa: B018  computed here, where its errors are these images'
    except UserError as error:
        print(f"failed: {', '.join(str(image.path) for image in images)}: {error}", file=sys.stderr)
        return []
    return list(zip(images, predictions, strict=True))


def save(prediction: Prediction, save_dir: Path, name: str) -> None:
    """Write the label map, whose palette shows the classes' colours, and the overlay."""
    from paddleseg_segformer.inference.overlay import write_image

    prediction.save(save_dir / "pseudo_color_prediction" / f"{name}.png")
    write_image(save_dir / "added_prediction" / f"{name}.png", prediction.overlay())


def report(num_images: int, args: Namespace) -> str:
    """Return the time of each step."""
    threads = f", {args.cpu_threads} threads" if args.device == "cpu" else ""
    lines = [
        f"{num_images} images, batch size {args.batch_size}, {args.device} {args.precision}"
        f"{threads}, {args.engine}; ms per image:"
    ]
    steps = {
        "read": "waiting for images, which are read meanwhile",
        "predict": "all that lies between image and label map",
        "network": "part of predict",
        "write": "label map and overlay",
    }
    for step, meaning in steps.items():
        lines.append(f"{step:<8}{1000 * seconds[step] / max(1, num_images):>10.1f}  {meaning}")
    return "\n".join(lines)
