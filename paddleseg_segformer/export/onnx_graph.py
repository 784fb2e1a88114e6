"""Paddle's static graph as an ONNX file, and that as OpenVINO's files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import paddle

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export.paddle_to_onnx import convert
from paddleseg_segformer.runtimes.deploy_config import PADDLE_2_PROGRAM

OUTPUT_NAMES = {"none": "logits", "argmax": "labels", "softmax": "probabilities"}  # by output_op


def save_onnx(
    static_graph: Sequence[Path], path: Path, output_op: str, is_standard: bool = False
) -> None:
    """Write Paddle's static graph as an ONNX file, checked.

    Args:
        static_graph: Its files, program and weights.
        path: The file to write.
        output_op: The graph's output; it names it.
        is_standard: Use ONNX's own operators alone, and leave attention in pieces.

    Raises:
        UserError: Paddle wrote its program in the form before Paddle 3, or the conversion failed.
    """
    import onnx

    if not static_graph[0].is_file():
        raise UserError(
            f"format: found {PADDLE_2_PROGRAM}, as Paddle {paddle.__version__} writes it, and "
            f"ONNX, OpenVINO and INT8 are made of {static_graph[0].name}. Export with "
            "--format paddle, or with Paddle 3: pip install 'paddlepaddle>=3.0'"
        )

    model = convert(static_graph, OUTPUT_NAMES[output_op], is_standard)
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
