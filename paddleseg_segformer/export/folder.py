"""The folder of an export: written beside its destination, verified, and only then put in place."""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import paddle
from paddle import nn

import paddleseg_segformer
from paddleseg_segformer.data.labels import LabelSet, generic_label_set
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export.static_graph import STEM, full_input_shape, save_static_graph
from paddleseg_segformer.export.verify import verify
from paddleseg_segformer.files import make_folder, replace_folder
from paddleseg_segformer.inference.deploy_config import (
    FILE_NAME,
    DeployConfig,
    InputSpec,
    ModelFile,
    OutputSpec,
)
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings

PROGRAM, WEIGHTS = f"{STEM}.json", f"{STEM}.pdiparams"
OUTPUT_DTYPES = {"none": "float32", "argmax": "int32", "softmax": "float32"}


def export_model(
    model: nn.Layer,
    save_dir: str | os.PathLike[str],
    *,
    preprocess: Preprocess | None = None,
    settings: InferenceSettings | None = None,
    label_set: LabelSet | None = None,
    output_op: str = "none",
    input_shape: Sequence[int] | None = None,
    is_verified: bool = True,
) -> DeployConfig:
    """Write `model.json`, `model.pdiparams` and `deploy.yaml`; all of them, or nothing.

    Args:
        model: SegFormer, SegFormerMM or a Segmenter; it is put into evaluation mode.
        save_dir: The export's own folder. An earlier export in it is replaced.
        preprocess, settings: How images are to be treated; by default not changed, as a whole.
        label_set: Names and colours; by default numbered classes.
        output_op: What the graph gives: "none" (logits as the model gives them), "argmax" or
            "softmax" (both at the input's size).
        input_shape: (N, C, H, W), -1 for any size; by default only C is fixed.
        is_verified: Compare the export in Paddle Inference with the model.

    Returns:
        The content of `deploy.yaml`.

    Raises:
        UserError: the model, the shape or `save_dir` does not fit, or the comparison failed.
    """
    save_dir = Path(save_dir).resolve()
    check_save_dir(save_dir)
    make_folder(save_dir.parent)
    with tempfile.TemporaryDirectory(prefix=f".{save_dir.name}.", dir=save_dir.parent) as workshop:
        folder = Path(workshop) / "new"
        folder.mkdir()
        save_static_graph(model, folder, output_op, input_shape)
        label_set = label_set or generic_label_set(model.num_classes)
        deploy = DeployConfig(
            made_with={
                "paddleseg_segformer": paddleseg_segformer.__version__,
                "paddlepaddle": paddle.__version__,
            },
            program=ModelFile.of(folder / PROGRAM),
            weights=ModelFile.of(folder / WEIGHTS),
            input=InputSpec(full_input_shape(model, input_shape), model.backbone.min_input_px),
            output=_output(model, output_op),
            preprocess=_explicit(preprocess or Preprocess()),
            inference=(settings or InferenceSettings()).to_dict(),
            classes=list(label_set.classes),
            palette=[list(color) for color in label_set.palette],
            ignore_index=label_set.ignore_index,
        )
        deploy.save(folder)
        if is_verified:
            deploy = replace(deploy, verified=verify(model, folder))
            deploy.save(folder)
        replace_folder(save_dir, folder)
    return deploy


def check_save_dir(save_dir: str | os.PathLike[str]) -> None:
    """Refuse a destination that is a file, or a folder that holds anything but an export.

    Raises:
        UserError: it is one of these.
    """
    save_dir = Path(save_dir)
    if save_dir.exists() and not save_dir.is_dir():
        raise UserError(f"{save_dir}: expected a folder, found a file. Choose another save_dir.")
    if not save_dir.is_dir():
        return
    others = sorted({item.name for item in save_dir.iterdir()} - {PROGRAM, WEIGHTS, FILE_NAME})
    if others:
        more = ", ..." if len(others) > 3 else ""
        raise UserError(
            f"{save_dir}: holds other files ({', '.join(others[:3])}{more}), and an export takes a "
            "folder of its own. Choose another save_dir."
        )


def _output(model: nn.Layer, output_op: str) -> OutputSpec:
    dtype = OUTPUT_DTYPES[output_op]
    if output_op != "none":
        return OutputSpec(output_op, 1, model.num_classes, dtype)
    pad_multiple = getattr(model, "pad_multiple", 1)
    return OutputSpec(output_op, model.logits_stride, model.num_classes, dtype, pad_multiple)


def _explicit(preprocess: Preprocess) -> dict[str, list[dict[str, Any]]]:
    """Return `preprocess.to_dict()` with the defaults written out, for readers that lack them."""
    components = [*preprocess.size_rules, preprocess.normalize]
    sections = []
    for section, component in zip(preprocess.sections, components, strict=False):
        parameters = inspect.signature(type(component)).parameters.values()
        arguments = {item.name: section.get(item.name, item.default) for item in parameters}
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in arguments.items()}
        sections.append({"type": section["type"], **plain})
    return {"transforms": sections}
