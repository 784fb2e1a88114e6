"""Where a model's config and weights come from."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paddle import Tensor, nn

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.huggingface.config import SegformerConfig
from paddleseg_segformer.models import SegFormer
from paddleseg_segformer.weights import Checkpoint, load_pretrained, load_weights
from paddleseg_segformer.weights.architectures.sizes import full_backbone
from paddleseg_segformer.weights.sidecars.hub_config import CONFIG_FILE

DTYPES = ("float32", "float16", "bfloat16", "float64")

logger = logging.getLogger(__name__)


def stated_config(
    source: str | os.PathLike[str],
    config: SegformerConfig | str | os.PathLike[str] | None,
    overrides: Mapping[str, Any],
) -> SegformerConfig | None:
    """Return the config that is given, or is beside the weights."""
    if isinstance(config, SegformerConfig):
        return SegformerConfig.from_dict(config.to_dict(), **overrides) if overrides else config
    if config is None and not Path(source, CONFIG_FILE).is_file():
        return None
    return SegformerConfig.from_pretrained(source if config is None else config, **overrides)


def dtype_name(dtype: Any) -> str:
    """Return the name of a number type of Paddle or PyTorch, or of one that is named."""
    name = "float32" if dtype in (None, "auto") else str(dtype).rpartition(".")[2]
    if name not in DTYPES:
        raise UserError(f"dtype: found {name!r}, expected one of {', '.join(DTYPES)}.")
    return name


def fitting(layer: nn.Layer, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights for a layer, in its number types.

    Raises:
        UserError: other names or shapes than the layer's.
    """
    own = layer.state_dict()
    shapes, expected = ({key: [*x.shape] for key, x in item.items()} for item in (state, own))
    differing = sorted(key for key in shapes | expected if shapes.get(key) != expected.get(key))
    if differing:
        raise UserError(
            f"state_dict: {len(differing)} names or shapes are not the model's, such as "
            f"{differing[0]}. Take what state_dict() of such a model gives."
        )
    return {key: item.astype(own[key].dtype) for key, item in state.items()}


def shown_config(checkpoint: Checkpoint, overrides: Mapping[str, Any]) -> SegformerConfig:
    """Return a config with the sizes that the weights show."""
    section = checkpoint.model
    backbone = full_backbone(section.get("backbone", section))
    known = SegformerConfig.from_section({**section, "backbone": backbone}).to_dict()
    if checkpoint.classes:
        known["id2label"] = dict(enumerate(checkpoint.classes))
    elif "num_classes" in section:
        known["id2label"] = {index: f"LABEL_{index}" for index in range(section["num_classes"])}
    return SegformerConfig.from_dict(known, **overrides)


def load(
    model: nn.Layer,
    source: str | os.PathLike[str],
    checkpoint: Checkpoint,
    ignore_mismatched_sizes: bool,
) -> None:
    """Load the whole model where the source has one, else its backbone."""
    section = checkpoint.model
    if not checkpoint.is_backbone and section.get("type") == type(model).__name__:
        if section["num_classes"] == model.num_classes:
            load_weights(model, source)
        elif ignore_mismatched_sizes:
            load_pretrained(model, str(source))
        else:
            raise UserError(
                f"{source}: has {section['num_classes']} classes, the model is to have "
                f"{model.num_classes}. To keep the classifier's initial weights: "
                "ignore_mismatched_sizes=True"
            )
    elif section.get("type") == "SegFormerMM" and isinstance(model, SegFormer):
        raise UserError(
            f"{source}: has mmsegmentation's head, which transformers' classes lack. Load it with "
            "paddleseg_segformer.load_model."
        )
    else:
        if hasattr(model, "backbone"):
            logger.warning("%s: has no such head; it keeps its initial weights", source)
        load_pretrained(getattr(model, "backbone", model), str(source))
