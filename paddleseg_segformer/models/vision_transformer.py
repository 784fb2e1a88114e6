"""Vision Transformer (ViT), Segmenter's encoder.

Shapes: N batch, C channels, H W input pixels, P side of a patch, h w sides of the patch grid, L =
    h * w patches; with the class token, which comes first, there are 1 + L tokens.
Source: Dosovitskiy et al., "An Image Is Worth 16x16 Words", 2021; Strudel et al., "Segmenter",
    2021, section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_segformer.errors import UserError, did_you_mean
from paddleseg_segformer.models.attention import SelfAttention
from paddleseg_segformer.models.init import init_tokens, init_vit_weights
from paddleseg_segformer.models.layers import DropPath, convolve, map_to_tokens, tokens_to_map

INTERPOLATIONS = ("bicubic", "bilinear")


class PatchEmbed(nn.Layer):
    """Convolution over patches that do not overlap: (N, C, H, W) -> (N, D, h, w).

    Args:
        pad_input: pad the last patches with zeros at the bottom and right, h = ceil(H / P); else
            the pixels that fill no patch are dropped, h = floor(H / P).
    """

    def __init__(self, in_channels: int, dim: int, patch_size: int, pad_input: bool) -> None:
        super().__init__()
        # of P - 1 padded zeros the strided convolution uses those that complete a patch
        padding = [0, patch_size - 1, 0, patch_size - 1] if pad_input else 0
        self.proj = nn.Conv2D(in_channels, dim, patch_size, stride=patch_size, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self.proj, x)


class MLP(nn.Layer):
    """Two linears with a GELU between them, on each token alone."""

    def __init__(self, dim: int, hidden_dim: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))


class Block(nn.Layer):
    """Pre-norm transformer block: x += attention(norm1(x)); x += mlp(norm2(x)).

    Args:
        dim, num_heads, mlp_ratio: C, M and the hidden width over C.
        qkv_bias: whether query, key and value projections have a bias.
        qk_scale: factor of the attention scores; by default 1 / sqrt(D).
        drop, attn_drop: dropout after linears, and on attention weights.
        drop_path: stochastic depth of both branches.
        epsilon: of the layer norms.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        qkv_bias: bool,
        qk_scale: float | None = None,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, epsilon=epsilon)
        self.attn = SelfAttention(dim, num_heads, qkv_bias, qk_scale, attn_drop, drop)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, epsilon=epsilon)
        self.mlp = MLP(dim, int(dim * mlp_ratio), drop)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def make_blocks(depth: int, drop_path_rate: float, **arguments: Any) -> nn.LayerList:
    """Return `depth` equal blocks; stochastic depth rises linearly from 0 to `drop_path_rate`."""
    rates = [drop_path_rate * index / max(depth - 1, 1) for index in range(depth)]
    return nn.LayerList([Block(drop_path=rate, **arguments) for rate in rates])


