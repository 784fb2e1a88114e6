"""Failed imports of other packages, explained in one line: what is missing, what installs it."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from paddleseg_segformer.errors import UserError

NEWEST_PYTHON = (3, 13)  # that Paddle has a build for
PADDLE = (
    "pip install 'paddlepaddle>=3.0,<3.4' setuptools (CPU), or paddlepaddle-gpu as Paddle's "
    "installation page says. Exported models run without it: pip install onnxruntime"
)
PADDLESEG = "pip install scipy scikit-learn six requests && pip install --no-deps paddleseg==2.8.0"
OPENCV = "pip install opencv-python-headless"
ONE_OPENCV = (
    "pip uninstall --yes opencv-python opencv-contrib-python opencv-python-headless && " + OPENCV
)
CORRUPTIONS = (
    "pip install numba scikit-image && pip install --no-deps imagecorruptions-imaug==1.1.5"
)
SERVE = "pip install fastapi uvicorn python-multipart prometheus-client"
REMEDIES = {
    "paddle": PADDLE,
    "paddleseg": PADDLESEG,
    "setuptools": "pip install setuptools (Paddle imports it)",
    "cv2": OPENCV,
    "visualdl": "pip install visualdl",
    "tensorboardX": "pip install tensorboard tensorboardX",
    "wandb": "pip install wandb",
    "mlflow": "pip install mlflow",
    "yaml": "pip install pyyaml",
    "numpy": "pip install numpy",
    "tqdm": "pip install tqdm",
    "PIL": "pip install pillow",
    "tifffile": "pip install tifffile",
    "safetensors": "pip install safetensors",
    "pycocotools": "pip install pycocotools",
    "rasterio": "pip install rasterio",
    "pyogrio": "pip install pyogrio shapely",
    "shapely": "pip install shapely",
    "av": "pip install av",
    "scipy": "pip install scipy",
    "imagecorruptions": CORRUPTIONS,
    "numba": CORRUPTIONS,
    "skimage": CORRUPTIONS,
    "matplotlib": "pip install matplotlib",
    "paddle2onnx": "pip install paddle2onnx==2.1.0 (for Python up to 3.12)",
    "onnx": "pip install onnx onnxruntime",
    "onnxslim": "pip install onnxslim",
    "onnxruntime": "pip install onnxruntime",
    "openvino": "pip install openvino",
    "nncf": "pip install 'nncf>=3.4'",
    "transformers": "pip install transformers",
    "fastapi": SERVE,
    "uvicorn": SERVE,
    "python_multipart": SERVE,
    "prometheus_client": SERVE,
    "gradio": "pip install 'gradio>=6.31,<7'",
    "gradio_client": "pip install gradio_client",
    "playwright": "pip install playwright && apt-get install chromium",
    "torch": "pip install 'torch>=2.6' (to read PyTorch's files)",
    "ray": "pip install 'ray[data]'",
    "pyarrow": "pip install 'ray[data]'",
    "fsspec": "pip install fsspec",
    "s3fs": "pip install s3fs",
    "gcsfs": "pip install gcsfs",
    "adlfs": "pip install adlfs",
}
# part of the message of an installed package that does not load -> remedy
LOADER_REMEDIES = {
    "libGL.so.1": ONE_OPENCV,
    "module 'cv2": ONE_OPENCV,  # two distributions wrote into one folder, such as
    "numpy.core.multiarray failed to import": ONE_OPENCV,  # OpenCV 4.5, which is built for numpy 1
    "compiled using NumPy 1.x": "pip install --upgrade the package named above, or 'numpy<2'",
    "libgomp.so.1": "apt-get install libgomp1",
}


class MissingDependency(UserError, ImportError):
    """A package that is not installed, or that does not load on this machine."""


def explain(error: Exception) -> Exception:
    """Return `error` as one line with the command that fixes it; unknown errors as they are."""
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError):
        if package == "paddle":
            return MissingDependency(f"paddle is not installed. {_paddle_remedy()}.")
        if package in REMEDIES:
            return MissingDependency(f"{package} is not installed. Run: {REMEDIES[package]}")
    for symptom, remedy in LOADER_REMEDIES.items():
        if symptom in str(error):
            return MissingDependency(f"{' '.join(str(error).split())}. Run: {remedy}")
    return error


def _paddle_remedy() -> str:
    """Say how to install Paddle here, or what to do where it has no build."""
    if sys.version_info[:2] > NEWEST_PYTHON:
        return (
            f"It has no build for Python {platform.python_version()}: use Python 3.10 to "
            f"{'.'.join(map(str, NEWEST_PYTHON))}. Exported models run without it: pip install "
            "onnxruntime"
        )
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        return (
            "It has no build for Intel's Macs: use Linux, Windows or an ARM Mac. Exported models "
            "run without it: pip install onnxruntime"
        )
    return f"Run: {PADDLE}"


@contextmanager
def explained() -> Iterator[None]:
    """Raise a failed import inside the block as `explain` puts it."""
    try:
        yield
    except (ImportError, AttributeError) as error:  # a broken package lacks names
        explanation = explain(error)
        if explanation is error:
            raise
        raise explanation from error
