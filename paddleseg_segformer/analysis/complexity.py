"""Cost of SegFormer and Segmenter by part, as published and as computed here.

Multiply-accumulates, which the paper calls FLOPs, are those of convolutions, linears and attention
products; not of normalisation, activation functions or resizing.

Activations are the float32 outputs of the operators from the network's input to the label map, each
once: convolutions, linears, both attention products, softmax, normalisation, activation functions,
residual additions, resizing, concatenation; not reshapes and changes of layout. Every output is
written once and read at least once, so the memory traffic is about twice these bytes.

As published, the head concatenates four D-channel maps, attention holds all scores, and the logits
are resized to the input's size before argmax. As computed here, nothing is concatenated; scores and
logits at full size exist in blocks that are reused at once, and are not counted.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from paddle import nn

from paddleseg_segformer.models import (
    BACKBONES,
    MixVisionTransformer,
    MixVisionTransformerClassifier,
    ResNet,
    SegFormer,
    SegFormerLastStage,
    SegFormerMM,
    VisionTransformer,
)
from paddleseg_segformer.models.segformer import MMHead
from paddleseg_segformer.models.segmenter import LinearHead, MaskHead, Segmenter

FLOAT32_BYTES = 4

# Published, in millions and in 1e9 multiply-accumulates by (variant, (height, width), classes).
# Source: Xie et al., "SegFormer", 2021, tables 1 and 2. Those of Cityscapes were counted with 150
# classes, apart from the 19-class rows of table 2.
PARAMETERS_M = {"B0": 3.8, "B1": 13.7, "B2": 27.5, "B3": 47.3, "B4": 64.1, "B5": 84.7}

_ADE20K = {"B0": 8.4, "B1": 15.9, "B2": 62.4, "B3": 79.0, "B4": 95.7, "B5": 111.6}
_CITYSCAPES = {"B0": 125.5, "B1": 243.7, "B2": 717.1, "B3": 962.9, "B4": 1240.6, "B5": 1460.4}
GMACS: dict[tuple[str, tuple[int, int], int], float] = {
    **{(variant, (512, 512), 150): value for variant, value in _ADE20K.items()},
    **{(variant, (1024, 2048), 150): value for variant, value in _CITYSCAPES.items()},
    ("B5", (640, 640), 150): 183.3,
    ("B5", (1024, 2048), 19): 1447.6,
    ("B0", (768, 1536), 19): 51.7,
    ("B0", (640, 1280), 19): 31.5,
    ("B0", (512, 1024), 19): 17.7,
}

# Images per second by (variant, (height, width)).
# Sources: table 2 of the paper, on a V100; mmsegmentation's model card, with its own head, on a GTX
# 1080 Ti (B0), Titan Xp (B1, B2) and V100 for 512x512, else a V100, by windows on Cityscapes.
PAPER_FPS: dict[tuple[str, tuple[int, int]], float] = {
    ("B0", (512, 512)): 50.5,
    ("B0", (1024, 2048)): 15.2,
    ("B0", (768, 1536)): 26.3,
    ("B0", (640, 1280)): 37.1,
    ("B0", (512, 1024)): 47.6,
    ("B4", (512, 512)): 15.4,
    ("B4", (1024, 2048)): 3.0,
    ("B5", (640, 640)): 9.8,
    ("B5", (1024, 2048)): 2.5,
}
_MMSEG_ADE20K = (51.32, 47.66, 30.88, 22.11, 15.45, 11.89)
_MMSEG_CITYSCAPES = (4.74, 4.3, 3.36, 2.53, 1.88, 1.39)
MMSEG_FPS: dict[tuple[str, tuple[int, int]], float] = {
    **{(name, (512, 512)): fps for name, fps in zip(_ADE20K, _MMSEG_ADE20K, strict=True)},
    **{(name, (1024, 2048)): fps for name, fps in zip(_ADE20K, _MMSEG_CITYSCAPES, strict=True)},
    ("B5", (640, 640)): 11.3,
}

# ImageNet classifiers: parameters in millions, GMACs at 224x224 and top-1 accuracy in %, of table 7
# and of Hugging Face's model card. The costs are those of MLP ratios 8, 8, 4, 4 in B0 to B4; the
# weights that were released have 4 everywhere.
CLASSIFIERS = {
    "B0": (3.7, 0.6, 70.5),
    "B1": (14.0, 2.1, 78.7),
    "B2": (25.4, 4.0, 81.6),
    "B3": (45.2, 6.9, 83.1),
    "B4": (62.6, 10.1, 83.6),
    "B5": (82.0, 11.8, 83.8),
}


def build_published(variant: str, num_classes: int, is_mm: bool = False) -> nn.Layer:
    """Return SegFormer B0 to B5 of the published widths.

    Args:
        is_mm: with mmsegmentation's head instead of the paper's.
    """
    make_backbone: Any = BACKBONES[f"MixVisionTransformer_{variant}"]
    backbone = make_backbone()
    if is_mm:
        return SegFormerMM(num_classes, backbone, 256)
    return SegFormer(num_classes, backbone, 256 if variant in ("B0", "B1") else 768)


def count_parameters(model: nn.Layer) -> int:
    """Return the number of weights, without batch-norm statistics."""
    return sum(
        tensor.size
        for name, tensor in model.named_parameters()
        if not name.endswith(("._mean", "._variance"))
    )


def is_countable(model: nn.Layer) -> bool:
    """Tell whether `count_macs` knows a segmentation model."""
    is_segformer = isinstance(model, (SegFormer, SegFormerMM, SegFormerLastStage))
    if is_segformer and isinstance(model.backbone, (MixVisionTransformer, ResNet)):
        return True
    return isinstance(model, Segmenter) and isinstance(model.backbone, VisionTransformer)


def count_macs(model: nn.Layer, hw: tuple[int, int], rewritten: bool = True) -> Counter[str]:
    """Return multiply-accumulates by part for one image.

    Args:
        model: a SegFormer, a Segmenter, a classifier, or an encoder alone.
        hw: sides of the input in px.
        rewritten: with the head as computed here (fuse weights merged), or as published.
    """
    if isinstance(model, MixVisionTransformer):
        return _encoder_macs(model, hw)
    if isinstance(model, VisionTransformer):
        return _vit_macs(model, hw)
    if isinstance(model, ResNet):
        return _resnet_macs(model, hw)
    if isinstance(model, Segmenter):
        return _segmenter_macs(model, hw)
    macs = count_macs(model.backbone, hw)
    tokens = [h * w for h, w in stage_sizes(hw)]
    if isinstance(model, MixVisionTransformerClassifier):
        macs["classifier"] = model.head.weight.size
        return macs
    if isinstance(model, SegFormerLastStage):
        macs["head linears"] = tokens[3] * model.linear_c4.proj.weight.size
        macs["head classifier"] = tokens[0] * model.linear_pred.weight.size
        return macs
    if isinstance(model, MMHead):
        linears, fuse = [conv[0] for conv in model.convs], model.fusion_conv[0].weight.size
        fuse_macs = sum(tokens) * fuse // 4 if rewritten else tokens[0] * fuse
    else:
        linears = [getattr(model, f"linear_c{stage}").proj for stage in range(1, 5)]
        fuse_macs = 0 if rewritten else tokens[0] * model.linear_fuse[0].weight.size
    sizes = [linear.weight.size for linear in linears]
    macs["head linears"] = sum(n * size for n, size in zip(tokens, sizes, strict=True))
    if fuse_macs:
        macs["head fuse"] = fuse_macs
    macs["head classifier"] = tokens[0] * model.linear_pred.weight.size
    return macs


def stage_sizes(hw: tuple[int, int]) -> list[tuple[int, int]]:
    """Return (h, w) of the four stages: strides 4, 8, 16, 32, rounded up stage by stage."""
    sizes = []
    h, w = hw
    for stride in (4, 2, 2, 2):
        h, w = -(-h // stride), -(-w // stride)
        sizes.append((h, w))
    return sizes


def activation_bytes(model: nn.Layer, hw: tuple[int, int], rewritten: bool = True) -> Counter[str]:
    """Return bytes by part for one image of `hw` px.

    Args:
        model: SegFormer or SegFormerMM.
        rewritten: as computed here, or as published.
    """
    values = _encoder_activations(model.backbone, hw, rewritten) + _head_activations(
        model, hw, rewritten
    )
    return Counter({part: FLOAT32_BYTES * count for part, count in values.items()})


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
            queries, reduced = _attention_tokens(attention, (h, w))
            macs["q, kv, proj"] += 2 * queries * channels**2 + reduced * 2 * channels**2
            macs["attention products"] += 2 * queries * reduced * channels
            if attention.sr_ratio > 1:
                macs["spatial reduction"] += reduced * attention.sr.weight.size
            macs["fc1, fc2"] += tokens * (mlp.fc1.weight.size + mlp.fc2.weight.size)
            if block.has_mix_ffn:
                macs["depthwise convolution"] += tokens * mlp.dwconv.dwconv.weight.size
    return macs


def _resnet_macs(encoder: ResNet, hw: tuple[int, int]) -> Counter[str]:
    """Count convolutions; the first 1x1 of a stage is at the size of the stage before."""
    tokens = [h * w for h, w in stage_sizes(hw)]
    height, width = (-(-side // 2) for side in hw)
    macs = Counter({"stem": height * width * encoder.conv1.weight.size})
    for stage in range(4):
        for index, block in enumerate(getattr(encoder, f"layer{stage + 1}")):
            before = tokens[max(stage - 1, 0) if index == 0 else stage]
            later = block.conv2.weight.size + block.conv3.weight.size
            if block.downsample is not None:
                later += block.downsample[0].weight.size
            macs["blocks"] += before * block.conv1.weight.size + tokens[stage] * later
    return macs


def _attention_tokens(attention: nn.Layer, hw: tuple[int, int]) -> tuple[int, int]:
    """Return the numbers of queries and of keys."""
    (h, w), merge, ratio = hw, attention.merge, attention.sr_ratio
    return -(-h // merge) * -(-w // merge), (h // ratio) * (w // ratio)


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


def _encoder_activations(
    encoder: MixVisionTransformer, hw: tuple[int, int], rewritten: bool
) -> Counter[str]:
    values: Counter[str] = Counter()
    for stage, (h, w) in enumerate(stage_sizes(hw), start=1):
        tokens = h * w
        channels = encoder.feat_channels[stage - 1]
        # convolution, norm; positions resized, sum; norm of the stage
        maps = 3 if encoder.positional_encoding == "mix_ffn" else 5
        values["patch embeddings, stage norms"] += maps * tokens * channels
        for block in getattr(encoder, f"block{stage}"):
            attention = block.attn
            queries, reduced = _attention_tokens(attention, (h, w))
            hidden = block.mlp.fc1.weight.shape[1]
            # norm, sum; q, weighted values, proj; means, and what is spread; reduced map and its
            # norm, k, v
            values["attention"] += 2 * tokens * channels + 3 * queries * channels
            values["attention"] += (queries + tokens) * channels * (attention.merge > 1)
            values["attention"] += 2 * reduced * channels
            values["attention"] += 2 * reduced * channels * (attention.sr_ratio > 1)
            if not rewritten:
                values["attention scores, softmax"] += 2 * attention.num_heads * queries * reduced
            values["feed-forward"] += 3 * tokens * channels  # norm, fc2, sum
            # fc1, depthwise convolution, GELU
            values["feed-forward"] += (2 + block.has_mix_ffn) * tokens * hidden
    return values


def _head_activations(head: nn.Layer, hw: tuple[int, int], rewritten: bool) -> Counter[str]:
    tokens = [h * w for h, w in stage_sizes(hw)]
    width = head.linear_pred.weight.shape[1]
    classes = head.num_classes
    values = Counter({"head linears": width * sum(tokens)})
    if isinstance(head, MMHead):
        values["head linears"] *= 3  # with batch norm and ReLU
        if rewritten:
            values["head fuse"] += width * sum(tokens)
    upsampled = 3 * width * tokens[0]
    # three sums instead of the concatenation and its product
    values["head upsampling"] += upsampled + (upsampled if rewritten else 4 * width * tokens[0])
    values["head fuse"] += (2 if rewritten else 3) * width * tokens[0]  # product, batch norm, ReLU
    values["logits"] += classes * tokens[0] + (0 if rewritten else classes * hw[0] * hw[1])
    values["labels"] += hw[0] * hw[1]
    return values
