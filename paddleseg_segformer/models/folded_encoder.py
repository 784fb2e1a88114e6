"""The MiT encoder rewritten for speed in the backends: the same results from other matrix products.

- What a LayerNorm does after normalising is merged into the linears and the convolution behind it,
  1 / sqrt(D) into the queries' linear, a single head's output linear into its values'. The norms of
  patch embeddings and of stages stay: the first feed the residual, the others a padded convolution.
- The feed-forward network is computed for some of its hidden channels at a time, and the parts are
  summed. Its hidden map is the largest of the encoder (8 MiB in B0 at 512x512, 16 MiB in B2), and
  parts of it stay in the cache between the first linear, the depthwise convolution and the second
  linear. Backends add a part to the sum while they compute it.
- For a backend that does not fuse attention itself, the queries are taken in blocks, whose scores
  stay in the cache.
- The last addition of a block has three terms, of which none is a convolution by itself: OpenVINO
  copies a map that a convolution has added to another before it reads it as tokens.

Shapes: N batch, C channels, L query tokens, S key tokens, M heads, D head width, h w a map's sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_segformer.models.affine import (
    Affine,
    array,
    bias_of,
    channel_slices,
    conv_weight,
    parameter,
)
from paddleseg_segformer.models.attention import EfficientSelfAttention
from paddleseg_segformer.models.layers import (
    are_plain,
    has_hooks,
    is_conv,
    map_to_tokens,
    merge_tokens,
    spread_tokens,
    tokens_to_map,
)
from paddleseg_segformer.models.mix_transformer import (
    PATCH_KERNELS,
    PATCH_STRIDES,
    Block,
    MixFFN,
    MixVisionTransformer,
    OverlapPatchEmbed,
)

FFN_PARTS = (4, 4, 2, 2)  # of each stage, two or more; see docs/performance.md

QUERY_BLOCKS = (16, 8, 2, 1)  # of each stage; never more than it has tokens

Sides = Sequence[int | Tensor]


class FoldedLayer(nn.Layer):
    """A product of its input with given weights, which may be quantised.

    While `quantize` is set, it is called with the layer and the input, and returns what is
    multiplied in place of input and weight.
    """

    out_axis: int  # of the weight

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = parameter(weight)
        self.bias = None if bias is None else parameter(bias)
        self.quantize: Callable[[FoldedLayer, Tensor], tuple[Tensor, Tensor]] | None = None

    def operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the input and the weight, as they are multiplied."""
        return (x, self.weight) if self.quantize is None else self.quantize(self, x)


class FoldedLinear(FoldedLayer):
    """A linear on tokens: (N, L, C) -> (N, L, D)."""

    out_axis = 1

    def __init__(self, affine: Affine) -> None:
        super().__init__(affine.weight, affine.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(*self.operands(x), self.bias)


class FoldedConv(FoldedLayer):
    """A convolution with given weights (D, C, k, k) and bias (D,)."""

    out_axis = 0

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        is_depthwise: bool = False,
        padding: int | Sequence[int] = 0,
    ) -> None:
        super().__init__(weight, bias)
        self.stride = stride
        self.groups = weight.shape[0] if is_depthwise else 1
        self.padding = weight.shape[-1] // 2 if is_depthwise else padding

    def forward(self, x: Tensor) -> Tensor:
        x, weight = self.operands(x)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, groups=self.groups)


