"""Services that are stopped after each test, images for them, and one real export."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from PIL import Image
from service_bench import Bench
from small_models import small_segformer

from paddleseg_segformer.export import export_model
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.street_scenes.dataset import render_scene


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    """Return a function that starts a service; all are stopped in the end."""
    benches: list[Bench] = []

    def start(transforms: list[dict[str, Any]] | None = None, **limits: Any) -> Bench:
        benches.append(Bench(transforms, **limits))
        return benches[-1]

    yield start
    for item in benches:
        item.network.gate.set()
        assert item.service.stop(10)


def png(image: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, options.pop("format", "PNG"), **options)
    return buffer.getvalue()


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """Return a function that makes an image file of an array."""
    return png


@pytest.fixture(scope="session")
def scene() -> np.ndarray:
    """Return an image (97, 131, 3)."""
    return np.ascontiguousarray(render_scene(3, (97, 131))[0])


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a narrow SegFormer's export."""
    paddle.seed(11)
    model = small_segformer()
    for tensor in model.parameters():
        if tensor.ndim > 1:
            tensor.set_value(paddle.randn(tensor.shape) / (0.3 * tensor.shape[0]) ** 0.5)
    model.eval()
    folder = tmp_path_factory.mktemp("serving") / "Modell ü"
    preprocess = Preprocess.from_transforms([{"type": "Normalize"}])
    options = {"preprocess": preprocess, "is_verified": False}
    export_model(model, folder, formats=("paddle", "onnx"), **options)
    return folder
