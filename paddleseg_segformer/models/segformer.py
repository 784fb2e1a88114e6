"""SegFormer: a MiT encoder with an all-MLP head, and mmsegmentation's variant of that head.

Both heads are computed by an exact rewrite. Bilinear upsampling U is linear, acts on each channel
alone, and its weights sum to 1 at every pixel, so it commutes with 1x1 convolutions:
F U(W x + b) = U(F W x) + F b. The fuse convolution F = [F4 | F3 | F2 | F1] is therefore applied to
each stage at the stage's own resolution, merged with that stage's linear W, instead of to a
4D-channel concatenation at a quarter of the input's resolution. Where one of these layers has
hooks, such as those of `paddle.flops` and `paddle.summary`, or was replaced by another kind of
layer, and within `exact_rewrites(False)`, the head is computed as published.

Shapes: N batch, C_i channels of stage i, D head width, K classes, h w the sides of stage 1's map.
Source: Xie et al., "SegFormer", 2021, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_segformer.contracts import PyramidBackbone, check
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models import cpu_gradients
from paddleseg_segformer.models.init import init_head_weights
from paddleseg_segformer.models.layers import (
    add_channel_bias,
    are_plain,
    conv_bn,
    convolve,
    have_biases,
    in_type_of,
    is_conv,
    is_only,
    map_to_tokens,
    project,
    relu,
    tokens_to_map,
    upsample,
    upsampled_sum,
)
from paddleseg_segformer.models.one_logit import from_one_row, keep_first_logit_zero


class _Head(nn.Layer):
    """The end of both heads: ReLU, channel dropout, classifier."""

    def __init__(
        self, num_classes: int, embedding_dim: int, dropout_rate: float, align_corners: bool
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.align_corners = align_corners
        self.dropout = nn.Dropout2D(dropout_rate)
        self.linear_pred = nn.Conv2D(embedding_dim, num_classes, kernel_size=1)

    def _concatenated(self, maps: Sequence[Tensor], first: Tensor) -> Tensor:
        """Four (N, D, h_i, w_i) maps -> (N, 4D, h, w), h and w the sides of `first`."""
        resized = [upsample(x, first.shape[2:], self.align_corners) for x in maps]
        return paddle.concat([in_type_of(resized[0], x) for x in resized], axis=1)

    def classify(self, fused: Tensor) -> Tensor:
        """(N, D, h, w) -> (N, K, h, w)."""
        is_trained_on_cpu = self.training and cpu_gradients.is_on_cpu(fused)
        fused = F.relu_(fused) if is_trained_on_cpu else relu(fused)
        is_plain = are_plain(self.dropout) and is_conv(self.linear_pred, 1)
        if is_plain and is_trained_on_cpu and self.dropout.p:
            return cpu_gradients.drop_and_classify(fused, self.dropout, self.linear_pred)
        return convolve(self.linear_pred, self.dropout(fused))


def are_plain_linears(stages: Sequence[nn.Layer]) -> bool:
    """Tell whether the weights of sequences of one linear say all that they do."""
    linears = [stage[0] for stage in stages if is_only(stage, 1)]
    return len(linears) == len(stages) and are_plain(*linears) and have_biases(linears)


def is_plain_fuse(layer: nn.Layer) -> bool:
    """Tell whether a fuse layer is a 1x1 convolution, whose weight says all, and a norm."""
    return is_only(layer, 2) and is_conv(layer[0], 1, has_bias=False)


class AllMLPHead(_Head):
    """The head of the paper, NVlabs, PaddleSeg, Hugging Face and smp.

    linear per stage -> upsample -> concatenate (stage 4 first) -> 1x1 convolution without bias,
    batch norm, ReLU -> channel dropout -> classifier.

    Args:
        in_channels: C_1 to C_4.
        num_classes, embedding_dim: K and D.
        dropout_rate: of channels, before the classifier.
        align_corners: of the upsampling.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        embedding_dim: int = 256,
        dropout_rate: float = 0.1,
        align_corners: bool = False,
    ) -> None:
        super().__init__(num_classes, embedding_dim, dropout_rate, align_corners)
        for stage, channels in enumerate(in_channels, start=1):
            linear = nn.Sequential(("proj", nn.Linear(channels, embedding_dim)))
            self.add_sublayer(f"linear_c{stage}", linear)
        self.linear_fuse = conv_bn(4 * embedding_dim, embedding_dim)
        self.apply(init_head_weights)

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Four (N, C_i, h_i, w_i) maps -> (N, K, h, w) logits at stage 1's size."""
        stages = [getattr(self, f"linear_c{stage}") for stage in range(1, 5)]
        is_plain = are_plain_linears(stages) and is_plain_fuse(self.linear_fuse)
        if not (cpu_gradients.is_rewriting and is_plain):
            maps = [
                tokens_to_map(stages[index](map_to_tokens(x)), x.shape[2:])
                for index, x in enumerate(features)
            ]
            return self.classify(self.linear_fuse(self._concatenated(maps[::-1], features[0])))
        linears = [stage[0] for stage in stages]
        # (D, D) slices of the fuse weight, stage 1 first
        fuse_slices = self.linear_fuse[0].weight.flatten(1).chunk(4, axis=1)[::-1]
        maps, biases = [], []
        for stage, linear in enumerate(linears):
            merged = paddle.matmul(linear.weight, fuse_slices[stage], transpose_y=True)  # (C_i, D)
            biases.append(paddle.mv(fuse_slices[stage], linear.bias))
            maps.append(project(features[stage], merged))
        # upsampling preserves constants, so the biases are added to the smallest map
        maps[-1] = add_channel_bias(maps[-1], paddle.add_n(biases))
        return self.classify(self.linear_fuse[1](upsampled_sum(maps, self.align_corners)))


