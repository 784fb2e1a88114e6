"""Effective receptive fields: which pixels the centre of a map depends on, and how much.

The activations at the map's centre are summed over channels, after a ReLU; the field is the
gradient of that sum with respect to the image, its positive part ("relu") or its magnitude ("abs"),
summed over colours and averaged over images.

Source: Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural
Networks", 2016; with the ReLUs: Ding et al., "Scaling Up Your Kernels to 31x31", 2022. Which of the
two SegFormer's Figure 3 shows, its paper does not say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_segformer.errors import UserError

GRADIENTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda gradient: np.maximum(gradient, 0),
    "abs": np.abs,
}
MAPS = ("stage 1", "stage 2", "stage 3", "stage 4", "head")
SHARES = (0.2, 0.3, 0.5, 0.99)  # of a field's mass


def receptive_fields(
    model: nn.Layer, images: Iterable[np.ndarray], gradient: str = "relu"
) -> np.ndarray:
    """Return the fields of a SegFormer's stages and fused head map, (5, H, W) float64.

    Args:
        model: With a backbone of four maps and a classifier `linear_pred`, in evaluation mode.
        images: Normalised, (C, H, W) float32, all of one size.
        gradient: One of `GRADIENTS`.

    Raises:
        UserError: another kind of model, or no image.
    """
    if not hasattr(model, "linear_pred") or len(getattr(model.backbone, "feat_channels", ())) != 4:
        raise UserError(
            f"{type(model).__name__}: has no four stages and fused map, whose fields these are. "
            "Name a SegFormer."
        )
    total: Any = 0
    count = 0
    for image in images:
        total = total + _fields(model, image, GRADIENTS[gradient])
        count += 1
    if not count:
        raise UserError("receptive fields: found no image, expected one or more.")
    fields: np.ndarray = total / count
    return fields


def _fields(
    model: nn.Layer, image: np.ndarray, part: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return the fields of one image, (5, H, W)."""
    fields = []
    for index in range(len(MAPS)):  # a pass for each: own gradients can be taken once
        x = paddle.to_tensor(image[None])
        x.stop_gradient = False
        activation = _activation(model, x, index)
        centre = activation[:, :, activation.shape[2] // 2, activation.shape[3] // 2]
        F.relu(centre).sum().backward()
        fields.append(part(x.grad.numpy().astype(np.float64)).sum(axis=(0, 1)))
        model.clear_gradients()
    return np.stack(fields)


def _activation(model: nn.Layer, x: Tensor, index: int) -> Tensor:
    """Return the map of `MAPS[index]`, (1, C_i, h, w)."""
    features = model.backbone(x)
    if index < len(features):
        return features[index]
    fused: list[Tensor] = []
    hook = model.linear_pred.register_forward_pre_hook(lambda _, inputs: fused.append(inputs[0]))
    try:
        model.decode(features)
    finally:
        hook.remove()
    return fused[0]


def side_of(field: np.ndarray, shares: Sequence[float] = SHARES) -> list[int | None]:
    """Return the side in px of the smallest square round the centre that holds each share.

    None where no square within the image does; all None for a field of zeros.

    Args:
        field: (H, W), 0 or more.
        shares: Of the field's mass.
    """
    height, width = field.shape
    rows, columns = abs(np.arange(height) - height // 2), abs(np.arange(width) - width // 2)
    distance = np.maximum(rows[:, None], columns[None])
    mass = np.bincount(distance.ravel(), field.ravel()).cumsum()
    largest = min(height, width) // 2  # beyond, the square would leave the image
    sides: list[int | None] = []
    for share in shares:
        is_held = mass[: largest + 1] >= share * mass[-1] * (1 - 1e-12)
        found = mass[-1] > 0 and is_held.any()
        sides.append(2 * int(is_held.argmax()) + 1 if found else None)
    return sides


def shown(field: np.ndarray) -> np.ndarray:
    """Return a field as pictures show it, 0..1: logarithmic over three powers of ten.

    It does not depend on the field's scale, unlike log10(field + 1).
    """
    largest = field.max()
    relative = field / largest if largest > 0 else field
    scaled: np.ndarray = np.log10(1 + 999 * relative) / 3
    return scaled
