"""Paddle Inference as the network of the inference pipeline."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddleseg_segformer.cpu import prepare_cpu
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.runtimes.deploy_config import DeployConfig, InputSpec
from paddleseg_segformer.runtimes.engine_network import EngineNetwork, last_line
from paddleseg_segformer.runtimes.engines import EngineOptions
from paddleseg_segformer.runtimes.paddle_options import (
    CPU_OPTIONS,
    PLAIN,
    is_known_to_fail,
    set_up_tensorrt,
)

logger = logging.getLogger(__name__)

GPU_MEMORY_MIB = 256  # taken at the start; grows as needed
TOLERANCE = 1e-4  # of the largest difference to the plain options, times the standard deviation
MIN_AGREEMENT = 0.999  # of class ids, where the graph gives these
FLOATS = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}
ITEM_BYTES = {"BOOL": 1, "UINT8": 1, "INT8": 1, "INT16": 2, "FP16": 2, "BF16": 2}
ITEM_BYTES |= {"INT32": 4, "FP32": 4, "INT64": 8, "FP64": 8}
# images, height and width; sides of 1 become the smallest that the export takes: maps that are one
# cell high or wide take other code
PROBES_NHW = ((1, 1, 1), (1, 1, 200), (1, 200, 1), (1, 29, 29), (2, 32, 64), (1, 97, 131))


class PaddleInferenceNetwork(EngineNetwork):
    """An exported network, run by Paddle Inference; fp16 and TensorRT are for GPUs.

    On the CPU oneDNN makes it faster, but not every version of Paddle runs every graph with it. So
    the options are tried when the network is loaded, fastest first, on small inputs: odd sizes,
    even ones, and the smallest along either side and both. The first options that give what the
    plain ones give are taken.
    """

    name = "paddle"

    def _load(self, paths: list[Path]) -> None:
        self.option = PLAIN  # key of `CPU_OPTIONS`
        if paths[0].suffix == ".json" and paddle.__version__.startswith("2."):  # it would crash
            raise UserError(
                f"{paths[0]}: a program of Paddle 3, found Paddle {paddle.__version__}. Export the "
                "model with this Paddle, install Paddle 3, or use another backend."
            )
        for index, values in enumerate(_weights(paths[1])):
            self.check_weights(str(index), values)
        if self.device.partition(":")[0] == "cpu":
            prepare_cpu()
            if self.options.precision != "fp32":
                raise UserError(
                    f"precision: {self.options.precision} is for GPUs; on the CPU use fp32."
                )
            self._runner = self._fastest(paths, self.options.threads)
        else:
            configure = _gpu_config(paths, self.deploy, self.device, self.options)
            self._runner, _ = _runner(configure)

    def _run(self, x: np.ndarray) -> np.ndarray:
        return self._runner(x)

    def _fastest(self, paths: list[Path], threads: int) -> Runner:
        """Return the network with the first options that are right; say which were not, and why."""
        plain, optimises_memory = _runner(partial(_cpu_config, paths, threads, PLAIN))
        probes = list(_probes(self.deploy.input))
        failures = []
        for name in CPU_OPTIONS:
            if name == PLAIN or is_known_to_fail(name, paths[0]):
                continue
            try:
                runner = Runner(_cpu_config(paths, threads, name, optimises_memory))
                if all(_is_same(plain(x), runner(x)) for x in probes):
                    self.option = name
                    break
                failures.append(f"{name} gives other outputs")
            except Exception as error:  # Paddle raises several kinds, without a common base
                failures.append(f"{name} fails ({last_line(error)})")
        if failures:
            logger.warning(
                "Paddle Inference %s falls back to %s: %s",
                paddle.__version__,
                self.option,
                "; ".join(failures),
            )
        return plain if self.option == PLAIN else runner


class Runner:
    """Paddle's predictor as a function."""

    def __init__(self, config: Any) -> None:
        from paddle import inference

        self._predictor = inference.create_predictor(config)
        self._input = self._predictor.get_input_handle(self._predictor.get_input_names()[0])
        self._output = self._predictor.get_output_handle(self._predictor.get_output_names()[0])

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(N, C, H, W) float32 -> the network's output."""
        self._input.copy_from_cpu(x)
        self._predictor.run()
        output: np.ndarray = self._output.copy_to_cpu()
        return output


