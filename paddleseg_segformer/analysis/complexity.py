"""Multiply-accumulate counts of SegFormer and Segmenter by part, published and as computed here.

Counted are convolutions, linears and attention products, as the paper does (its "FLOPs" are
multiply-accumulates); not normalisation, activation or resizing.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from paddle import nn

from paddleseg_segformer.models import (
    MixVisionTransformer,
    MixVisionTransformerClassifier,
    VisionTransformer,
)
from paddleseg_segformer.models.segformer import AllMLPHead, MMHead
from paddleseg_segformer.models.segmenter import LinearHead, MaskHead, Segmenter


def count_parameters(model: nn.Layer) -> int:
    """Return the number of weights, without batch-norm statistics."""
    return sum(
        tensor.size
        for name, tensor in model.named_parameters()
        if not name.endswith(("._mean", "._variance"))
    )


def count_macs(model: nn.Layer, hw: tuple[int, int], rewritten: bool = True) -> Counter[str]:
    """Return multiply-accumulates by part for one image.

    Args:
        model: a SegFormer, a Segmenter, a classifier, or an encoder alone.
        hw: sides of the input in px.
        rewritten: with the head as it is computed here (fuse weights merged beforehand), or as
            published.
    """
    if isinstance(model, MixVisionTransformer):
        return _encoder_macs(model, hw)
    if isinstance(model, VisionTransformer):
        return _vit_macs(model, hw)
    if isinstance(model, Segmenter):
        return _segmenter_macs(model, hw)
    macs = _encoder_macs(model.backbone, hw)
    tokens = [h * w for h, w in stage_sizes(hw)]
    if isinstance(model, MixVisionTransformerClassifier):
        macs["classifier"] = model.head.weight.size
    elif isinstance(model, AllMLPHead):
        macs += _canonical_head_macs(model, tokens, rewritten)
    elif isinstance(model, MMHead):
        macs += _mm_head_macs(model, tokens, rewritten)
    return macs


def stage_sizes(hw: tuple[int, int]) -> list[tuple[int, int]]:
    """Return (h, w) of the four stages: strides 4, 8, 16, 32, rounded up stage by stage."""
    sizes = []
    h, w = hw
    for stride in (4, 2, 2, 2):
        h, w = -(-h // stride), -(-w // stride)
        sizes.append((h, w))
    return sizes


def _encoder_macs(encoder: MixVisionTransformer, hw: tuple[int, int]) -> Counter[str]:
    macs: Counter[str] = Counter()
    for stage, (h, w) in enumerate(stage_sizes(hw), start=1):
        tokens = h * w
        macs["patch embeddings"] += (
            tokens * getattr(encoder, f"patch_embed{stage}").proj.weight.size
        )
        for block in getattr(encoder, f"block{stage}"):
            attention, mlp = block.attn, block.mlp
            channels = attention.q.weight.shape[0]
            reduced = (h // attention.sr_ratio) * (w // attention.sr_ratio)
            macs["q, kv, proj"] += 2 * tokens * channels**2 + reduced * 2 * channels**2
            macs["attention products"] += 2 * tokens * reduced * channels
            if attention.sr_ratio > 1:
                macs["spatial reduction"] += reduced * attention.sr.weight.size
            macs["fc1, fc2"] += tokens * (mlp.fc1.weight.size + mlp.fc2.weight.size)
            macs["depthwise convolution"] += tokens * mlp.dwconv.dwconv.weight.size
    return macs


def _canonical_head_macs(head: AllMLPHead, tokens: list[int], rewritten: bool) -> Counter[str]:
    linears = [getattr(head, f"linear_c{stage}").proj.weight.size for stage in range(1, 5)]
    macs = Counter({"head linears": sum(n * size for n, size in zip(tokens, linears, strict=True))})
    if not rewritten:
        macs["head fuse"] = tokens[0] * head.linear_fuse[0].weight.size
    macs["head classifier"] = tokens[0] * head.linear_pred.weight.size
    return macs


def _mm_head_macs(head: MMHead, tokens: list[int], rewritten: bool) -> Counter[str]:
    branches = [conv[0].weight.size for conv in head.convs]
    fuse = head.fusion_conv[0].weight.size
    return Counter(
        {
            "head linears": sum(n * size for n, size in zip(tokens, branches, strict=True)),
            "head fuse": sum(tokens) * fuse // 4 if rewritten else tokens[0] * fuse,
            "head classifier": tokens[0] * head.linear_pred.weight.size,
        }
    )


def _patches(encoder: VisionTransformer, hw: tuple[int, int]) -> int:
    sides = [(side + encoder.pad_multiple - 1) // encoder.patch_size for side in hw]
    return sides[0] * sides[1]


def _vit_macs(encoder: VisionTransformer, hw: tuple[int, int]) -> Counter[str]:
    patches = _patches(encoder, hw)
    macs = Counter({"patch embeddings": patches * encoder.patch_embed.proj.weight.size})
    return macs + _block_macs(encoder.blocks, 1 + patches)


def _block_macs(blocks: nn.LayerList, tokens: int) -> Counter[str]:
    macs: Counter[str] = Counter()
    for block in blocks:
        attention, mlp = block.attn, block.mlp
        linears = attention.qkv.weight.size + attention.proj.weight.size
        macs["q, kv, proj"] += tokens * linears
        macs["attention products"] += 2 * tokens**2 * attention.proj.weight.shape[0]
        macs["fc1, fc2"] += tokens * (mlp.fc1.weight.size + mlp.fc2.weight.size)
    return macs


def _segmenter_macs(model: Segmenter, hw: tuple[int, int]) -> Counter[str]:
    backbone: Any = model.backbone
    macs, patches, head = _vit_macs(backbone, hw), _patches(backbone, hw), model.head
    if isinstance(head, LinearHead):
        macs["head classifier"] = patches * head.head.weight.size
    elif isinstance(head, MaskHead):
        blocks = _block_macs(head.blocks, patches + head.num_classes)
        width = head.proj_patch.weight.shape[0]
        macs["head blocks"] = blocks.total()
        macs["head linears"] = patches * head.proj_input.weight.size + (
            patches * head.proj_patch.weight.size + head.num_classes * head.proj_class.weight.size
        )
        macs["head classifier"] = patches * head.num_classes * width
    return macs
