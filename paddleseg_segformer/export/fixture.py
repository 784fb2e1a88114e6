"""The fixture of an export: an image and the labels that the model itself gives for it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from PIL import Image

from paddleseg_segformer.contracts import pad_multiple_of
from paddleseg_segformer.data.io import write_label
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models.layers import upsample_to_input
from paddleseg_segformer.runtimes.deploy_config import (
    FIXTURE_FILES,
    DeployConfig,
    Fixture,
    InputSpec,
    ModelFile,
    OutputSpec,
)
from paddleseg_segformer.runtimes.self_check import fixture_labels
from paddleseg_segformer.street_scenes.dataset import SMALLEST_SIDE_PX, render_scene

logger = logging.getLogger(__name__)

SIZE_HW = (97, 131)  # odd and small, where mistakes of resizing and padding show
SEED = 0


def write_fixture(model: nn.Layer, deploy: DeployConfig, folder: Path) -> Fixture | None:
    """Draw an image and write it with the model's labels, made as `deploy.yaml` says.

    Args:
        model: The model that is exported, in evaluation mode.
        deploy: What the export's `deploy.yaml` says but for the fixture.
        folder: An existing folder.

    Returns:
        The files and their checksums; None, with a warning, where the settings refuse any image:
        an input shape that neither size rules nor windows lead to.
    """
    image = scene_image(allowed_size(deploy.input, SIZE_HW), deploy.input.num_channels)
    try:
        labels = fixture_labels(_Reference(model, deploy.output), deploy, image)
    except UserError as error:
        logger.warning("no fixture to check backends with: %s", error)
        return None
    png, tif, labels_png = (folder / name for name in FIXTURE_FILES)
    image_path = png if image.shape[2] in (1, 3) else tif
    planes = [image] if image.shape[2] == 3 else np.moveaxis(image, 2, 0)
    pages = [Image.fromarray(np.ascontiguousarray(plane)) for plane in planes]
    pages[0].save(image_path, save_all=image_path == tif, append_images=pages[1:])
    write_label(labels_png, labels)
    return Fixture(ModelFile.of(image_path), ModelFile.of(labels_png))


class _Reference:
    """A model as the network of the inference pipeline, with the export's output."""

    def __init__(self, model: nn.Layer, output: OutputSpec) -> None:
        self.model = model
        self.op = output.op
        self.pad_multiple = output.pad_multiple

    def __call__(self, x: Tensor) -> Tensor:
        return reference_output(self.model, x, self.op)


def reference_output(model: nn.Layer, x: Tensor, op: str) -> Tensor:
    """Return what the model itself gives for an input, as an export with this `output_op` does."""
    with paddle.no_grad():
        logits = model(x)
        if op == "none":
            return logits
        logits = upsample_to_input(logits, x.shape[2:], pad_multiple_of(model))
        return logits.argmax(axis=1) if op == "argmax" else F.softmax(logits, axis=1)


def scene_image(size_hw: tuple[int, int], channels: int) -> np.ndarray:
    """Return a street scene (H, W, C) uint8 of any size and number of channels."""
    height, width = size_hw
    drawn_hw = max(height, SMALLEST_SIDE_PX), max(width, SMALLEST_SIDE_PX)
    scene = render_scene(SEED, drawn_hw)[0][:height, :width]
    return np.ascontiguousarray(scene[:, :, np.resize(np.arange(3), channels)])


def allowed_size(spec: InputSpec, size_hw: tuple[int, int]) -> tuple[int, int]:
    """Return a (height, width) as far as the network takes it: not too small, fixed sides kept."""
    height, width = (
        max(free, spec.min_side_px) if side == -1 else side
        for side, free in zip(spec.shape[2:], size_hw, strict=True)
    )
    return height, width
