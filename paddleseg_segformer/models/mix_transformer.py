"""Mix Vision Transformer (MiT), SegFormer's hierarchical encoder.

Shapes: N batch, C channels, H W input pixels, h w sides of a stage's map, L = h * w tokens.
Source: Xie et al., "SegFormer", 2021, section 3.1 and table 6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_segformer.errors import UserError, did_you_mean
from paddleseg_segformer.models import cpu_gradients
from paddleseg_segformer.models.attention import EfficientSelfAttention
from paddleseg_segformer.models.init import init_mit_weights, init_tokens
from paddleseg_segformer.models.layers import (
    DropPath,
    are_plain,
    convolve,
    has_hooks,
    have_biases,
    is_conv,
    is_only,
    linear,
    map_to_tokens,
    tokens_to_map,
)
from paddleseg_segformer.models.vision_transformer import MLP, grid_hw

PATCH_KERNELS = (7, 3, 3, 3)
PATCH_STRIDES = (4, 2, 2, 2)
POSITIONAL_ENCODINGS = ("mix_ffn", "learned")


class OverlapPatchEmbed(nn.Layer):
    """Strided convolution whose patches overlap, then LayerNorm: (N, C, H, W) -> tokens.

    Args:
        in_channels, dim: channels of the input and of the tokens.
        kernel, stride: of the convolution, in px; it pads by half a kernel.
        norm_eps: LayerNorm epsilon.
    """

    def __init__(
        self, in_channels: int, dim: int, kernel: int, stride: int, norm_eps: float
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2D(in_channels, dim, kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(dim, epsilon=norm_eps)

    def forward(self, x: Tensor) -> tuple[Tensor, Sequence[int | Tensor]]:
        """(N, in_channels, H, W) -> tokens (N, L, C), and the (h, w) of their map."""
        x = convolve(self.proj, x)  # (N, C, ceil(H / stride), ceil(W / stride))
        return self.norm(map_to_tokens(x)), x.shape[2:]


class PositionedPatchEmbed(OverlapPatchEmbed):
    """Overlapping patches plus a learned position embedding, resized bilinearly to their map.

    Args:
        in_channels, dim, kernel, stride, norm_eps: as of `OverlapPatchEmbed`.
        grid_hw: sides of the map that the embedding is stored for.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        kernel: int,
        stride: int,
        norm_eps: float,
        grid_hw: tuple[int, int],
    ) -> None:
        super().__init__(in_channels, dim, kernel, stride, norm_eps)
        self.grid_hw = grid_hw
        self.pos_embed = self.create_parameter([1, grid_hw[0] * grid_hw[1], dim])
        init_tokens(self.pos_embed)

    def forward(self, x: Tensor) -> tuple[Tensor, Sequence[int | Tensor]]:
        x = convolve(self.proj, x)
        hw = x.shape[2:]
        grid = tokens_to_map(self.pos_embed, self.grid_hw)  # (1, C, *grid_hw)
        positions = F.interpolate(grid, size=hw, mode="bilinear", align_corners=False)
        return self.norm(map_to_tokens(x)) + map_to_tokens(positions), hw


class MixFFN(nn.Layer):
    """Feed-forward network with a 3x3 depthwise convolution, which encodes positions.

    fc1 -> depthwise convolution -> GELU -> dropout -> fc2 -> dropout.

    Args:
        dim, hidden_dim: C, and the channels between the two linears.
        drop: dropout rate.
    """

    def __init__(self, dim: int, hidden_dim: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.dwconv = nn.Sequential(
            ("dwconv", nn.Conv2D(hidden_dim, hidden_dim, 3, padding=1, groups=hidden_dim))
        )
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor, hw: Sequence[int | Tensor]) -> Tensor:
        """(N, L, C) tokens of an `hw` map -> (N, L, C)."""
        if cpu_gradients.is_on_cpu(x) and self.is_plain():
            return cpu_gradients.mix_ffn(x, hw, *self.parameters())
        x = convolve(self.dwconv, tokens_to_map(linear(self.fc1, x), hw))  # (N, 4C, h, w)
        x = map_to_tokens(self.drop(F.gelu(x)))
        return self.drop(linear(self.fc2, x))

    def after_norm(self, x: Tensor, hw: Sequence[int], norm: nn.LayerNorm) -> Tensor:
        """Return `self(norm(x), hw)` on a CPU; the norm's result is not kept for the gradients."""
        return cpu_gradients.mix_ffn(x, hw, *self.parameters(), norm=norm)

    def is_plain(self) -> bool:
        """Tell whether the six weights of three layers say all that it does; see `are_plain`."""
        if not is_only(self.dwconv, 1) or not are_plain(self.fc1, self.fc2, self.drop):
            return False
        if self.training and self.drop.p:
            return False
        is_depthwise = is_conv(self.dwconv[0], 3, padding=1, is_depthwise=True)
        return is_depthwise and have_biases([self.fc1, self.fc2])