class MMHead(_Head):
    """mmsegmentation's head: batch norm and ReLU in every branch, stage 1 concatenated first.

    The ReLU comes before the upsampling, so only the fuse convolution moves to the stage's own
    resolution, and the weights cannot be converted to the canonical head.

    Args: as of `AllMLPHead`.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        embedding_dim: int = 256,
        dropout_rate: float = 0.1,
        align_corners: bool = False,
    ) -> None:
        super().__init__(num_classes, embedding_dim, dropout_rate, align_corners)
        self.convs = nn.LayerList([conv_bn(channels, embedding_dim) for channels in in_channels])
        self.fusion_conv = conv_bn(4 * embedding_dim, embedding_dim)
        self.apply(init_head_weights)

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Four (N, C_i, h_i, w_i) maps -> (N, K, h, w) logits at stage 1's size."""
        maps = [relu(self.convs[stage](x)) for stage, x in enumerate(features)]
        if not (cpu_gradients.is_rewriting and is_plain_fuse(self.fusion_conv)):
            return self.classify(self.fusion_conv(self._concatenated(maps, features[0])))
        # (D, D) slices of the fuse weight, stage 1 first
        fuse_slices = self.fusion_conv[0].weight.flatten(1).chunk(4, axis=1)
        maps = [project(x, fuse_slices[stage].transpose([1, 0])) for stage, x in enumerate(maps)]
        return self.classify(self.fusion_conv[1](upsampled_sum(maps, self.align_corners)))


class LastStageHead(_Head):
    """The head on stage 4 alone, as the parameters and costs of the paper's table 1d have it.

    linear -> batch norm -> upsample to stage 1's size -> ReLU, channel dropout, classifier. There
    is one map, so that none is concatenated or fused. The batch norm comes before the upsampling,
    which preserves what it computes.

    Args: as of `AllMLPHead`.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        embedding_dim: int = 256,
        dropout_rate: float = 0.1,
        align_corners: bool = False,
    ) -> None:
        super().__init__(num_classes, embedding_dim, dropout_rate, align_corners)
        self.linear_c4 = nn.Sequential(("proj", nn.Linear(in_channels[3], embedding_dim)))
        self.linear_fuse = nn.Sequential(("_batch_norm", nn.BatchNorm2D(embedding_dim)))
        self.apply(init_head_weights)

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """Four (N, C_i, h_i, w_i) maps -> (N, K, h, w) logits at stage 1's size."""
        first, *_, last = features
        x = self.linear_fuse(tokens_to_map(self.linear_c4(map_to_tokens(last)), last.shape[2:]))
        return self.classify(upsample(x, first.shape[2:], self.align_corners))


