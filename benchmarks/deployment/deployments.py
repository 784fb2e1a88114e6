"""The deployment options, as data; nothing of them is imported here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from paddleseg_segformer.errors import UserError, did_you_mean

MIN_AGREEMENT = 0.9999  # of the pixels, for every exact deployment
ALL = "all"

TIMERS = {
    "array": "RGB array in memory -> label map: size rules, normalisation, network, resizing,"
    " argmax; the file is decoded before",
    "graph": "the same, as one graph from the 8-bit image to the labels",
    "steps": "the medians of the program's own steps preprocess, network and upsample+argmax, added"
    " up; decoding and writing are not in it",
    "request": "PNG file -> file of the label map, at the client over loopback: sending, decoding,"
    " all that `array` holds, encoding, receiving",
    "page": "PNG file -> label map, as the page counts it in whole ms: decoding, and all that"
    " `array` holds; on as many threads as there are cores",
}


@dataclass(frozen=True)
class Deployment:
    """One deployment option of a model.

    Args:
        title: for tables.
        platform: what has to be there to run it.
        run: `module:function`; the function takes a `Job` and gives an `Outcome`.
        timer: what its time per image holds, a key of `TIMERS`.
        reads: the artefacts of an export of which it needs one; none for the weights themselves.
        export: which export it runs, a key of `material.EXPORTS`.
        options: for `run`.
        precision: of the computation.
        is_exact: whether it has to give the reference's labels.
    """

    title: str
    platform: str
    run: str
    timer: str = "array"
    reads: tuple[str, ...] = ("paddle",)
    export: str = "engines"
    options: dict[str, str] = field(default_factory=dict)
    precision: str = "fp32"
    is_exact: bool = True


_HERE = "benchmarks.deployment"
_IN_PROCESS = f"{_HERE}.in_process:run"
_PROGRAM = f"{_HERE}.programs:run"
_OPENVINO = ("openvino", "onnx")

DEPLOYMENTS = {
    "dygraph": Deployment("Paddle, dygraph", "Python", _IN_PROCESS, reads=()),
    "paddle": Deployment("Paddle Inference", "Python", _IN_PROCESS, options={"backend": "paddle"}),
    "cpp-paddle": Deployment(
        "Paddle Inference", "C++", _PROGRAM, "steps", options={"engine": "paddle"}
    ),
    "onnxruntime": Deployment(
        "ONNX Runtime", "Python", _IN_PROCESS, reads=("onnx",), options={"backend": "onnxruntime"}
    ),
    "onnxruntime-whole": Deployment(
        "ONNX Runtime, preprocessing in the graph",
        "Python",
        f"{_HERE}.whole_graph:run",
        "graph",
        reads=("onnx_with_preprocess",),
        export="with_preprocess",
    ),
    "openvino": Deployment(
        "OpenVINO", "Python", _IN_PROCESS, reads=_OPENVINO, options={"backend": "openvino"}
    ),
    "cpp-openvino": Deployment(
        "OpenVINO", "C++", _PROGRAM, "steps", reads=_OPENVINO, options={"engine": "openvino"}
    ),
    "openvino-bf16": Deployment(
        "OpenVINO",
        "Python",
        _IN_PROCESS,
        reads=_OPENVINO,
        options={"backend": "openvino"},
        precision="bf16",
        is_exact=False,
    ),
    "openvino-int8": Deployment(
        "OpenVINO",
        "Python",
        _IN_PROCESS,
        reads=("int8",),
        export="int8",
        options={"backend": "openvino"},
        precision="int8",
        is_exact=False,
    ),
    "http": Deployment(
        "HTTP service",
        "any client",
        f"{_HERE}.over_http:run",
        "request",
        reads=("paddle", *_OPENVINO),
        options={"backend": "auto"},
    ),
    "gradio": Deployment(
        "Gradio demo",
        "any browser",
        f"{_HERE}.in_gradio:run",
        "page",
        reads=("paddle", *_OPENVINO),
    ),
    "browser": Deployment(
        "ONNX Runtime Web",
        "Chromium",
        f"{_HERE}.in_browser:run",
        "page",
        reads=("onnx",),
    ),
}


def chosen_deployments(
    names: Sequence[str] | None, required: Sequence[str]
) -> tuple[list[str], set[str]]:
    """Return the names of the deployments to try, in the table's order, and those that have to run.

    Args:
        names: Deployments to try; None for all of them.
        required: Names, or "all" for every deployment that is tried.

    Raises:
        UserError: an unknown name, or a required deployment that is not tried.
    """
    for flag, given in (("--ways", names or ()), ("--require", required)):
        for name in given:
            if name not in DEPLOYMENTS and not (name == ALL and flag == "--require"):
                raise UserError(f"{flag}: found {name!r}.{did_you_mean(name, DEPLOYMENTS)}")
    tried = [name for name in DEPLOYMENTS if names is None or name in names]
    needed = set(tried) if ALL in required else set(required)
    if left_out := sorted(needed - set(tried)):
        raise UserError(f"--require: {', '.join(left_out)} is not among --ways. Name it there too.")
    return tried, needed
