"""The ONNX model with preprocessing and labels inside, run without this package."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from benchmarks.deployment.job import Job, Outcome, time_images
from benchmarks.speed.memory import peak_mib

FILE = "model_with_preprocess.onnx"


def run(job: Job) -> Outcome:
    """Predict all images in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.log_severity_level = 3  # errors
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as in `inference`
    path = str(Path(job.export_dir) / FILE)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    spent_ms = 0.0

    def label_of(image: np.ndarray) -> np.ndarray:
        nonlocal spent_ms
        start = time.perf_counter()
        (labels,) = session.run(None, {name: image[None]})
        spent_ms = 1e3 * (time.perf_counter() - start)
        return labels[0]

    ms, network_ms = time_images(job, label_of, lambda: spent_ms)
    engine = f"ONNX Runtime {onnxruntime.__version__}, cpu"
    return Outcome(ms, network_ms, peak_mib(), engine)
