"""Generate the embedded street-scene data set (procedural drawings in the layout of Cityscapes)."""

from __future__ import annotations

import argparse
import os

from tqdm import tqdm

from paddleseg_segformer.street_scenes.dataset import generate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of this job."""
    parser.add_argument("--save_dir", default="output/street_scenes", help="folder of the data set")
    parser.add_argument("--num_train", type=int, default=400, help="number of training scenes")
    parser.add_argument("--num_val", type=int, default=100, help="number of validation scenes")
    parser.add_argument("--height", type=int, default=256, help="height of the images in pixels")
    parser.add_argument("--width", type=int, default=512, help="width of the images in pixels")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same files")
    parser.add_argument(
        "--num_workers",
        type=int,
        default=os.cpu_count(),
        help="processes that draw; 0: this one only",
    )


def run(args: argparse.Namespace) -> None:
    """Write the data set, with a progress bar."""
    folder = generate(
        args.save_dir,
        args.num_train,
        args.num_val,
        (args.height, args.width),
        args.seed,
        args.num_workers,
        watch=lambda scenes, count: tqdm(scenes, total=count, unit="scene", desc="drawing"),
    )
    print(f"{folder}: {args.num_train} training, {args.num_val} validation scenes (a teaching set)")
