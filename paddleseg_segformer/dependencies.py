"""One line for an import that failed in another package: what is missing and what installs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from paddleseg_segformer.errors import UserError

SERVE = "pip install fastapi uvicorn python-multipart prometheus-client"
REMEDIES = {
    "paddle": "pip install 'paddlepaddle>=3.2,<3.4' (or paddlepaddle-gpu)",
    "paddleseg": "pip install 'numpy<2' paddleseg==2.8.0",
    "cv2": "pip install 'numpy<2' opencv-python-headless==4.5.5.64",
    "visualdl": "pip install visualdl",
    "yaml": "pip install pyyaml",
    "numpy": "pip install 'numpy>=1.26,<2'",
    "tqdm": "pip install tqdm",
    "PIL": "pip install pillow",
    "safetensors": "pip install safetensors",
    "matplotlib": "pip install matplotlib",
    "paddle2onnx": "pip install paddle2onnx==2.1.0 onnx onnxslim onnxruntime 'numpy<2'",
    "onnx": "pip install onnx 'numpy<2'",
    "onnxslim": "pip install onnxslim 'numpy<2'",
    "onnxruntime": "pip install onnxruntime 'numpy<2'",
    "openvino": "pip install openvino 'numpy<2'",
    "nncf": "pip install 'nncf>=3.4' 'numpy<2'",
    "transformers": "pip install transformers==5.23.0",
    "fastapi": SERVE,
    "uvicorn": SERVE,
    "python_multipart": SERVE,
    "prometheus_client": SERVE,
    "gradio": "pip install 'gradio>=6.31,<7'",
    "gradio_client": "pip install gradio_client",
    "playwright": "pip install playwright && apt-get install chromium",
    "torch": "pip install 'torch>=2.6' (to read PyTorch's files)",
}
LOADER_REMEDIES = {
    "libGL.so.1": "pip uninstall opencv-python && pip install opencv-python-headless==4.5.5.64",
    "numpy.core.multiarray failed to import": "pip install 'numpy>=1.26,<2'",
    "compiled using NumPy 1.x": "pip install 'numpy>=1.26,<2'",
}


class MissingDependency(UserError, ImportError):
    """A package that is not installed, or that does not load on this machine."""


def explain(error: ImportError) -> ImportError:
    """Return `error` as one line with the command that mends it, else `error` itself."""
    package = (error.name or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and package in REMEDIES:
        return MissingDependency(f"{package} is not installed. Run: {REMEDIES[package]}")
    for symptom, remedy in LOADER_REMEDIES.items():
        if symptom in str(error):
            return MissingDependency(f"{' '.join(str(error).split())}. Run: {remedy}")
    return error


@contextmanager
def explained() -> Iterator[None]:
    """Raise a failed import inside the block as `explain` puts it."""
    try:
        yield
    except ImportError as error:
        explanation = explain(error)
        if explanation is error:
            raise
        raise explanation from error
