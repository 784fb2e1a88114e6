"""A network as the graph that VisualDL shows: operators in the layers that run them, and tensors.

VisualDL 2.5.3 reads the programs of Paddle 2 alone; the form that it makes of them is made here of
those of Paddle 3. Constants and parameters have no boxes of their own.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import paddle
from paddle import nn

from paddleseg_segformer.models.cpu_gradients import exact_rewrites

NUM_PX = 224  # height and width of the image that is traced


def network_graph(network: nn.Layer, num_channels: int) -> dict[str, Any]:
    """Return nodes, variables and edges; the network and its mode stay as they are.

    Args:
        network: Maps (1, C, H, W) to logits; it is traced, nothing is computed.
        num_channels: C.
    """
    from visualdl.component.graph.graph_component import (
        construct_edges,
        create_non_leaf_nodes,
        post_order_traverse,
    )

    spec = paddle.static.InputSpec([1, num_channels, NUM_PX, NUM_PX], "float32", "image")
    traced = paddle.jit.to_static(network.forward, input_spec=[spec], full_graph=True)
    with exact_rewrites(False):  # each layer as a layer
        program = traced.concrete_program.main_program
    operators = program.global_block().ops
    nodes: dict[str, dict[str, Any]] = {}
    tensors: dict[str, dict[str, Any]] = {}
    names: dict[int, str] = {}  # of tensors that an operator in `nodes` makes
    for index, operator in enumerate(operators):
        kind = operator.name().rpartition(".")[2]
        values = (operand.source() for operand in operator.operands())
        inputs = (value.id for value in values if value.initialized())
        sources = [names[value] for value in inputs if value in names]
        if not sources and kind != "data":
            continue
        layer = operator.attrs().get("struct_name") or "/"
        name = f"{layer}{kind}_{index}"
        results = enumerate(operator.results())
        made = {f"tensor_{index}_{number}": value for number, value in results}
        names |= {value.id: tensor for tensor, value in made.items()}
        tensors |= {
            tensor: {
                "name": tensor, "type": "DENSE_TENSOR", "value": [], "persistable": False,
                "shape": list(value.shape) if value.is_dense_tensor_type() else [],
                "dtype": str(value.dtype) if value.is_dense_tensor_type() else "",
                "attrs": {}, "from_node": name, "to_nodes": [],
            }
            for tensor, value in made.items()
        }  # fmt: skip
        nodes[name] = {
            "name": name, "show_name": name, "type": kind, "is_leaf_node": True, "attrs": {},
            "attr_types": {}, "input_vars": {"X": sources}, "output_vars": {"Y": list(made)},
            "input_nodes": [tensors[source]["from_node"] for source in sources],
            "output_nodes": [], "children_node": [], "edge_input_nodes": [],
            "edge_output_nodes": [],
        }  # fmt: skip
        for source in sources:
            tensors[source]["to_nodes"].append(name)
            nodes[tensors[source]["from_node"]]["output_nodes"].append(name)

    inside: dict[str, set[str]] = defaultdict(set)  # all nodes below a layer
    for name in list(nodes):
        create_non_leaf_nodes(name.rpartition("/")[0], name, nodes, inside)
    order: list[str] = []
    post_order_traverse("/", nodes, order)
    for name in order:
        node = nodes[name]
        if node["is_leaf_node"]:
            continue
        leaves = [nodes[leaf] for leaf in inside[name] if nodes[leaf]["is_leaf_node"]]
        ins = {tensor for leaf in leaves for tensor in leaf["input_vars"]["X"]}
        outs = {tensor for leaf in leaves for tensor in leaf["output_vars"]["Y"]}
        leaving = {tensor for tensor in outs if set(tensors[tensor]["to_nodes"]) - inside[name]}
        node["children_node"] = sorted(node["children_node"])
        node["input_vars"] = {"X": sorted(ins - outs)}
        node["output_vars"] = {"Y": sorted(leaving)}
        node["input_nodes"] = sorted({tensors[tensor]["from_node"] for tensor in ins - outs})
        reached = {to for tensor in leaving for to in tensors[tensor]["to_nodes"]}
        node["output_nodes"] = sorted(reached - inside[name])
    edges: dict[tuple[str, str], dict[str, Any]] = {}
    for tensor in tensors:
        construct_edges(tensor, nodes, tensors, edges)
    for (source, target), edge in edges.items():
        nodes[source]["edge_output_nodes"].append(target)
        nodes[target]["edge_input_nodes"].append(source)
        edge["vars"] = sorted(edge["vars"])
        count = len(edge["vars"])
        edge["label"] = str(tensors[edge["vars"][0]]["shape"]) if count == 1 else f"{count} tensors"
    return {
        "version": "1.0.0",
        "nodes": list(nodes.values()),
        "vars": list(tensors.values()),
        "edges": list(edges.values()),
    }
