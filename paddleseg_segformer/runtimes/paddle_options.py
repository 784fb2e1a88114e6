"""Options of Paddle Inference: oneDNN on the CPU, TensorRT on the GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import paddle

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.pipeline import GPU_WINDOW_BATCH
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.runtimes.deploy_config import DeployConfig

ONEDNN, SOME_ONEDNN, PLAIN = "oneDNN", "oneDNN without its placement pass", "no oneDNN"
# oneDNN's kernel for bilinear resizing fails in these.
# Source: Paddle issue 79749
FAILING_RESIZE = ("3.3.0", "3.3.1")
TRT_WORKSPACE_BYTES = 1 << 30
TRT_MIN_SUBGRAPH_SIZE = 3  # operators; PaddleSeg's default
TRT_SIDES_PX = (512, 2048)  # best and longest side of networks that take any size


def _enable_onednn(config: Any) -> None:
    config.enable_mkldnn()


def _enable_some_onednn(config: Any) -> None:
    """Keep the fusions, and the operators that they make, but leave all others to Paddle."""
    config.enable_mkldnn()
    config.delete_pass("onednn_placement_pass")


def _disable_onednn(config: Any) -> None:
    config.disable_mkldnn()


CPU_OPTIONS: dict[str, Callable[[Any], None]] = {  # the fastest first
    ONEDNN: _enable_onednn,
    SOME_ONEDNN: _enable_some_onednn,
    PLAIN: _disable_onednn,
}


def is_known_to_fail(option: str, program: Path) -> bool:
    """Tell whether trying an option would only cost time and a warning."""
    return (
        option == ONEDNN
        and paddle.__version__ in FAILING_RESIZE
        and b"bilinear_interp" in program.read_bytes()
    )


def set_up_tensorrt(config: Any, deploy: DeployConfig, precision: Any) -> None:
    """Let TensorRT run the network, on GPUs; sizes range as far as the export takes them.

    Raises:
        UserError: this Paddle was built without TensorRT, or the program has Paddle 3's form, for
            which Paddle Inference does not have these settings.
    """
    from paddle import inference

    program = deploy.artefacts["paddle"].files[0].name
    if program.endswith(".json"):
        raise UserError(
            f"use_trt: found {program}, but Paddle Inference takes TensorRT for programs of Paddle "
            "2 (model.pdmodel) alone. Leave --use_trt out, export with Paddle 2.6, or run the ONNX "
            "file of --standard_onnx in TensorRT."
        )
    if inference.get_trt_compile_version() == (0, 0, 0):
        raise UserError(
            "use_trt: this Paddle was built without TensorRT. Install a paddlepaddle-gpu that has "
            "it, or leave --use_trt out."
        )
    smallest, best, largest = tensorrt_shapes(deploy)
    config.enable_tensorrt_engine(
        workspace_size=TRT_WORKSPACE_BYTES,
        max_batch_size=largest[0],
        min_subgraph_size=TRT_MIN_SUBGRAPH_SIZE,
        precision_mode=precision,
        use_static=False,
        use_calib_mode=False,
    )
    name = deploy.input.name
    config.set_trt_dynamic_shape_info({name: smallest}, {name: largest}, {name: best})


def tensorrt_shapes(deploy: DeployConfig) -> tuple[list[int], list[int], list[int]]:
    """Return the smallest, the most frequent and the largest (N, C, H, W) of a network's input."""
    settings = InferenceSettings.from_dict(deploy.inference)
    batch, channels, *sides = deploy.input.shape
    batches = (batch,) * 3 if batch != -1 else (1, 1, settings.window_batch or GPU_WINDOW_BATCH)
    ranges = []
    for axis, side in enumerate(sides):
        crop_hw = settings.crop_size_hw if settings.is_slide else None
        best, largest = (crop_hw[axis], crop_hw[axis]) if crop_hw else TRT_SIDES_PX
        smallest = min(deploy.input.min_side_px, best)
        ranges.append((side,) * 3 if side != -1 else (smallest, best, largest))
    heights, widths = ranges
    lowest, usual, highest = (
        [count, channels, height, width]
        for count, height, width in zip(batches, heights, widths, strict=True)
    )
    return lowest, usual, highest
