"""Sizes of a model: read off its weights' shapes, spelled out and shortened in config sections."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models import mix_transformer, vision_transformer

Section = dict[str, Any]  # a `model` or `backbone` section of a config
Shapes = Callable[[str], "tuple[int, ...] | None"]  # canonical name -> shape, None if absent

LINEAR = ("weight", "bias")
BATCH_NORM = ("weight", "bias", "_mean", "_variance")
EPSILONS = ("norm_eps", "embed_norm_eps", "epsilon")  # arguments of backbones


@dataclass(frozen=True)
class Architecture:
    """One kind of model.

    Args:
        type: its name in configs; "" for a bare backbone.
        marks: canonical names; weights that have them all are of this kind.
        read_backbone: reads a backbone's sizes off the weights, as its full section.
        backbone_keys: lists the canonical names of the backbone that such a section describes.
        read_head: reads the sizes of the head.
        head_keys: lists the canonical names of the head, given the model's section.
    """

    type: str
    marks: tuple[str, ...]
    read_backbone: Callable[[Shapes], Section]
    backbone_keys: Callable[[Section], list[str]]
    read_head: Callable[[Shapes], Section] = lambda shapes: {}
    head_keys: Callable[[Section], list[str]] = lambda section: []

    def section(self, shapes: Shapes) -> Section:
        """Read the sizes off the weights, as the model's section with a full backbone."""
        type_of_model = {"type": self.type} if self.type else {}
        return {**type_of_model, **self.read_head(shapes), "backbone": self.read_backbone(shapes)}

    def keys(self, section: Section) -> list[str]:
        """List the canonical names of the model that such a section describes."""
        return self.backbone_keys(section["backbone"]) + self.head_keys(section)


class UnfitWeight(UserError):
    """A weight that is absent or of another rank, so that the model's sizes cannot be read."""

    def __init__(self, key: str, shape: tuple[int, ...] | None, rank: int) -> None:
        self.key = key
        found = "is missing" if shape is None else f"is of shape {list(shape)}"
        self.problem = f"{found}, expected {rank} axes"
        super().__init__(f"{key} {self.problem}")


def axis(shapes: Shapes, key: str, index: int, rank: int) -> int:
    """Return the length of one axis of a weight.

    Raises:
        UnfitWeight: it is absent, or of another rank.
    """
    shape = shapes(key)
    if shape is None or len(shape) != rank or min(shape) < 1:
        raise UnfitWeight(key, shape, rank)
    return shape[index]


def count(shapes: Shapes, pattern: str) -> int:
    """Return how many of the names `pattern.format(0)`, `(1)`, ... follow each other."""
    number = 0
    while shapes(pattern.format(number)) is not None:
        number += 1
    return number


def ratio(hidden: int, dim: int) -> float:
    """Return r with int(dim * r) == hidden, a whole number where there is one."""
    if hidden % dim == 0:
        return hidden // dim
    return hidden / dim if int(dim * (hidden / dim)) == hidden else (hidden + 0.5) / dim


_MIT_DEFAULTS, _VIT_DEFAULTS = (
    {name: item.default for name, item in inspect.signature(backbone).parameters.items()}
    for backbone in (mix_transformer.MixVisionTransformer, vision_transformer.VisionTransformer)
)


def is_vit(backbone: Section) -> bool:
    """Return whether a backbone's section is of a Vision Transformer."""
    type_name = backbone.get("type", "")
    return type_name == "VisionTransformer" or type_name in vision_transformer.VARIANTS


def full_backbone(section: Section) -> Section:
    """Return a backbone's section with every size spelled out, whatever its `type`."""
    if is_vit(section):
        variant = vision_transformer.VARIANTS.get(section["type"], {})
        full = {**_VIT_DEFAULTS, **variant, **section, "type": "VisionTransformer"}
    else:
        variant = mix_transformer.VARIANTS.get(section.get("type", "").rpartition("_")[2], {})
        full = {**_MIT_DEFAULTS, **variant, **section}
        full.pop("type", None)
    return {key: list(item) if isinstance(item, tuple) else item for key, item in full.items()}


def short_backbone(section: Section) -> Section:
    """Return the shortest section that builds the same backbone."""
    full = full_backbone(section)
    if is_vit(section):
        name, base = "VisionTransformer", full_backbone({"type": "VisionTransformer"})
    else:
        name, base = "MixVisionTransformer", full_backbone({})
        for variant, difference in mix_transformer.VARIANTS.items():
            sizes = full_backbone(difference)
            if all(full[key] == sizes[key] for key in ("embed_dims", "depths")):
                name, base = f"MixVisionTransformer_{variant}", sizes
    return {"type": name, **{key: x for key, x in full.items() if x != base.get(key)}}


def describe(section: Section, num_tensors: int) -> str:
    """Describe in a few words the model that a section builds."""
    if not section:
        return f"an unknown model ({num_tensors} tensors)"
    backbone = section.get("backbone", section)
    parts = [backbone.get("type", "")]
    parts += [
        f"{key} {value}" for key, value in backbone.items() if key not in ("type", "pretrained")
    ]
    if section.get("type") == "SegFormerMM":
        parts.append("mmsegmentation's head")
    if "embedding_dim" in section:
        parts.append(f"embedding_dim {section['embedding_dim']}")
    if "num_classes" in section:
        parts.append(f"{section['num_classes']} classes")
    return ", ".join(parts)
