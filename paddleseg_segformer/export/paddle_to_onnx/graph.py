"""An ONNX graph in the making: nodes, constants, and sizes that are known only when it runs.

Shapes: N batch, L tokens, M heads, D head width.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from paddleseg_segformer.export.paddle_to_onnx.program import TensorType

if TYPE_CHECKING:
    from onnx import NodeProto

OPSET = 17  # the first with layer norm as one operator
EXTENSIONS = "com.microsoft"  # the domain of operators that ONNX Runtime and OpenVINO add

# computed here where all operands are constant; the rest may be large or slow
FOLDED = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Concat", "Cast"} | {
    *("Add", "Sub", "Mul", "Div")
}
ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "FloorDiv": operator.floordiv,
    "Max": max,
    "Min": min,
}


class Side(NamedTuple):
    """A side of a tensor."""

    source: str
    axis: int


Size = int | Side | str  # a number, a side, or the name of an int64 tensor of one element


class Sizes(NamedTuple):
    """A small tensor of whole numbers (rank 0 or 1), such as a shape, by its elements."""

    items: list[Size]
    rank: int = 1
    dtype: str = "int64"


Value = str | Sizes | list[Any] | None  # a tensor's name, sizes, a list of these, or left out


class Graph:
    """Nodes in their order, without duplicates, and what is known of their outputs.

    Args:
        is_standard: Use ONNX's own operators alone.
    """

    def __init__(self, is_standard: bool) -> None:
        self.is_standard = is_standard
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.types: dict[str, TensorType] = {}
        self.makers: dict[str, NodeProto] = {}
        self._nodes_by_content: dict[bytes, NodeProto] = {}
        self._constants_by_content: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    # -- tensors ------------------------------------------------------------------------------

    def constant(self, values: Any, dtype: str | None = None, name: str = "") -> str:
        """Return the name of a constant; equal ones are stored once."""
        array = np.ascontiguousarray(values, dtype).reshape(np.shape(values))
        key = str(array.dtype), array.shape, hashlib.sha256(array.data).digest()
        if key not in self._constants_by_content:
            name = name or f"constant.{len(self.constants)}"
            self._constants_by_content[key] = name
            self.constants[name] = array
            self.declare(name, TensorType(str(array.dtype), list(array.shape)))
        return self._constants_by_content[key]

    def declare(self, name: str, found: TensorType) -> None:
        """Note what is known of a tensor, beside what was known before."""
        known = self.types.get(name, found)
        shape = [max(sides) for sides in zip(known.shape, found.shape, strict=True)]
        self.types[name] = TensorType(found.dtype, shape)

    def shape(self, name: str) -> list[int]:
        """Return a tensor's sides, -1 for unknown ones; none for one of unknown rank."""
        return self.types[name].shape if name in self.types else []

    def made_by(self, name: str, op_type: str) -> NodeProto | None:
        """Return the node that makes a tensor, if it is of this kind."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type == op_type else None

    # -- nodes --------------------------------------------------------------------------------

    def node(self, op_type: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node of one output, unless there is an equal one, and return the output's name."""
        return self.nodes_of(op_type, inputs, 1, domain, **attributes)[0]

    def nodes_of(
        self,
        op_type: str,
        inputs: Sequence[str],
        num_outputs: int,
        domain: str = "",
        **attributes: Any,
    ) -> list[str]:
        """Add a node of several outputs, unless there is an equal one; return their names."""
        from onnx import helper

        node = helper.make_node(op_type, inputs, [], domain=domain, **attributes)
        if op_type in FOLDED and all(name in self.constants for name in inputs):
            return [self.constant(self._computed(node))]
        key = node.SerializeToString(deterministic=True)
        if key not in self._nodes_by_content:
            node.name = f"{op_type}.{len(self.nodes)}"
            suffixes = [""] if num_outputs == 1 else [f".{i}" for i in range(num_outputs)]
            node.output.extend(node.name + suffix for suffix in suffixes)
            self.nodes.append(node)
            self.makers.update(dict.fromkeys(node.output, node))
            self._nodes_by_content[key] = node
        return list(self._nodes_by_content[key].output)

    def with_inputs(self, node: NodeProto, inputs: Sequence[str]) -> str:
        """Return the output of a node like this one with other inputs."""
        from onnx import helper

        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        return self.node(node.op_type, *inputs, **attributes)

    def _computed(self, node: NodeProto) -> np.ndarray:
        from onnx import NodeProto
        from onnx.reference import ReferenceEvaluator

        complete = NodeProto()
        complete.CopyFrom(node)
        complete.output.append("result")
        operands = {name: self.constants[name] for name in node.input}
        [result] = ReferenceEvaluator(complete, opsets={"": OPSET}).run(None, operands)
        return np.asarray(result)

    def without_unread(self, outputs: Sequence[str]) -> tuple[list[NodeProto], list[str]]:
        """Return the nodes, and the constants, that these outputs depend on."""
        read, nodes = set(outputs), []
        for node in reversed(self.nodes):
            if not read.isdisjoint(node.output):
                read.update(node.input)
                nodes.append(node)
        return nodes[::-1], [name for name in self.constants if name in read]

    # -- arrangements -------------------------------------------------------------------------

    def transposed(self, name: str, perm: Sequence[int]) -> str:
        """Return a tensor with its axes in another order; one after another are merged."""
        earlier = self.made_by(name, "Transpose")
        if earlier is not None:
            name, old = earlier.input[0], list(earlier.attribute[0].ints)
            perm = [old[axis] for axis in perm]
        if list(perm) == sorted(perm):
            return name
        return self.node("Transpose", name, perm=list(perm))

    def reshaped(self, name: str, target: Sequence[Size]) -> str:
        """Return a tensor in another shape; one after another are merged.

        Args:
            target: Sides; 0 is the tensor's own at that place, -1 what is left.
        """
        target = list(target)
        unknown = [index for index, side in enumerate(target) if not isinstance(side, int)]
        if len(unknown) == 1 and -1 not in target:
            target[unknown[0]] = -1
        sides = [side for side in target if isinstance(side, int)]
        earlier = self.made_by(name, "Reshape")
        if earlier is not None and earlier.input[1] in self.constants and len(sides) == len(target):
            middle = self.constants[earlier.input[1]].tolist()
            kept = [i for i, side in enumerate(sides) if side == 0]
            if all(middle[index] >= 0 for index in kept):
                for index in kept:
                    sides[index] = middle[index]
                return self.reshaped(earlier.input[0], sides)
        if len(sides) == len(target) and _is_shape(self.shape(name), sides):
            return name
        return self.node("Reshape", name, self.vector(target))

    # -- sizes --------------------------------------------------------------------------------

    def sides(self, name: str) -> list[Size]:
        """Return a tensor's shape."""
        return [Side(name, i) if side < 0 else side for i, side in enumerate(self.shape(name))]

    def sizes(self, value: Value) -> list[Size]:
        """Return the elements of whole numbers: sizes, a list of single ones, or a tensor."""
        if isinstance(value, Sizes):
            return value.items
        if isinstance(value, list):
            return [item for each in value for item in self.sizes(each)]
        assert value is not None
        if value in self.constants:
            return [int(item) for item in self.constants[value].ravel()]
        dtype, shape = self.types[value]
        if dtype != "int64":
            value = self.cast(value, "int64")
        if not shape:
            return [self.node("Unsqueeze", value, self.constant([0]))]
        ends = [self.constant([i], "int64") for i in range(shape[0] + 1)]
        return [self.node("Slice", value, ends[i], ends[i + 1]) for i in range(shape[0])]

    def numbers(self, value: Value) -> list[int]:
        """Return sizes that are all known."""
        sizes = self.sizes(value)
        numbers = [size for size in sizes if isinstance(size, int)]
        if len(numbers) < len(sizes):
            raise Unwritable("with sizes that depend on the input's")
        return numbers

    def arithmetic(self, op_type: str, first: Size, second: Size) -> Size:
        """Return the result of one of `ARITHMETIC` on two sizes."""
        if isinstance(first, int) and isinstance(second, int):
            return ARITHMETIC[op_type](first, second)
        if isinstance(first, int) and op_type in ("Add", "Mul"):
            first, second = second, first
        if (op_type, second) in (("Add", 0), ("Sub", 0), ("Mul", 1), ("FloorDiv", 1)):
            return first
        names = self.vector([first]), self.vector([second])
        return self.floor_divided(*names) if op_type == "FloorDiv" else self.node(op_type, *names)

    def floor_divided(self, first: str, second: str) -> str:
        """Return the quotient of whole numbers, rounded down; Div rounds towards zero."""
        rest = self.node("Mod", first, second)  # has the divisor's sign
        return self.node("Div", self.node("Sub", first, rest), second)

    def vector(self, sizes: Sequence[Size]) -> str:
        """Return sizes as an int64 tensor of rank 1."""
        if not sizes:
            return self.constant([], "int64")
        parts, start = [], 0
        while start < len(sizes):
            end = _end_of_run(sizes, start)
            parts.append(self._run(sizes[start:end]))
            start = end
        return parts[0] if len(parts) == 1 else self.node("Concat", *parts, axis=0)

    def _run(self, sizes: Sequence[Size]) -> str:
        first, last = sizes[0], sizes[-1]
        if isinstance(first, Side) and isinstance(last, Side):
            shape = self.node("Shape", first.source)
            bounds = [self.constant([i], "int64") for i in (first.axis, last.axis + 1)]
            return self.node("Slice", shape, *bounds)
        return first if isinstance(first, str) else self.constant(list(sizes), "int64")

    def tensor(self, value: Value) -> str:
        """Return a value as the name of a tensor."""
        assert value is not None
        assert not isinstance(value, list)
        if isinstance(value, str):
            return value
        if all(isinstance(size, int) for size in value.items):
            numbers = np.array(value.items, value.dtype)
            return self.constant(numbers if value.rank else numbers[0])
        name = self.vector(value.items)
        if value.rank == 0:
            name = self.node("Squeeze", name, self.constant([0]))
        return name if value.dtype == "int64" else self.cast(name, value.dtype)

    def cast(self, name: str, dtype: str) -> str:
        """Return a tensor in another type."""
        from onnx import helper

        return self.node("Cast", name, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _is_shape(known: Sequence[int], sides: Sequence[int]) -> bool:
    """Return whether a shape, in which 0 is any side and one may be -1, is the known one."""
    if len(known) != len(sides) or list(sides).count(-1) > 1:
        return False
    return all(side in (0, -1) or side == old for old, side in zip(known, sides, strict=True))


def _end_of_run(sizes: Sequence[Size], start: int) -> int:
    """Return where sizes end that make one tensor: numbers, or sides that follow one another."""
    end = start + 1
    while end < len(sizes):
        last, this = sizes[end - 1], sizes[end]
        if not (isinstance(last, int) and isinstance(this, int)) and not (
            isinstance(last, Side) and this == Side(last.source, last.axis + 1)
        ):
            break
        end += 1
    return end


class Unwritable(Exception):
    """Why an operator cannot be written as ONNX."""
