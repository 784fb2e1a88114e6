"""`quickstart`: every job once on drawn street scenes, by the commands that a user runs."""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from paddleseg_segformer.cli.common import check_numbers
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import check_folder

FOLDER = Path("output/demo")
SCENES = FOLDER / "street_scenes"
RUN = FOLDER / "train"
LABELS = "pseudo_color_prediction"

SIZE_HW = (128, 256)
CONFIG = "segformer_b0_street_scenes_256x512"
OPTIONS = (
    f"train_dataset.dataset_root={SCENES}",
    f"val_dataset.dataset_root={SCENES}",
    f"train_dataset.transforms.1.crop_size=[{SIZE_HW[1]},{SIZE_HW[0]}]",
    "train_dataset.transforms.0.min_scale_factor=1.0",  # scenes as large as the crop: no padding
    "lr_scheduler.learning_rate=2.0e-3",
    "lr_scheduler.warmup_iters=15",
)
EVALUATIONS = {
    "whole": "",
    "slide": "--is_slide --crop_size 128 128 --stride 64 64",
    "flip": "--aug_eval --scales 1.0 --flip_horizontal",
}
NUM_PICTURES = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this job."""
    parser.add_argument("--iters", type=int, default=150, help="training steps of 4 images")
    parser.add_argument("--num_train", type=int, default=200, help="number of training scenes")
    parser.add_argument("--num_val", type=int, default=40, help="number of validation scenes")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes and of training")


def run(args: argparse.Namespace) -> None:
    """Make `output/demo` anew: data, training, evaluation, prediction, export, a report."""
    check_numbers(args, iters=1, num_train=1, num_val=1)
    check_folder(FOLDER)
    shutil.rmtree(FOLDER, ignore_errors=True)
    seconds: dict[str, float] = {}
    for name, part in _parts(args).items():
        start = time.perf_counter()
        part()
        seconds[name] = time.perf_counter() - start
    draw_pictures(FOLDER / "pictures.png")
    print(report(seconds))


def _parts(args: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """Return the parts of the demo by name, in order."""
    weights = f"--config {RUN}/config.yml --model_path {RUN}/best_model/model.pdparams"
    images = f"--image_path {SCENES}/leftImg8bit/val"
    parts = {
        "make_dataset": f"--save_dir {SCENES} --num_train {args.num_train} --num_val {args.num_val}"
        f" --height {SIZE_HW[0]} --width {SIZE_HW[1]} --seed {args.seed}",
        "train": f"--config {CONFIG} --save_dir {RUN} --iters {args.iters} --seed {args.seed}"
        f" --do_eval {'--use_vdl ' if find_spec('visualdl') else ''}--opts {shlex.join(OPTIONS)}",
    }
    for name, flags in EVALUATIONS.items():
        parts[f"val {name}"] = f"{weights} --json {FOLDER}/{name}.json {flags}"
    parts["predict"] = f"{weights} {images} --save_dir {FOLDER}/predict --outputs label,overlay"
    parts["export"] = f"{weights} --save_dir {FOLDER}/export"
    jobs = {name: partial(run_job, name.split()[0], flags) for name, flags in parts.items()}
    flags = f"--config {FOLDER}/export/deploy.yaml {images} --save_dir {FOLDER}/infer"
    flags += " --backend paddle --benchmark"
    return {**jobs, "infer": partial(run_infer, flags)}


def run_job(job: str, flags: str) -> None:
    """Run one job as its command line does, and show that command line."""
    print(f"\n$ python tools/{job}.py {flags}", flush=True)
    module = importlib.import_module(f"paddleseg_segformer.cli.{job}")
    parser = argparse.ArgumentParser(prog=job)
    module.add_arguments(parser)
    module.run(parser.parse_args(shlex.split(flags)))


def run_infer(flags: str) -> None:
    """Run the exported model in a process of its own, and show the command line."""
    print(f"\n$ python tools/infer.py {flags}", flush=True)
    command = [sys.executable, "-m", "paddleseg_segformer", "infer", *shlex.split(flags)]
    subprocess.run(command, check=True)


def draw_pictures(destination: Path) -> None:
    """Write a picture with one row per scene: image, label, prediction."""
    from paddleseg_segformer.config import load_config
    from paddleseg_segformer.config.building import build_dataset
    from paddleseg_segformer.data.io import read_label
    from paddleseg_segformer.inference.overlay import side_by_side, write_image

    section = load_config(RUN / "config.yml").val_dataset
    assert section is not None
    dataset = build_dataset(section, "val_dataset")
    predictions = predicted_labels("predict")
    rows = []
    for index in np.linspace(0, len(dataset) - 1, min(NUM_PICTURES, len(dataset)), dtype=int):
        sample = dataset.read(int(index))
        prediction = read_label(predictions[Path(sample.image_path).stem])
        rows.append(side_by_side(sample.image, sample.label, prediction, dataset.label_set))
    write_image(destination, np.vstack(rows))


def predicted_labels(job: str) -> dict[str, Path]:
    """Return the label maps that `predict` or `infer` wrote, by the stem of the image's name."""
    return {path.stem: path for path in (FOLDER / job / LABELS).rglob("*.png")}


def agreement() -> float:
    """Return the share of pixels that trained and exported model give the same label."""
    from paddleseg_segformer.data.io import read_label

    trained, exported = predicted_labels("predict"), predicted_labels("infer")
    if trained.keys() != exported.keys():
        raise UserError(
            f"{FOLDER}/infer: found {len(exported)} label maps, expected those of "
            f"{FOLDER}/predict ({len(trained)})."
        )
    same = [
        read_label(path) == read_label(exported[stem]) for stem, path in sorted(trained.items())
    ]
    return float(np.mean(same))


def report(seconds: dict[str, float]) -> str:
    """Return the summary: seconds per part, mIoU, agreement, and where the pictures are."""
    miou = {
        name: json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["mIoU"]
        for name in EVALUATIONS
    }
    lines = ["", "part                seconds"]
    lines += [f"{name:<16}{value:>11.1f}" for name, value in seconds.items()]
    lines += [
        f"{'total':<16}{sum(seconds.values()):>11.1f}",
        "",
        "mIoU on the drawn validation scenes (it says nothing about real streets): "
        + ", ".join(f"{name} {value:.4f}" for name, value in miou.items()),
        f"exported model in Paddle Inference: {agreement():.4%} of the pixels get the same label",
        f"image | label | prediction: {FOLDER}/pictures.png; overlays: {FOLDER}/predict",
    ]
    if find_spec("visualdl"):
        lines.append(f"training curves: visualdl --logdir {RUN} --language en")
    return "\n".join(lines)
