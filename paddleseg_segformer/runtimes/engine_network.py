"""Exported networks: what all engines have in common, and the choice of one."""

from __future__ import annotations

import importlib
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from threading import Semaphore
from typing import ClassVar

import numpy as np

from paddleseg_segformer.dependencies import REMEDIES, MissingDependency, explained
from paddleseg_segformer.errors import UserError, did_you_mean
from paddleseg_segformer.inference.arrays import Array
from paddleseg_segformer.runtimes.deploy_config import DeployConfig, deploy_path
from paddleseg_segformer.runtimes.engines import (
    BACKENDS,
    ENGINES,
    INT8_PRECISIONS,
    MAX_STREAMS,
    Engine,
    EngineOptions,
)


class EngineNetwork(ABC):
    """An exported network, run by an engine.

    Args:
        folder: The folder of an export, or the path of its `deploy.yaml`.
        options: Backend, device, threads, precision and so on.

    Raises:
        UserError: not a complete export, another output than `output_op`, no artefact that this
            engine reads, or a device or precision that it does not have.
        MissingDependency: The engine is not installed.
    """

    name: ClassVar[str]  # key of `ENGINES`
    watch: Callable[[], AbstractContextManager[None]] = nullcontext  # is entered around each run

    def __init__(self, folder: str | os.PathLike[str], options: EngineOptions) -> None:
        self.deploy = DeployConfig.load(folder, check_files=False)
        if options.precision == "auto":
            options = replace(options, precision=self.deploy.precision)
        self.options = options
        self.pad_multiple = self.deploy.output.pad_multiple
        found = self.deploy.output.op
        # logarithms of probabilities are logits but for a number per pixel, which neither
        # resizing nor argmax nor softmax sees
        self._takes_log = (found, options.output_op) == ("softmax", "none")
        if found != options.output_op and not self._takes_log:
            raise UserError(
                f"{folder}: exported with --output_op {found}, but {options.output_op} is needed "
                f"here. Export it again with --output_op {options.output_op}."
            )
        if options.threads < 1:
            raise UserError(f"threads: found {options.threads}, expected 1 or more.")
        engine = ENGINES[self.name]
        if options.precision not in engine.precisions:
            raise UserError(
                f"precision: found {options.precision!r}, but {engine.title} offers "
                f"{' and '.join(engine.precisions)}."
            )
        self.device = options.device or (paddle_device() if self.name == "paddle" else "cpu")
        if self.name != "paddle" and self.device != "cpu":
            raise UserError(
                f"device {self.device!r}: {engine.title} runs on the CPU here. Use the device cpu, "
                "or the backend paddle."
            )
        if options.use_trt and (self.name != "paddle" or self.device == "cpu"):
            raise UserError(
                f"use_trt: TensorRT runs in Paddle Inference on a GPU, found {engine.title} on "
                f"{self.device}. Use the backend paddle and the device gpu, or leave it out."
            )
        if options.streams > 1 and not engine.has_streams:
            raise UserError(f"streams: found {options.streams}, but {engine.title} runs one.")
        if not 0 <= options.streams <= options.threads:
            raise UserError(
                f"streams: found {options.streams}, expected 1 to {options.threads}, the number of "
                "threads that they share."
            )
        self.artefact = self._choose_artefact(folder)
        self.paths = self.deploy.check_files(deploy_path(folder).parent, [self.artefact])
        with explained():
            self.use_streams(options.streams)

    @property
    def takes_numpy(self) -> bool:
        """Tell whether the pipeline hands over arrays, as on the CPU, or tensors of Paddle."""
        return self.device == "cpu"

    @property
    def num_callers(self) -> int:
        """Return from how many threads to call it at the same time."""
        return self.options.streams

    @property
    def description(self) -> str:
        """Return the engine's name, version and device."""
        engine = ENGINES[self.name]
        version = importlib.import_module(engine.package).__version__
        return f"{engine.title} {version.partition('-')[0]}, {self.device}"

    def use_streams(self, number: int) -> None:
        """Load the network for so many calls at the same time; see `EngineOptions.streams`."""
        has_streams = ENGINES[self.name].has_streams
        number = number or (min(self.options.threads, MAX_STREAMS) if has_streams else 1)
        self.options = replace(self.options, streams=number)
        self._turns = Semaphore(number)
        self._load(self.paths)

    @abstractmethod
    def _load(self, paths: list[Path]) -> None:
        """Make the network of an artefact's files ready."""

    @abstractmethod
    def _run(self, x: np.ndarray) -> np.ndarray:
        """(N, C, H, W) float32, contiguous -> the network's output.

        It is called from several threads where the engine has streams.
        """

    def __call__(self, x: Array) -> Array:
        """(N, C, H, W) float32, normalised -> the network's output.

        A NumPy array gives one; a Paddle tensor gives a tensor on Paddle's current device.

        Raises:
            UserError: a shape that the export does not take, or the engine failed on it.
        """
        if not isinstance(x, np.ndarray):
            import paddle

            return paddle.to_tensor(self(x.numpy()))
        self.check_shape(x.shape)
        x = np.ascontiguousarray(x)
        batch = self.deploy.input.shape[0]
        try:
            with self._turns, self.watch():
                output = self._run(x) if batch in (-1, len(x)) else self._run_in_parts(x, batch)
        except Exception as error:  # each engine raises kinds of its own, without a common base
            raise UserError(
                f"{self.description} failed on an input of {x.shape[2]}x{x.shape[3]} px (height x "
                f"width): {last_line(error)}"
            ) from error
        return np.log(np.maximum(output, np.finfo(np.float32).tiny)) if self._takes_log else output

    def _run_in_parts(self, x: np.ndarray, batch: int) -> np.ndarray:
        """Run any number of images through a network of fixed batch size; the last is repeated."""
        padding = np.repeat(x[-1:], -len(x) % batch, axis=0)
        padded = np.concatenate([x, padding])
        starts = range(0, len(padded), batch)
        parts = [self._run(padded[start : start + batch]) for start in starts]
        return np.concatenate(parts)[: len(x)]

    def check_weights(self, name: str, values: np.ndarray) -> None:
        """Refuse weights that are not finite; single infinite values are limits of the graph.

        Engines may pass over them, so that their labels would only look right.

        Raises:
            UserError: they are not.
        """
        if not np.isfinite(values).all() and (values.size > 1 or np.isnan(values).any()):
            raise UserError(
                f"{self.paths[-1]}: its weights '{name}' are not finite (NaN or infinite). Export "
                "a model whose weights are."
            )

    def check_shape(self, shape: Sequence[int]) -> None:
        """Refuse an input of another shape (N, C, H, W) than the export takes.

        Raises:
            UserError: it is one.
        """
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
        longest = self.options.max_side_px
        if max(shape[2:]) > longest:
            raise UserError(
                f"image of {shape[2]}x{shape[3]} px (height x width): more than {longest} px at "
                "once. Use a sliding window (--is_slide --crop_size 1024 1024), or raise "
                "--max_side_px."
            )

    def _choose_artefact(self, folder: str | os.PathLike[str]) -> str:
        engine, precision = ENGINES[self.name], self.options.precision
        readable = engine.readable(precision)
        for name in readable:
            if name in self.deploy.artefacts:
                return name
        raise UserError(
            f"{folder}: holds {' and '.join(self.deploy.artefacts)}, but {engine.title} reads "
            f"{' or '.join(readable)}. Export it again with --format {readable[-1]}, or choose "
            f"another {'precision' if precision in INT8_PRECISIONS else 'backend'}."
        )


