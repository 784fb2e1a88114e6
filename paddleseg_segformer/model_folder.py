"""Models by the path of their weights: a model folder, or a weight file of any known code base.

A model folder holds `model.pdparams` (or `model.safetensors`) and `config.yml`, a config as for
training: the model, how images are prepared, the classes. Checkpoints of a training run are model
folders.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from paddle import nn

from paddleseg_segformer.config import Config, building, load_config
from paddleseg_segformer.config.building import build_component
from paddleseg_segformer.config.schema import config_from
from paddleseg_segformer.data.labels import palette_of
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models.one_logit import subtract_first_logit
from paddleseg_segformer.weights import (
    Checkpoint,
    load_pretrained,
    load_weights,
    open_checkpoint,
)
from paddleseg_segformer.weights.files.containers import FOLDER_FILES

WEIGHTS = "model.pdparams"
CONFIG = "config.yml"


def build_model(config: Config, load_pretrained: bool = False) -> nn.Layer:
    """Build the model.

    Args:
        load_pretrained: load the weights that the config's `pretrained` keys name; not needed
            before a checkpoint of the whole model is loaded.
    """
    model = building.build_model(config)
    if load_pretrained:
        start_from_pretrained(model, config)
    return model


def start_from_pretrained(model: nn.Layer, config: Config) -> None:
    """Load the weights that the config's `pretrained` keys name into the model and its backbone."""
    layers, sections = {"model": model}, {"model": config.model}
    if isinstance(config.model.get("backbone"), dict):
        layers["model.backbone"] = model.backbone
        sections["model.backbone"] = config.model["backbone"]
    for name, layer in layers.items():
        source, key = sections[name].get("pretrained"), f"{name}.pretrained"
        if not source:
            continue
        try:
            load_pretrained(layer, source)
        except UserError as error:
            raise UserError(
                f"{key}: {error} To start from random weights: --opts {key}=null"
            ) from None
    if getattr(model, "one_logit", False):
        subtract_first_logit(model.classifier_layer)


def load_model(path: str | os.PathLike[str]) -> nn.Layer:
    """Build the network of a weight file or folder and load its weights, in evaluation mode.

    It gets the LayerNorm epsilons of the code base that the weights come from.

    Args:
        path: A model folder, a Hugging Face folder, or a weight file of any known code base.

    Raises:
        UserError: no such file, damaged, or of an unknown model.
    """
    yaml = _yaml_beside(Path(path))
    if yaml is not None:
        model = building.build_model(load_config(yaml))
    else:
        checkpoint = open_checkpoint(path)
        kind = "backbone" if checkpoint.is_backbone else "model"
        model = build_component(kind, checkpoint.model, str(path))
    load_weights(model, path)
    model.eval()
    return model


def config_of(path: str | os.PathLike[str], opts: Iterable[str] | None = None) -> Config:
    """Return the config that goes with weights: the YAML beside them, or what their source implies.

    Args:
        path: As for `load_model`.
        opts: Overrides such as "test_config.is_slide=True".

    Raises:
        UserError: not a segmentation model, or its preprocessing is unknown.
    """
    yaml = _yaml_beside(Path(path))
    if yaml is not None:
        config = load_config(yaml, opts)
        if config.val_dataset is None:
            raise UserError(
                f"{yaml}: has no val_dataset, whose transforms prepare the images. Add it."
            )
        return config
    checkpoint = open_checkpoint(path)
    if checkpoint.transforms is None:
        raise UserError(
            f"{path}: nothing beside these weights ({checkpoint.describe()}) says how images are "
            f"prepared. Give --config, or put the config of their training there as {CONFIG}."
        )
    return config_from(_content_of(path, checkpoint), str(path), opts)


def _yaml_beside(path: Path) -> Path | None:
    """Return the config of weights: the YAML with their name, or that of their model folder."""
    candidates = [path / CONFIG]
    if not path.is_dir():
        candidates = [path.with_suffix(".yml"), path.with_suffix(".yaml")]
        if path.name in FOLDER_FILES:
            candidates.append(path.with_name(CONFIG))
    return next((item for item in candidates if item.is_file()), None)


def _content_of(path: str | os.PathLike[str], checkpoint: Checkpoint) -> dict[str, Any]:
    """Return a config that builds a checkpoint's model and predicts as its source does.

    Raises:
        UserError: the model has no segmentation head.
    """
    model = checkpoint.model
    if checkpoint.is_backbone or model["type"] == "MixVisionTransformerClassifier":
        raise UserError(
            f"{path}: holds {checkpoint.describe()} without a segmentation head. Train one on it: "
            f"--opts model.backbone.pretrained={path}"
        )
    data: dict[str, Any] = {"type": "Dataset", "mode": "val", "num_classes": model["num_classes"]}
    if checkpoint.classes:
        data["classes"] = checkpoint.classes
        if palette := checkpoint.palette or palette_of(checkpoint.classes):
            data["palette"] = palette
    if checkpoint.reduces_labels:
        data["reduce_zero_label"] = True
    num_channels = model["backbone"].get("in_channels", 3)
    if num_channels != 3:
        data["img_channels"] = num_channels
    data["transforms"] = checkpoint.transforms
    return {"model": model, "val_dataset": data, "test_config": checkpoint.test_config}
