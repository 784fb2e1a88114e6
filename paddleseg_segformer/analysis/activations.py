"""Activations of SegFormer, by part, as published and as computed here.

Counted are the float32 outputs of the operators from the network's input to the label map, each
once: convolutions, linears, both attention products, softmax, normalisation, activation functions,
residual additions, resizing, concatenation. Reshapes and changes of layout are not counted. Every
output is written once and read at least once, so the memory traffic is about twice these bytes.

As published, the head concatenates four D-channel maps, attention holds all scores, and the logits
are resized to the input's size before argmax. As computed here, there is no concatenation; scores
live in blocks of 16 MiB and logits at full size in tiles, both used again at once, and are not
counted.
"""

from __future__ import annotations

from collections import Counter

from paddle import nn

from paddleseg_segformer.analysis.complexity import stage_sizes
from paddleseg_segformer.models.mix_transformer import MixVisionTransformer
from paddleseg_segformer.models.segformer import MMHead

FLOAT32_BYTES = 4


def activation_bytes(model: nn.Layer, hw: tuple[int, int], rewritten: bool = True) -> Counter[str]:
    """Return bytes by part for one image of `hw` px.

    Args:
        model: SegFormer or SegFormerMM.
        rewritten: as computed here, or as published.
    """
    values = _encoder(model.backbone, hw, rewritten) + _head(model, hw, rewritten)
    return Counter({part: FLOAT32_BYTES * count for part, count in values.items()})


def _encoder(encoder: MixVisionTransformer, hw: tuple[int, int], rewritten: bool) -> Counter[str]:
    values: Counter[str] = Counter()
    for stage, (h, w) in enumerate(stage_sizes(hw), start=1):
        tokens = h * w
        channels = encoder.feat_channels[stage - 1]
        values["patch embeddings, stage norms"] += 3 * tokens * channels
        for block in getattr(encoder, f"block{stage}"):
            attention = block.attn
            reduced = (h // attention.sr_ratio) * (w // attention.sr_ratio)
            hidden = block.mlp.fc1.weight.shape[1]
            # norm, q, weighted values, proj, sum; reduced map and its norm, k, v
            values["attention"] += 5 * tokens * channels + 2 * reduced * channels
            values["attention"] += 2 * reduced * channels * (attention.sr_ratio > 1)
            if not rewritten:
                values["attention scores, softmax"] += 2 * attention.num_heads * tokens * reduced
            values["feed-forward"] += 3 * tokens * channels  # norm, fc2, sum
            values["feed-forward"] += 3 * tokens * hidden  # fc1, depthwise convolution, GELU
    return values


def _head(head: nn.Layer, hw: tuple[int, int], rewritten: bool) -> Counter[str]:
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
