"""Models as their weights show them: which one, of what sizes, and which weights it has.

Everything is asked by canonical name, so it holds for every format.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models import vision_transformer
from paddleseg_segformer.models.mix_transformer import VARIANTS

Section = dict[str, Any]  # a `model` or `backbone` section of a config
Shapes = Callable[[str], "tuple[int, ...] | None"]  # canonical name -> shape, None if absent

MIT_DEFAULTS: Section = {
    "in_channels": 3,
    "embed_dims": [32, 64, 160, 256],
    "depths": [2, 2, 2, 2],
    "num_heads": [1, 2, 5, 8],
    "sr_ratios": [8, 4, 2, 1],
    "mlp_ratios": [4, 4, 4, 4],
    "qkv_bias": True,
    "drop_rate": 0.0,
    "attn_drop_rate": 0.0,
    "drop_path_rate": 0.1,
    "norm_eps": 1e-6,
    "embed_norm_eps": 1e-5,
}
VIT_DEFAULTS: Section = {
    name: parameter.default
    for name, parameter in inspect.signature(
        vision_transformer.VisionTransformer
    ).parameters.items()
}
EPSILONS = ("norm_eps", "embed_norm_eps", "epsilon")  # arguments of backbones
_HEAD_WIDTH = 64  # of a ViT's attention, but for the widest one: channels -> heads
_OTHER_HEADS = {1280: 16}
_BATCH_NORM = ("weight", "bias", "_mean", "_variance")
_LINEAR = ("weight", "bias")


@dataclass(frozen=True)
class Architecture:
    """One kind of model.

    Args:
        type: its name in configs; "" for a bare backbone.
        marks: canonical names that all have to be there for a state to be of this kind.
        section: reads the sizes off the weights, as the model's section with a full backbone.
        keys: lists the canonical names of the model that such a section describes.
    """

    type: str
    marks: tuple[str, ...]
    section: Callable[[Shapes], Section]
    keys: Callable[[Section], list[str]]


class UnfitWeight(UserError):
    """A weight that is absent or of another rank, so that the model's sizes cannot be read."""

    def __init__(self, key: str, shape: tuple[int, ...] | None, rank: int) -> None:
        self.key = key
        found = "is missing" if shape is None else f"is of shape {list(shape)}"
        self.problem = f"{found}, expected {rank} sides"
        super().__init__(f"{key} {self.problem}")


def axis(shapes: Shapes, key: str, index: int, rank: int) -> int:
    """Return one side of a weight.

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


def mit_section(shapes: Shapes) -> Section:
    """Read the sizes of a Mix Transformer; its attention heads leave no trace in the weights."""
    stages = range(1, 5)
    block = "backbone.block{}.0."
    dims = [axis(shapes, f"backbone.patch_embed{i}.proj.weight", 0, 4) for i in stages]
    hidden = [axis(shapes, f"{block.format(i)}mlp.fc1.weight", 1, 2) for i in stages]
    has_sr = [shapes(f"{block.format(i)}attn.sr.weight") is not None for i in stages]
    return {
        "type": "MixVisionTransformer",
        "in_channels": axis(shapes, "backbone.patch_embed1.proj.weight", 1, 4),
        "embed_dims": dims,
        "depths": [count(shapes, f"backbone.block{i}.{{}}.norm1.weight") for i in stages],
        "sr_ratios": [
            axis(shapes, f"{block.format(i)}attn.sr.weight", 2, 4) if has_sr[i - 1] else 1
            for i in stages
        ],
        "mlp_ratios": [
            width // dim if width % dim == 0 else width / dim
            for width, dim in zip(hidden, dims, strict=True)
        ],
        "qkv_bias": shapes("backbone.block1.0.attn.q.bias") is not None,
    }


def mit_keys(backbone: Section) -> list[str]:
    """List the weights of a Mix Transformer with a full section."""
    keys = []
    for i in range(1, 5):
        names = ["norm1", "attn.q", "attn.kv", "attn.proj"]
        if backbone["sr_ratios"][i - 1] > 1:
            names += ["attn.sr", "attn.norm"]
        names += ["norm2", "mlp.fc1", "mlp.dwconv.dwconv", "mlp.fc2"]
        blocks = [
            f"block{i}.{j}.{name}" for j in range(backbone["depths"][i - 1]) for name in names
        ]
        for name in (f"patch_embed{i}.proj", f"patch_embed{i}.norm", *blocks, f"norm{i}"):
            is_free = name.endswith((".attn.q", ".attn.kv")) and not backbone["qkv_bias"]
            keys += [f"backbone.{name}.{part}" for part in _LINEAR[: 1 if is_free else 2]]
    return keys


def _segformer_section(shapes: Shapes) -> Section:
    return {
        "type": "SegFormer",
        "num_classes": axis(shapes, "linear_pred.weight", 0, 4),
        "embedding_dim": axis(shapes, "linear_fuse._conv.weight", 0, 4),
        "backbone": mit_section(shapes),
    }


def _segformer_keys(section: Section) -> list[str]:
    linears = [*(f"linear_c{i}.proj" for i in range(1, 5)), "linear_pred"]
    return [
        *mit_keys(section["backbone"]),
        *(f"{name}.{part}" for name in linears for part in _LINEAR),
        "linear_fuse._conv.weight",
        *(f"linear_fuse._batch_norm.{part}" for part in _BATCH_NORM),
    ]


def _mm_section(shapes: Shapes) -> Section:
    return {
        "type": "SegFormerMM",
        "num_classes": axis(shapes, "linear_pred.weight", 0, 4),
        "embedding_dim": axis(shapes, "fusion_conv._conv.weight", 0, 4),
        "backbone": mit_section(shapes),
    }


def _mm_keys(section: Section) -> list[str]:
    convs = [*(f"convs.{i}" for i in range(4)), "fusion_conv"]
    return [
        *mit_keys(section["backbone"]),
        *(f"{name}._conv.weight" for name in convs),
        *(f"{name}._batch_norm.{part}" for name in convs for part in _BATCH_NORM),
        *(f"linear_pred.{part}" for part in _LINEAR),
    ]


def _classifier_section(shapes: Shapes) -> Section:
    return {
        "type": "MixVisionTransformerClassifier",
        "num_classes": axis(shapes, "head.weight", 1, 2),
        "backbone": mit_section(shapes),
    }


def _classifier_keys(section: Section) -> list[str]:
    return [*mit_keys(section["backbone"]), "head.weight", "head.bias"]


def is_vit(backbone: Section) -> bool:
    """Return whether a backbone's section is of a Vision Transformer."""
    type_name = backbone.get("type", "")
    return type_name == "VisionTransformer" or type_name in vision_transformer.VARIANTS


