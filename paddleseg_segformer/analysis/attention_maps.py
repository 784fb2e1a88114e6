"""The attention of one patch, and the class maps of a mask transformer, drawn over the image.

Maps have one value per patch; `heat_picture` draws each as a square over the network's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import paddle
from paddle import Tensor, nn

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.overlay import displayable
from paddleseg_segformer.inference.preprocess import SizeStep
from paddleseg_segformer.models.mix_transformer import PATCH_STRIDES, MixVisionTransformer

HEAT_ALPHA = 0.6
MARK = (255, 0, 0)  # RGB of the query patch's frame


class PatchAttention(NamedTuple):
    """Attention of one query patch in one layer.

    Args:
        weights: (M, h, w), one map per head; each sums to 1, less what goes to the class token.
        layer: The block's index over the whole encoder.
        query_px: Side of the query patch in px.
        key_px: Side of the square of px that one value of a map covers.
        query: (row, column) of the query patch.
    """

    weights: np.ndarray
    layer: int
    query_px: int
    key_px: int
    query: tuple[int, int]


class AttentionLayer(NamedTuple):
    """One attention layer of an encoder and the grids it works on.

    Args:
        block: Index of its block over the whole encoder.
        token_px, query_px, key_px: side of the square of px that a token, query, key stands for.
    """

    block: int
    attention: nn.Layer
    token_px: int
    query_px: int
    key_px: int
    num_class_tokens: int


def patch_attention(
    encoder: nn.Layer, x: Tensor, pixel: tuple[int, int], layer: int = -1
) -> PatchAttention:
    """Return the attention of the patch that holds a pixel.

    Args:
        encoder: MixVisionTransformer or VisionTransformer, in evaluation mode.
        x: (1, C, H, W), normalised.
        pixel: (y, x) in the network's input.
        layer: Index of a block over the whole encoder; negative from the last.

    Raises:
        UserError: no such layer, or the pixel is outside the image.
    """
    chosen = attention_layer(encoder, layer)
    height, width = x.shape[2:]
    if not (0 <= pixel[0] < height and 0 <= pixel[1] < width):
        raise UserError(
            f"patch: found y {pixel[0]}, x {pixel[1]}, expected a pixel of the {height}x{width} "
            "image."
        )
    inputs, (h, w) = inputs_of(chosen, encoder, x)
    merge, ratio = chosen.query_px // chosen.token_px, chosen.key_px // chosen.token_px
    row, column = (
        min(position // chosen.token_px, side - 1) // merge
        for position, side in zip(pixel, (h, w), strict=True)
    )
    token = chosen.num_class_tokens + row * -(-w // merge) + column
    with paddle.no_grad():
        weights = chosen.attention.weights(*inputs, rows=slice(token, token + 1))  # (1, M, 1, S)
    maps = weights[0, :, 0, chosen.num_class_tokens :].reshape([-1, h // ratio, w // ratio])
    return PatchAttention(maps.numpy(), chosen.block, chosen.query_px, chosen.key_px, (row, column))


def attention_layer(encoder: nn.Layer, layer: int) -> AttentionLayer:
    """Return an attention layer by the index of its block over the whole encoder; -1: the last.

    Raises:
        UserError: no such layer, or another kind of encoder.
    """
    layers = _layers(encoder)
    if not -len(layers) <= layer < len(layers):
        raise UserError(
            f"layer: found {layer}, expected 0 to {len(layers) - 1}, or -1 for the last."
        )
    return layers[layer]


def _layers(encoder: nn.Layer) -> list[AttentionLayer]:
    """List an encoder's attention layers from the first to the last."""
    if hasattr(encoder, "blocks"):
        patch = encoder.patch_size
        blocks = enumerate(encoder.blocks)
        return [AttentionLayer(i, block.attn, patch, patch, patch, 1) for i, block in blocks]
    if not isinstance(encoder, MixVisionTransformer):
        raise UserError(
            f"backbone {type(encoder).__name__}: its attention is not known here, expected a "
            "MixVisionTransformer or a VisionTransformer."
        )
    layers: list[AttentionLayer] = []
    stride = 1
    for stage, step in enumerate(PATCH_STRIDES, start=1):
        stride *= step
        for block in getattr(encoder, f"block{stage}"):
            sides = (stride, stride * block.attn.merge, stride * block.attn.sr_ratio)
            layers.append(AttentionLayer(len(layers), block.attn, *sides, 0))
    return layers


