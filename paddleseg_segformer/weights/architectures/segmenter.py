"""Segmenter: its sizes read off its weights, and their canonical names."""

from __future__ import annotations

import math

from paddleseg_segformer.weights.architectures.sizes import (
    LINEAR,
    Architecture,
    Section,
    Shapes,
    axis,
    count,
    is_vit,
    ratio,
)

_MARK = "backbone.pos_embed"
_HEAD_WIDTH = 64  # channels per attention head
_OTHER_HEADS = {1280: 16}  # the exception: channels -> heads


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
        "mlp_ratio": ratio(hidden, dim),
        "qkv_bias": shapes("backbone.blocks.0.attn.qkv.bias") is not None,
        "final_norm": shapes("backbone.norm.weight") is not None,
    }


def vit_keys(backbone: Section) -> list[str]:
    """List the weights of a Vision Transformer, given its full section."""
    return [
        "backbone.pos_embed",
        "backbone.cls_token",
        *(f"backbone.patch_embed.proj.{part}" for part in LINEAR),
        *_block_keys("backbone.blocks", backbone["depth"], backbone["qkv_bias"]),
        *(f"backbone.norm.{part}" for part in LINEAR if backbone["final_norm"]),
    ]


def _block_keys(prefix: str, depth: int, qkv_bias: bool) -> list[str]:
    names = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    keys = [
        f"{prefix}.{j}.{name}.{part}" for j in range(depth) for name in names for part in LINEAR
    ]
    return [key for key in keys if qkv_bias or not key.endswith(".qkv.bias")]


def _read_linear(shapes: Shapes) -> Section:
    return {"num_classes": axis(shapes, "head.head.weight", 1, 2)}


def _linear_keys(section: Section) -> list[str]:
    return [f"head.head.{part}" for part in LINEAR]


def _read_mask(shapes: Shapes) -> Section:
    dim = axis(shapes, "head.cls_token", 2, 3)
    hidden = axis(shapes, "head.blocks.0.mlp.fc1.weight", 1, 2)
    return {
        "num_classes": axis(shapes, "head.cls_token", 1, 3),
        "h_embed_dim": dim,
        "h_depth": count(shapes, "head.blocks.{}.norm1.weight"),
        "h_mlp_ratio": ratio(hidden, dim),
        "h_qkv_bias": shapes("head.blocks.0.attn.qkv.bias") is not None,
    }


def _mask_keys(section: Section) -> list[str]:
    names = ("head.proj_input", "head.decoder_norm", "head.mask_norm")
    return [
        "head.cls_token",
        *_block_keys("head.blocks", section["h_depth"], section["h_qkv_bias"]),
        *(f"{name}.{part}" for name in names for part in LINEAR),
        "head.proj_patch.weight",
        "head.proj_class.weight",
    ]


def guessed(shapes: Shapes, section: Section) -> Section:
    """Return sizes that a section lacks because the weights do not show them, as published.

    These are the number of attention heads, of 64 channels each, and the image size of the position
    embedding, a square. What is stated beside the weights takes precedence.
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


SEGMENTERS = tuple(
    Architecture(name, (_MARK, *marks), vit_section, vit_keys, *head)
    for name, marks, head in (
        ("LinearSegmenter", ["head.head.weight"], (_read_linear, _linear_keys)),
        ("MaskSegmenter", ["head.cls_token"], (_read_mask, _mask_keys)),
        ("", [], ()),
    )
)
