"""Self-attention: plain (ViT), and with spatially reduced keys and values (MiT).

Shapes: N batch, L query tokens (of a merged map, L' = L / Q^2, rounded up per side), S key tokens
    (L / R^2, floored per side), C channels, M heads, D head width.
Source: Vaswani et al., "Attention Is All You Need", 2017; Xie et al., "SegFormer", 2021, section
    3.1, "Efficient Self-Attention"; Wang et al., "PVT", 2021; Kienzle et al., "SegFormer++", 2024,
    section 3 (merged queries).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models import cpu_gradients
from paddleseg_segformer.models.cpu_gradients import is_eager
from paddleseg_segformer.models.layers import (
    are_plain,
    convolve,
    has_hooks,
    have_biases,
    is_conv,
    map_to_patches,
    map_to_tokens,
    merge_tokens,
    spread_tokens,
    tokens_to_map,
)

AMPERE = 8  # generation of GPUs: 7 Volta and Turing, 8 Ampere and Ada, 9 Hopper
BLOCK_SCORES = 1 << 22  # scores held at once without gradients: 16 MiB in float32


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0, training: bool = False) -> Tensor:
    """Return softmax(q k^T / sqrt(D)) v.

    Without gradients the queries are processed in blocks, so that the L x S scores never exist at
    once.

    Args:
        q: (N, L, M, D).
        k, v: (N, S, M, D).
        dropout: rate on the attention weights, applied when `training`.

    Returns:
        (N, L, M, D).
    """
    if _has_fused_kernel(q):
        # not by `training`: Paddle 2.6 drops whatever that says
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout if training else 0.0)
    v = v.transpose([0, 2, 1, 3])  # (N, M, S, D)
    if is_eager() and not paddle.is_grad_enabled() and not (training and dropout):
        rows = max(BLOCK_SCORES // (k.shape[0] * k.shape[1] * k.shape[2]), 1)
        starts = range(0, q.shape[1], rows)
        blocks = [paddle.matmul(attention_weights(q[:, i : i + rows], k), v) for i in starts]
        return paddle.concat(blocks, axis=2).transpose([0, 2, 1, 3])
    return _weighted(attention_weights(q, k), v, dropout, training)


def _attend_kept(layer: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return `attend` by a layer's settings; keep its weights while `layer.kept` is a list."""
    if layer.kept is None:
        return attend(q, k, v, layer.attn_drop, layer.training)
    layer.kept.append(attention_weights(q, k))
    v = v.transpose([0, 2, 1, 3])  # (N, M, S, D)
    return _weighted(layer.kept[-1], v, layer.attn_drop, layer.training)


def _weighted(weights: Tensor, v: Tensor, dropout: float, training: bool) -> Tensor:
    """(N, M, L, S) weights, (N, M, S, D) values -> (N, L, M, D)."""
    weights = F.dropout(weights, dropout, training=training)
    return paddle.matmul(weights, v).transpose([0, 2, 1, 3])


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(D)): (N, L, M, D), (N, S, M, D) -> (N, M, L, S)."""
    q = (q * q.shape[-1] ** -0.5).transpose([0, 2, 1, 3])  # (N, M, L, D)
    return F.softmax(paddle.matmul(q, k.transpose([0, 2, 3, 1])))


def head_width(dim: int, num_heads: int) -> int:
    """Return D.

    Raises:
        UserError: the channels are no multiple of the heads.
    """
    if num_heads < 1 or dim % num_heads:
        raise UserError(f"num_heads: found {num_heads}, expected a divisor of the {dim} channels.")
    return dim // num_heads


def _has_fused_kernel(q: Tensor) -> bool:
    """Return whether Paddle fuses attention here: on GPU, in half precision, not in a graph.

    Its kernels are for GPUs from Ampere on and widths in eights; Paddle before 3.3 does not look.
    """
    return (
        is_eager()
        and q.place.is_gpu_place()
        and q.dtype in (paddle.float16, paddle.bfloat16)
        and q.shape[-1] % 8 == 0
        and _gpu_generation(q.place.gpu_device_id()) >= AMPERE
    )


@cache
def _gpu_generation(device_id: int) -> int:
    """Return the major number of a GPU's compute capability."""
    major: int = paddle.device.cuda.get_device_capability(device_id)[0]
    return major


