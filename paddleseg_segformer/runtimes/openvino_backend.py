"""OpenVINO as the network of the inference pipeline."""

from __future__ import annotations

import importlib
import sys
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.runtimes.compiled_cache import read_compiled, write_compiled
from paddleseg_segformer.runtimes.engine_network import EngineNetwork

MAX_COMPILED = 4  # shapes that have their own network
MAX_SEEN = 1024  # shapes remembered
STALE_CALLS = 32  # a shape not seen in so many calls is dropped for another
CONVERTER = "openvino.tools.ovc"
TYPES = {"fp32": "f32", "bf16": "bf16", "int8": "f32", "int8-bf16": "bf16"}

Shape = tuple[int, ...]


class OpenVINONetwork(EngineNetwork):
    """An exported network, run by OpenVINO on the CPU.

    A network compiled for one shape is faster than one for any shape, but compiling takes about as
    long as some runs. So the first input of a shape goes through the network for any
    shape, and has its own from the second time on, unless `MAX_COMPILED` others are in use.
    """

    name = "openvino"

    def _load(self, paths: list[Path]) -> None:
        openvino = import_openvino()
        self._core = openvino.Core()
        precision = self.options.precision
        if TYPES[precision] == "bf16" and "BF16" not in self._core.get_property(
            "CPU", "OPTIMIZATION_CAPABILITIES"
        ):
            raise UserError(
                f"precision {precision}: this processor does not compute in bf16. Use "
                f"{'fp32' if precision == 'bf16' else 'int8'}."
            )
        streams = self.options.streams
        self._settings = {
            "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": self.options.threads,
            "INFERENCE_PRECISION_HINT": TYPES[precision],  # else bf16 wherever the CPU has it
        }
        self._lock = Lock()  # of what follows
        self._read: Any = None
        self._any_shape: _Compiled | None = None
        self._compiled: dict[Shape, _Compiled] = {}
        self._last_calls: OrderedDict[Shape, int] = OrderedDict()
        self._num_calls = 0
        if not self.options.has_cache:
            self._model  # noqa: B018  read now, where its errors are expected

    @property
    def _model(self) -> Any:
        """Return the network as it is in the files."""
        if self._read is None:
            self._read = self._read_model()
        return self._read

    def _read_model(self) -> Any:
        openvino = import_openvino()
        try:
            model = self._core.read_model(*map(str, self.paths))
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{self.paths[0]}: OpenVINO {openvino.__version__} cannot load it ({reason}). "
                "Export the model again, or use another version."
            ) from None
        constants = (node for node in model.get_ops() if node.get_type_name() == "Constant")
        for node in constants:
            if node.get_element_type().get_type_name() in ("f16", "f32", "f64"):
                self.check_weights(node.friendly_name, node.data)
        return model

    def _run(self, x: np.ndarray) -> np.ndarray:
        with self._lock:
            compiled = self._network_for(x.shape)
        return compiled(x)

    def _network_for(self, shape: Shape) -> _Compiled:
        """Return the network for a shape, or for any."""
        is_new = shape not in self._last_calls
        self._note_call(shape)
        if shape not in self._compiled:
            if is_new or -1 not in self.deploy.input.shape or not self._make_room():
                self._any_shape = self._any_shape or self._compile(None)
                return self._any_shape
            self._compiled[shape] = self._compile(shape)
        return self._compiled[shape]

    def _note_call(self, shape: Shape) -> None:
        self._num_calls += 1
        self._last_calls[shape] = self._num_calls
        self._last_calls.move_to_end(shape)
        if len(self._last_calls) > MAX_SEEN:
            self._last_calls.popitem(last=False)

    def _make_room(self) -> bool:
        """Return whether one more shape may have its own network; a stale one is dropped for it."""
        if len(self._compiled) < MAX_COMPILED:
            return True
        oldest = min(self._compiled, key=lambda shape: self._last_calls.get(shape, 0))
        is_stale = self._num_calls - self._last_calls.get(oldest, 0) > STALE_CALLS
        if is_stale:
            del self._compiled[oldest]
        return is_stale

    def _compile(self, shape: Shape | None) -> _Compiled:
        """Return the network for a shape, or for any; out of the cache where it is there."""
        if not self.options.has_cache:
            return _Compiled(self._newly_compiled(shape))
        key = {
            "files": [file.sha256 for file in self.deploy.artefacts[self.artefact].files],
            "openvino": import_openvino().__version__,
            "settings": self._settings,
            "shape": shape,
        }
        if blob := read_compiled(key):
            with suppress(RuntimeError):  # OpenVINO refuses it: it is compiled anew
                return _Compiled(self._core.import_model(blob, "CPU", self._settings))
        compiled = self._newly_compiled(shape)
        write_compiled(key, compiled.export_model().getvalue())
        return _Compiled(compiled)

    def _newly_compiled(self, shape: Shape | None) -> Any:
        model = self._model
        if shape:
            model = model.clone()
            model.reshape(list(shape))
        return self._core.compile_model(model, "CPU", self._settings)


class _Compiled:
    """A compiled network, and its requests that no call is using."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self._idle: list[Any] = []

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(N, C, H, W) float32, contiguous -> the network's output; from any thread."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self.network.create_infer_request()
        request.infer({0: x}, share_inputs=True)
        output: np.ndarray = request.get_output_tensor().data.copy()  # the request's own memory
        self._idle.append(request)
        return output


def import_openvino() -> Any:
    """Return OpenVINO's module, imported without the converter of models of other frameworks.

    Nothing here needs that, and it takes longer than all the rest; `openvino.convert_model` imports
    it when it is called.
    """
    if "openvino" not in sys.modules and CONVERTER not in sys.modules:
        sys.modules[CONVERTER] = None  # type: ignore[assignment]  # so that importing it fails
        try:
            with suppress(ImportError):
                _openvino().convert_model = _convert_model
        finally:
            del sys.modules[CONVERTER]
    return _openvino()


def _openvino() -> Any:
    return importlib.import_module("openvino")


def _convert_model(*arguments: Any, **options: Any) -> Any:
    """Stand in for `openvino.convert_model` until its first call."""
    function = importlib.import_module(CONVERTER).convert_model
    _openvino().convert_model = function
    return function(*arguments, **options)
