"""Conversion of Paddle's static graph into ONNX.

Each operator is written by a function of `elementwise`, `arrangement` or `layers`, which their
tables name; `graph` holds what has been written so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import paddleseg_segformer
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export.paddle_to_onnx import arrangement, elementwise, layers
from paddleseg_segformer.export.paddle_to_onnx.graph import (
    EXTENSIONS,
    OPSET,
    Graph,
    Unwritable,
    Value,
)
from paddleseg_segformer.export.paddle_to_onnx.program import (
    Operator,
    Program,
    TensorType,
    read_program,
)

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

IR_VERSION = 8  # the file's form, as old as the opset, so that old readers take it
LARGEST = 2**31 - 2**24  # bytes of weights: a file has 2 GiB, some of them for the nodes
AXES = ("batch", "channels", "height", "width")  # names of those that are free
WRITERS = {**elementwise.WRITERS, **arrangement.WRITERS, **layers.WRITERS}
REMEDY = "Use a layer of the usual ones in its place, or leave ONNX and OpenVINO out of --format."


def convert(
    static_graph: Sequence[Path], output_name: str, is_standard: bool = False
) -> ModelProto:
    """Return Paddle's static graph, of one input and one output, as an ONNX model.

    Args:
        static_graph: Its files, program and weights.
        output_name: What to call the output.
        is_standard: Use ONNX's own operators alone, and leave attention in pieces.

    Raises:
        UserError: it holds an operator that cannot be written, or more than a file can hold.
    """
    from onnx import helper, numpy_helper

    program = read_program(*static_graph)
    graph = Graph(is_standard)
    x, out = _write(program, graph)
    last, out_type = out
    if last not in graph.makers:  # the input, or a constant: not to be renamed
        last = graph.node("Identity", last)
    nodes, constants = graph.without_unread([last])
    for node in nodes:
        for names in (node.input, node.output):
            names[:] = [output_name if name == last else name for name in names]
    size = sum(graph.constants[name].nbytes for name in constants)
    if size >= LARGEST:
        raise UserError(
            f"the weights take {size / 2**30:.1f} GiB, an ONNX file holds 2. Leave ONNX and "
            "OpenVINO out of --format, or take a smaller model."
        )
    extensions = [EXTENSIONS] if any(node.domain for node in nodes) else []
    return helper.make_model(
        helper.make_graph(
            nodes,
            paddleseg_segformer.__name__,
            [_value_info(*x, "")],
            [_value_info(output_name, out_type, "output_")],
            [numpy_helper.from_array(graph.constants[name], name) for name in constants],
        ),
        opset_imports=[
            helper.make_opsetid("", OPSET),
            *(helper.make_opsetid(domain, 1) for domain in extensions),
        ],
        ir_version=IR_VERSION,
        producer_name=paddleseg_segformer.__name__,
        producer_version=paddleseg_segformer.__version__,
    )


End = tuple[str, TensorType]


def _write(program: Program, graph: Graph) -> tuple[End, End]:
    """Write a program's operators; return its input and its output."""
    values: dict[int, Value] = {0: None}
    for index, (name, array) in program.weights.items():
        values[index] = graph.constant(array, name=f"weight.{name}")
    ends: dict[str, End] = {}
    for op in program.operators:
        if op.name == "data":
            name, [kind] = str(op.attributes["name"]), op.results[0].types
            graph.declare(name, kind)
            values[op.results[0].id] = name
            ends["input"] = name, kind
        elif op.name == "fetch":
            ends["output"] = graph.tensor(values[op.operands[0]]), op.results[0].types[0]
        else:
            _write_operator(op, graph, values)
    return ends["input"], ends["output"]


def _write_operator(op: Operator, graph: Graph, values: dict[int, Value]) -> None:
    writer = WRITERS.get(op.name)
    try:
        if writer is None:
            raise Unwritable("")
        found = writer(graph, op, [values[index] for index in op.operands])
    except Unwritable as reason:
        place = f" in {op.layer}" if op.layer else ""
        raise UserError(
            f"Paddle's operator {op.name}{f' {reason}' if str(reason) else ''}{place} cannot be "
            f"written as ONNX. {REMEDY}"
        ) from None
    first, *_ = op.results
    if not isinstance(found, list):
        values[first.id] = found
        if isinstance(found, str):
            graph.declare(found, first.types[0])
        return
    kinds = first.types if first.is_list else [result.types[0] for result in op.results]
    for value, kind in zip(found, kinds, strict=True):
        if isinstance(value, str):
            graph.declare(value, kind)
    if first.is_list:
        values[first.id] = found
    else:
        values.update(zip((result.id for result in op.results), found, strict=True))


def _value_info(name: str, kind: TensorType, prefix: str) -> ValueInfoProto:
    """Return the declaration of an end of the graph, its free axes named."""
    from onnx import helper

    axes = ["batch", *(prefix + axis for axis in AXES[len(AXES) - len(kind.shape) + 1 :])]
    sides = [axis if side < 0 else side for axis, side in zip(axes, kind.shape, strict=True)]
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(np.dtype(kind.dtype)), sides
    )
