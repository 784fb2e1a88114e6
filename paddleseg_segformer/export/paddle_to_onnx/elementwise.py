"""Operators that act on each element for itself, and sums and the like over axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from paddleseg_segformer.export.paddle_to_onnx.graph import Graph, Sizes, Unwritable, Value
from paddleseg_segformer.export.paddle_to_onnx.program import Operator

Writer = Callable[[Graph, Operator, Sequence[Any]], Value]


def plain(op_type: str, **names: str) -> Writer:
    """Return the writer of an operator that ONNX has too.

    Args:
        names: What ONNX calls attributes, and what Paddle does.
    """

    def write(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
        attributes = {name: op.attributes[old] for name, old in names.items()}
        return graph.node(op_type, *map(graph.tensor, inputs), **attributes)

    return write


def arithmetic(op_type: str) -> Writer:
    """Return the writer of an operator on two tensors, which may be sizes."""

    def write(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
        first, second = inputs
        [result] = op.results[0].types
        if isinstance(first, Sizes) and isinstance(second, Sizes):
            length = max(len(first.items), len(second.items))
            a, b = (x.items * (length // len(x.items)) for x in (first, second))
            items = [graph.arithmetic(op_type, *pair) for pair in zip(a, b, strict=True)]
            return Sizes(items, len(result.shape), result.dtype)
        names = graph.tensor(first), graph.tensor(second)
        if op_type != "FloorDiv":
            return graph.node(op_type, *names)
        if result.dtype.startswith("float"):
            return graph.node("Floor", graph.node("Div", *names))
        return graph.floor_divided(*names)

    return write


def add(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write a sum; a convolution's bias becomes an operand of the convolution."""
    if not any(isinstance(value, Sizes) for value in inputs):
        x, bias = map(graph.tensor, inputs)
        conv = graph.made_by(x, "Conv") or graph.made_by(x, "ConvTranspose")
        if conv is not None and len(conv.input) == 2 and bias in graph.constants:
            array = graph.constants[bias]
            if array.size == graph.shape(x)[1] == array.shape[-3 % array.ndim]:
                return graph.with_inputs(conv, [*conv.input, graph.constant(array.reshape(-1))])
    return arithmetic("Add")(graph, op, inputs)