class VisionTransformer(nn.Layer):
    """Patch embedding, class token, learned positions and transformer blocks.

    Names and arguments are PaddleSeg's, except the last two, in which it and the original
    implementation differ.

    Args:
        img_size: pixels of the images of the position embedding: one number, or [width, height];
            it is resized for other sizes.
        patch_size: P, side of a patch in pixels.
        in_channels: channels of the input image.
        embed_dim: channels of the tokens.
        depth: number of blocks.
        num_heads: attention heads of a block.
        mlp_ratio: width of the feed-forward over `embed_dim`.
        qkv_bias: whether query, key and value projections have a bias.
        qk_scale: factor of the attention scores; by default 1 / sqrt(head width).
        drop_rate: dropout of tokens and after linears.
        attn_drop_rate: dropout on attention weights.
        drop_path_rate: stochastic depth, rising linearly from 0 to this rate over the blocks.
        norm_layer: PaddleSeg's name of the only supported norm.
        epsilon: of the layer norms.
        final_norm: a layer norm after the last block.
        pos_embed_interpolation: "bicubic" (PaddleSeg) or "bilinear" (the original implementation).
        pad_input: pad the last patches with zeros (the original implementation); by default pixels
            that fill no patch are dropped and the logits are stretched over them (PaddleSeg).

    Raises:
        UserError: unknown or inconsistent values.
    """

    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4,
        qkv_bias: bool = False,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_layer: str = "nn.LayerNorm",
        epsilon: float = 1e-5,
        final_norm: bool = False,
        pos_embed_interpolation: str = "bicubic",
        pad_input: bool = False,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("norm_layer", norm_layer, ("nn.LayerNorm",)),
            ("pos_embed_interpolation", pos_embed_interpolation, INTERPOLATIONS),
        ):
            if value not in known:
                raise UserError(
                    f"{name}: found {value!r}, expected {' or '.join(known)}."
                    f"{did_you_mean(str(value), known)}"
                )
        self.in_channels = in_channels
        self.embed_dim = embed_dim
        self.patch_size = patch_size
        self.grid_hw = grid_hw(img_size, patch_size)
        self.epsilon = epsilon
        self.pad_input = pad_input
        self.pos_embed_interpolation = pos_embed_interpolation
        self.pad_multiple = patch_size if pad_input else 1  # see `layers.upsample_to_input`
        self.min_input_px = 1 if pad_input else patch_size
        # two patches per side: Paddle resizes to a single one differently
        self.min_portable_px = patch_size + 1 if pad_input else 2 * patch_size
        num_tokens = 1 + self.grid_hw[0] * self.grid_hw[1]
        self.patch_embed = PatchEmbed(in_channels, embed_dim, patch_size, pad_input)
        self.pos_embed = self.create_parameter([1, num_tokens, embed_dim])
        self.cls_token = self.create_parameter([1, 1, embed_dim])
        self.pos_drop = nn.Dropout(drop_rate)
        self.blocks = make_blocks(
            depth,
            drop_path_rate,
            dim=embed_dim,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            drop=drop_rate,
            attn_drop=attn_drop_rate,
            epsilon=epsilon,
        )
        self.norm = nn.LayerNorm(embed_dim, epsilon=epsilon) if final_norm else nn.Identity()
        self.apply(init_vit_weights)
        init_tokens(self.pos_embed, self.cls_token)

    def forward(self, x: Tensor, as_tokens: bool = False) -> Any:
        """(N, in_channels, H, W) normalised image -> (N, C, h, w), without the class token.

        Args:
            as_tokens: return what `encode` does.
        """
        tokens, hw = self.embed(x)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return (tokens, hw) if as_tokens else tokens_to_map(tokens[:, 1:], hw)

    def encode(self, x: Tensor) -> tuple[Tensor, Sequence[int | Tensor]]:
        """(N, in_channels, H, W) -> tokens (N, 1 + L, C), class token first, and (h, w)."""
        return self(x, as_tokens=True)

    def embed(self, x: Tensor) -> tuple[Tensor, Sequence[int | Tensor]]:
        """Return the first block's input (N, 1 + L, C) and (h, w).

        Raises:
            UserError: a side below one patch.
        """
        if paddle.in_dynamic_mode() and min(x.shape[2:]) < self.min_input_px:
            raise UserError(
                f"image of {x.shape[2]}x{x.shape[3]} px: patches of {self.patch_size} px need that "
                "many or more per side. Resize the image, or set pad_input of the backbone."
            )
        patches = self.patch_embed(x)  # (N, C, h, w)
        hw = patches.shape[2:]
        class_token = self.cls_token.expand([patches.shape[0], -1, -1])
        tokens = paddle.concat([class_token, map_to_tokens(patches)], axis=1)
        return self.pos_drop(tokens + self.positions(hw)), hw

    def positions(self, hw: Sequence[int | Tensor]) -> Tensor:
        """Return the position embedding for a grid of `hw` patches, (1, 1 + h * w, C).

        It depends on the grid's sides. PaddleSeg and the original implementation compare the number
        of patches only, and do not resize it for another grid with as many.
        """
        if paddle.in_dynamic_mode() and tuple(hw) == self.grid_hw:
            return self.pos_embed
        return resize_positions(self.pos_embed, self.grid_hw, hw, self.pos_embed_interpolation)

    def stages(self) -> list[list[tuple[str, ...]]]:
        """Return the embedding, and each block as a stage of its own; see `Staged`."""
        names = [["patch_embed", "pos_embed", "cls_token"]]
        names += [[f"blocks.{index}"] for index in range(len(self.blocks))]
        names[-1].append("norm")
        return [[tuple(depth)] for depth in names]

    def reshape_pretrained(self, name: str, array: np.ndarray) -> np.ndarray | None:
        """Return a position embedding of a square grid, resized to this one's; None for the rest.

        Args:
            name: of the weight in this layer.
            array: the weight of a file that does not have this layer's shape.
        """
        side = math.isqrt(array.shape[1] - 1) if array.ndim == 3 and array.shape[1] else 0
        shape = (1, 1 + side * side, self.embed_dim)
        if name != "pos_embed" or side == 0 or array.shape != shape:
            return None
        positions = paddle.to_tensor(np.ascontiguousarray(array))
        mode = self.pos_embed_interpolation
        return resize_positions(positions, (side, side), self.grid_hw, mode).numpy()


