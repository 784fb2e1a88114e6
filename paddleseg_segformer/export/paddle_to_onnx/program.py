"""Paddle's static graph as its two files hold it: operators (`model.json`) and weights.

Both are read without Paddle. The operators' form is the same in Paddle 3.0 to 3.3.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paddleseg_segformer.errors import UserError

DTYPES = {  # of tensors, by the name in the file
    "0.t_f64": "float64",
    "0.t_f32": "float32",
    "0.t_f16": "float16",
    "0.t_i64": "int64",
    "0.t_i32": "int32",
    "0.t_i16": "int16",
    "0.t_i8": "int8",
    "0.t_ui8": "uint8",
    "0.t_bool": "bool",
}
PARAMETER, LIST_TYPE, ARRAY = "p", "0.t_vec", "0.a_array"


class TensorType(NamedTuple):
    """What is known of a tensor beforehand; sides that are not are -1."""

    dtype: str
    shape: list[int]


class Result(NamedTuple):
    """A value that an operator makes: one tensor, or a list of some."""

    id: int
    types: list[TensorType]
    is_list: bool


class Operator(NamedTuple):
    """An operator of the program."""

    name: str  # without its dialect: conv2d
    attributes: dict[str, Any]
    operands: list[int]  # ids of values; 0 for an optional one that is left out
    results: list[Result]

    @property
    def layer(self) -> str:
        """Return which layer of the network it belongs to, such as /SegFormer/Conv2D/."""
        return str(self.attributes.get("struct_name", ""))


class Program(NamedTuple):
    """A network."""

    operators: list[Operator]
    weights: dict[int, tuple[str, np.ndarray]]  # by the value's id, with their names


def read_program(graph_path: Path, weights_path: Path) -> Program:
    """Read a saved network.

    Raises:
        UserError: the weights are not those of the graph.
    """
    items = _items(graph_path)
    parameters = {
        item["A"][3]: _result(item["O"]) for item in items if item["#"] == PARAMETER
    }  # by name
    arrays = _read_weights(weights_path, {name: r.types[0] for name, r in parameters.items()})
    return Program(
        operators=list(_operators(items)),
        weights={result.id: (name, arrays[name]) for name, result in parameters.items()},
    )


def read_operators(graph_path: Path) -> list[Operator]:
    """Read the operators of a saved network, without its weights."""
    return list(_operators(_items(graph_path)))


def _items(graph_path: Path) -> list[dict[str, Any]]:
    content = json.loads(graph_path.read_text(encoding="utf-8"))
    [region] = content["program"]["regions"]
    [block] = region["blocks"]
    return list(block["ops"])


def _operators(items: Sequence[dict[str, Any]]) -> Iterator[Operator]:
    for item in items:
        if item["#"] != PARAMETER:
            yield Operator(
                name=item["#"].removeprefix("1."),  # "0." are not Paddle's but the container's
                attributes={each["N"]: _plain(each["AT"]) for each in item["A"]},
                operands=[each["%"] for each in item["I"]],
                results=[_result(each) for each in item["O"]],
            )


def _plain(attribute: dict[str, Any]) -> Any:
    if attribute["#"] == ARRAY:
        return [_plain(item) for item in attribute["D"]]
    return attribute.get("D")


def _result(item: dict[str, Any]) -> Result:
    kind = item.get("TT")
    if kind is None:  # an optional one that is left out
        return Result(item["%"], [], False)
    is_list = kind["#"] == LIST_TYPE
    types = [_tensor_type(each) for each in (kind["D"] if is_list else [kind])]
    return Result(item["%"], types, is_list)


def _tensor_type(kind: dict[str, Any]) -> TensorType:
    dtype, shape, *_ = kind["D"]
    # conv2d_transpose leaves 0 for a side it does not know, instance_norm products of -1
    return TensorType(DTYPES.get(dtype["#"], dtype["#"]), [s if s > 0 else -1 for s in shape])


def _read_weights(path: Path, types: dict[str, TensorType]) -> dict[str, np.ndarray]:
    """Read arrays that lie one after the other, in the order of their names.

    Each begins with 16 bytes of versions and levels, none of which is used, and the length of a
    description, which the graph gives too.
    """
    content = memoryview(path.read_bytes() if types else b"")  # without weights there is no file
    arrays, position = {}, 0
    for name in sorted(types):
        dtype, shape = types[name]
        start = position + 20 + int.from_bytes(content[position + 16 : position + 20], "little")
        position = start + prod(shape) * np.dtype(dtype).itemsize
        if position <= len(content):
            arrays[name] = np.frombuffer(content[start:position], dtype).reshape(shape)
    if position != len(content):
        raise UserError(
            f"{path}: found {len(content)} bytes, expected {position} for the graph's weights. "
            "Export the model again."
        )
    return arrays
