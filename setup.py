"""Metadata, dependencies and extras of `paddleseg_segformer`.

`PADDLE_DISTRIBUTION=paddlepaddle-gpu pip install .` depends on the GPU build of Paddle.
"""

import os
import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
PACKAGE = "paddleseg_segformer"
CONFIGS = f"{PACKAGE}.configs"  # the top-level folder `configs` is installed inside the package
# `onnx` bounds what its converter was tried with; the others run what it wrote
ONNX = ["onnx>=1.17,<1.18", "onnxruntime>=1.20", "onnxslim>=0.1.98", "paddle2onnx==2.1.0"]
OPENVINO = ["openvino>=2026.0"]
SERVE = [
    "fastapi>=0.116",
    "starlette>=0.46.2",
    "uvicorn>=0.30",
    "python-multipart>=0.0.20",
    "prometheus-client>=0.20",
]
INT8 = ["nncf>=3.4"]


def read_version() -> str:
    """Return `__version__` without importing the package."""
    source = (ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    assert match, f"{PACKAGE}/__init__.py has no line `__version__ = ...`"
    return match[1]


setup(
    name=PACKAGE,
    version=read_version(),
    description="SegFormer and Segmenter for PaddlePaddle: models, training, export, deployment",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",
    install_requires=[
        f"{os.environ.get('PADDLE_DISTRIBUTION', 'paddlepaddle')}>=3.2,<3.4",
        "paddleseg==2.8.0",
        "numpy>=1.26,<2",  # paddleseg's opencv-python is built for numpy 1 and fails to import on 2
        "opencv-python<=4.6.0",  # paddleseg's bound
        "visualdl>=2.5",
        "pyyaml>=6",
        "tqdm",
        "pillow",
        "safetensors",
    ],
    extras_require={
        "analysis": ["matplotlib>=3.8"],  # pictures of measurements
        "onnx": ONNX,
        "openvino": [*ONNX, *OPENVINO],
        "demo": ["gradio>=6.31,<7"],  # the page to try a model
        "int8": [*ONNX, *OPENVINO, *INT8],
        "serve": SERVE,  # the HTTP service
        "convert": ["torch>=2.6"],  # weight files that PyTorch wrote
        "dev": [
            *ONNX,
            *OPENVINO,
            *INT8,
            *SERVE,
            "gradio_client",
            "httpx",
            "mypy>=1.15",
            "playwright",  # drives the system's Chromium in the tests of the pages
            "pre-commit",
            "pycocotools",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff~=0.17.5",  # the formatter's output changes with the minor version
            "scikit-learn",
            "torch==2.13.0",
            "transformers==5.23.0; python_version >= '3.11'",
            "tritonclient",  # the schema of Triton's configuration, for a test
            "types-PyYAML",
        ],
    },
    packages=[*find_packages(include=[PACKAGE, f"{PACKAGE}.*"]), CONFIGS],
    package_dir={CONFIGS: "configs"},
    package_data={CONFIGS: ["*.md", "*.yml", "_base_/*.yml"]},
    entry_points={"console_scripts": [f"{PACKAGE} = {PACKAGE}.cli:main"]},
    zip_safe=False,
)