def resize_positions(
    pos_embed: Tensor,
    old_hw: tuple[int, int],
    new_hw: Sequence[int | Tensor],
    interpolation: str = "bicubic",
) -> Tensor:
    """Resize a position embedding (1, 1 + L, C) from one grid to another; row 0 stays."""
    grid = tokens_to_map(pos_embed[:, 1:], old_hw)  # (1, C, *old_hw)
    grid = F.interpolate(grid, size=new_hw, mode=interpolation, align_corners=False)
    return paddle.concat([pos_embed[:, :1], map_to_tokens(grid)], axis=1)


def grid_hw(img_size: int | Sequence[int], patch_size: int) -> tuple[int, int]:
    """Return (h, w) of the patches in an image of `img_size`, a number or (width, height)."""
    sides = [img_size] * 2 if isinstance(img_size, int) else list(img_size)
    if len(sides) != 2 or patch_size < 1 or min(sides) < patch_size:
        raise UserError(
            f"img_size: found {img_size}, expected pixels, or [width, height], of at least one "
            f"patch of {patch_size}."
        )
    return sides[1] // patch_size, sides[0] // patch_size


_TINY: dict[str, Any] = {"embed_dim": 192, "depth": 12, "num_heads": 3}
_SMALL: dict[str, Any] = {"embed_dim": 384, "depth": 12, "num_heads": 6}
_BASE: dict[str, Any] = {"embed_dim": 768, "depth": 12, "num_heads": 12}
_LARGE: dict[str, Any] = {"embed_dim": 1024, "depth": 24, "num_heads": 16}
_HUGE: dict[str, Any] = {"embed_dim": 1280, "depth": 32, "num_heads": 16}
_IMAGENET: dict[str, Any] = {"qkv_bias": True, "epsilon": 1e-6}
_LARGE_IMAGE: dict[str, Any] = {"img_size": 384}

# PaddleSeg's factories, and three more sizes of the ImageNet weights that Segmenter starts from.
VARIANTS: dict[str, dict[str, Any]] = {
    "ViT_tiny_patch16_384": {**_TINY, **_IMAGENET, **_LARGE_IMAGE},
    "ViT_small_patch16_224": {
        "depth": 8, "num_heads": 8, "mlp_ratio": 3, "qk_scale": 768**-0.5,
    },
    "ViT_small_patch16_384": {**_SMALL, **_IMAGENET, **_LARGE_IMAGE},
    "ViT_small_patch32_384": {**_SMALL, **_IMAGENET, **_LARGE_IMAGE, "patch_size": 32},
    "ViT_base_patch16_224": {**_BASE, **_IMAGENET},
    "ViT_base_patch16_384": {**_BASE, **_IMAGENET, **_LARGE_IMAGE},
    "ViT_base_patch32_384": {**_BASE, **_IMAGENET, **_LARGE_IMAGE, "patch_size": 32},
    "ViT_large_patch16_224": {**_LARGE, **_IMAGENET},
    "ViT_large_patch16_384": {**_LARGE, **_IMAGENET, **_LARGE_IMAGE},
    "ViT_large_patch32_384": {**_LARGE, **_IMAGENET, **_LARGE_IMAGE, "patch_size": 32},
    "ViT_huge_patch16_224": _HUGE,
    "ViT_huge_patch32_384": {**_HUGE, **_LARGE_IMAGE, "patch_size": 32},
}  # fmt: skip

BACKBONES: dict[str, Callable[..., VisionTransformer]] = {
    "VisionTransformer": VisionTransformer,
    **{name: partial(VisionTransformer, **difference) for name, difference in VARIANTS.items()},
}
