"""Paddle Inference as the network of the inference pipeline."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.deploy_config import DeployConfig, deploy_path

logger = logging.getLogger(__name__)

PRECISIONS = ("fp32", "fp16")
GPU_MEMORY_MIB = 256  # taken at the start; grows as needed


class PaddleInferenceNetwork:
    """An exported network, run by Paddle Inference.

    Args:
        folder: The folder of an export, or the path of its `deploy.yaml`.
        device: "cpu", "gpu" or "gpu:1"; by default the device Paddle is set to.
        threads: CPU threads of the mathematical kernels.
        precision: "fp32", or "fp16" on GPU.
        output_op: What the caller counts on the network to give.

    Raises:
        UserError: not a complete export, another output than `output_op`, or a device or precision
            that this Paddle does not have.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        device: str | None = None,
        threads: int = 1,
        precision: str = "fp32",
        output_op: str = "none",
    ) -> None:
        self.deploy = DeployConfig.load(folder)
        self.pad_multiple = self.deploy.output.pad_multiple
        found = self.deploy.output.op
        if found != output_op:
            raise UserError(
                f"{folder}: exported with --output_op {found}, but {output_op} is needed here. "
                f"Export it again with --output_op {output_op}."
            )
        if threads < 1:
            raise UserError(f"threads: found {threads}, expected 1 or more.")
        self.device = device or paddle.get_device()
        root = deploy_path(folder).parent
        files = root / self.deploy.program.name, root / self.deploy.weights.name
        self._predictor = _create(files, self.device, threads, precision)
        self._input = self._predictor.get_input_handle(self._predictor.get_input_names()[0])
        self._output = self._predictor.get_output_handle(self._predictor.get_output_names()[0])

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, H, W) float32, normalised -> the network's output, on Paddle's current device.

        Raises:
            UserError: a shape that the export does not take.
        """
        self._check(x.shape)
        batch = self.deploy.input.shape[0]
        if batch in (-1, x.shape[0]):
            return paddle.to_tensor(self._run(x.numpy()))
        return paddle.to_tensor(self._run_in_parts(x.numpy(), batch))

    def _run(self, x: np.ndarray) -> np.ndarray:
        self._input.copy_from_cpu(np.ascontiguousarray(x))
        self._predictor.run()
        return self._output.copy_to_cpu()

    def _run_in_parts(self, x: np.ndarray, batch: int) -> np.ndarray:
        """Run any number of images through a network of fixed batch size; the last is repeated."""
        padding = np.repeat(x[-1:], -len(x) % batch, axis=0)
        padded = np.concatenate([x, padding])
        parts = [self._run(padded[i : i + batch]) for i in range(0, len(padded), batch)]
        return np.concatenate(parts)[: len(x)]

    def _check(self, shape: list[int]) -> None:
        taken = self.deploy.input.shape
        for axis, name in ((1, "channels"), (2, "px high"), (3, "px wide")):
            if taken[axis] not in (-1, shape[axis]):
                raise UserError(
                    f"network input: found {shape[axis]} {name}, but the model was exported for "
                    f"{taken[axis]}. Bring images or windows to that size (Resize, crop_size), or "
                    "export without --input_shape."
                )
        smallest = self.deploy.input.min_side_px
        if min(shape[2:]) < smallest:
            raise UserError(
                f"image of {shape[2]}x{shape[3]} px: the network needs {smallest} px or more per "
                "side. Resize it, or pad it."
            )


def _create(files: tuple[Path, Path], device: str, threads: int, precision: str) -> Any:
    """Create Paddle's predictor, with memory re-use where this Paddle can."""
    from paddle import inference

    try:
        return inference.create_predictor(_config(files, device, threads, precision, True))
    except UserError:
        raise
    except Exception as error:  # Paddle raises several kinds, without a common base
        reason = str(error).strip().splitlines()[-1].strip()
        logger.warning("Paddle Inference without memory optimisation: %s", reason)
        return inference.create_predictor(_config(files, device, threads, precision, False))


def _config(
    files: tuple[Path, Path], device: str, threads: int, precision: str, optimises_memory: bool
) -> Any:
    """Return Paddle Inference's configuration."""
    from paddle import inference

    config = inference.Config(*map(str, files))
    config.disable_glog_info()
    if precision not in PRECISIONS:
        raise UserError(f"precision: found {precision!r}, expected {' or '.join(PRECISIONS)}.")
    kind, _, index = device.partition(":")
    if kind == "cpu":
        if precision != "fp32":
            raise UserError(f"precision: {precision} is for GPUs; on the CPU use fp32.")
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(threads)
        # oneDNN: Paddle 3.3.1 fails on bilinear resizing with it, and 3.2.2 gives wrong logits for
        # images up to 32x32 px, whose last map is a single pixel.
        config.disable_mkldnn()
    elif kind == "gpu" and paddle.is_compiled_with_cuda():
        half, full = inference.PrecisionType.Half, inference.PrecisionType.Float32
        config.enable_use_gpu(
            GPU_MEMORY_MIB, int(index or 0), half if precision == "fp16" else full
        )
    else:
        has_gpu = paddle.is_compiled_with_cuda()
        raise UserError(
            f"device {device!r}: not available; this Paddle offers cpu{', gpu' if has_gpu else ''}."
            f"{'' if has_gpu else ' For a GPU install paddlepaddle-gpu.'}"
        )
    if optimises_memory:
        config.enable_new_executor()  # without these two, memory_optim fails
        config.enable_new_ir()
        config.enable_memory_optim()
    return config
