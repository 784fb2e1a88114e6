"""A folder for PaddleSeg's `infer.py`, PaddleX and FastDeploy, made of an export."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from paddle import nn

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import atomic_folder, write_text
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.models import MixVisionTransformer, SegFormer
from paddleseg_segformer.models.mix_transformer import VARIANTS
from paddleseg_segformer.runtimes.deploy_config import (
    FILE_NAME,
    FIXTURE_FILES,
    DeployConfig,
    ModelFile,
    deploy_path,
)
from paddleseg_segformer.runtimes.paddleseg_export import PADDLEX_FILE, SECTION, TRANSFORMS
from paddleseg_segformer.yaml_files import dump_yaml

STEM = "inference"  # of the model's files
PADDLEX_TRANSFORMS = ("Resize", "Normalize")
# what models without a name of PaddleX's run under: it runs all its SegFormers by the same code
PADDLEX_NAME = "SegFormer-B0"


def write_paddleseg_folder(
    export: str | os.PathLike[str], destination: str | os.PathLike[str], model_name: str
) -> list[Path]:
    """Write an export's Paddle files under the names, and with the descriptions, of these programs.

    `deploy.yaml` has PaddleSeg's section beside ours, so that ours read the folder as well.

    Args:
        export: The folder of an export, or the path of its `deploy.yaml`.
        destination: A folder of its own; an earlier one is replaced.
        model_name: PaddleX's name of the model. Its `inference.yml` is left out where PaddleX
            could not run the folder: for softmax, with another transform than `Resize` and
            `Normalize`, or without `Normalize`.

    Returns:
        The files.

    Raises:
        UserError: no complete export, or one that these programs would not run as it was evaluated.
    """
    source, deploy = deploy_path(export).parent, DeployConfig.load(export, check_files=False)
    preprocess = Preprocess.from_dict(deploy.preprocess)
    settings = InferenceSettings.from_dict(deploy.inference)
    check_for_paddleseg(list(deploy.artefacts), deploy.output.op, preprocess, settings)
    check_destination(destination)
    transforms = deploy.preprocess["transforms"]
    sources = deploy.check_files(source, ["paddle"])
    program, params = names = [f"{STEM}{path.suffix}" for path in sources]
    section = {
        "model": program,
        "params": params,
        "transforms": transforms,
        "input_shape": deploy.input.shape,
        "output_op": deploy.output.op,
        "output_dtype": deploy.output.dtype,
    }
    types = [item["type"] for item in transforms]
    is_paddlex = (
        deploy.output.op == "argmax"
        and types[-1:] == ["Normalize"]
        and not {*types} - {*PADDLEX_TRANSFORMS}
    )
    fixture = deploy.fixture
    fixture_files = [fixture.image, fixture.labels] if fixture else []
    with atomic_folder(destination) as folder:
        for name, path in zip(names, sources, strict=True):
            shutil.copyfile(path, folder / name)
        for file in fixture_files:
            shutil.copyfile(deploy.check_file(source, file), folder / file.name)
        files = [ModelFile.of(folder / name) for name in names]
        artefact = replace(deploy.artefacts["paddle"], files=files)
        path = replace(deploy, artefacts={"paddle": artefact}).save(folder)
        write_text(path, path.read_text("utf-8") + dump_yaml({SECTION: section}))
        if is_paddlex:
            content = {"Global": {"model_name": model_name}, SECTION: section}
            write_text(folder / PADDLEX_FILE, dump_yaml(content))
    return sorted(Path(destination).iterdir())


def check_for_paddleseg(
    formats: Sequence[str], output_op: str, preprocess: Preprocess, settings: InferenceSettings
) -> None:
    """Refuse what these programs would not run as it was evaluated.

    Raises:
        UserError: no Paddle files, logits as output (theirs are at the input's size), transforms or
            a value_range that they lack, or windows, scales or flips.
    """
    others = [item["type"] for item in preprocess.sections if item["type"] not in TRANSFORMS]
    paddings = [item.get("im_padding_value", 0) for item in preprocess.sections]
    reason = ""
    if "paddle" not in formats:
        reason = f"found --format {' '.join(formats)}, expected paddle among them"
    elif output_op == "none":
        reason = "found --output_op none, expected argmax or softmax"
    elif others:
        reason = f"PaddleSeg has no transform {others[0]}; expected {', '.join(TRANSFORMS)}"
    elif not all(isinstance(value, (int, float)) for value in paddings):
        reason = "PaddleSeg's Padding takes one im_padding_value for all channels"
    elif preprocess.value_range:
        reason = "PaddleSeg has no value_range"
    elif settings.is_slide or settings.num_views > 1 or settings.scales != (1.0,):
        reason = "its programs have no windows, scales and flips (test_config), switch them off"
    if reason:
        raise UserError(f"--paddleseg_dir: {reason}.")


def check_destination(destination: str | os.PathLike[str]) -> None:
    """Refuse a folder that holds other files.

    Raises:
        UserError: it does.
    """
    names = (
        {item.name for item in Path(destination).iterdir()} if os.path.isdir(destination) else ()
    )
    ours = {f"{STEM}{suffix}" for suffix in (".json", ".pdmodel", ".pdiparams")}
    if others := sorted(set(names) - {*ours, FILE_NAME, PADDLEX_FILE, *FIXTURE_FILES}):
        raise UserError(
            f"{destination}: holds other files ({others[0]}). Choose another --paddleseg_dir."
        )


def paddlex_name(model: nn.Layer) -> str:
    """Return PaddleX's name of a model, such as SegFormer-B2; `PADDLEX_NAME` if it has none."""
    if not isinstance(model, SegFormer) or not isinstance(model.backbone, MixVisionTransformer):
        return PADDLEX_NAME
    found = (model.backbone.feat_channels, model.backbone.depths)
    for name, difference in VARIANTS.items():
        variant = {"embed_dims": (32, 64, 160, 256), "depths": (2, 2, 2, 2), **difference}
        if found == (list(variant["embed_dims"]), list(variant["depths"])):
            return f"SegFormer-{name}"
    return PADDLEX_NAME
