"""Segmenter as the original implementation computes it, step by step, from a model's weights.

Zeros complete the input to whole patches, positions are resized bilinearly, attention holds all
scores, and the logits of the padded input are upsampled and cropped.
"""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

State = dict[str, Tensor]


def reference_segmenter(
    state: State, x: Tensor, patch: int, num_heads: int, head_num_heads: int = 0
) -> Tensor:
    """(N, 3, H, W) -> logits (N, K, H, W); `state` has PaddleSeg's keys."""
    height, width = x.shape[2:]
    padded = paddle.zeros([x.shape[0], 3, -(-height // patch) * patch, -(-width // patch) * patch])
    padded[:, :, :height, :width] = x
    h, w = padded.shape[2] // patch, padded.shape[3] // patch
    tokens = _embed(state, padded, patch, h, w)
    tokens = _blocks(state, "backbone.blocks", tokens, num_heads)
    patches = _norm(state, "backbone.norm", tokens)[:, 1:]
    if "head.head.weight" in state:
        masks = _linear(state, "head.head", patches)
    else:
        masks = _masks(state, patches, head_num_heads)
    logits = masks.transpose([0, 2, 1]).reshape([x.shape[0], -1, h, w])
    logits = F.interpolate(logits, size=padded.shape[2:], mode="bilinear")
    return logits[:, :, :height, :width]


def _embed(state: State, x: Tensor, patch: int, h: int, w: int) -> Tensor:
    weight = state["backbone.patch_embed.proj.weight"]
    n, c = x.shape[:2]
    cut = x.reshape([n, c, h, patch, w, patch]).transpose([0, 2, 4, 1, 3, 5])
    patches = cut.reshape([n, h * w, -1]) @ weight.reshape([weight.shape[0], -1]).T
    patches = patches + state["backbone.patch_embed.proj.bias"]
    positions = state["backbone.pos_embed"]
    side = int(np.sqrt(positions.shape[1] - 1))
    grid = positions[:, 1:].reshape([1, side, side, -1]).transpose([0, 3, 1, 2])
    grid = F.interpolate(grid, size=[h, w], mode="bilinear")
    grid = grid.transpose([0, 2, 3, 1]).reshape([1, h * w, -1])
    class_token = paddle.concat([state["backbone.cls_token"]] * n)
    tokens = paddle.concat([class_token, patches], axis=1)
    return tokens + paddle.concat([positions[:, :1], grid], axis=1)


def _blocks(state: State, prefix: str, x: Tensor, num_heads: int) -> Tensor:
    depth = len({key.split(".")[2] for key in state if key.startswith(f"{prefix}.")})
    for index in range(depth):
        block = f"{prefix}.{index}"
        x = x + _attention(state, f"{block}.attn", _norm(state, f"{block}.norm1", x), num_heads)
        hidden = F.gelu(_linear(state, f"{block}.mlp.fc1", _norm(state, f"{block}.norm2", x)))
        x = x + _linear(state, f"{block}.mlp.fc2", hidden)
    return x


def _attention(state: State, name: str, x: Tensor, num_heads: int) -> Tensor:
    n, length, dim = x.shape
    width = dim // num_heads
    qkv = _linear(state, f"{name}.qkv", x)
    heads = []
    for head in range(num_heads):
        q, k, v = (
            qkv[:, :, part * dim + head * width : part * dim + (head + 1) * width]
            for part in range(3)
        )
        scores = paddle.matmul(q, k, transpose_y=True) / width**0.5
        heads.append(F.softmax(scores, axis=-1) @ v)
    return _linear(state, f"{name}.proj", paddle.concat(heads, axis=-1))


def _masks(state: State, patches: Tensor, num_heads: int) -> Tensor:
    num_classes = state["head.cls_token"].shape[1]
    classes = paddle.concat([state["head.cls_token"]] * patches.shape[0])
    x = paddle.concat([_linear(state, "head.proj_input", patches), classes], axis=1)
    x = _norm(state, "head.decoder_norm", _blocks(state, "head.blocks", x, num_heads))
    patches = x[:, :-num_classes] @ state["head.proj_patch.weight"]
    classes = x[:, -num_classes:] @ state["head.proj_class.weight"]
    patches = patches / (patches**2).sum(axis=-1, keepdim=True).sqrt()
    classes = classes / (classes**2).sum(axis=-1, keepdim=True).sqrt()
    return _norm(state, "head.mask_norm", patches @ classes.transpose([0, 2, 1]))


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    out = x @ state[f"{name}.weight"]
    return out + state[f"{name}.bias"] if f"{name}.bias" in state else out


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    mean = x.mean(axis=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]
