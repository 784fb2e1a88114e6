"""Operators that make, cut, join and rearrange tensors and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from paddleseg_segformer.export.paddle_to_onnx.elementwise import Writer
from paddleseg_segformer.export.paddle_to_onnx.graph import (
    Graph,
    Side,
    Size,
    Sizes,
    Unwritable,
    Value,
)
from paddleseg_segformer.export.paddle_to_onnx.program import Operator

FAR = 2**31 - 1  # Paddle's end of a slice that goes to the last element
MAX_SIZES = 64  # longer vectors of whole numbers are tensors


def _numbers(graph: Graph, values: np.ndarray) -> Value:
    """Return constants: sizes where they may be some."""
    if values.ndim <= 1 and values.size <= MAX_SIZES and values.dtype in (np.int32, np.int64):
        return Sizes([int(item) for item in values.ravel()], values.ndim, str(values.dtype))
    return graph.constant(values)


def full(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write a constant of equal numbers."""
    attributes, dtype = op.attributes, op.results[0].types[0].dtype
    return _numbers(graph, np.full(attributes["shape"], attributes["value"], dtype))


def full_int_array(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write a constant of whole numbers."""
    dtype = op.results[0].types[0].dtype
    return _numbers(graph, np.array(op.attributes["value"], dtype))


def assign_value(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write a constant that the network's code spells out."""
    attributes, dtype = op.attributes, op.results[0].types[0].dtype
    values = np.array(attributes["values"], dtype)
    return _numbers(graph, values.reshape(attributes["shape"]))


def full_with_tensor(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write equal numbers in a shape that is computed."""
    value, shape = inputs
    return graph.node("Expand", graph.tensor(value), graph.vector(graph.sizes(shape)))


def full_like(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write equal numbers in another tensor's shape."""
    x, value = inputs[0], graph.constants[graph.tensor(inputs[1])].item()
    dtype = op.results[0].types[0].dtype
    if isinstance(x, Sizes):
        return _numbers(graph, np.full([len(x.items)] * x.rank, value, dtype))
    shape = graph.vector(graph.sides(graph.tensor(x)))
    return graph.node("Expand", graph.constant(value, dtype), shape)


def arange(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write a range, the ends of which may be computed."""
    dtype = op.results[0].types[0].dtype
    bounds = [graph.tensor(value) for value in inputs]
    if all(name in graph.constants for name in bounds):
        return _numbers(graph, np.arange(*(graph.constants[n].item() for n in bounds), dtype=dtype))
    scalars = (graph.reshaped(graph.cast(name, dtype), []) for name in bounds)
    return graph.node("Range", *scalars)


def shape(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Return a tensor's shape."""
    return Sizes(graph.sides(graph.tensor(inputs[0])), dtype=op.results[0].types[0].dtype)


def numel(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Return the number of a tensor's elements."""
    product: Size = 1
    for side in graph.sides(graph.tensor(inputs[0])):
        product = graph.arithmetic("Mul", product, side)
    return Sizes([product], 0, op.results[0].types[0].dtype)


def same(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Return the operand: there is nothing to compute."""
    return inputs[0]


def combine(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Return the operands as a list."""
    return list(inputs)


def item_of(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Return an item of a list."""
    [values] = inputs
    assert isinstance(values, list)
    return values[op.attributes["index"]]


def stack(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write tensors side by side along a new axis; single sizes become a vector of sizes."""
    [values] = inputs
    assert isinstance(values, list)
    [result] = op.results[0].types
    if len(result.shape) == 1 and result.dtype in ("int32", "int64"):
        return Sizes(graph.sizes(values), dtype=result.dtype)
    axis = op.attributes["axis"] % len(result.shape)
    at = graph.constant([axis])
    parts = [graph.node("Unsqueeze", graph.tensor(value), at) for value in values]
    return graph.node("Concat", *parts, axis=axis)


def concat(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write tensors one after the other; sizes stay sizes."""
    values, axis = inputs
    assert isinstance(values, list)
    [result] = op.results[0].types
    if all(isinstance(value, Sizes) for value in values):
        return Sizes(graph.sizes(values), dtype=result.dtype)
    [number] = graph.numbers(axis)
    return graph.node("Concat", *map(graph.tensor, values), axis=number % len(result.shape))


def split(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write the parts of a tensor, as a list."""
    x, [axis] = graph.tensor(inputs[0]), graph.numbers(inputs[-1])
    num_parts = len(op.results[0].types)
    if op.name == "split_with_num":
        return graph.nodes_of("Split", [x], num_parts, axis=axis)
    lengths = graph.numbers(inputs[1])
    if -1 in lengths:
        whole = graph.shape(x)[axis]
        if whole < 0:
            raise Unwritable("with a part of unknown length")
        lengths[lengths.index(-1)] = whole - sum(lengths) - 1
    return graph.nodes_of("Split", [x, graph.constant(lengths, "int64")], num_parts, axis=axis)


def unbind(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write a tensor's slices along an axis, which goes, as a list."""
    x, axis = graph.tensor(inputs[0]), op.attributes["axis"]
    num_parts = len(op.results[0].types)
    parts = graph.nodes_of("Split", [x], num_parts, axis=axis) if num_parts > 1 else [x]
    return [graph.node("Squeeze", part, graph.constant([axis])) for part in parts]


def slice_(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write a part of a tensor along some axes, some of which may go; or of sizes."""
    x, *bounds = inputs
    axes, dropped = op.attributes["axes"], op.attributes.get("decrease_axis", [])
    if isinstance(x, Sizes):
        start, end, step = (*(graph.numbers(value)[0] for value in bounds), 1)[:3]
        items = x.items[start : len(x.items) if dropped and start == -1 else end : step]
        return Sizes(items, 0 if dropped else 1, x.dtype)
    vectors = [graph.vector(graph.sizes(value)) for value in bounds]
    vectors.insert(2, graph.constant(axes, "int64"))  # steps come last
    part = graph.node("Slice", graph.tensor(x), *vectors)
    return graph.node("Squeeze", part, graph.constant(dropped, "int64")) if dropped else part


def reshape(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write another shape."""
    x, target = inputs
    [result] = op.results[0].types
    sizes = graph.sizes(target)
    if isinstance(x, Sizes) and len(sizes) <= 1:
        return x._replace(rank=len(sizes))
    known = zip(sizes, result.shape, strict=True)
    sides = [old if isinstance(size, str | Side) and old > 0 else size for size, old in known]
    return graph.reshaped(graph.tensor(x), sides)


def flatten(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write some neighbouring axes as one."""
    x = graph.tensor(inputs[0])
    known = graph.shape(x)
    if not known:
        return graph.reshaped(x, [1])
    start, stop = (op.attributes[name] % len(known) for name in ("start_axis", "stop_axis"))
    merged = known[start : stop + 1]
    middle = prod(merged) if min(merged) > 0 else -1
    sides: list[Size] = [0] * start
    return graph.reshaped(x, [*sides, middle, *graph.sides(x)[stop + 1 :]])


def transpose(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write the axes in another order."""
    perm = op.attributes["perm"]
    return graph.transposed(graph.tensor(inputs[0]), [axis % len(perm) for axis in perm])


def squeeze(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write a tensor without axes of one element."""
    x, axes = inputs[0], graph.numbers(inputs[1])
    if isinstance(x, Sizes):
        return x._replace(rank=0)
    x = graph.tensor(x)
    known = graph.shape(x)
    axes = [axis for axis in axes if known[axis] in (-1, 1)]  # others stay, as Paddle has it
    return graph.node("Squeeze", x, graph.constant(axes, "int64")) if axes else x


def unsqueeze(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write a tensor with more axes of one element."""
    x, axes = inputs[0], graph.numbers(inputs[1])
    if isinstance(x, Sizes) and x.rank == 0 and len(axes) == 1:
        return x._replace(rank=1)
    return graph.node("Unsqueeze", graph.tensor(x), graph.constant(axes, "int64"))


def expand(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write a tensor repeated along axes of one element."""
    target = [1 if size == -1 else size for size in graph.sizes(inputs[1])]
    return graph.node("Expand", graph.tensor(inputs[0]), graph.vector(target))


def expand_as(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write a tensor repeated to another's shape."""
    x, other = map(graph.tensor, inputs)
    return graph.node("Expand", x, graph.vector(graph.sides(other)))


def tile(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write a tensor repeated along axes."""
    x, repeats = graph.tensor(inputs[0]), graph.sizes(inputs[1])
    rank = len(graph.shape(x))
    if rank < len(repeats):
        x = graph.reshaped(x, [*[1] * (len(repeats) - rank), *graph.sides(x)])
    padded: list[Size] = [*[1] * (rank - len(repeats)), *repeats]
    return graph.node("Tile", x, graph.vector(padded))


def roll(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write a tensor whose elements are moved along axes, those at the end to the start."""
    x, shifts, axes = graph.tensor(inputs[0]), graph.numbers(inputs[1]), op.attributes["axis"]
    if not axes:
        raise Unwritable("without axes")
    far = graph.constant([FAR])
    for shift, axis in zip(shifts, axes, strict=True):
        cut, at, zero = (graph.constant([value], "int64") for value in (-shift, axis, 0))
        parts = [graph.node("Slice", x, *ends, at) for ends in ((cut, far), (zero, cut))]
        x = graph.node("Concat", *parts, axis=axis) if shift else x
    return x


def flip(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write a tensor backwards along axes."""
    axes = op.attributes["axis"]
    vectors = ([-1] * len(axes), [-FAR] * len(axes), axes, [-1] * len(axes))
    return graph.node(
        "Slice", graph.tensor(inputs[0]), *(graph.constant(v, "int64") for v in vectors)
    )


def index_select(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write the slices with some indices."""
    x, index = map(graph.tensor, inputs[:2])
    axis = op.attributes["axis"] if len(inputs) < 3 else graph.numbers(inputs[2])[0]
    return graph.node("Gather", x, index, axis=axis)


def pixel_shuffle(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write channels as pixels."""
    channels_first(op)
    block = op.attributes["upscale_factor"]
    return graph.node("DepthToSpace", graph.tensor(inputs[0]), blocksize=block, mode="CRD")


def pad3d(graph: Graph, op: Operator, inputs: Sequence[Value]) -> Value:
    """Write padding of the last axes; Paddle's pads begin at the last axis."""
    channels_first(op)
    x, pads = graph.tensor(inputs[0]), graph.numbers(inputs[1])
    mode = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}.get(
        op.attributes["mode"]
    )
    if mode is None:
        raise Unwritable(f"with mode {op.attributes['mode']}")
    begins, ends = pads[0::2][::-1], pads[1::2][::-1]
    rest = [0] * (len(graph.shape(x)) - len(begins))
    operands = [graph.constant([*rest, *begins, *rest, *ends], "int64")]
    if mode == "constant":
        operands.append(graph.constant(op.attributes["pad_value"], "float32"))
    return graph.node("Pad", x, *operands, mode=mode)


def channels_first(op: Operator) -> None:
    """Refuse an operator on maps whose channels come last."""
    layout = op.attributes.get("data_format", "NCHW")
    if layout not in ("NCHW", "NCDHW", "NCL", "AnyLayout"):
        raise Unwritable(f"with data format {layout}")


WRITERS: dict[str, Writer] = {
    "full": full,
    "full_int_array": full_int_array,
    "full_with_tensor": full_with_tensor,
    "full_like": full_like,
    "assign_value": assign_value,
    "assign_value_": assign_value,
    "arange": arange,
    "shape": shape,
    "shape64": shape,
    "numel": numel,
    "assign": same,
    "assign_out_": same,
    "share_data": same,
    "share_data_": same,
    "0.combine": combine,
    "0.slice": item_of,
    "0.split": same,
    "stack": stack,
    "concat": concat,
    "split": split,
    "split_with_num": split,
    "unbind": unbind,
    "slice": slice_,
    "strided_slice": slice_,
    "reshape": reshape,
    "flatten": flatten,
    "transpose": transpose,
    "squeeze": squeeze,
    "unsqueeze": unsqueeze,
    "expand": expand,
    "expand_as": expand_as,
    "tile": tile,
    "roll": roll,
    "flip": flip,
    "index_select": index_select,
    "gather": index_select,
    "pixel_shuffle": pixel_shuffle,
    "pad3d": pad3d,
}
