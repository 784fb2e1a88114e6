"""The published form of the heads: upsample every branch, concatenate, one 1x1 convolution."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddleseg_segformer.models.segformer import AllMLPHead, MMHead


def _to_stage1(x: Tensor, stage1: Tensor) -> Tensor:
    return F.interpolate(x, size=stage1.shape[2:], mode="bilinear", align_corners=False)


def reference_all_mlp(head: AllMLPHead, features: list[Tensor]) -> Tensor:
    branches = []
    for stage, x in enumerate(features, start=1):
        linear = getattr(head, f"linear_c{stage}").proj
        tokens = linear(x.transpose([0, 2, 3, 1]))  # (N, h, w, D)
        branches.append(_to_stage1(tokens.transpose([0, 3, 1, 2]), features[0]))
    fused = head.linear_fuse(paddle.concat(branches[::-1], axis=1))
    return head.linear_pred(head.dropout(F.relu(fused)))


def reference_mm(head: MMHead, features: list[Tensor]) -> Tensor:
    branches = [
        _to_stage1(F.relu(conv(x)), features[0])
        for conv, x in zip(head.convs, features, strict=True)
    ]
    fused = head.fusion_conv(paddle.concat(branches, axis=1))
    return head.linear_pred(head.dropout(F.relu(fused)))
