"""The static graph for Paddle Inference: `model.json` (Paddle 2: `.pdmodel`), `model.pdiparams`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_segformer.contracts import input_of, pad_multiple_of
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models.folding import fold
from paddleseg_segformer.models.layers import upsample_to_input
from paddleseg_segformer.runtimes.deploy_config import ARTEFACT_FILES, INPUT_NAME, OUTPUT_OPS

STEM = ARTEFACT_FILES["paddle"][0].removesuffix(".json")  # Paddle adds both suffixes


class ExportedNetwork(nn.Layer):
    """A folded model and what is done with its logits inside the graph.

    Args:
        folded: The model, its head folded.
        output_op: One of `OUTPUT_OPS`.
        pad_multiple: See `upsample_to_input`.
    """

    def __init__(self, folded: nn.Layer, output_op: str, pad_multiple: int = 1) -> None:
        super().__init__()
        self.folded = folded
        self.output_op = output_op
        self.pad_multiple = pad_multiple

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) float32, normalised -> logits, labels or probabilities.

        Returns:
            none: logits (N, K, h, w) float32, as the model gives them; argmax: class ids (N, H, W)
            int32; softmax: probabilities (N, K, H, W) float32.
        """
        logits = self.folded(x)
        if self.output_op == "none":
            return logits
        logits = upsample_to_input(logits, x.shape[2:], self.pad_multiple)  # (N, K, H, W)
        if self.output_op == "argmax":
            return paddle.argmax(logits, axis=1, dtype="int32")
        return F.softmax(logits, axis=1)


def save_static_graph(
    model: nn.Layer,
    folder: Path,
    output_op: str = "none",
    input_shape: Sequence[int] | None = None,
    is_for_onnx: bool = False,
) -> None:
    """Write a model's static graph into an existing folder, its head folded.

    The model is put into evaluation mode: dropout and stochastic depth are not in the graph.

    Args:
        model: SegFormer, SegFormerMM, a Segmenter or another `contracts.SegmentationModel`.
        output_op: The graph's output, one of `OUTPUT_OPS`.
        input_shape: (N, C, H, W), -1 for any size; by default only C is fixed.
        is_for_onnx: The graph is to be converted, for backends that fuse attention themselves.

    Raises:
        UserError: a model or shape that cannot be exported.
    """
    if output_op not in OUTPUT_OPS:
        raise UserError(f"output_op: found {output_op!r}, expected {', '.join(OUTPUT_OPS)}.")
    model.eval()
    folded = fold(model, has_query_blocks=not is_for_onnx)
    network = ExportedNetwork(folded, output_op, pad_multiple_of(model))
    network.eval()
    shape = [None if side == -1 else side for side in full_input_shape(model, input_shape)]
    spec = paddle.static.InputSpec(shape, "float32", name=INPUT_NAME)
    static = paddle.jit.to_static(network, input_spec=[spec], full_graph=True)
    try:
        with paddle.no_grad():
            paddle.jit.save(static, str(folder / STEM))
        (folder / f"{STEM}.pdiparams.info").unlink(missing_ok=True)  # Paddle 2's, for training
    except UserError:
        raise
    except Exception as error:  # Paddle could not trace the code
        reason = [type(error).__name__, *str(error).strip().splitlines()][-1].strip()
        raise UserError(
            f"model {type(model).__name__}: cannot be made a static graph ({reason}). Its layers "
            "have to work with sides that are known only when it runs."
        ) from error


def full_input_shape(model: nn.Layer, input_shape: Sequence[int] | None) -> list[int]:
    """Return (N, C, H, W) with -1 for any size.

    Raises:
        UserError: not four numbers, other channels than the model's, or sides that are too small.
    """
    channels, smallest = input_of(model).in_channels, input_of(model).min_input_px
    shape = [-1, channels, -1, -1] if input_shape is None else list(input_shape)
    if len(shape) != 4:
        raise UserError(f"input_shape: found {shape}, expected four numbers N C H W, -1 for any.")
    batch, found_channels, *sides = shape
    if found_channels not in (-1, channels):
        raise UserError(
            f"input_shape: found {found_channels} channels, but the model takes {channels}."
        )
    if batch != -1 and batch < 1:
        raise UserError(f"input_shape: found a batch of {batch}, expected 1 or more, or -1.")
    if any(side != -1 and side < smallest for side in sides):
        raise UserError(
            f"input_shape: found {sides[0]}x{sides[1]} px, expected {smallest} px or more per side,"
            " or -1."
        )
    return [batch, channels, *sides]