class _EncoderDecoder(nn.Layer):
    """A backbone and a head whose layers are the model's attributes, as in PaddleSeg's files."""

    logits_stride = 4  # input pixels per logit, rounded up
    pad_multiple = 1

    def __init__(
        self,
        num_classes: int,
        backbone: PyramidBackbone,
        embedding_dim: int = 256,
        dropout_rate: float = 0.1,
        align_corners: bool = False,
        one_logit: bool = False,
    ) -> None:
        if num_classes < 1:
            raise UserError(f"num_classes: found {num_classes}, expected 1 or more.")
        name = f"backbone {type(backbone).__name__}"
        check(backbone, PyramidBackbone, name)
        if len(backbone.feat_channels) != 4:
            raise UserError(
                f"{name}: gives {len(backbone.feat_channels)} maps (`feat_channels`), expected one "
                "that gives four, such as MixVisionTransformer_B0."
            )
        super().__init__(
            backbone.feat_channels, num_classes, embedding_dim, dropout_rate, align_corners
        )
        self.backbone = backbone
        self.quantizers: nn.Layer | None = None  # see `quantized.quantize`
        self.one_logit = one_logit
        if one_logit:
            keep_first_logit_zero(self.linear_pred, num_classes)

    @property
    def classifier_layer(self) -> nn.Layer:
        """Return the layer that gives the logits."""
        return self.linear_pred

    def reshape_pretrained(self, name: str, array: np.ndarray) -> np.ndarray | None:
        """Return the classifier of a file with one logit as this one's; None for the rest."""
        is_classifier = self.one_logit and name.startswith("linear_pred.")
        return from_one_row(self.linear_pred, array) if is_classifier else None

    def forward(self, x: Tensor, features: Sequence[Tensor] | None = None) -> Tensor:
        """(N, C, H, W) normalised image -> (N, K, ceil(H / 4), ceil(W / 4)) logits.

        Args:
            features: the backbone's maps of `x`, where they are at hand.
        """
        if self.quantizers is not None:
            return self.quantizers(self, x)
        return self.decode(self.backbone(x) if features is None else features)


class SegFormer(_EncoderDecoder, AllMLPHead):
    """SegFormer as published: a MiT encoder and the all-MLP head.

    Called with a normalised image (N, C, H, W) it returns logits (N, K, ceil(H / 4), ceil(W / 4)).

    Args:
        num_classes: K, number of classes.
        backbone: returns four maps at strides 4, 8, 16, 32, as a `MixVisionTransformer` does.
        embedding_dim: D, the head's width; published: 256 for B0 and B1, 768 for B2 to B5.
        dropout_rate: share of the fused map's channels that training drops.
        align_corners: of the upsampling inside the head; published: False.
        one_logit: of 2 classes, the first keeps the logit 0: the model of one logit and a sigmoid.

    Raises:
        UserError: no classes, or not such a backbone.
    """


class SegFormerMM(_EncoderDecoder, MMHead):
    """SegFormer as mmsegmentation builds it: the head has a batch norm and a ReLU per stage.

    Called with a normalised image (N, C, H, W) it returns logits (N, K, ceil(H / 4), ceil(W / 4)).

    Args:
        num_classes: K, number of classes.
        backbone: returns four maps at strides 4, 8, 16, 32, as a `MixVisionTransformer` does.
        embedding_dim: D, the head's width; mmsegmentation: 256.
        dropout_rate: share of the fused map's channels that training drops.
        align_corners: of the upsampling inside the head; published: False.
        one_logit: of 2 classes, the first keeps the logit 0: the model of one logit and a sigmoid.

    Raises:
        UserError: no classes, or not such a backbone.
    """


class SegFormerLastStage(_EncoderDecoder, LastStageHead):
    """SegFormer that sees the encoder's last stage alone, an ablation of the paper.

    Called with a normalised image (N, C, H, W) it returns logits (N, K, ceil(H / 4), ceil(W / 4)).

    Args:
        num_classes: K, number of classes.
        backbone: returns four maps at strides 4, 8, 16, 32, as a `MixVisionTransformer` does.
        embedding_dim: D, the head's width; the paper's, by its costs: 768.
        dropout_rate: share of the map's channels that training drops.
        align_corners: of the upsampling inside the head.
        one_logit: of 2 classes, the first keeps the logit 0: the model of one logit and a sigmoid.

    Raises:
        UserError: no classes, or not such a backbone.
    """
