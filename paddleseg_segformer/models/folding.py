"""SegFormer for inference: fuse convolution and batch norms merged into one matrix per stage.

In inference a batch norm is the affine map x -> g x + (beta - mean g), g = gamma / sqrt(var + eps).
With U the upsampling and F_i the fuse matrix of stage i (see `models.segformer`), the canonical
head before its classifier is

    ReLU(sum_i U(A_i x_i) + c),  A_i = diag(g) F_i W_i,  c = beta - mean g + diag(g) sum_i F_i b_i

and mmsegmentation's, whose own batch norms and ReLUs stay in front of the upsampling, is

    ReLU(sum_i U(A_i ReLU(W_i' x_i + b_i')) + c),  A_i = diag(g) F_i,  c = beta - mean g

with W_i' and b_i' holding the branch's batch norm. Products are formed in float64. Segmenter has
nothing to merge.

Shapes: N batch, C_i channels of stage i, D head width, K classes, h w the sides of stage 1's map.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import paddle
from paddle import Tensor, nn

from paddleseg_segformer.contracts import Backbone, SegmentationModel, check, input_of
from paddleseg_segformer.models.affine import (
    Affine,
    array,
    bias_of,
    channel_slices,
    conv_weight,
)
from paddleseg_segformer.models.folded_encoder import FoldedConv, FoldedEncoder, sum_parts
from paddleseg_segformer.models.layers import are_plain, has_hooks, is_conv, relu, upsample
from paddleseg_segformer.models.mix_transformer import MixVisionTransformer
from paddleseg_segformer.models.segformer import (
    AllMLPHead,
    MMHead,
    SegFormer,
    SegFormerMM,
    are_plain_linears,
    is_plain_fuse,
)

HEAD_WIDTH = 64  # channels of the head at a time


class FoldedHead(nn.Layer):
    """What a head does for some of its D channels: their sum over the stages, ReLU, classifier.

    Args:
        projections: A_i of each stage, (C_i, d).
        shift: c, (d,).
        classifier: The classifier's weight of these channels (d, K) and its bias or zeros (K,).
        align_corners: Of the upsampling.
    """

    def __init__(
        self,
        projections: Sequence[Tensor],
        shift: Tensor,
        classifier: Affine,
        align_corners: bool,
    ) -> None:
        super().__init__()
        # stage 1 has the shift and comes last: backends add the others and apply ReLU while they
        # compute it
        self.largest = FoldedConv(conv_weight(projections[0]), shift)
        self.smaller = nn.LayerList([FoldedConv(conv_weight(item)) for item in projections[1:]])
        self.classifier = FoldedConv(conv_weight(classifier.weight), classifier.bias)
        self.align_corners = align_corners

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Four (N, C_i, h_i, w_i) maps -> (N, K, h, w), these channels' part of the logits."""
        hw = features[0].shape[2:]
        total = None
        for stage in (3, 2, 1):
            small = self.smaller[stage - 1](features[stage])  # (N, d, h_i, w_i)
            resized = upsample(small, hw, self.align_corners)
            total = resized if total is None else total + resized
        return self.classifier(relu(total + self.largest(features[0])))


class UnfoldedHead(nn.Layer):
    """A model whose head has layers of other kinds, on a folded encoder: they are called.

    Args:
        encoder: Gives the four maps.
        model: Its head is used.
    """

    def __init__(self, encoder: nn.Layer, model: nn.Layer) -> None:
        super().__init__()
        self.encoder = encoder
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) normalised image -> (N, K, h, w) logits."""
        return self.model.decode(self.encoder(x))


class FoldedSegFormer(nn.Layer):
    """A SegFormer that gives the same logits as the model it was made from, for inference only.

    The head is computed for `HEAD_WIDTH` of its D channels at a time, so that their maps, which
    have a sixteenth of the image's pixels, stay in the cache.

    Args:
        encoder: Gives the four maps.
        branches: mmsegmentation's head: each stage's convolution and batch norm; else empty.
        heads: The head, in parts.
    """

    def __init__(
        self, encoder: nn.Layer, branches: Sequence[Affine], heads: Sequence[FoldedHead]
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.branches = nn.LayerList(
            [FoldedConv(conv_weight(affine.weight), affine.bias) for affine in branches]
        )
        self.heads = nn.LayerList(heads)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) normalised image -> (N, K, ceil(H / 4), ceil(W / 4)) logits."""
        features = self.encoder(x)
        if len(self.branches) > 0:
            features = [relu(self.branches[stage](features[stage])) for stage in range(4)]
        return sum_parts([head(features) for head in self.heads])


