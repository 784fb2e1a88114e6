"""Attention of an ONNX graph as one operator, ONNX Runtime's `MultiHeadAttention`.

ONNX Runtime computes the plain form operator by operator: it writes the scores, 268 MB for the
first stage at 1024x1024, and reads them again three times. Its own operator takes the queries in
blocks and never holds the scores. OpenVINO reads it too and makes of it what it makes of the plain
form. The operator is an extension (domain com.microsoft), which other readers of ONNX may not know.

Shapes: N batch, L tokens, M heads, D head width.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

DOMAIN = "com.microsoft"
OPERATOR = "MultiHeadAttention"
HEADS_FIRST, HEADS_FIRST_TURNED = [0, 2, 1, 3], [0, 2, 3, 1]  # Transpose's perm


class _Graph:
    """Who makes and who reads each value."""

    def __init__(self, model: ModelProto) -> None:
        from onnx import numpy_helper

        self.nodes = model.graph.node
        self.constants = {
            item.name: numpy_helper.to_array(item).tolist()
            for item in model.graph.initializer
            if len(item.dims) == 1
        }
        self.maker = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                self.readers[name].append(node)

    def reader(self, node: NodeProto, op_type: str) -> NodeProto | None:
        """Return the one reader of its kind of a node's output."""
        found = [item for item in self.readers[node.output[0]] if item.op_type == op_type]
        return found[0] if len(found) == 1 else None

    def heads(self, name: str, perm: list[int]) -> Heads | None:
        """Return what a value (N, M, L, D), or with its axes in another order, is made of."""
        transpose = self.maker.get(name)
        if transpose is None or transpose.op_type != "Transpose" or _perm(transpose) != perm:
            return None
        reshape = self.maker.get(transpose.input[0])
        if reshape is None or reshape.op_type != "Reshape":
            return None
        shape = self.constants.get(reshape.input[1], [])
        return Heads(reshape.input[0], shape) if len(shape) == 4 else None


class Heads(NamedTuple):
    """A value, and the (N, L, M, D) that it is reshaped to; N and L may be 0, "as they are"."""

    source: str
    shape: list[int]


class Attention(NamedTuple):
    """Operands and the node whose output, (N, L, M, D), is replaced."""

    q: Heads
    k: Heads
    v: Heads
    last: NodeProto


def fuse_attention(model: ModelProto) -> None:
    """Replace softmax(q k) v on heads of tokens by one operator, in place.

    Attention that is written in another way is left as it is.
    """
    from onnx import helper

    graph = _Graph(model)
    softmaxes = [node for node in graph.nodes if node.op_type == "Softmax"]
    found = [item for node in softmaxes if (item := _attention(graph, node)) is not None]
    for number, attention in enumerate(found):
        position = list(graph.nodes).index(attention.last)
        graph.nodes.remove(attention.last)
        for node in reversed(_fused(model, attention, f"{OPERATOR}.{number}")):
            graph.nodes.insert(position, node)
    if found:
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        _remove_unread(model)


def _attention(graph: _Graph, softmax: NodeProto) -> Attention | None:
    """Return the attention that a softmax is part of."""
    scores, product = graph.maker.get(softmax.input[0]), graph.reader(softmax, "MatMul")
    if scores is None or scores.op_type != "MatMul" or product is None:
        return None
    q = graph.heads(scores.input[0], HEADS_FIRST)
    k = graph.heads(scores.input[1], HEADS_FIRST_TURNED)
    v = graph.heads(product.input[1], HEADS_FIRST)
    last = graph.reader(product, "Transpose")
    if q is None or k is None or v is None or last is None or _perm(last) != HEADS_FIRST:
        return None
    return Attention(q, k, v, last)


def _fused(model: ModelProto, attention: Attention, name: str) -> list[NodeProto]:
    """Return the operator, and the nodes that bring its operands and its result into shape."""
    from onnx import helper, numpy_helper

    nodes = []

    def reshape(source: str, shape: list[int], target: str) -> str:
        constant = numpy_helper.from_array(np.array(shape, np.int64), f"{target}.shape")
        model.graph.initializer.append(constant)
        nodes.append(helper.make_node("Reshape", [source, constant.name], [target]))
        return target

    operands = [
        reshape(heads.source, [*heads.shape[:2], heads.shape[2] * heads.shape[3]], f"{name}.{key}")
        for key, heads in (("q", attention.q), ("k", attention.k), ("v", attention.v))
    ]
    arguments = {"num_heads": attention.q.shape[2], "scale": 1.0}  # 1 / sqrt(D) is in the queries
    nodes.append(helper.make_node(OPERATOR, operands, [name], domain=DOMAIN, **arguments))
    reshape(name, attention.q.shape, attention.last.output[0])
    return nodes


def _perm(transpose: NodeProto) -> list[int]:
    return list(transpose.attribute[0].ints)


def _remove_unread(model: ModelProto) -> None:
    """Remove nodes and constants that nothing reads any more."""
    graph = model.graph
    read = {value.name for value in graph.output}
    for node in reversed(list(graph.node)):
        if read.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            read.update(node.input)
    for constant in list(graph.initializer):
        if constant.name not in read:
            graph.initializer.remove(constant)
