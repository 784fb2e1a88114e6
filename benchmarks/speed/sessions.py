"""Graph files in their engines, each as (N, 3, H, W) float32 array -> array."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np

Session = Callable[[np.ndarray], np.ndarray]


def onnxruntime_session(path: Path, threads: int) -> Session:
    """Load an ONNX file in ONNX Runtime."""
    ort = import_module("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # a spinning thread would take time from the other processes of the run
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def openvino_session(path: Path, threads: int, precision: str, shape: tuple[int, ...]) -> Session:
    """Load an ONNX file in OpenVINO, for one input shape: faster there than a dynamic one."""
    openvino = import_module("openvino")
    core = openvino.Core()
    model = core.read_model(str(path))
    model.reshape(list(shape))
    compiled = core.compile_model(
        model,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        },
    )
    request = compiled.create_infer_request()

    def run(x: np.ndarray) -> np.ndarray:
        request.infer({0: x})
        return request.get_output_tensor(0).data.copy()

    return run


def paddle_inference_session(folder: Path, threads: int) -> Session:
    """Load `model.json` and `model.pdiparams` of a folder in Paddle Inference."""
    inference = import_module("paddle.inference")
    config = inference.Config(str(folder / "model.json"), str(folder / "model.pdiparams"))
    config.disable_glog_info()
    config.disable_gpu()
    config.set_cpu_math_library_num_threads(threads)
    config.disable_mkldnn()  # Paddle 3.3.1 fails on bilinear resizing with it
    predictor = inference.create_predictor(config)
    source = predictor.get_input_handle(predictor.get_input_names()[0])
    result = predictor.get_output_handle(predictor.get_output_names()[0])

    def run(x: np.ndarray) -> np.ndarray:
        source.copy_from_cpu(x)
        predictor.run()
        return result.copy_to_cpu()

    return run
