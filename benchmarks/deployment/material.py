"""What all deployments share: images as PNG files, their labels, weights and exports."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.deployment.job import NotHere
from paddleseg_segformer.data.labels import LabelSet
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import make_folder

logger = logging.getLogger(__name__)

DRAWN_MODEL = "segformer_b0_street_scenes_256x512"  # the config of the model without --model_path
DRAWN_HW = (256, 512)

# formats of the exports that are run; those whose packages are not installed are left out
EXPORTS: dict[str, tuple[str, ...]] = {
    "engines": ("paddle", "onnx", "openvino"),
    "with_preprocess": ("onnx_with_preprocess",),
    "int8": ("int8",),
}


@dataclass(frozen=True)
class Images:
    """The images of a run: PNG files of one folder, and their labels where these are known."""

    paths: list[Path]
    sources: list[str]
    labels: list[np.ndarray] | None = None  # of training ids (H, W)
    label_set: LabelSet | None = None


def make_images(folder: Path, images: str | None, labels: str | None, num_images: int) -> Images:
    """Bring the images into `folder` as PNG files: JPEG decoders differ by grey levels.

    Args:
        images: image, folder or list file; without it, the images of `labels`, or drawn ones.
        labels: config whose `val_dataset` holds the images with their labels.
        num_images: at most so many, evenly spread over all.

    Raises:
        UserError: no images, or one that the data set of `labels` does not hold.
    """
    from paddleseg_segformer.config import load_config
    from paddleseg_segformer.config.building import build_dataset
    from paddleseg_segformer.inference.image_sources import find_images

    if num_images < 1:
        raise UserError(f"--num_images: found {num_images}, expected 1 or more.")
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    if not images and not labels:
        return _draw(folder, num_images)
    paths = [str(image.path) for image in find_images(images)] if images else []
    if not labels:
        return Images(_as_png(folder, chosen := _spread(paths, num_images)), chosen)
    section = load_config(labels).val_dataset
    if section is None:
        raise UserError(f"{labels}: has no val_dataset, whose labels --labels is for.")
    dataset = build_dataset(section, "val_dataset")
    indices = {os.path.realpath(dataset.samples[i][0]): i for i in range(len(dataset))}
    chosen = _spread(paths or list(indices), num_images)
    for path in chosen:
        if os.path.realpath(path) not in indices:
            raise UserError(f"{path}: not an image of {labels}, so it has no label. Drop --images.")
    samples = [dataset.read(indices[os.path.realpath(path)]) for path in chosen]
    truth = [sample.label for sample in samples]
    return Images(_as_png(folder, chosen), chosen, truth, dataset.label_set)


def _spread(paths: list[str], count: int) -> list[str]:
    """Return `count` of the paths, at equal steps from the first on."""
    return paths[:: max(1, len(paths) // count)][:count]


def _as_png(folder: Path, sources: list[str]) -> list[Path]:
    from paddleseg_segformer.data.io import read_image
    from paddleseg_segformer.inference.overlay import write_image

    paths = [folder / f"{index:04}_{Path(item).stem}.png" for index, item in enumerate(sources)]
    for source, path in zip(sources, paths, strict=True):
        image = read_image(source)
        if image.dtype != np.uint8:
            raise UserError(f"{source}: found {image.dtype} values, expected an image of 8 bits.")
        write_image(path, image)
    return paths


def _draw(folder: Path, count: int) -> Images:
    from paddleseg_segformer.inference.overlay import write_image
    from paddleseg_segformer.street_scenes.dataset import render_scene

    paths = [folder / f"{index:04}.png" for index in range(count)]
    for index, path in enumerate(paths):
        write_image(path, render_scene([0, index], DRAWN_HW)[0])
    return Images(paths, [f"drawn scene {index}" for index in range(count)])


def make_model(folder: Path) -> Path:
    """Write a model folder of B0 with random weights whose labels differ from place to place."""
    from benchmarks.speed.files import Files, build_model
    from benchmarks.speed.make import ensure
    from paddleseg_segformer.config import load_config
    from paddleseg_segformer.converting import save_model

    config = load_config(DRAWN_MODEL)
    assert config.model is not None
    files = Files(folder.parent / "weights", "B0", config.model["num_classes"])
    ensure(files, "weights")
    save_model(build_model(files), config, folder)
    return folder


@dataclass
class Exports:
    """The exports of a model, each made when a deployment first needs it.

    Args:
        root: folder of those that are made.
        model_path: the weights.
        given: an export that exists already, for all deployments.
        int8_flags: of the job `export`, for the export in INT8.
    """

    root: Path
    model_path: str | None
    given: str | None = None
    int8_flags: Sequence[str] = ()
    _failed: dict[str, str] = field(default_factory=dict)

    def folder(self, kind: str) -> str:
        """Return an export's folder.

        Raises:
            UserError: it cannot be made, as was said when it was first tried.
            NotHere: what makes it is not installed, or the model cannot have it.
        """
        if self.given:
            return self.given
        folder = self.root / kind
        if kind in self._failed:
            raise UserError(self._failed[kind])
        if not folder.is_dir():
            self._make(kind, folder)
        return str(folder)

    def _make(self, kind: str, folder: Path) -> None:
        from paddleseg_segformer.export.checks import CONVERTERS

        if kind == "with_preprocess":
            _check_expressible(str(self.model_path))
        formats = [name for name in EXPORTS[kind] if all(map(find_spec, CONVERTERS[name]))]
        if not formats:
            raise NotHere(f"the packages of --format {' or '.join(EXPORTS[kind])} are missing")
        logger.info("export: %s", ", ".join(formats))
        command = [sys.executable, "-W", "ignore", "-m", "paddleseg_segformer", "export"]
        command += ["--model_path", str(self.model_path), "--save_dir", str(folder)]
        command += ["--device", "cpu", "--format", *formats]
        command += self.int8_flags if "int8" in formats else ()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            self._failed[kind] = f"its export failed: {lines[-1].removeprefix('error: ')}"
            raise UserError(self._failed[kind])


def _check_expressible(model_path: str) -> None:
    """Refuse a model whose windows, or size rules, cannot be put into a graph."""
    from paddleseg_segformer.export.onnx_with_preprocess import check_expressible
    from paddleseg_segformer.inference.preprocess import Preprocess
    from paddleseg_segformer.model_folder import config_of

    config = config_of(model_path)
    preprocess = Preprocess.from_transforms((config.val_dataset or {}).get("transforms"))
    settings = config.test_config.inference_settings()
    try:
        check_expressible(preprocess, settings, "none", (-1, -1, -1, -1))
    except UserError as error:
        raise NotHere(str(error)) from None