def inputs_of(
    layer: AttentionLayer, encoder: nn.Layer, x: Tensor
) -> tuple[tuple[Any, ...], tuple[int, int]]:
    """Run the encoder; return what the layer was given, and the sides of its map."""
    captured: list[tuple[Any, ...]] = []

    def capture(_: nn.Layer, inputs: tuple[Any, ...]) -> None:
        captured.append(inputs)

    handle = layer.attention.register_forward_pre_hook(capture)
    try:
        with paddle.no_grad():
            features = encoder(x)
    finally:
        handle.remove()
    (inputs,) = captured
    if len(inputs) > 1:  # MiT gives the sides of the map too
        return inputs, (inputs[1][0], inputs[1][1])
    return inputs, (features.shape[2], features.shape[3])


def has_class_maps(model: Any) -> bool:
    """Return whether a model compares patches with class embeddings."""
    return hasattr(getattr(model, "head", None), "class_maps")


def class_maps(model: nn.Layer, x: Tensor) -> np.ndarray:
    """Return a mask transformer's cosine of each class and patch, (K, h, w) in -1..1.

    Args:
        model: MaskSegmenter in evaluation mode.
        x: (1, C, H, W), normalised.

    Raises:
        UserError: a model without class embeddings.
    """
    head: Any = getattr(model, "head", None)
    if not has_class_maps(model):
        raise UserError(
            f"class maps: a {type(model).__name__} has no class embeddings, a MaskSegmenter has."
        )
    with paddle.no_grad():
        tokens, (h, w) = model.backbone.encode(x)
        maps = head.class_maps(tokens[:, 1:])[0]  # (L, K)
    return maps.transpose([1, 0]).reshape([-1, h, w]).numpy()


def pixel_in_input(
    pixel: tuple[int, int], steps: Sequence[SizeStep], input_hw: tuple[int, int]
) -> tuple[int, int]:
    """Return where a pixel (y, x) of the original image lies after its size rules.

    Args:
        steps: The steps of the size rules.
        input_hw: Size after the last.
    """
    sizes = [step.before_hw for step in steps] + [input_hw]
    y, x = pixel
    for step, (height, width) in zip(steps, sizes[1:], strict=True):
        if not step.pads:
            y = (2 * y + 1) * height // (2 * step.before_hw[0])
            x = (2 * x + 1) * width // (2 * step.before_hw[1])
    return y, x


def heat_picture(
    image: np.ndarray, values: np.ndarray, value_px: int, limits: tuple[float, float]
) -> np.ndarray:
    """Return the image (H, W, C) under a heat map, RGB uint8.

    Args:
        values: (h, w), one for each square of `value_px` px from the top left; the rest of the
            image is unchanged.
        limits: Values of the coldest and the hottest colour.
    """
    picture = displayable(image)
    low, high = limits
    scaled = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    colors = cv2.applyColorMap(np.rint(255 * scaled).astype(np.uint8), cv2.COLORMAP_INFERNO)
    squares = np.repeat(np.repeat(colors[:, :, ::-1], value_px, axis=0), value_px, axis=1)
    squares = squares[: picture.shape[0], : picture.shape[1]]
    part = picture[: squares.shape[0], : squares.shape[1]]
    blended = cv2.addWeighted(part, 1 - HEAT_ALPHA, np.ascontiguousarray(squares), HEAT_ALPHA, 0)
    picture = picture.copy()
    picture[: squares.shape[0], : squares.shape[1]] = blended
    return picture


def attention_picture(image: np.ndarray, attention: PatchAttention, head: int | None) -> np.ndarray:
    """Return one head's map, or the mean over the heads, over the image; the query is framed."""
    values = attention.weights.mean(axis=0) if head is None else attention.weights[head]
    picture = heat_picture(image, values, attention.key_px, (0.0, float(values.max())))
    side = attention.query_px
    top, left = attention.query[0] * side, attention.query[1] * side
    cv2.rectangle(picture, (left, top), (left + side - 1, top + side - 1), MARK, 1)
    return picture