class SelfAttention(nn.Layer):
    """Multi-head self-attention of all tokens; query, key and value come from one linear.

    Args:
        dim: C.
        num_heads: M, a divisor of C.
        qkv_bias: whether the projections of queries, keys and values have a bias.
        qk_scale: factor of the scores; by default 1 / sqrt(D).
        attn_drop, proj_drop: dropout on the attention weights, and after the last linear.

    While `kept` is a list, each call appends the weights (N, M, L, L) that it applies, without
    dropout; the output depends on them, so that they get gradients.

    Raises:
        UserError: the channels are no multiple of the heads.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.kept: list[Tensor] | None = None
        self.num_heads = num_heads
        self.head_dim = head_width(dim, num_heads)
        self.query_gain = 1.0 if qk_scale is None else qk_scale * self.head_dim**0.5
        self.attn_drop = attn_drop
        self.qkv = nn.Linear(dim, 3 * dim, bias_attr=None if qkv_bias else False)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, C) -> (N, L, C)."""
        q, k, v = self._project(x)
        out = _attend_kept(self, q, k, v)
        return self.proj_drop(self.proj(out.flatten(2)))

    def weights(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """(N, L, C) -> attention weights (N, M, L, L), without dropout.

        Args:
            rows: the queries whose weights are returned; by default all.
        """
        q, k, _ = self._project(x)
        return attention_weights(q[:, rows], k)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, L, C) -> queries, keys and values (N, L, M, D)."""
        qkv = self.qkv(x).reshape([0, 0, 3, self.num_heads, self.head_dim])
        q = qkv[:, :, 0]
        return (q if self.query_gain == 1.0 else q * self.query_gain), qkv[:, :, 1], qkv[:, :, 2]


class EfficientSelfAttention(nn.Layer):
    """Multi-head self-attention with keys and values of the map, reduced by `sr_ratio` per side.

    The reduction is a convolution with kernel = stride = `sr_ratio` and no padding: up to
    `sr_ratio - 1` trailing rows and columns do not reach the keys and values, as published.

    Args:
        dim: C.
        num_heads: M, a divisor of C.
        sr_ratio: R; 1 for no reduction.
        qkv_bias: whether the projections of queries, keys and values have a bias.
        attn_drop, proj_drop: dropout on the attention weights, and after the last linear.
        norm_eps: epsilon of the LayerNorm behind the reduction.
        merge: Q; the queries are those of the means of Q x Q tokens, which share the result. With
            the same weights as without (1): faster, and approximate.

    While `kept` is a list, each call appends the weights (N, M, L', S) that it applies, without
    dropout; the output depends on them, so that they get gradients.

    Raises:
        UserError: the channels are no multiple of the heads.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        sr_ratio: int,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        norm_eps: float = 1e-5,
        merge: int = 1,
    ) -> None:
        super().__init__()
        self.merge = merge
        self.kept: list[Tensor] | None = None
        self.num_heads = num_heads
        self.head_dim = head_width(dim, num_heads)
        self.sr_ratio = sr_ratio
        self.attn_drop = attn_drop
        self.q = nn.Linear(dim, dim, bias_attr=None if qkv_bias else False)
        self.kv = nn.Linear(dim, 2 * dim, bias_attr=None if qkv_bias else False)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        if sr_ratio > 1:
            self.sr = nn.Conv2D(dim, dim, kernel_size=sr_ratio, stride=sr_ratio)
            self.norm = nn.LayerNorm(dim, epsilon=norm_eps)

    def forward(self, x: Tensor, hw: Sequence[int | Tensor]) -> Tensor:
        """(N, L, C) tokens of an `hw` map -> (N, L, C)."""
        return self._attended(self._project(x, hw), hw)

    def after_norm(self, x: Tensor, hw: Sequence[int], norm: nn.LayerNorm) -> Tensor:
        """Return `self(norm(x), hw)` on a CPU; the norm's result is not kept for the gradients."""
        if self.sr_ratio == 1:
            return self(norm(x), hw)

        def parts_of(y: Tensor) -> tuple[Tensor, Tensor]:
            return merge_tokens(y, hw, self.merge), map_to_patches(y, hw, self.sr_ratio)

        q, reduced = cpu_gradients.normed_linears(x, norm, parts_of, (self.q, self.sr))
        return self._attended(self._split(q, self.norm(reduced)), hw)

    def is_plain(self) -> bool:
        """Tell whether `after_norm` may be called; see `layers.are_plain`."""
        if has_hooks(self):
            return False
        if self.sr_ratio == 1:
            return True
        is_patches = is_conv(self.sr, self.sr_ratio, stride=self.sr_ratio)
        return is_patches and are_plain(self.q) and have_biases([self.q])

    def _attended(
        self, queries_keys_values: tuple[Tensor, Tensor, Tensor], hw: Sequence[int | Tensor]
    ) -> Tensor:
        out = _attend_kept(self, *queries_keys_values)
        return self.proj_drop(spread_tokens(self.proj(out.flatten(2)), hw, self.merge))

    def weights(self, x: Tensor, hw: Sequence[int | Tensor], rows: slice = slice(None)) -> Tensor:
        """(N, L, C) tokens of an `hw` map -> attention weights (N, M, L', S), without dropout.

        Args:
            rows: the queries whose weights are returned; by default all.
        """
        q, k, _ = self._project(x, hw)
        return attention_weights(q[:, rows], k)

    def _project(self, x: Tensor, hw: Sequence[int | Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """(N, L, C) -> queries (N, L', M, D), keys and values (N, S, M, D)."""
        reduced = x
        if self.sr_ratio > 1:
            reduced = self.norm(map_to_tokens(convolve(self.sr, tokens_to_map(x, hw))))  # (N, S, C)
        return self._split(self.q(merge_tokens(x, hw, self.merge)), reduced)

    def _split(self, q: Tensor, reduced: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, L', C) queries, (N, S, C) -> queries (N, L', M, D), keys and values (N, S, M, D)."""
        q = q.reshape([0, 0, self.num_heads, self.head_dim])
        kv = self.kv(reduced).reshape([0, 0, 2, self.num_heads, self.head_dim])
        return q, kv[:, :, 0], kv[:, :, 1]
