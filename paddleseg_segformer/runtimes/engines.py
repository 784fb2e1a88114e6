"""The engines that run exported networks, as data; no engine is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

MAX_STREAMS = 4  # unless more are asked for; each needs memory
MAX_SIDE_PX = 8192  # of what goes through a network at once; attention grows with its square


class Engine(NamedTuple):
    """An engine that runs exported networks."""

    title: str
    package: str  # that has to be installed
    network: str  # module:class, a subclass of `EngineNetwork`
    artefacts: tuple[str, ...]  # keys of `ARTEFACT_FILES` that it reads, best first
    precisions: tuple[str, ...]
    int8_artefact: str = ""  # key of `ARTEFACT_FILES`, what it computes in INT8
    has_streams: bool = True  # several calls at the same time

    def readable(self, precision: str) -> tuple[str, ...]:
        """Return the artefacts that it computes in a precision from, best first."""
        return (self.int8_artefact,) if precision in INT8_PRECISIONS else self.artefacts


# of a quantised artefact; what it leaves in float is computed in float32, or in bfloat16
INT8_PRECISIONS = ("int8", "int8-bf16")
_HERE = "paddleseg_segformer.runtimes"

ENGINES = {  # the fastest on the CPU first
    "openvino": Engine(
        "OpenVINO",
        "openvino",
        f"{_HERE}.openvino_backend:OpenVINONetwork",
        ("openvino", "onnx"),
        ("fp32", "bf16", *INT8_PRECISIONS),
        "int8",
    ),
    "onnxruntime": Engine(
        "ONNX Runtime",
        "onnxruntime",
        f"{_HERE}.onnxruntime_backend:ONNXRuntimeNetwork",
        ("onnx",),
        ("fp32", "int8"),
        "int8_onnx",
    ),
    "paddle": Engine(
        "Paddle Inference",
        "paddle",
        f"{_HERE}.paddle_backend:PaddleInferenceNetwork",
        ("paddle",),
        ("fp32", "fp16"),
        has_streams=False,
    ),
}
BACKENDS = ("auto", *ENGINES)
PRECISIONS = tuple(
    dict.fromkeys(["auto", *(name for item in ENGINES.values() for name in item.precisions)])
)


@dataclass(frozen=True)
class EngineOptions:
    """How an exported network is run.

    Args:
        backend: One of `BACKENDS`. auto: the first of OpenVINO, ONNX Runtime and Paddle Inference
            that is installed, reads an artefact of the export, and offers device and precision;
            without a device Paddle comes first where it has a GPU.
        device: "cpu", "gpu" or "gpu:1"; by default the device Paddle is set to, and "cpu" in
            engines without Paddle.
        threads: CPU threads.
        precision: Of the computation, one of the engine's `precisions`; auto: what `export --speed`
            chose, else fp32.
        output_op: The output that the caller expects of the network.
        use_trt: Let TensorRT run it, in Paddle Inference on GPU.
        max_side_px: Longest side that may go through the network at once.
        streams: Calls, from as many threads, that are computed at the same time with `threads`
            together, and so more of them in a second than one after the other. 0: one for each
            thread, at most `MAX_STREAMS`; one where the engine has no streams.
        has_cache: Keep what OpenVINO compiles in the user's cache folder, and take it from there;
            see `compiled_cache`.
    """

    backend: str = "auto"
    device: str | None = None
    threads: int = 1
    precision: str = "fp32"
    output_op: str = "none"
    use_trt: bool = False
    max_side_px: int = MAX_SIDE_PX
    has_cache: bool = False
    streams: int = 1