def _runner(configure: Callable[[bool], Any]) -> tuple[Runner, bool]:
    """Return a network, and whether it re-uses memory, as not every version of Paddle can."""
    try:
        return Runner(configure(True)), True
    except UserError:
        raise
    except Exception as error:  # Paddle raises several kinds, without a common base
        reason = last_line(error)
    try:
        runner = Runner(configure(False))
    except Exception as error:
        raise UserError(
            f"Paddle Inference {paddle.__version__} cannot load the network ({last_line(error)}). "
            "Export the model again, or use another version."
        ) from error
    logger.warning("Paddle Inference without memory optimisation: %s", reason)
    return runner, False


def _weights(path: Path) -> Iterator[np.ndarray]:
    """Yield the floating-point arrays of a file of weights, flat; none of what is damaged.

    They lie one after the other. Each begins with 16 bytes of versions and levels, none of which is
    used, and the length of a description.
    """
    from google.protobuf.message import DecodeError
    from paddle.base.proto import framework_pb2

    content = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    position = 0
    while position < len(content):
        start = position + 20 + int.from_bytes(content[position + 16 : position + 20], "little")
        try:
            told = framework_pb2.VarType.TensorDesc.FromString(
                content[position + 20 : start].tobytes()
            )
        except DecodeError:
            return
        kind = framework_pb2.VarType.Type.Name(told.data_type)
        position = start + math.prod(told.dims) * ITEM_BYTES.get(kind, len(content))
        if kind in FLOATS and position <= len(content):
            yield content[start:position].view(FLOATS[kind])


def _probes(spec: InputSpec) -> Iterator[np.ndarray]:
    """Yield random inputs, as far as the export's shape leaves them free."""
    rng = np.random.default_rng(0)
    batch, channels, *sides = spec.shape
    shapes: dict[tuple[int, ...], int] = {}
    for count, *size_hw in PROBES_NHW:
        taken = [
            max(free, spec.min_side_px) if side == -1 else side
            for side, free in zip(sides, size_hw, strict=True)
        ]
        shapes.setdefault(tuple(taken), count if batch == -1 else batch)
    for taken_hw, count in shapes.items():
        yield rng.standard_normal((count, channels, *taken_hw), np.float32)


def _is_same(expected: np.ndarray, found: np.ndarray) -> bool:
    """Tell whether outputs are equal up to rounding."""
    if expected.shape != found.shape:
        return False
    if expected.dtype.kind in "iu":
        return bool((expected == found).mean() >= MIN_AGREEMENT)
    difference = np.abs(expected - found).max()
    return bool(difference <= TOLERANCE * expected.std())  # false where it is not a number


def _cpu_config(paths: list[Path], threads: int, option: str, optimises_memory: bool) -> Any:
    """Return Paddle Inference's configuration for the CPU."""
    config = _config(paths, optimises_memory)
    config.disable_gpu()
    config.set_cpu_math_library_num_threads(threads)
    CPU_OPTIONS[option](config)
    return config


def _gpu_config(
    paths: list[Path], deploy: DeployConfig, device: str, options: EngineOptions
) -> Callable[[bool], Any]:
    """Return a function that configures Paddle Inference for a GPU, with or without memory re-use.

    Raises:
        UserError: this Paddle was not built for the device.
    """
    from paddle import inference

    kind, _, index = device.partition(":")
    has_gpu = paddle.is_compiled_with_cuda()
    if kind != "gpu" or not has_gpu:
        raise UserError(
            f"device {device!r}: not available; this Paddle offers cpu{', gpu' if has_gpu else ''}."
            f"{'' if has_gpu else ' For a GPU install paddlepaddle-gpu.'}"
        )
    types = {"fp32": inference.PrecisionType.Float32, "fp16": inference.PrecisionType.Half}
    precision = types[options.precision]

    def configure(optimises_memory: bool) -> Any:
        config = _config(paths, optimises_memory)
        config.enable_use_gpu(GPU_MEMORY_MIB, int(index or 0), precision)
        if options.use_trt:
            set_up_tensorrt(config, deploy, precision)
        return config

    return configure


def _config(paths: list[Path], optimises_memory: bool) -> Any:
    """Return what the configurations for all devices have in common."""
    from paddle import inference

    config = inference.Config(*map(str, paths))
    config.disable_glog_info()
    if optimises_memory:
        if hasattr(config, "enable_new_ir"):  # in Paddle 3, without these two, memory_optim fails
            config.enable_new_executor()
            config.enable_new_ir()
        config.enable_memory_optim()
    return config
