"""The engines that run exported networks, as data; no engine is imported here."""

from __future__ import annotations

from typing import NamedTuple


class Engine(NamedTuple):
    """An engine that runs exported networks."""

    title: str
    package: str  # that has to be installed
    network: str  # module:class, a subclass of `EngineNetwork`
    artefacts: tuple[str, ...]  # keys of `ARTEFACT_FILES` that it reads, best first
    precisions: tuple[str, ...]


_HERE = "paddleseg_segformer.inference"

ENGINES = {  # the fastest on the CPU first
    "openvino": Engine(
        "OpenVINO",
        "openvino",
        f"{_HERE}.openvino_backend:OpenVINONetwork",
        ("openvino", "onnx"),
        ("fp32", "bf16"),
    ),
    "onnxruntime": Engine(
        "ONNX Runtime",
        "onnxruntime",
        f"{_HERE}.onnxruntime_backend:ONNXRuntimeNetwork",
        ("onnx",),
        ("fp32",),
    ),
    "paddle": Engine(
        "Paddle Inference",
        "paddle",
        f"{_HERE}.paddle_backend:PaddleInferenceNetwork",
        ("paddle",),
        ("fp32", "fp16"),
    ),
}
BACKENDS = ("auto", *ENGINES)
PRECISIONS = tuple(dict.fromkeys(name for engine in ENGINES.values() for name in engine.precisions))