def vit_section(shapes: Shapes) -> Section:
    """Read the sizes of a Vision Transformer that the weights show."""
    dim = axis(shapes, "backbone.pos_embed", 2, 3)
    hidden = axis(shapes, "backbone.blocks.0.mlp.fc1.weight", 1, 2)
    return {
        "type": "VisionTransformer",
        "patch_size": axis(shapes, "backbone.patch_embed.proj.weight", 2, 4),
        "in_channels": axis(shapes, "backbone.patch_embed.proj.weight", 1, 4),
        "embed_dim": dim,
        "depth": count(shapes, "backbone.blocks.{}.norm1.weight"),
        "mlp_ratio": hidden // dim if hidden % dim == 0 else hidden / dim,
        "qkv_bias": shapes("backbone.blocks.0.attn.qkv.bias") is not None,
        "final_norm": shapes("backbone.norm.weight") is not None,
    }


def vit_keys(backbone: Section) -> list[str]:
    """List the weights of a Vision Transformer with a full section."""
    return [
        "backbone.pos_embed",
        "backbone.cls_token",
        *(f"backbone.patch_embed.proj.{part}" for part in _LINEAR),
        *_block_keys("backbone.blocks", backbone["depth"], backbone["qkv_bias"]),
        *(f"backbone.norm.{part}" for part in _LINEAR if backbone["final_norm"]),
    ]


def _block_keys(prefix: str, depth: int, qkv_bias: bool) -> list[str]:
    names = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    keys = [
        f"{prefix}.{j}.{name}.{part}" for j in range(depth) for name in names for part in _LINEAR
    ]
    return [key for key in keys if qkv_bias or not key.endswith(".qkv.bias")]


def _linear_segmenter_section(shapes: Shapes) -> Section:
    return {
        "type": "LinearSegmenter",
        "num_classes": axis(shapes, "head.head.weight", 1, 2),
        "backbone": vit_section(shapes),
    }


def _linear_segmenter_keys(section: Section) -> list[str]:
    return [*vit_keys(section["backbone"]), *(f"head.head.{part}" for part in _LINEAR)]


def _mask_segmenter_section(shapes: Shapes) -> Section:
    dim = axis(shapes, "head.cls_token", 2, 3)
    hidden = axis(shapes, "head.blocks.0.mlp.fc1.weight", 1, 2)
    return {
        "type": "MaskSegmenter",
        "num_classes": axis(shapes, "head.cls_token", 1, 3),
        "h_embed_dim": dim,
        "h_depth": count(shapes, "head.blocks.{}.norm1.weight"),
        "h_mlp_ratio": hidden // dim if hidden % dim == 0 else hidden / dim,
        "h_qkv_bias": shapes("head.blocks.0.attn.qkv.bias") is not None,
        "backbone": vit_section(shapes),
    }


def _mask_segmenter_keys(section: Section) -> list[str]:
    names = ("head.proj_input", "head.decoder_norm", "head.mask_norm")
    return [
        *vit_keys(section["backbone"]),
        "head.cls_token",
        *_block_keys("head.blocks", section["h_depth"], section["h_qkv_bias"]),
        *(f"{name}.{part}" for name in names for part in _LINEAR),
        "head.proj_patch.weight",
        "head.proj_class.weight",
    ]