class FoldedAttention(nn.Layer):
    """Attention of tokens that are normalised, but not yet scaled and shifted."""

    def __init__(
        self, attention: EfficientSelfAttention, norm: nn.LayerNorm, num_blocks: int
    ) -> None:
        super().__init__()
        self.num_blocks = num_blocks
        self.merge = attention.merge
        self.num_heads = attention.num_heads
        self.head_dim = attention.head_dim
        q = Affine.of_linear(attention.q).scaled(attention.head_dim**-0.5)
        self.q = FoldedLinear(q.after_norm(norm))
        self.reduction: nn.Sequential | None = None
        if attention.sr_ratio > 1:
            self.reduction = _folded_reduction(attention, norm)
            norm = attention.norm
        kv = Affine.of_linear(attention.kv).after_norm(norm)
        dim = kv.bias.shape[0] // 2
        v = kv.outputs(slice(dim, None))
        proj = Affine.of_linear(attention.proj)
        self.proj: nn.Layer = nn.Identity()
        if attention.num_heads == 1:  # weights of a row sum to 1, so the bias passes through
            v = v.then(proj)
        else:
            self.proj = FoldedLinear(proj)
        self.k, self.v = FoldedLinear(kv.outputs(slice(dim))), FoldedLinear(v)

    def forward(self, x: Tensor, hw: Sides) -> Tensor:
        """(N, L, C) tokens of an `hw` map -> (N, L, C)."""
        reduced = x
        if self.reduction is not None:
            conv, norm = self.reduction
            reduced = norm(map_to_tokens(conv(tokens_to_map(x, hw))))  # (N, S, C)
        heads = [0, 0, self.num_heads, self.head_dim]
        q = self.q(merge_tokens(x, hw, self.merge))
        q = q.reshape(heads).transpose([0, 2, 1, 3])  # (N, M, L, D)
        k = self.k(reduced).reshape(heads).transpose([0, 2, 3, 1])  # (N, M, D, S)
        v = self.v(reduced).reshape(heads).transpose([0, 2, 1, 3])  # (N, M, S, D)
        blocks = [
            paddle.matmul(F.softmax(paddle.matmul(rows, k)), v)  # scores (N, M, L / blocks, S)
            for rows in self._query_blocks(q)
        ]
        out = paddle.concat(blocks, axis=2) if len(blocks) > 1 else blocks[0]
        out = self.proj(out.transpose([0, 2, 1, 3]).flatten(2))
        return spread_tokens(out, hw, self.merge)

    def _query_blocks(self, q: Tensor) -> list[Tensor]:
        if self.num_blocks == 1:
            return [q]
        length = paddle.shape(q)[2]
        ends = [length * index // self.num_blocks for index in range(self.num_blocks + 1)]
        return [q[:, :, start:end] for start, end in pairwise(ends)]


def _folded_reduction(attention: EfficientSelfAttention, norm: nn.LayerNorm) -> nn.Sequential:
    """Return the convolution of the keys and values, and its norm; it has no padding."""
    weight = array(attention.sr.weight)  # (C, C, R, R)
    gain, shift = (array(item).reshape([-1, 1, 1]) for item in (norm.weight, norm.bias))
    bias = bias_of(attention.sr) + (weight * shift).sum(axis=[1, 2, 3])
    weight = weight * gain
    return nn.Sequential(
        FoldedConv(weight, bias, stride=attention.sr_ratio), _bare_norm(attention.norm)
    )


class FoldedFFN(nn.Layer):
    """The feed-forward network, in parts of its hidden channels."""

    def __init__(self, mlp: MixFFN, norm: nn.LayerNorm, num_parts: int) -> None:
        super().__init__()
        fc1 = Affine.of_linear(mlp.fc1).after_norm(norm)
        fc2 = Affine.of_linear(mlp.fc2)
        depthwise = mlp.dwconv[0]
        hidden = fc1.bias.shape[0]
        self.parts = nn.LayerList()
        for channels in channel_slices(hidden, -(-hidden // num_parts)):
            rows = fc1.outputs(channels)
            bias = fc2.bias if channels.start == 0 else paddle.zeros_like(fc2.bias)
            self.parts.append(
                nn.Sequential(
                    FoldedConv(conv_weight(rows.weight), rows.bias),
                    FoldedConv(
                        array(depthwise.weight)[channels],
                        bias_of(depthwise)[channels],
                        is_depthwise=True,
                    ),
                    nn.GELU(),
                    FoldedConv(conv_weight(fc2.weight[channels]), bias),
                )
            )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, h, w) -> two such maps, whose sum is the network's output."""
        outputs = [part(x) for part in self.parts]
        half = len(outputs) // 2
        return sum_parts(outputs[:half]), sum_parts(outputs[half:])


class FoldedBlock(nn.Layer):
    """A block of the encoder."""

    def __init__(self, block: Block, num_parts: int, num_query_blocks: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _bare_norm(block.norm1), _bare_norm(block.norm2)
        self.attn = FoldedAttention(block.attn, block.norm1, num_query_blocks)
        self.mlp = FoldedFFN(block.mlp, block.norm2, num_parts)

    def forward(self, x: Tensor, hw: Sides) -> Tensor:
        x = x + self.attn(self.norm1(x), hw)
        first, second = self.mlp(tokens_to_map(self.norm2(x), hw))
        return map_to_tokens(tokens_to_map(x, hw) + (first + second))


class FoldedPatchEmbed(nn.Layer):
    """The embedding of patches; nothing of it is merged."""

    def __init__(self, embed: OverlapPatchEmbed) -> None:
        super().__init__()
        conv = embed.proj
        self.proj = FoldedConv(
            array(conv.weight), bias_of(conv), conv._stride, padding=conv._padding
        )
        self.norm = embed.norm

    def forward(self, x: Tensor) -> tuple[Tensor, Sides]:
        """(N, C, H, W) -> tokens (N, L, D), and the sides of their map."""
        x = self.proj(x)
        return self.norm(map_to_tokens(x)), x.shape[2:]


class FoldedEncoder(nn.Layer):
    """A MiT that gives the same maps as the one it was made from, for inference only.

    Args:
        backbone: Its weights are not changed.
        has_query_blocks: Attention takes the queries in blocks.
    """

    def __init__(self, backbone: MixVisionTransformer, has_query_blocks: bool) -> None:
        super().__init__()
        self.patch_embeds, self.stages, self.norms = (nn.LayerList() for _ in range(3))
        for stage in range(1, 5):
            num_query_blocks = QUERY_BLOCKS[stage - 1] if has_query_blocks else 1
            self.stages.append(
                nn.LayerList(
                    [
                        FoldedBlock(block, FFN_PARTS[stage - 1], num_query_blocks)
                        if is_foldable(block)
                        else block
                        for block in getattr(backbone, f"block{stage}")
                    ]
                )
            )
            embed = getattr(backbone, f"patch_embed{stage}")
            self.patch_embeds.append(FoldedPatchEmbed(embed) if _is_plain(embed, stage) else embed)
            self.norms.append(getattr(backbone, f"norm{stage}"))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> four maps (N, C_i, ceil(H / s), ceil(W / s)), s = 4, 8, 16, 32."""
        features = []
        for stage in range(4):
            tokens, hw = self.patch_embeds[stage](x)
            for block in self.stages[stage]:
                tokens = block(tokens, hw)
            x = tokens_to_map(self.norms[stage](tokens), hw)
            features.append(x)
        return features


def _is_plain(embed: nn.Layer, stage: int) -> bool:
    """Tell whether the weights of stage 1 to 4's patch embedding say all that it does."""
    kernel, stride = PATCH_KERNELS[stage - 1], PATCH_STRIDES[stage - 1]
    is_own = type(embed) is OverlapPatchEmbed and not has_hooks(embed)
    return is_own and is_conv(embed.proj, kernel, stride, kernel // 2)


def is_foldable(block: nn.Layer) -> bool:
    """Tell whether a block's weights say all that it does; see `are_plain`."""
    attn, mlp = block.attn, block.mlp
    if (type(block), type(attn), type(mlp)) != (Block, EfficientSelfAttention, MixFFN):
        return False
    layers = [block.norm1, block.norm2, block.drop_path, attn.q, attn.kv, attn.proj, attn.proj_drop]
    if attn.sr_ratio > 1:
        if not is_conv(attn.sr, attn.sr_ratio, attn.sr_ratio):
            return False
        layers.append(attn.norm)
    has_hook = any(has_hooks(item) for item in (block, attn, mlp))
    return are_plain(*layers) and mlp.is_plain() and not has_hook


def sum_parts(parts: Sequence[Tensor]) -> Tensor:
    """Sum parts, the last one first: 2 % less time in OpenVINO than the other way round."""
    total = parts[-1]
    for part in parts[-2::-1]:
        total = part + total
    return total


def _bare_norm(norm: nn.LayerNorm) -> nn.LayerNorm:
    """Return a norm that normalises only."""
    return nn.LayerNorm(norm.weight.shape[0], epsilon=norm._epsilon)
