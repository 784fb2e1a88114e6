"""Products, convolutions, norms, pooling and resizing.

Shapes: N batch, C channels, L tokens, M heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paddleseg_segformer.export.paddle_to_onnx.arrangement import channels_first
from paddleseg_segformer.export.paddle_to_onnx.elementwise import Writer
from paddleseg_segformer.export.paddle_to_onnx.graph import EXTENSIONS, Graph, Unwritable, Value
from paddleseg_segformer.export.paddle_to_onnx.program import Operator, TensorType

HEADS_FIRST, HEADS_FIRST_TURNED = [0, 2, 1, 3], [0, 2, 3, 1]  # of (N, L, M, D)
RESIZE_MODES = {"nearest_interp": "nearest", "bilinear_interp": "linear", "bicubic_interp": "cubic"}
CUBIC = -0.75  # Paddle's, and ONNX's default


def matmul(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write a product of matrices; the second one of attention becomes attention."""
    names = []
    for key, value in zip(("transpose_x", "transpose_y"), inputs, strict=True):
        name = graph.tensor(value)
        rank = len(graph.shape(name))
        if op.attributes.get(key) and rank > 1:
            name = graph.transposed(name, [*range(rank - 2), rank - 1, rank - 2])
        names.append(name)
    attention = None if graph.is_standard else _attention(graph, *names)
    return graph.node("MatMul", *names) if attention is None else attention


def _attention(graph: Graph, weights: str, v: str) -> str | None:
    """Write softmax(q k) v on heads of tokens as one operator, ONNX Runtime's.

    ONNX Runtime computes the plain form operator by operator: it writes the scores, 268 MB for
    the first stage at 1024x1024, and reads them again three times. Its own operator takes the
    queries in blocks and never holds the scores. OpenVINO reads it too and makes of it what it
    makes of the plain form. Other readers of ONNX may not know it.

    Args:
        weights: (N, M, L, S).
        v: (N, M, S, D).

    Returns:
        (N, M, L, D); None if the values are not made from (N, L, M, D), as they usually are.
    """
    softmax = graph.made_by(weights, "Softmax")
    scores = graph.made_by(softmax.input[0], "MatMul") if softmax is not None else None
    if softmax is None or scores is None or softmax.attribute[0].i not in (-1, 3):
        return None
    _, num_heads, _, width = graph.shape(v) if len(graph.shape(v)) == 4 else [-1] * 4
    if min(num_heads, width) < 0:
        return None
    operands = []
    perms = (HEADS_FIRST, HEADS_FIRST_TURNED, HEADS_FIRST)
    for name, perm in zip((*scores.input, v), perms, strict=True):
        turned = graph.made_by(name, "Transpose")
        if turned is None or list(turned.attribute[0].ints) != perm:
            return None
        operands.append(graph.reshaped(turned.input[0], [0, 0, num_heads * width]))
    arguments = {"num_heads": num_heads, "scale": 1.0}  # what scale there is is in the operands
    out = graph.node("MultiHeadAttention", *operands, domain=EXTENSIONS, **arguments)
    graph.declare(out, TensorType("float32", [-1, -1, num_heads * width]))  # (N, L, M * D)
    return graph.transposed(graph.reshaped(out, [0, 0, num_heads, width]), HEADS_FIRST)


