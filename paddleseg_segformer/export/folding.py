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
from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models.layers import project
from paddleseg_segformer.models.segformer import AllMLPHead, MMHead, upsampled_sum
from paddleseg_segformer.models.segmenter import Segmenter


class Affine(NamedTuple):
    """The map x -> x @ weight + bias on channels; (C, D) and (D,), float64."""

    weight: np.ndarray
    bias: np.ndarray


class Projection(nn.Layer):
    """A 1x1 convolution: (N, C, h, w) -> (N, D, h, w)."""

    def __init__(self, affine: Affine) -> None:
        super().__init__()
        self.weight = _parameter(self, affine.weight)
        self.bias = _parameter(self, affine.bias.reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return project(x, self.weight) + self.bias


class FoldedSegFormer(nn.Layer):
    """A SegFormer that gives the same logits as the model it was made from, for inference only.

    Args:
        backbone: The model's backbone itself, not a copy.
        branches: mmsegmentation's head: each stage's convolution and batch norm; else empty.
        projections: A_i of each stage, (C_i, D).
        shift: c, (D,).
        classifier: The model's last layer itself.
        align_corners: Of the upsampling inside the head.
    """

    def __init__(
        self,
        backbone: nn.Layer,
        branches: Sequence[Affine],
        projections: Sequence[np.ndarray],
        shift: np.ndarray,
        classifier: nn.Layer,
        align_corners: bool,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.branches = nn.LayerList([Projection(affine) for affine in branches])
        self.projections = nn.ParameterList([_parameter(self, array) for array in projections])
        self.shift = _parameter(self, shift.reshape(1, -1, 1, 1))
        self.classifier = classifier
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) normalised image -> (N, K, ceil(H / 4), ceil(W / 4)) logits."""
        features = self.backbone(x)
        maps = []
        for stage in range(4):
            feature = features[stage]
            if len(self.branches) > 0:
                feature = F.relu(self.branches[stage](feature))
            maps.append(project(feature, self.projections[stage]))  # (N, D, h_i, w_i)
        return self.classifier(F.relu(upsampled_sum(maps, self.align_corners) + self.shift))


def fold(model: nn.Layer) -> nn.Layer:
    """Return `model` with its head folded; backbone and classifier are shared with it.

    The model's weights are not changed. Later changes of them do not reach the folded head. A
    Segmenter is returned as it is.

    Raises:
        UserError: another kind of model.
    """
    if isinstance(model, Segmenter):
        return model
    if isinstance(model, AllMLPHead):
        branches, projections, shift = _fold_all_mlp(model)
    elif isinstance(model, MMHead):
        branches, projections, shift = _fold_mm(model)
    else:
        raise UserError(
            f"model {type(model).__name__} cannot be exported; expected SegFormer, SegFormerMM, "
            "LinearSegmenter or MaskSegmenter."
        )
    folded = FoldedSegFormer(
        model.backbone, branches, projections, shift, model.linear_pred, model.align_corners
    )
    folded.eval()
    return folded


Folded = tuple[list[Affine], list[np.ndarray], np.ndarray]


def _fold_all_mlp(head: AllMLPHead) -> Folded:
    gain, shift = _batch_norm(head.linear_fuse[1])
    slices = np.split(_matrix(head.linear_fuse[0]), 4, axis=0)[::-1]  # (D, D), stage 1 first
    projections = []
    for stage, fuse in enumerate(slices, start=1):
        linear = getattr(head, f"linear_c{stage}").proj
        projections.append(_array(linear.weight) @ fuse * gain)
        shift = shift + _array(linear.bias) @ fuse * gain
    return [], projections, shift


def _fold_mm(head: MMHead) -> Folded:
    branches = []
    for conv, batch_norm in head.convs:
        gain, shift = _batch_norm(batch_norm)
        branches.append(Affine(_matrix(conv) * gain, shift))
    gain, shift = _batch_norm(head.fusion_conv[1])
    slices = np.split(_matrix(head.fusion_conv[0]), 4, axis=0)  # (D, D), stage 1 first
    return branches, [fuse * gain for fuse in slices], shift


def _batch_norm(layer: nn.BatchNorm2D) -> tuple[np.ndarray, np.ndarray]:
    """Return gain and shift (D,) of a batch norm with its running statistics."""
    gain = _array(layer.weight) / np.sqrt(_array(layer._variance) + layer._epsilon)
    return gain, _array(layer.bias) - _array(layer._mean) * gain


def _matrix(conv: nn.Conv2D) -> np.ndarray:
    """Return the weight of a 1x1 convolution as (inputs, outputs)."""
    return _array(conv.weight)[:, :, 0, 0].T


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.astype("float32").numpy().astype(np.float64)


def _parameter(layer: nn.Layer, array: np.ndarray) -> Tensor:
    """Return a float32 parameter that holds `array`."""
    parameter = layer.create_parameter(list(array.shape), dtype="float32")
    parameter.set_value(paddle.to_tensor(array.astype(np.float32)))
    return parameter
