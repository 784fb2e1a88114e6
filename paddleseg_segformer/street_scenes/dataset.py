"""Procedural street scenes in Cityscapes' layout: a teaching set to try the whole job offline.

The pictures are drawings from a random generator, not photographs: a score on them shows that
training, evaluation and deployment work, and nothing about real streets.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import atomic_path, make_folder, write_text
from paddleseg_segformer.street_scenes.canvas import IGNORE
from paddleseg_segformer.street_scenes.street import (
    Street,
    make_canvas,
    paint_ground,
    paint_sky,
    photograph,
)  # fmt: skip
from paddleseg_segformer.yaml_files import read_yaml

Image = npt.NDArray[np.uint8]

VERSION = 5
MARKER = "dataset.json"
SMALLEST_SIDE_PX = 64
CITIES = ("ashford", "birkdale", "corvina", "dunmore")
NOTE = "A teaching set of procedural drawings: scores on it say nothing about real streets."


def generate(
    folder: str | Path,
    num_train: int,
    num_val: int,
    size_hw: tuple[int, int] = (256, 512),
    seed: int = 0,
    num_workers: int = 0,
    *,
    watch: Callable[[Iterable[None], int], Iterable[None]] | None = None,
) -> Path:
    """Write a teaching set of street scenes in the layout of Cityscapes.

    The images are `leftImg8bit/{train,val}/CITY/CITY_000000_000000_leftImg8bit.png`, the labels
    `gtFine/{train,val}/CITY/CITY_000000_000000_gtFine_labelTrainIds.png` (ids 0..18, 255 ignored).
    When `dataset.json` holds the same parameters and that all is written, nothing is done.
    An interrupted run is repeated from its start.

    Args:
        size_hw: (height, width) in pixels, 64 or more each.
        seed: not negative; the same seed gives the same files, and different seeds share no scene.
        num_workers: processes that draw (a script then needs `if __name__ == "__main__":` around
            the call); 0 draws in this one.
        watch: wraps the work's iterable, given its length (a progress bar).

    Returns:
        The folder, to be used as `dataset_root`.

    Raises:
        UserError: a parameter is out of range, or the folder holds something else.
    """
    _check_size(size_hw)
    for name, value in (("num_train", num_train), ("num_val", num_val), ("seed", seed)):
        if value < 0:
            raise UserError(f"{name}: found {value}, expected 0 or more.")
    if num_train + num_val == 0:
        raise UserError("num_train and num_val: found 0 and 0, expected at least one scene.")
    folder, (height, width) = Path(folder), size_hw
    parameters: dict[str, object] = {
        "name": "street_scenes", "version": VERSION, "num_train": num_train, "num_val": num_val,
        "height": height, "width": width, "seed": seed, "note": NOTE,
    }  # fmt: skip
    marker = folder / MARKER
    if not marker.is_file() and (folder / "leftImg8bit").exists():
        raise UserError(
            f"{folder}: found leftImg8bit without {MARKER}, so a data set that was not made here. "
            "Choose another folder."
        )
    found = read_yaml(marker) if marker.is_file() else parameters  # JSON is YAML
    pairs = [(name, found.get(name), value) for name, value in parameters.items()]
    if others := [f"{name} {old} not {new}" for name, old, new in pairs if old != new]:
        raise UserError(
            f"{marker}: found a data set with other parameters ({', '.join(others)}). "
            "Delete that folder or choose another one."
        )
    if found.get("is_finished"):
        return folder
    make_folder(folder)
    write_text(marker, json.dumps({**parameters, "is_finished": False}, indent=2) + "\n")
    splits = (("train", num_train), ("val", num_val))
    jobs = [(split, index) for split, count in splits for index in range(count)]
    draw = partial(_write_scene, folder=folder, size_hw=size_hw, seed=seed)
    with ExitStack() as stack:
        done: Iterable[None] = map(draw, jobs)
        if num_workers > 0:
            # fresh processes: forking one that runs the framework's threads can hang
            pool = multiprocessing.get_context("spawn").Pool(
                min(num_workers, len(jobs)), partial(cv2.setNumThreads, 1)
            )
            done = stack.enter_context(pool).imap_unordered(draw, jobs, chunksize=4)
        for _ in done if watch is None else watch(done, len(jobs)):
            pass
    write_text(marker, json.dumps({**parameters, "is_finished": True}, indent=2) + "\n")
    return folder


def _check_size(size_hw: tuple[int, int]) -> None:
    if min(size_hw) < SMALLEST_SIDE_PX:
        found, least = "x".join(map(str, size_hw)), SMALLEST_SIDE_PX
        raise UserError(f"height x width: found {found}, expected {least} px or more each.")


def _write_scene(job: tuple[str, int], folder: Path, size_hw: tuple[int, int], seed: int) -> None:
    """Draw and write one scene of a split."""
    split, index = job
    city = CITIES[index % len(CITIES)] if split == "train" else "elmstead"
    image, label = render_scene((seed, int(split == "val"), index), size_hw)
    for kind, end, pixels in (
        ("leftImg8bit", "leftImg8bit.png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR)),
        ("gtFine", "gtFine_labelTrainIds.png", label),
    ):
        ok, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        assert ok
        with atomic_path(folder / kind / split / city / f"{city}_{index:06d}_000000_{end}") as path:
            path.write_bytes(data.tobytes())


def render_scene(
    seed: int | Sequence[int], size_hw: tuple[int, int] = (256, 512)
) -> tuple[Image, Image]:
    """Return one street scene, a pure function of its arguments.

    Args:
        seed: a number or several, not negative.
        size_hw: (height, width) in pixels, 64 or more each.

    Returns:
        The RGB image (H, W, 3) uint8 and its label (H, W) uint8: train ids, 255 ignored.

    Raises:
        UserError: a side below 64 px.
    """
    _check_size(size_hw)
    rng = np.random.default_rng(seed)
    canvas, street = make_canvas(rng, size_hw), Street(rng)
    paint_sky(canvas, rng)
    paint_ground(canvas, rng, street)
    canvas.paint(street.objects())
    image, label = photograph(canvas, rng), canvas.label
    border = max(1, round(size_hw[1] / 400))
    label[:border] = label[-border:] = label[:, :border] = label[:, -border:] = IGNORE
    return image, label
