"""Paddle's static graph as an ONNX file, and that as OpenVINO's files."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import paddleseg_segformer
from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError, did_you_mean
from paddleseg_segformer.export.epsilons import program_epsilons
from paddleseg_segformer.export.fused_attention import fuse_attention
from paddleseg_segformer.runtimes.deploy_config import ARTEFACT_FILES

if TYPE_CHECKING:
    from onnx import ModelProto

logger = logging.getLogger(__name__)

OPSET = 17  # the first with layer norm as one operator
OUTPUT_NAMES = {"none": "logits", "argmax": "labels", "softmax": "probabilities"}  # by output_op
AXES = ("batch", "channels", "height", "width")  # names of those that are free
_TO_ONNX = ("paddle2onnx", "onnx", "onnxslim")
CONVERTERS: dict[str, tuple[str, ...]] = {  # packages that make an artefact
    "paddle": (),
    "onnx": _TO_ONNX,
    "openvino": (*_TO_ONNX, "openvino"),
    "int8": (*_TO_ONNX, "openvino", "nncf"),
    "onnx_with_preprocess": _TO_ONNX,
}
VERIFIERS = dict.fromkeys(
    ("onnx", "onnx_with_preprocess"), ("onnxruntime",)
)  # that run it and do not make it


def check_formats(formats: Sequence[str]) -> None:
    """Refuse formats that are unknown, or whose packages are not installed.

    Raises:
        UserError: one of these.
    """
    if not formats:
        raise UserError(f"format: found none, expected some of {', '.join(ARTEFACT_FILES)}.")
    os.environ.setdefault("NNCF_CI", "1")  # else NNCF, once imported, reports its use to its makers
    for name in formats:
        if name not in ARTEFACT_FILES:
            raise UserError(f"format: found {name!r}.{did_you_mean(name, ARTEFACT_FILES)}")
        for package in (*CONVERTERS[name], *VERIFIERS.get(name, ())):
            with explained():
                importlib.import_module(package)


def save_onnx(
    static_graph: Sequence[Path], path: Path, output_op: str, is_standard: bool = False
) -> None:
    """Write Paddle's static graph as an ONNX file, simplified and checked.

    Args:
        static_graph: Its files, program and weights.
        path: The file to write.
        output_op: What the graph gives; it names the output.
        is_standard: Use ONNX's own operators alone, and leave attention in pieces.

    Raises:
        UserError: the conversion failed.
    """
    import onnx
    import onnxslim

    model = _converted(static_graph)
    _mend_epsilons(model, list(program_epsilons(static_graph[0])))
    model = onnxslim.slim(model)
    if not is_standard:
        fuse_attention(model)
    _name(model, OUTPUT_NAMES[output_op])
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def save_openvino(source: Path, path: Path) -> None:
    """Write an ONNX file as OpenVINO's `.xml` and `.bin`, weights in float32.

    Raises:
        UserError: OpenVINO does not take the file.
    """
    import openvino

    try:
        model = openvino.Core().read_model(str(source))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"OpenVINO {openvino.__version__} cannot convert the model ({reason}). Leave openvino "
            "out of --format, or use another version."
        ) from None
    openvino.save_model(model, str(path), compress_to_fp16=False)


def _converted(static_graph: Sequence[Path]) -> ModelProto:
    import onnx
    import paddle2onnx

    try:
        content = paddle2onnx.export(
            *map(str, static_graph),
            opset_version=OPSET,
            enable_onnx_checker=True,
            optimize_tool="None",  # its own optimisers install packages while they run
        )
    except SystemExit:  # how it ends once it has printed its error
        raise UserError(
            "paddle2onnx could not convert the model; see its messages above."
        ) from None
    return onnx.load_model_from_string(content)


def _mend_epsilons(model: ModelProto, epsilons: Sequence[float]) -> None:
    """Set the layer norms' epsilons to those of the program, where the converter misread them.

    Source: Paddle2ONNX issue 1646: it may read an epsilon of 64 bits from the wrong place.
    """
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    if len(norms) != len(epsilons):
        raise UserError(f"paddle2onnx wrote {len(norms)} of {len(epsilons)} layer norms as such.")
    for node, epsilon in zip(norms, epsilons, strict=True):
        attributes = [item for item in node.attribute if item.name == "epsilon"]
        attribute = attributes[0] if attributes else node.attribute.add(name="epsilon", type=1)
        if f"{attribute.f:g}" != f"{epsilon:g}":
            logger.warning(
                "paddle2onnx read an epsilon of %g as %g; put right", epsilon, attribute.f
            )
            attribute.f = epsilon


def _name(model: ModelProto, output_name: str) -> None:
    """Name output and free axes for the reader, and say who wrote the file."""
    graph = model.graph
    old_name, graph.output[0].name = graph.output[0].name, output_name
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [output_name if name == old_name else name for name in names]
    for value, prefix in ((graph.input[0], ""), (graph.output[0], "output_")):
        for index, axis in enumerate(value.type.tensor_type.shape.dim):
            if axis.HasField("dim_param"):
                sides = AXES[index - len(value.type.tensor_type.shape.dim)]
                axis.dim_param = "batch" if index == 0 else prefix + sides
    del graph.value_info[:]  # shapes of what lies between, which engines find out themselves
    model.producer_name = paddleseg_segformer.__name__
    model.producer_version = paddleseg_segformer.__version__