def guessed(shapes: Shapes, section: Section) -> Section:
    """Return what a section lacks because the weights do not show it, as published.

    These are attention heads, of 64 channels each, and the image size of the position embedding,
    a square; what is stated beside the weights comes before it.
    """
    if not is_vit(section["backbone"]):
        return {}
    backbone: Section = {"num_heads": _num_heads(section["backbone"]["embed_dim"])}
    side = math.isqrt(axis(shapes, "backbone.pos_embed", 1, 3) - 1)
    if side**2 + 1 == axis(shapes, "backbone.pos_embed", 1, 3):
        backbone["img_size"] = side * section["backbone"]["patch_size"]
    if section.get("type") == "MaskSegmenter":
        return {"backbone": backbone, "h_num_heads": _num_heads(section["h_embed_dim"])}
    return {"backbone": backbone}


def _num_heads(dim: int) -> int:
    return _OTHER_HEADS.get(dim, max(dim // _HEAD_WIDTH, 1))


def _bare_vit_section(shapes: Shapes) -> Section:
    return {"backbone": vit_section(shapes)}


def _bare_vit_keys(section: Section) -> list[str]:
    return vit_keys(section["backbone"])


def _backbone_section(shapes: Shapes) -> Section:
    return {"backbone": mit_section(shapes)}


def _backbone_keys(section: Section) -> list[str]:
    return mit_keys(section["backbone"])


_MIT, _VIT = "backbone.patch_embed1.proj.weight", "backbone.pos_embed"

ARCHITECTURES = (  # the first whose marks are there
    Architecture(
        "SegFormer", (_MIT, "linear_fuse._conv.weight"), _segformer_section, _segformer_keys
    ),
    Architecture("SegFormerMM", (_MIT, "fusion_conv._conv.weight"), _mm_section, _mm_keys),
    Architecture(
        "MixVisionTransformerClassifier",
        (_MIT, "head.weight"),
        _classifier_section,
        _classifier_keys,
    ),
    Architecture("", (_MIT,), _backbone_section, _backbone_keys),
    Architecture(
        "LinearSegmenter",
        (_VIT, "head.head.weight"),
        _linear_segmenter_section,
        _linear_segmenter_keys,
    ),
    Architecture(
        "MaskSegmenter", (_VIT, "head.cls_token"), _mask_segmenter_section, _mask_segmenter_keys
    ),
    Architecture("", (_VIT,), _bare_vit_section, _bare_vit_keys),
)


def architecture_of(shapes: Shapes) -> Architecture | None:
    """Return the kind of model that has these weights, or None if it is none that is known."""
    for item in ARCHITECTURES:
        if all(shapes(key) is not None for key in item.marks):
            return item
    return None


def full_backbone(section: Section) -> Section:
    """Return a backbone's section with every size spelled out, whatever its `type`."""
    if is_vit(section):
        variant = vision_transformer.VARIANTS.get(section["type"], {})
        return {**VIT_DEFAULTS, **variant, **section, "type": "VisionTransformer"}
    variant = VARIANTS.get(section.get("type", "").rpartition("_")[2], {})
    given = {key: value for key, value in section.items() if key != "type"}
    full = {**MIT_DEFAULTS, **variant, **given}
    return {key: list(v) if isinstance(v, tuple) else v for key, v in full.items()}


def short_backbone(section: Section) -> Section:
    """Return the shortest section that builds the same backbone."""
    if is_vit(section):
        full = full_backbone(section)
        return {key: value for key, value in full.items() if value != VIT_DEFAULTS.get(key)}
    full = full_backbone(section)
    for name, difference in VARIANTS.items():
        variant = full_backbone(difference)
        if all(full[key] == variant[key] for key in ("embed_dims", "depths")):
            rest = {key: value for key, value in full.items() if value != variant.get(key)}
            return {"type": f"MixVisionTransformer_{name}", **rest}
    rest = {key: value for key, value in full.items() if value != MIT_DEFAULTS.get(key)}
    return {"type": "MixVisionTransformer", **rest}


def describe(section: Section, num_tensors: int) -> str:
    """Say in a few words which model a section is of."""
    if not section:
        return f"an unknown model ({num_tensors} tensors)"
    backbone = section.get("backbone", section)
    parts = [backbone.get("type", "")]
    parts += [
        f"{key} {value}" for key, value in backbone.items() if key not in ("type", "pretrained")
    ]
    if section.get("type") in ("SegFormerMM",):
        parts.append("mmsegmentation's head")
    if "embedding_dim" in section:
        parts.append(f"embedding_dim {section['embedding_dim']}")
    if "num_classes" in section:
        parts.append(f"{section['num_classes']} classes")
    return ", ".join(parts)
