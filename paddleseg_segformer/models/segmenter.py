"""Segmenter: a ViT encoder with a linear head, or with a mask transformer.

Shapes: N batch, C channels of the encoder, D channels of the mask transformer, K classes, h w sides
    of the patch grid, L = h * w patches.
Source: Strudel et al., "Segmenter: Transformer for Semantic Segmentation", 2021, section 3.
"""

from __future__ import annotations

import logging

import numpy as np
import paddle
from paddle import Tensor, nn

from paddleseg_segformer.contracts import TokenBackbone, check
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models.init import init_tokens, init_vit_weights
from paddleseg_segformer.models.layers import tokens_to_map
from paddleseg_segformer.models.one_logit import from_one_row, keep_first_logit_zero
from paddleseg_segformer.models.vision_transformer import make_blocks

logger = logging.getLogger(__name__)


class LinearHead(nn.Layer):
    """A linear classifier of each patch."""

    def __init__(self, in_dim: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(in_dim, num_classes)
        self.apply(init_vit_weights)

    def forward(self, patches: Tensor) -> Tensor:
        """(N, L, C) -> logits (N, L, K)."""
        return self.head(patches)


class MaskHead(nn.Layer):
    """A mask transformer: transformer blocks over the patches and one learned token per class.

    A class's logit at a patch is the cosine of their two embeddings, layer-normalised over the
    classes.

    Args:
        in_dim: C.
        num_classes: K, number of classes.
        embed_dim: D.
        depth, num_heads, mlp_ratio: of the blocks.
        drop_rate, attn_drop_rate: dropout after linears, and on attention weights.
        drop_path_rate: stochastic depth, rising linearly from 0 to this rate over the blocks.
        qkv_bias: whether query, key and value projections have a bias.
    """

    def __init__(
        self,
        in_dim: int,
        num_classes: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        qkv_bias: bool = False,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.cls_token = self.create_parameter([1, num_classes, embed_dim])
        self.proj_input = nn.Linear(in_dim, embed_dim)
        self.blocks = make_blocks(
            depth,
            drop_path_rate,
            dim=embed_dim,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            qkv_bias=qkv_bias,
            drop=drop_rate,
            attn_drop=attn_drop_rate,
        )
        self.decoder_norm = nn.LayerNorm(embed_dim)
        self.proj_patch = nn.Linear(embed_dim, embed_dim, bias_attr=False)
        self.proj_class = nn.Linear(embed_dim, embed_dim, bias_attr=False)
        self.mask_norm = nn.LayerNorm(num_classes)
        self.apply(init_vit_weights)
        init_tokens(self.cls_token)

    def forward(self, patches: Tensor) -> Tensor:
        """(N, L, C) -> logits (N, L, K)."""
        return self.mask_norm(self.class_maps(patches))

    def class_maps(self, patches: Tensor) -> Tensor:
        """Return the cosine of each patch and each class in -1..1, (N, L, C) -> (N, L, K)."""
        num_patches = patches.shape[1]
        patches = self.proj_input(patches)  # (N, L, D)
        classes = self.cls_token.expand([patches.shape[0], -1, -1])  # (N, K, D)
        tokens = paddle.concat([patches, classes], axis=1)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.decoder_norm(tokens)
        # indices from the front: OpenVINO misreads exported slices with negative ones
        patches = _unit_length(self.proj_patch(tokens[:, :num_patches]))
        classes = tokens[:, num_patches:].reshape([-1, self.num_classes, tokens.shape[-1]])
        classes = _unit_length(self.proj_class(classes))  # K is known to Paddle 2's graphs only so
        return paddle.matmul(patches, classes, transpose_y=True)


def _unit_length(x: Tensor) -> Tensor:
    """Divide each vector by its length; as published, without an epsilon."""
    return x / paddle.linalg.norm(x, axis=-1, keepdim=True)


class Segmenter(nn.Layer):
    """A ViT encoder and a head that returns logits of each patch.

    Args:
        num_classes: K, number of classes.
        backbone: returns tokens, the class token first.
        head: patches (N, L, C) -> logits (N, L, K).
    """

    def __init__(self, num_classes: int, backbone: TokenBackbone, head: nn.Layer) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.head = head
        self.logits_stride = backbone.patch_size
        self.pad_multiple = backbone.pad_multiple

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) normalised image -> (N, K, h, w) logits.

        h = floor(H / P), or ceil(H / P) where the backbone pads its input; w likewise.
        """
        tokens, hw = self.backbone.encode(x)
        return tokens_to_map(self.head(tokens[:, 1:]), hw)


class LinearSegmenter(Segmenter):
    """Segmenter with a linear head.

    Args:
        num_classes: K, number of classes.
        backbone: a `VisionTransformer`, or another `contracts.TokenBackbone`.
        one_logit: of 2 classes, the first keeps the logit 0: the model of one logit and a sigmoid.
    """

    def __init__(self, num_classes: int, backbone: TokenBackbone, one_logit: bool = False) -> None:
        _check(num_classes, backbone)
        super().__init__(num_classes, backbone, LinearHead(backbone.embed_dim, num_classes))
        self.one_logit = one_logit
        if one_logit:
            keep_first_logit_zero(self.head.head, num_classes)

    @property
    def classifier_layer(self) -> nn.Layer:
        """Return the layer that gives the logits."""
        return self.head.head

    def reshape_pretrained(self, name: str, array: np.ndarray) -> np.ndarray | None:
        """Return the classifier of a file with one logit as this one's; None for the rest."""
        is_classifier = self.one_logit and name.startswith("head.head.")
        return from_one_row(self.head.head, array) if is_classifier else None


class MaskSegmenter(Segmenter):
    """Segmenter with a mask transformer.

    Args:
        num_classes: K, 2 or more; of 2 classes the norm keeps little more than which logit is
            larger, so a `LinearSegmenter` trains better.
        backbone: a `VisionTransformer`, or another `contracts.TokenBackbone`.
        h_embed_dim: channels of the mask transformer; published: the encoder's.
        h_depth: blocks of the mask transformer; published: 2.
        h_num_heads: attention heads of a block; published: one for 64 channels.
        h_mlp_ratio: width of the feed-forward over `h_embed_dim`.
        h_drop_rate: dropout after linears.
        h_drop_path_rate: stochastic depth, rising linearly from 0 to this rate over the blocks.
        h_attn_drop_rate: dropout on attention weights.
        h_qkv_bias: whether the mask transformer's query, key and value projections have a bias:
            False in PaddleSeg's weights, True in the original implementation's.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: TokenBackbone,
        h_embed_dim: int,
        h_depth: int,
        h_num_heads: int,
        h_mlp_ratio: float = 4,
        h_drop_rate: float = 0.0,
        h_drop_path_rate: float = 0.0,
        h_attn_drop_rate: float = 0.0,
        h_qkv_bias: bool = False,
    ) -> None:
        _check(num_classes, backbone)
        _check_norm_over_classes(num_classes)
        head = MaskHead(
            backbone.embed_dim,
            num_classes,
            h_embed_dim,
            h_depth,
            h_num_heads,
            h_mlp_ratio,
            h_drop_rate,
            h_drop_path_rate,
            h_attn_drop_rate,
            h_qkv_bias,
        )
        super().__init__(num_classes, backbone, head)


def _check_norm_over_classes(num_classes: int) -> None:
    """Refuse one class, whose norm over the classes is constant; warn about two."""
    if num_classes < 2:
        raise UserError(
            f"num_classes: found {num_classes}, expected 2 or more: a MaskSegmenter compares "
            "classes. Give the background a class of its own."
        )
    if num_classes == 2:
        logger.warning(
            "num_classes 2: a MaskSegmenter's norm over two classes keeps little more than which "
            "logit is larger; if it predicts one class only, use a LinearSegmenter"
        )


def _check(num_classes: int, backbone: TokenBackbone) -> None:
    if num_classes < 1:
        raise UserError(f"num_classes: found {num_classes}, expected 1 or more.")
    check(
        backbone,
        TokenBackbone,
        f"backbone {type(backbone).__name__}: expected a VisionTransformer, such as "
        "ViT_base_patch16_384, or one of your own, but it",
    )