def fold(model: nn.Layer, has_query_blocks: bool = False, is_trainable: bool = False) -> nn.Layer:
    """Return a network that gives the model's logits in the form that backends run fastest.

    The model's weights are not changed. Later changes of them do not reach the folded network.
    Other models than SegFormer and SegFormerMM are returned as they are, and blocks or a head with
    layers of other kinds, or with hooks, are not folded: their layers are called.

    Args:
        model: SegFormer, SegFormerMM, a Segmenter or another `contracts.SegmentationModel`.
        has_query_blocks: MiT's attention takes the queries in blocks, for backends that do not fuse
            it themselves.
        is_trainable: The model's weights get gradients by the network's output.

    Raises:
        UserError: another kind of model.
    """
    check_exportable(model)
    with nullcontext() if is_trainable else paddle.no_grad():
        return _folded(model, has_query_blocks)


def _folded(model: nn.Layer, has_query_blocks: bool) -> nn.Layer:
    if type(model) not in (SegFormer, SegFormerMM):
        return model
    encoder = model.backbone
    if type(encoder) is MixVisionTransformer and not has_hooks(encoder):
        encoder = FoldedEncoder(encoder, has_query_blocks)
    if not _is_foldable_head(model):
        return UnfoldedHead(encoder, model)
    fold_head = _fold_all_mlp if isinstance(model, AllMLPHead) else _fold_mm
    branches, projections, shift = fold_head(model)
    heads = _heads(projections, shift, model.linear_pred, model.align_corners)
    return FoldedSegFormer(encoder, branches, heads)


def _is_foldable_head(head: AllMLPHead | MMHead) -> bool:
    """Tell whether the weights of a head say all that it does; see `are_plain`."""
    if not are_plain(head.dropout) or not is_conv(head.linear_pred, 1):
        return False
    if isinstance(head, AllMLPHead):
        linears = [getattr(head, f"linear_c{stage}") for stage in range(1, 5)]
        is_plain, fuses = are_plain_linears(linears), [head.linear_fuse]
    else:
        is_plain, fuses = True, [*head.convs, head.fusion_conv]
    return is_plain and all(is_plain_fuse(item) and are_plain(item[1]) for item in fuses)


def check_exportable(model: nn.Layer) -> None:
    """Refuse what is no segmentation model, or does not say which images it takes.

    Raises:
        UserError: it is one of these.
    """
    name = type(model).__name__
    kinds = "SegFormer, SegFormerMM, LinearSegmenter, MaskSegmenter or a model of your own"
    check(model, SegmentationModel, f"model {name} cannot be exported; expected {kinds}, but it")
    check(
        input_of(model),
        Backbone,
        f"model {name} cannot be exported: {type(input_of(model)).__name__}",
    )


def _heads(
    projections: Sequence[Tensor], shift: Tensor, classifier: nn.Conv2D, align_corners: bool
) -> list[FoldedHead]:
    """Return the head in parts; the first one's classifier has the bias."""
    weight, bias = _matrix(classifier), bias_of(classifier)
    return [
        FoldedHead(
            [projection[:, channels] for projection in projections],
            shift[channels],
            Affine(weight[channels], bias if channels.start == 0 else paddle.zeros_like(bias)),
            align_corners,
        )
        for channels in channel_slices(shift.shape[0], HEAD_WIDTH)
    ]


Folded = tuple[list[Affine], list[Tensor], Tensor]


def _fold_all_mlp(head: AllMLPHead) -> Folded:
    gain, shift = _batch_norm(head.linear_fuse[1])
    slices = _matrix(head.linear_fuse[0]).chunk(4, axis=0)[::-1]  # (D, D), stage 1 first
    projections = []
    for stage, fuse in enumerate(slices, start=1):
        linear = getattr(head, f"linear_c{stage}").proj
        projections.append(paddle.matmul(array(linear.weight), fuse) * gain)
        shift = shift + paddle.matmul(bias_of(linear), fuse) * gain
    return [], projections, shift


def _fold_mm(head: MMHead) -> Folded:
    branches = []
    for conv, batch_norm in head.convs:
        gain, shift = _batch_norm(batch_norm)
        branches.append(Affine(_matrix(conv) * gain, shift))
    gain, shift = _batch_norm(head.fusion_conv[1])
    slices = _matrix(head.fusion_conv[0]).chunk(4, axis=0)  # (D, D), stage 1 first
    return branches, [fuse * gain for fuse in slices], shift


def _batch_norm(layer: nn.BatchNorm2D) -> tuple[Tensor, Tensor]:
    """Return gain and shift (D,) of a batch norm with its running statistics."""
    gain = array(layer.weight) / (array(layer._variance) + layer._epsilon).sqrt()
    return gain, array(layer.bias) - array(layer._mean) * gain


def _matrix(conv: nn.Conv2D) -> Tensor:
    """Return the weight of a 1x1 convolution as (inputs, outputs)."""
    return array(conv.weight).flatten(1).transpose([1, 0])
