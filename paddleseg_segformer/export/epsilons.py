"""The layer norms' epsilons of a saved network, in each format.

A wrong one shows only on inputs whose variance is small, so comparing outputs may not find it.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paddle
from paddle import nn

from paddleseg_segformer.contracts import input_of
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models import MixVisionTransformer, VisionTransformer
from paddleseg_segformer.runtimes.deploy_config import artefact_paths


def check_epsilons(model: nn.Layer, folder: Path, artefact: str) -> dict[str, int]:
    """Return a saved network's layer norm epsilons and how often each occurs.

    Args:
        model: The model it was made from.
        folder: Where the artefact's files are.
        artefact: A key of `deploy_config.ARTEFACT_FILES`.

    Raises:
        UserError: they are not the model's.
    """
    path = artefact_paths(folder, artefact)[0]
    expected = _counted(
        layer._epsilon for layer in model.sublayers() if isinstance(layer, nn.LayerNorm)
    )
    found = _counted(READERS[artefact](path))
    # layer norms of other networks may be used twice, or not at all
    is_ours = isinstance(input_of(model), (MixVisionTransformer, VisionTransformer))
    if found != expected and (is_ours or not set(expected) <= set(found)):
        raise UserError(
            f"layer norm epsilons of the saved graph are {dict(found)} in {path.name}, the model's "
            f"are {dict(expected)} (epsilon: how many). The export was discarded."
        )
    return dict(sorted(found.items()))


def _counted(epsilons: Iterator[float]) -> Counter[str]:
    return Counter(f"{epsilon:g}" for epsilon in epsilons)


def program_epsilons(path: Path) -> Iterator[float]:
    """Yield those of Paddle's program, in the order of its operators."""
    if path.suffix == ".json":
        yield from _of_program(json.loads(path.read_text(encoding="utf-8")))
        return
    program = paddle.base.core.ProgramDesc(path.read_bytes())  # its block lives no longer
    block = program.block(0)
    for operator in map(block.op, range(block.op_size())):
        if operator.type() == "layer_norm":
            yield operator.attr("epsilon")


def _of_program(node: Any) -> Iterator[float]:
    children: Any = node if isinstance(node, list) else ()
    if isinstance(node, dict):
        children = node.values()
        if str(node.get("#", "")).endswith(".layer_norm"):
            yield from (item["AT"]["D"] for item in node["A"] if item["N"] == "epsilon")
    for child in children:
        yield from _of_program(child)


def onnx_epsilons(path: Path) -> Iterator[float]:
    """Yield those of an ONNX file."""
    import onnx

    for node in onnx.load(path).graph.node:
        if node.op_type == "LayerNormalization":
            yield from (item.f for item in node.attribute if item.name == "epsilon")


def openvino_epsilons(path: Path) -> Iterator[float]:
    """Yield those of OpenVINO's XML file, where the norm is mean-variance normalisation."""
    for layer in ElementTree.parse(path).iter("layer"):
        if layer.get("type") == "MVN":
            yield from (float(data.get("eps", "nan")) for data in layer.iter("data"))


READERS: dict[str, Callable[[Path], Iterator[float]]] = {
    "paddle": program_epsilons,
    "onnx": onnx_epsilons,
    "openvino": openvino_epsilons,
    "onnx_with_preprocess": onnx_epsilons,
}