def last_line(error: Exception) -> str:
    """Return what an engine says last of an error, without its stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def load_network(
    folder: str | os.PathLike[str], options: EngineOptions | None = None
) -> EngineNetwork:
    """Load an exported network; see `EngineNetwork`.

    Raises:
        MissingDependency: no engine that reads the export is installed.
    """
    options = options or EngineOptions()
    backend = options.backend
    if backend not in BACKENDS:
        raise UserError(
            f"backend: found {backend!r}, expected {', '.join(BACKENDS)}."
            f"{did_you_mean(backend, BACKENDS)}"
        )
    if backend == "auto":
        backend = _fastest(folder, options)
    return network_class(backend)(folder, options)


def network_class(backend: str) -> type[EngineNetwork]:
    """Return the class of an engine's networks; of the engines only Paddle is imported with it."""
    module, _, name = ENGINES[backend].network.partition(":")
    with explained():
        network: type[EngineNetwork] = getattr(importlib.import_module(module), name)
    return network


def paddle_device() -> str:
    """Return Paddle's current device.

    "cpu", without importing Paddle, where it cannot be another: it is not installed for a GPU.
    """
    if sys.modules.get("paddle") is None and not _is_installed("paddlepaddle-gpu"):
        return "cpu"
    import paddle

    device: str = paddle.get_device()
    return device


def _is_installed(distribution: str) -> bool:
    """Tell whether a distribution is installed; several may hold packages of one name."""
    from importlib.metadata import PackageNotFoundError, version  # it takes a while to import

    try:
        return bool(version(distribution))
    except PackageNotFoundError:
        return False


def _fastest(folder: str | os.PathLike[str], options: EngineOptions) -> str:
    deploy = DeployConfig.load(folder, check_files=False)
    device, artefacts = options.device, deploy.artefacts
    precision = deploy.precision if options.precision == "auto" else options.precision
    readers = {
        name: engine
        for name, engine in ENGINES.items()
        if precision in engine.precisions and set(engine.readable(precision)) & set(artefacts)
    }
    if device is None and "paddle" in readers:
        device = paddle_device()
    if device in (None, "cpu"):
        for name, engine in readers.items():
            if find_spec(engine.package):
                return name
        if readers:
            raise MissingDependency(_no_engine(folder, artefacts, readers))
    return "openvino" if precision in INT8_PRECISIONS else "paddle"


def _no_engine(
    folder: str | os.PathLike[str], artefacts: Iterable[str], readers: dict[str, Engine]
) -> str:
    """Return what to install for an export, in one line."""
    remedies = [f"for {engine.title} {REMEDIES[engine.package]}" for engine in readers.values()]
    other = "; or export it with --format onnx, which runs without Paddle"
    return (
        f"{folder}: holds {' and '.join(artefacts)}, but no engine that reads it is installed. "
        f"Run {', or '.join(remedies)}{other if list(readers) == ['paddle'] else ''}."
    )