def conv2d(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write a convolution, or a transposed one."""
    channels_first(op)
    x, weight = map(graph.tensor, inputs[:2])
    attributes, op_type = op.attributes, "Conv"
    extra: dict[str, Any] = {}
    if op.name.endswith("conv2d_transpose"):
        if len(inputs) > 2 and inputs[2] is not None and graph.sizes(inputs[2]):
            raise Unwritable("with output_size")
        if attributes["padding_algorithm"] == "SAME":
            raise Unwritable("with padding SAME")
        op_type = "ConvTranspose"
        extra = {"output_padding": attributes["output_padding"] or [0, 0]}
    return graph.node(
        op_type,
        x,
        weight,
        kernel_shape=graph.shape(weight)[2:],
        strides=attributes["strides"],
        dilations=attributes["dilations"],
        group=attributes["groups"],
        **_padding(op),
        **extra,
    )


def _padding(op: Operator) -> dict[str, Any]:
    """Return padding as ONNX has it: top, left, bottom, right."""
    algorithm, pads = op.attributes["padding_algorithm"], op.attributes["paddings"]
    if algorithm == "SAME":
        return {"auto_pad": "SAME_UPPER"}
    if algorithm == "VALID":
        pads = [0, 0]
    if len(pads) == 4:  # top, bottom, left, right
        return {"pads": [pads[0], pads[2], pads[1], pads[3]]}
    return {"pads": [*pads, *pads]}


def layer_norm(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write a layer norm."""
    x, gain, shift = inputs
    name, axis = graph.tensor(x), op.attributes["begin_norm_axis"]
    shape = graph.shape(name)[axis:]
    if gain is None:
        if min(shape) < 0:
            raise Unwritable("without a weight, over sides of unknown length")
        gain = graph.constant(np.ones(shape, np.float32))
    operands = [graph.tensor(value) for value in (gain, shift) if value is not None]
    if len(shape) > 1:
        operands = [graph.reshaped(operand, shape) for operand in operands]
    epsilon = op.attributes["epsilon"]
    return graph.node("LayerNormalization", name, *operands, axis=axis, epsilon=epsilon)


def batch_norm(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write a batch norm with its running statistics."""
    channels_first(op)
    x, mean, variance, gain, shift = map(graph.tensor, inputs)
    operands = (x, gain, shift, mean, variance)
    return graph.node("BatchNormalization", *operands, epsilon=op.attributes["epsilon"])


def group_norm(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write a group norm as an instance norm of groups."""
    channels_first(op)
    x, groups = graph.tensor(inputs[0]), op.attributes["groups"]
    sides = graph.sides(x)
    parts = graph.reshaped(x, [0, groups, -1])
    one, zero = (graph.constant(np.full(groups, value, np.float32)) for value in (1, 0))
    epsilon = op.attributes["epsilon"]
    normed = graph.node("InstanceNormalization", parts, one, zero, epsilon=epsilon)
    out = graph.node("Reshape", normed, graph.vector(sides))
    per_channel = [-1, *[1] * (len(sides) - 2)]
    for op_type, value in (("Mul", inputs[1]), ("Add", inputs[2])):
        if value is not None:
            out = graph.node(op_type, out, graph.reshaped(graph.tensor(value), per_channel))
    return out


def instance_norm(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write an instance norm."""
    x = graph.tensor(inputs[0])
    channels = graph.shape(x)[1]
    operands = [
        graph.constant(np.full(channels, missing, np.float32)) if value is None else value
        for value, missing in zip(inputs[1:3], (1, 0), strict=True)
    ]
    names = map(graph.tensor, operands)
    return graph.node("InstanceNormalization", x, *names, epsilon=op.attributes["epsilon"])


def pool2d(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write pooling over windows, the whole map, or a grid of equal parts of it."""
    channels_first(op)
    x, attributes = graph.tensor(inputs[0]), op.attributes
    window = graph.numbers(inputs[1]) if len(inputs) > 1 else attributes["kernel_size"]
    is_max = attributes.get("pooling_type", "max") == "max"
    if attributes["global_pooling"] or (attributes["adaptive"] and window == [1, 1]):
        return graph.node("GlobalMaxPool" if is_max else "GlobalAveragePool", x)
    strides, padding = attributes["strides"], {"pads": [0, 0, 0, 0]}
    if attributes["adaptive"]:
        window = strides = _equal_parts(graph.shape(x)[2:], window)
    elif "padding_algorithm" in attributes:
        padding = _padding(op)
    else:
        padding = {"pads": [*attributes["paddings"], *attributes["paddings"]]}
    is_raised = attributes["ceil_mode"]
    slack = [side - stride for side, stride in zip(window, strides, strict=True)]
    if is_raised and min(slack) < max(padding.get("pads", [0])):
        raise Unwritable("with ceil_mode and windows that may lie outside the map")
    options: dict[str, Any] = {"ceil_mode": int(is_raised), **padding}
    if not is_max:
        options["count_include_pad"] = int(not attributes["exclusive"])
    op_type = "MaxPool" if is_max else "AveragePool"
    return graph.node(op_type, x, kernel_shape=window, strides=strides, **options)


def _equal_parts(sides: Sequence[int], grid: Sequence[int]) -> list[int]:
    """Return the sides of the parts of a map that a grid cuts it into."""
    if any(side < 0 or side % number for side, number in zip(sides, grid, strict=True)):
        raise Unwritable(
            f"to {grid[0]}x{grid[1]} of a map whose sides are unknown or no multiple of these"
        )
    return [side // number for side, number in zip(sides, grid, strict=True)]


def interpolate(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write resizing of a map, (N, C, h, w)."""
    channels_first(op)
    x, sides, size_list, scales = inputs
    name, attributes = graph.tensor(x), op.attributes
    mode = RESIZE_MODES[op.name]
    options: dict[str, Any] = {"mode": mode, **_positions(mode, attributes)}
    hw = [attributes["out_h"], attributes["out_w"]]
    if size_list is not None or sides is not None:
        hw = graph.sizes(sides if size_list is None else size_list)
    elif scales is not None:
        raise Unwritable("with scales that are computed")
    elif attributes["scale"]:
        factors = [1, 1, *attributes["scale"]]
        return graph.node("Resize", name, "", graph.constant(factors, "float32"), **options)
    target = graph.vector([*graph.sides(name)[:2], *hw])
    return graph.node("Resize", name, "", "", target, **options)


def _positions(mode: str, attributes: dict[str, Any]) -> dict[str, Any]:
    """Return where Paddle takes a pixel of the result from."""
    if attributes["align_corners"]:
        options = {"coordinate_transformation_mode": "align_corners"}
        return options | ({"nearest_mode": "round_prefer_ceil"} if mode == "nearest" else {})
    if mode == "nearest":
        return {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    is_asymmetric = mode == "linear" and attributes["align_mode"] == 1
    return {
        "coordinate_transformation_mode": "asymmetric" if is_asymmetric else "half_pixel",
        **({"cubic_coeff_a": CUBIC} if mode == "cubic" else {}),
    }


WRITERS: dict[str, Writer] = {
    "matmul": matmul,
    "bmm": matmul,
    "conv2d": conv2d,
    "depthwise_conv2d": conv2d,
    "conv2d_transpose": conv2d,
    "depthwise_conv2d_transpose": conv2d,
    "layer_norm": layer_norm,
    "batch_norm": batch_norm,
    "batch_norm_": batch_norm,
    "group_norm": group_norm,
    "instance_norm": instance_norm,
    "pool2d": pool2d,
    "max_pool2d_with_index": pool2d,
    **dict.fromkeys(RESIZE_MODES, interpolate),
}
