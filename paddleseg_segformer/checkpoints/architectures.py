"""Models as their weights show them: which one, of what sizes, and which weights it has.

Everything is asked by canonical name, so it holds for every format.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paddleseg_segformer.errors import UserError
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


def _backbone_section(shapes: Shapes) -> Section:
    return {"backbone": mit_section(shapes)}


def _backbone_keys(section: Section) -> list[str]:
    return mit_keys(section["backbone"])


_MIT = "backbone.patch_embed1.proj.weight"

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
)


def architecture_of(shapes: Shapes) -> Architecture | None:
    """Return the kind of model that has these weights, or None if it is none that is known."""
    for item in ARCHITECTURES:
        if all(shapes(key) is not None for key in item.marks):
            return item
    return None


def full_backbone(section: Section) -> Section:
    """Return a Mix Transformer's section with every size spelled out, whatever its `type`."""
    variant = VARIANTS.get(section.get("type", "").rpartition("_")[2], {})
    given = {key: value for key, value in section.items() if key != "type"}
    full = {**MIT_DEFAULTS, **variant, **given}
    return {key: list(v) if isinstance(v, tuple) else v for key, v in full.items()}


def short_backbone(section: Section) -> Section:
    """Return the shortest section that builds the same Mix Transformer."""
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
