"""SegFormer: its sizes read off its weights, and their canonical names."""

from __future__ import annotations

import math

from paddleseg_segformer.weights.architectures.sizes import (
    BATCH_NORM,
    LINEAR,
    Architecture,
    Section,
    Shapes,
    axis,
    count,
    ratio,
)

_MARK = "backbone.patch_embed1.proj.weight"


def mit_section(shapes: Shapes) -> Section:
    """Read the sizes of a Mix Transformer, except `num_heads`: the weights do not show it."""
    stages = range(1, 5)
    block = "backbone.block{}.0."
    dims = [axis(shapes, f"backbone.patch_embed{i}.proj.weight", 0, 4) for i in stages]
    hidden = [axis(shapes, f"{block.format(i)}mlp.fc1.weight", 1, 2) for i in stages]
    reductions = [f"{block.format(i)}attn.sr.weight" for i in stages]
    learned: Section = {}
    if positions := shapes("backbone.patch_embed1.pos_embed"):  # of stage 1's map, a square
        side = math.isqrt(positions[1])
        img_size = 4 * side if side**2 == positions[1] else None
        learned = {"positional_encoding": "learned", "img_size": img_size}
    return {
        "type": "MixVisionTransformer",
        "in_channels": axis(shapes, "backbone.patch_embed1.proj.weight", 1, 4),
        "embed_dims": dims,
        "depths": [count(shapes, f"backbone.block{i}.{{}}.norm1.weight") for i in stages],
        "sr_ratios": [1 if shapes(key) is None else axis(shapes, key, 2, 4) for key in reductions],
        "mlp_ratios": [ratio(width, dim) for width, dim in zip(hidden, dims, strict=True)],
        "qkv_bias": shapes("backbone.block1.0.attn.q.bias") is not None,
        **learned,
    }


def mit_keys(backbone: Section) -> list[str]:
    """List the weights of a Mix Transformer, given its full section."""
    is_learned = backbone.get("positional_encoding") == "learned"
    keys = [f"backbone.patch_embed{i}.pos_embed" for i in range(1, 5) if is_learned]
    for i in range(1, 5):
        names = ["norm1", "attn.q", "attn.kv", "attn.proj"]
        if backbone["sr_ratios"][i - 1] > 1:
            names += ["attn.sr", "attn.norm"]
        names += ["norm2", "mlp.fc1", *([] if is_learned else ["mlp.dwconv.dwconv"]), "mlp.fc2"]
        blocks = [
            f"block{i}.{j}.{name}" for j in range(backbone["depths"][i - 1]) for name in names
        ]
        for name in (f"patch_embed{i}.proj", f"patch_embed{i}.norm", *blocks, f"norm{i}"):
            has_bias = backbone["qkv_bias"] or not name.endswith((".attn.q", ".attn.kv"))
            keys += [f"backbone.{name}.{part}" for part in LINEAR[: 1 + has_bias]]
    return keys


def _read_segformer(shapes: Shapes) -> Section:
    return {
        "num_classes": axis(shapes, "linear_pred.weight", 0, 4),
        "embedding_dim": axis(shapes, "linear_fuse._conv.weight", 0, 4),
    }


def _segformer_keys(section: Section) -> list[str]:
    linears = [*(f"linear_c{i}.proj" for i in range(1, 5)), "linear_pred"]
    return [
        *(f"{name}.{part}" for name in linears for part in LINEAR),
        "linear_fuse._conv.weight",
        *(f"linear_fuse._batch_norm.{part}" for part in BATCH_NORM),
    ]


def _read_last_stage(shapes: Shapes) -> Section:
    return {
        "num_classes": axis(shapes, "linear_pred.weight", 0, 4),
        "embedding_dim": axis(shapes, "linear_c4.proj.weight", 1, 2),
    }


def _last_stage_keys(section: Section) -> list[str]:
    return [
        *(f"{name}.{part}" for name in ("linear_c4.proj", "linear_pred") for part in LINEAR),
        *(f"linear_fuse._batch_norm.{part}" for part in BATCH_NORM),
    ]


def _read_mm(shapes: Shapes) -> Section:
    return {
        "num_classes": axis(shapes, "linear_pred.weight", 0, 4),
        "embedding_dim": axis(shapes, "fusion_conv._conv.weight", 0, 4),
    }


def _mm_keys(section: Section) -> list[str]:
    convs = [*(f"convs.{i}" for i in range(4)), "fusion_conv"]
    return [
        *(f"{name}._conv.weight" for name in convs),
        *(f"{name}._batch_norm.{part}" for name in convs for part in BATCH_NORM),
        *(f"linear_pred.{part}" for part in LINEAR),
    ]


def _read_classifier(shapes: Shapes) -> Section:
    return {"num_classes": axis(shapes, "head.weight", 1, 2)}


def _classifier_keys(section: Section) -> list[str]:
    return ["head.weight", "head.bias"]


SEGFORMERS = tuple(
    Architecture(name, (_MARK, *marks), mit_section, mit_keys, *head)
    for name, marks, head in (
        ("SegFormer", ["linear_fuse._conv.weight"], (_read_segformer, _segformer_keys)),
        (
            "SegFormerLastStage",
            ["linear_fuse._batch_norm.weight", "linear_c4.proj.weight"],
            (_read_last_stage, _last_stage_keys),
        ),
        ("SegFormerMM", ["fusion_conv._conv.weight"], (_read_mm, _mm_keys)),
        ("MixVisionTransformerClassifier", ["head.weight"], (_read_classifier, _classifier_keys)),
        ("", [], ()),
    )
)