class Block(nn.Layer):
    """Pre-norm transformer block: x += attention(norm1(x)); x += feed_forward(norm2(x)).

    Args:
        dim, num_heads, sr_ratio, mlp_ratio: C, M, R and the feed-forward network's hidden width
            over C.
        qkv_bias: whether the projections of queries, keys and values have a bias.
        drop, attn_drop: dropout after linears, and on attention weights.
        drop_path: stochastic depth of both branches.
        norm_eps, embed_norm_eps: LayerNorm epsilon of the block, and of the reduced keys.
        merge: side of the squares of tokens that share a query.
        has_mix_ffn: the feed-forward network is a `MixFFN`, or one without convolution.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        sr_ratio: int,
        mlp_ratio: float,
        qkv_bias: bool,
        drop: float,
        attn_drop: float,
        drop_path: float,
        norm_eps: float,
        embed_norm_eps: float,
        merge: int = 1,
        has_mix_ffn: bool = True,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, epsilon=norm_eps)
        self.attn = EfficientSelfAttention(
            dim, num_heads, sr_ratio, qkv_bias, attn_drop, drop, embed_norm_eps, merge
        )
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, epsilon=norm_eps)
        self.has_mix_ffn = has_mix_ffn
        self.mlp = (MixFFN if has_mix_ffn else MLP)(dim, int(dim * mlp_ratio), drop)

    def forward(self, x: Tensor, hw: Sequence[int | Tensor]) -> Tensor:
        """(N, L, C) tokens of an `hw` map -> (N, L, C)."""
        if cpu_gradients.is_on_cpu(x) and paddle.is_grad_enabled() and self.is_plain():
            x = x + self.drop_path(self.attn.after_norm(x, hw, self.norm1))
            return x + self.drop_path(self.mlp.after_norm(x, hw, self.norm2))
        x = x + self.drop_path(self.attn(self.norm1(x), hw))
        y = self.norm2(x)
        return x + self.drop_path(self.mlp(y, hw) if self.has_mix_ffn else self.mlp(y))

    def is_plain(self) -> bool:
        """Tell whether its parts may be computed with the norms before them; see `are_plain`."""
        return (
            type(self.attn) is EfficientSelfAttention
            and type(self.mlp) is MixFFN
            and are_plain(self.norm1, self.norm2)
            and self.attn.is_plain()
            and not has_hooks(self.mlp)
            and self.mlp.is_plain()
        )


class MixVisionTransformer(nn.Layer):
    """Four stages of overlapping patch embedding and transformer blocks.

    Args:
        in_channels: channels of the input image.
        embed_dims: channels of each stage.
        depths: blocks of each stage.
        num_heads: attention heads of each stage.
        sr_ratios: factor by which each stage reduces the sides of its keys' and values' map.
        mlp_ratios: width of the feed-forward over `embed_dims`, of each stage.
        qkv_bias: whether query, key and value projections have a bias.
        drop_rate: dropout after projections.
        attn_drop_rate: dropout on attention weights.
        drop_path_rate: stochastic depth, rising linearly from 0 to this rate over all blocks.
        norm_eps: LayerNorm epsilon of the blocks and the stage outputs.
        embed_norm_eps: LayerNorm epsilon of patch embeddings and of the reduced keys; the published
            weights were trained with 1e-6 for the first and 1e-5 for the second group.
        use_recompute: keep only the tokens between blocks in training, and recompute the rest for
            the gradients: less memory, about a fifth more time on CPU.
        merge: side of the squares of tokens that share a query, of each stage: 2 for less work with
            the same weights, at some loss of accuracy; 1 is exact.
        positional_encoding: "mix_ffn", the published convolution in the feed-forward networks; or
            "learned", the paper's ablation: a position embedding added to the patches of each
            stage, and feed-forward networks without convolution.
        img_size: pixels of the images of a learned embedding, one number or [width, height]: the
            training crop's; it is resized for other sizes.

    Raises:
        UserError: not one number for each stage, channels that are no multiple of the heads, a
            `merge` below 1, another positional encoding, or an `img_size` without use or meaning.
    """

    min_input_px = 29  # below, stage 1's map is smaller than its 8x8 reduction kernel

    def __init__(
        self,
        in_channels: int = 3,
        embed_dims: Sequence[int] = (32, 64, 160, 256),
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        mlp_ratios: Sequence[float] = (4, 4, 4, 4),
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        norm_eps: float = 1e-6,
        embed_norm_eps: float = 1e-5,
        use_recompute: bool = False,
        merge: Sequence[int] = (1, 1, 1, 1),
        positional_encoding: str = "mix_ffn",
        img_size: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.use_recompute = use_recompute
        per_stage = {
            "embed_dims": embed_dims,
            "depths": depths,
            "num_heads": num_heads,
            "sr_ratios": sr_ratios,
            "mlp_ratios": mlp_ratios,
            "merge": merge,
        }
        for name, values in per_stage.items():
            if len(values) != 4:
                raise UserError(
                    f"{name}: found {len(values)} numbers, expected one for each of 4 stages."
                )
        if not all(type(ratio) is int and ratio >= 1 for ratio in merge):
            raise UserError(f"merge: found {list(merge)}, expected whole numbers of 1 or more.")
        if positional_encoding not in POSITIONAL_ENCODINGS:
            raise UserError(
                f"positional_encoding: found {positional_encoding!r}, expected "
                f"{' or '.join(POSITIONAL_ENCODINGS)}."
                f"{did_you_mean(positional_encoding, POSITIONAL_ENCODINGS)}"
            )
        has_mix_ffn = positional_encoding == "mix_ffn"
        if has_mix_ffn != (img_size is None):
            raise UserError(
                f"img_size: found {img_size}, expected the training images' pixels with "
                "positional_encoding learned, and no img_size without it."
            )
        hw = (0, 0) if img_size is None else grid_hw(img_size, 1)
        self.in_channels = in_channels
        self.feat_channels = list(embed_dims)
        self.depths = list(depths)
        self.norm_eps = norm_eps
        self.embed_norm_eps = embed_norm_eps
        self.positional_encoding = positional_encoding
        # learned: two tokens per side of stage 4, for Paddle resizes to a single one differently
        self.min_portable_px = self.min_input_px if has_mix_ffn else 33
        num_blocks = sum(depths)
        drop_paths = [drop_path_rate * i / max(num_blocks - 1, 1) for i in range(num_blocks)]
        for stage in range(4):
            dim = embed_dims[stage]
            previous = in_channels if stage == 0 else embed_dims[stage - 1]
            patches = previous, dim, PATCH_KERNELS[stage], PATCH_STRIDES[stage], embed_norm_eps
            stride = 4 << stage
            grid = (hw[0] + stride - 1) // stride, (hw[1] + stride - 1) // stride
            patch_embed = (
                OverlapPatchEmbed(*patches) if has_mix_ffn else PositionedPatchEmbed(*patches, grid)
            )
            blocks = [
                Block(
                    dim,
                    num_heads[stage],
                    sr_ratios[stage],
                    mlp_ratios[stage],
                    qkv_bias,
                    drop_rate,
                    attn_drop_rate,
                    drop_paths[sum(depths[:stage]) + index],
                    norm_eps,
                    embed_norm_eps,
                    merge[stage],
                    has_mix_ffn,
                )
                for index in range(depths[stage])
            ]
            self.add_sublayer(f"patch_embed{stage + 1}", patch_embed)
            self.add_sublayer(f"block{stage + 1}", nn.LayerList(blocks))
            self.add_sublayer(f"norm{stage + 1}", nn.LayerNorm(dim, epsilon=norm_eps))
        self.apply(init_mit_weights)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> four maps (N, C_i, ceil(H / s), ceil(W / s)), s = 4, 8, 16, 32.

        Raises:
            UserError: a side below 29 px.
        """
        if paddle.in_dynamic_mode() and min(x.shape[2:]) < self.min_input_px:
            raise UserError(
                f"image of {x.shape[2]}x{x.shape[3]} px: MiT needs {self.min_input_px} px or more "
                "per side. Resize it, or pad it."
            )
        features = []
        for stage in range(1, 5):
            tokens, hw = getattr(self, f"patch_embed{stage}")(x)
            for block in getattr(self, f"block{stage}"):
                tokens = self._run_block(block, tokens, hw)
            x = tokens_to_map(getattr(self, f"norm{stage}")(tokens), hw)  # (N, C_i, h, w)
            features.append(x)
        return features

    def forward_with_attentions(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the maps of `forward`, and the attention weights (N, M, L', S) of each block.

        They take 16 MiB per image and block of stage 1 at 512x512. The maps depend on them, so that
        they get gradients; blocks are not recomputed, nor rewritten (see `exact_rewrites`).
        """
        attentions: list[Tensor] = []
        layers = [x for x in self.sublayers() if isinstance(x, EfficientSelfAttention)]
        use_recompute, self.use_recompute = self.use_recompute, False
        try:
            for layer in layers:
                layer.kept = attentions
            with cpu_gradients.exact_rewrites(False):
                return self(x), attentions
        finally:
            self.use_recompute = use_recompute
            for layer in layers:
                layer.kept = None

    def stages(self) -> list[list[tuple[str, ...]]]:
        """Return the four stages, each of as many depths as it has blocks; see `Staged`."""
        found = []
        for stage, depth in enumerate(self.depths, start=1):
            blocks = [[f"block{stage}.{index}"] for index in range(depth)] or [[]]
            blocks[0].insert(0, f"patch_embed{stage}")
            blocks[-1].append(f"norm{stage}")
            found.append([tuple(names) for names in blocks])
        return found

    def reshape_pretrained(self, name: str, array: np.ndarray) -> np.ndarray | None:
        """Return weights for other input channels, or None where that is not the difference.

        One channel gets the sum of the file's channels. Several repeat them in order, scaled by the
        file's number of channels over the layer's.

        Args:
            name: of the weight within this layer.
            array: (C_1, channels, 7, 7) of the file.
        """
        expected = tuple(self.patch_embed1.proj.weight.shape)
        if name != "patch_embed1.proj.weight" or array.ndim != 4:
            return None
        if array.shape[0] != expected[0] or array.shape[2:] != expected[2:]:
            return None
        if self.in_channels == 1:
            return array.sum(axis=1, keepdims=True)
        channels = np.arange(self.in_channels) % array.shape[1]
        return array[:, channels] * np.float32(array.shape[1] / self.in_channels)

    def _run_block(self, block: nn.Layer, tokens: Tensor, hw: Sequence[int | Tensor]) -> Tensor:
        if self.use_recompute and block.training and paddle.is_grad_enabled():
            from paddle.distributed.fleet.utils import recompute

            return recompute(block, tokens, hw)
        return block(tokens, hw)


class MixVisionTransformerClassifier(nn.Layer):
    """ImageNet classifier, which SegFormer starts from: a linear of the mean of stage 4's tokens.

    Args:
        backbone: a `MixVisionTransformer`.
        num_classes: K, number of classes.

    Raises:
        UserError: no classes.
    """

    def __init__(self, backbone: MixVisionTransformer, num_classes: int = 1000) -> None:
        if num_classes < 1:
            raise UserError(f"num_classes: found {num_classes}, expected 1 or more.")
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.head = nn.Linear(backbone.feat_channels[-1], num_classes)
        init_mit_weights(self.head)

    def forward(self, x: Tensor, features: Sequence[Tensor] | None = None) -> Tensor:
        """(N, C, H, W) normalised image -> (N, num_classes) logits.

        Args:
            features: the backbone's maps of `x`, where they are at hand.
        """
        maps = self.backbone(x) if features is None else features
        return self.head(maps[-1].mean(axis=[2, 3]))


_WIDE: dict[str, Any] = {"embed_dims": (64, 128, 320, 512)}

VARIANTS: dict[str, dict[str, Any]] = {
    "B0": {},
    "B1": _WIDE,
    "B2": {**_WIDE, "depths": (3, 4, 6, 3)},
    "B3": {**_WIDE, "depths": (3, 4, 18, 3)},
    "B4": {**_WIDE, "depths": (3, 8, 27, 3)},
    "B5": {**_WIDE, "depths": (3, 6, 40, 3)},
}

BACKBONES: dict[str, Callable[..., MixVisionTransformer]] = {
    "MixVisionTransformer": MixVisionTransformer,
}
BACKBONES |= {
    f"MixVisionTransformer_{name}": partial(MixVisionTransformer, **difference)
    for name, difference in VARIANTS.items()
}
