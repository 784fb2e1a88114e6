"""Paddle Inference as the network of the inference pipeline."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.engine_network import EngineNetwork
from paddleseg_segformer.processor import use_wide_vectors

logger = logging.getLogger(__name__)

GPU_MEMORY_MIB = 256  # taken at the start; grows as needed


class PaddleInferenceNetwork(EngineNetwork):
    """An exported network, run by Paddle Inference; fp16 is for GPUs."""

    name = "paddle"

    def _load(self, paths: list[Path], threads: int, precision: str) -> None:
        use_wide_vectors()
        self._predictor = _create(paths, self.device, threads, precision)
        self._input = self._predictor.get_input_handle(self._predictor.get_input_names()[0])
        self._output = self._predictor.get_output_handle(self._predictor.get_output_names()[0])

    def _run(self, x: np.ndarray) -> np.ndarray:
        self._input.copy_from_cpu(x)
        self._predictor.run()
        return self._output.copy_to_cpu()


def _create(files: list[Path], device: str, threads: int, precision: str) -> Any:
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
    files: list[Path], device: str, threads: int, precision: str, optimises_memory: bool
) -> Any:
    """Return Paddle Inference's configuration."""
    from paddle import inference

    config = inference.Config(*map(str, files))
    config.disable_glog_info()
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
