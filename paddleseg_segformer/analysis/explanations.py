"""Why a network predicts a class at a pixel, or where it does: by gradients, and by occlusion.

Gradient-weighted attention: the weights of an attention layer times the gradient of the class's
logit with respect to them, its positive part, mean over heads and sum over queries: how much the
class owes to each key. Occlusion: how much the class's probability falls when a square of the image
is covered with the mean colour.

Source: Chefer et al., "Generic Attention-model Explainability", 2021, equation 5 (one layer of it);
Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2014, section 4.2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_segformer.analysis.attention_maps import attention_layer, inputs_of
from paddleseg_segformer.errors import UserError


class Target(NamedTuple):
    """What is explained.

    Args:
        class_id: The class.
        mask: Places of the logits that count, their mean, (h, w) float32 of 0 and 1.
    """

    class_id: int
    mask: np.ndarray

    def mean(self, maps: Tensor) -> Tensor:
        """Return the mean of the class's map over the places, (N, K, h, w) -> (N,)."""
        mask = paddle.to_tensor(self.mask / self.mask.sum()).astype(maps.dtype)
        return (maps[:, self.class_id] * mask).sum(axis=[1, 2])


def choose_target(
    model: nn.Layer, x: Tensor, pixel: tuple[int, int] | None, class_id: int | None = None
) -> Target:
    """Return the target of a pixel, or of all places that are predicted as a class.

    Args:
        model: In evaluation mode.
        x: (1, C, H, W), normalised.
        pixel: (y, x) in the network's input; None for all places of `class_id`.
        class_id: By default the one that is predicted at the pixel.

    Raises:
        UserError: no such class, or it is predicted nowhere.
    """
    with paddle.no_grad():
        logits = model(x)[0]  # (K, h, w)
    predicted = logits.argmax(axis=0).numpy()
    if class_id is not None and not 0 <= class_id < len(logits):
        raise UserError(f"--classes: found {class_id}, expected ids of 0 to {len(logits) - 1}.")
    if pixel is None:
        mask = predicted == class_id
        if not mask.any():
            raise UserError(
                f"--classes: class {class_id} is predicted nowhere in the image. Name a pixel too "
                "(--patch), or a class that is predicted."
            )
    else:
        sides = zip(pixel, x.shape[2:], predicted.shape, strict=True)
        place = tuple(position * cells // side for position, side, cells in sides)
        mask = np.zeros(predicted.shape, bool)
        mask[place] = True
        class_id = int(predicted[place]) if class_id is None else class_id
    assert class_id is not None
    return Target(class_id, mask.astype(np.float32))


class Relevance(NamedTuple):
    """How much squares of the image count.

    Args:
        values: (h, w).
        square_px: Side of the square of px that each value stands for.
    """

    values: np.ndarray
    square_px: int


def gradient_attention(model: nn.Layer, x: Tensor, target: Target, layer: int = -1) -> Relevance:
    """Return the gradient-weighted attention that the keys of a layer get.

    Args:
        model: With a MixVisionTransformer or VisionTransformer, in evaluation mode.
        x: (1, C, H, W), normalised.
        target: See `choose_target`.
        layer: Index of a block over the whole encoder; negative from the last.

    Raises:
        UserError: no such layer.
    """
    encoder: Any = model.backbone
    chosen = attention_layer(encoder, layer)
    _, (h, w) = inputs_of(chosen, encoder, x)
    attention: Any = chosen.attention
    attention.kept = []
    try:
        with paddle.enable_grad():
            x = x.detach()
            x.stop_gradient = False  # else nothing has a gradient where weights are frozen
            logit = target.mean(model(x)).sum()
            (weights,) = attention.kept  # (1, M, L, S)
            weights.retain_grads()
            logit.backward()
    finally:
        attention.kept = None
        model.clear_gradients(set_to_zero=False)
    relevance = F.relu(weights.detach() * weights.grad).mean(axis=1).sum(axis=1)[0]  # (S,)
    ratio = chosen.key_px // chosen.token_px
    keys = relevance[chosen.num_class_tokens :].reshape([h // ratio, w // ratio])
    return Relevance(keys.numpy(), chosen.key_px)


@paddle.no_grad()
def occlusion(model: nn.Layer, x: Tensor, target: Target, square_px: int = 32) -> Relevance:
    """Return by how much the class's probability falls where each square is covered.

    Args:
        model: In evaluation mode.
        x: (1, C, H, W), normalised; a square is covered with 0, the mean colour.
        target: See `choose_target`.
        square_px: Side of the squares, which lie edge to edge from the top left.
    """

    def probability(images: Tensor) -> np.ndarray:
        found: np.ndarray = target.mean(F.softmax(model(images), axis=1)).numpy()
        return found

    height, width = x.shape[2:]
    before = float(probability(x)[0])
    rows, columns = -(-height // square_px), -(-width // square_px)
    values = np.zeros((rows, columns))
    for row in range(rows):
        for column in range(columns):
            covered = x.clone()
            top, left = row * square_px, column * square_px
            covered[:, :, top : top + square_px, left : left + square_px] = 0.0
            values[row, column] = before - probability(covered)[0]
    return Relevance(values, square_px)