def scale(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write x * scale + bias, or (x + bias) * scale."""
    x, factor = inputs
    if (number := graph.constants.get(graph.tensor(factor))) is None:
        raise Unwritable("with a factor that is computed")
    steps = [("Mul", number.item(), 1), ("Add", op.attributes["bias"], 0)]
    for op_type, operand, neutral in steps if op.attributes["bias_after_scale"] else steps[::-1]:
        if operand == neutral:
            continue
        if isinstance(x, Sizes):
            if int(operand) != operand:
                raise Unwritable("of a size with a factor that is no whole number")
            x = x._replace(items=[graph.arithmetic(op_type, a, int(operand)) for a in x.items])
        else:
            dtype = op.results[0].types[0].dtype
            x = graph.node(op_type, graph.tensor(x), graph.constant(operand, dtype))
    return x


def cast(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write a change of type."""
    [x] = inputs
    [result] = op.results[0].types
    if isinstance(x, Sizes) and result.dtype in ("int32", "int64"):
        return x._replace(dtype=result.dtype)
    return graph.cast(graph.tensor(x), result.dtype)


def composed(steps: Callable[[Graph, str], str]) -> Writer:
    """Return the writer of an operator of one operand that ONNX spells in several."""
    return lambda graph, op, inputs: steps(graph, graph.tensor(inputs[0]))


def gelu(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write GELU as the operators that backends recognise and fuse."""
    x = graph.tensor(inputs[0])
    dtype = graph.types[x].dtype
    half, one, root = (graph.constant(value, dtype) for value in (0.5, 1, 2**0.5))
    if not op.attributes["approximate"]:
        raised = graph.node("Add", graph.node("Erf", graph.node("Div", x, root)), one)
        return graph.node("Mul", graph.node("Mul", x, raised), half)
    cubic, factor = (graph.constant(value, dtype) for value in (0.044715, (2 / np.pi) ** 0.5))
    cube = graph.node("Mul", graph.node("Mul", x, x), x)
    inner = graph.node("Add", x, graph.node("Mul", cube, cubic))
    raised = graph.node("Add", graph.node("Tanh", graph.node("Mul", inner, factor)), one)
    return graph.node("Mul", graph.node("Mul", x, raised), half)


def softplus(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write log(1 + exp(beta x)) / beta."""
    x, beta = graph.tensor(inputs[0]), op.attributes["beta"]
    if beta == 1:
        return graph.node("Softplus", x)
    factor = graph.constant(beta, graph.types[x].dtype)
    return graph.node("Div", graph.node("Softplus", graph.node("Mul", x, factor)), factor)


def clip(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write the limits of values, which are operands (clip) or attributes (hardtanh)."""
    x, *limits = map(graph.tensor, inputs)
    dtype = op.results[0].types[0].dtype
    if limits:
        numbers = [graph.constants.get(name) for name in limits]
        if any(number is None for number in numbers):
            raise Unwritable("with limits that are computed")
        low, high = (number.item() for number in numbers if number is not None)
    elif op.name == "relu6":
        low, high = 0, 6
    else:
        low, high = op.attributes["t_min"], op.attributes["t_max"]
    return graph.node("Clip", x, *(graph.constant(limit, dtype) for limit in (low, high)))


def prelu(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write PReLU with a slope for all elements, for a channel, or for each element."""
    x, slope = map(graph.tensor, inputs)
    if op.attributes["mode"] == "channel":
        ones = [1] * (len(graph.shape(x)) - 2)
        slope = graph.reshaped(slope, [-1, *ones])
    return graph.node("PRelu", x, slope)


def dropout(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write what dropout does in inference: nothing, or scaling."""
    x, rate = graph.tensor(inputs[0]), graph.tensor(inputs[2])
    if op.attributes["mode"] == "upscale_in_train":
        return x
    kept = np.float32(1) - graph.constants[rate].astype(np.float32).reshape(())
    return graph.node("Mul", x, graph.constant(kept))


def reduction(op_type: str) -> Writer:
    """Return the writer of a sum, mean or the like over axes."""

    def write(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
        x = graph.tensor(inputs[0])
        axes = graph.numbers(inputs[1]) if len(inputs) > 1 else op.attributes["axis"]
        keepdims = int(op.attributes["keepdim"])
        if op_type == "ReduceSum":  # the only one whose axes are an operand in this opset
            operands = [graph.constant(axes, "int64")] if axes else []
            return graph.node(op_type, x, *operands, keepdims=keepdims)
        attributes: dict[str, Any] = {"axes": axes} if axes else {}
        return graph.node(op_type, x, keepdims=keepdims, **attributes)

    return write


def arg_extreme(op_type: str) -> Writer:
    """Return the writer of the place of the largest or smallest; of equal ones the first."""

    def write(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
        x, [axis] = graph.tensor(inputs[0]), graph.numbers(inputs[1])
        if op.attributes["flatten"]:
            x, axis = graph.reshaped(x, [-1]), 0
        found = graph.node(op_type, x, axis=axis, keepdims=int(op.attributes["keepdims"]))
        dtype = op.results[0].types[0].dtype
        return found if dtype == "int64" else graph.cast(found, dtype)

    return write


def p_norm(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write the length of vectors along an axis."""
    order = op.attributes["porder"]
    if order not in (1, 2):
        raise Unwritable(f"of order {order:g}")
    x, axes = graph.tensor(inputs[0]), [op.attributes["axis"]]
    attributes: dict[str, Any] = {} if op.attributes["asvector"] else {"axes": axes}
    keepdims = int(op.attributes["keepdim"])
    return graph.node(f"ReduceL{order:.0f}", x, keepdims=keepdims, **attributes)


def _power(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    x = graph.tensor(inputs[0])
    return graph.node("Pow", x, graph.constant(op.attributes["y"], graph.types[x].dtype))


def _sum(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    [terms] = inputs
    assert isinstance(terms, list)
    return graph.node("Sum", *map(graph.tensor, terms))


def _not_equal(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    return graph.node("Not", graph.node("Equal", *map(graph.tensor, inputs)))


SAME_NAME = (
    *("Relu", "Sigmoid", "Tanh", "Erf", "Abs", "Exp", "Log", "Sqrt", "Reciprocal", "Sin", "Cos"),
    *("Floor", "Ceil", "Round", "Softsign", "Sign"),
)

WRITERS: dict[str, Writer] = {
    **{name.lower(): plain(name) for name in SAME_NAME},
    "add": add,
    "subtract": arithmetic("Sub"),
    "multiply": arithmetic("Mul"),
    "divide": plain("Div"),
    "floor_divide": arithmetic("FloorDiv"),
    "maximum": arithmetic("Max"),
    "minimum": arithmetic("Min"),
    "elementwise_pow": plain("Pow"),
    "pow": _power,
    "add_n": _sum,
    "scale": scale,
    "cast": cast,
    "equal": plain("Equal"),
    "greater_than": plain("Greater"),
    "greater_equal": plain("GreaterOrEqual"),
    "less_than": plain("Less"),
    "less_equal": plain("LessOrEqual"),
    "not_equal": _not_equal,
    "logical_and": plain("And"),
    "logical_or": plain("Or"),
    "logical_not": plain("Not"),
    "where": plain("Where"),
    "rsqrt": composed(lambda graph, x: graph.node("Reciprocal", graph.node("Sqrt", x))),
    "square": composed(lambda graph, x: graph.node("Mul", x, x)),
    "silu": composed(lambda graph, x: graph.node("Mul", x, graph.node("Sigmoid", x))),
    "swish": composed(lambda graph, x: graph.node("Mul", x, graph.node("Sigmoid", x))),
    "mish": composed(
        lambda graph, x: graph.node("Mul", x, graph.node("Tanh", graph.node("Softplus", x)))
    ),
    "gelu": gelu,
    "hardswish": plain("HardSwish"),
    "hardsigmoid": plain("HardSigmoid", alpha="slope", beta="offset"),
    "leaky_relu": plain("LeakyRelu", alpha="negative_slope"),
    "elu": plain("Elu", alpha="alpha"),
    "softplus": softplus,
    "relu6": clip,
    "hardtanh": clip,
    "clip": clip,
    "prelu": prelu,
    "softmax": plain("Softmax", axis="axis"),
    "log_softmax": plain("LogSoftmax", axis="axis"),
    "dropout": dropout,
    "mean": reduction("ReduceMean"),
    "sum": reduction("ReduceSum"),
    "max": reduction("ReduceMax"),
    "min": reduction("ReduceMin"),
    "amax": reduction("ReduceMax"),
    "amin": reduction("ReduceMin"),
    "argmax": arg_extreme("ArgMax"),
    "argmin": arg_extreme("ArgMin"),
    "p_norm": p_norm,
}
