"""The C++ programs, built once, and small exported models for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
import yaml
from paddle import nn
from small_models import small_segformer, small_vit

from paddleseg_segformer.export import export_model
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.models import (
    LinearSegmenter,
    MaskSegmenter,
    SegFormer,
    SegFormerMM,
)
from paddleseg_segformer.street_scenes.dataset import render_scene

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "deploy" / "cpp"
BUILD = ROOT / "build" / "cpp"
NORMALIZE = {"type": "Normalize", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
NUM_CLASSES = 7
FORMATS = ("paddle", "onnx", "openvino")
CONVERTED = ("SegFormer", "SegFormerMM", "LinearSegmenter", "padded MaskSegmenter")


@pytest.fixture(scope="session")
def programs() -> dict[str, Path]:
    """Return the programs by engine; they are built anew where a source has changed."""
    if not (shutil.which("cmake") and (shutil.which("c++") or os.environ.get("CXX"))):
        # a compiler is no part of a Python environment, and `make deploy-test` fails without one
        pytest.skip("cmake or a C++ compiler is missing: apt-get install cmake g++")
    has_openvino = find_spec("openvino") is not None
    flags = [f"-DPython3_EXECUTABLE={sys.executable}"]
    flags += [f"-DSEGMENT_OPENVINO={'ON' if has_openvino else 'OFF'}", "-DSEGMENT_TESTS=ON"]
    done = _run("cmake", "-S", SOURCE, "-B", BUILD, *flags)
    if "Could not find a package configuration" in done.stderr or "Could NOT find" in done.stderr:
        # the same: system libraries, which pip does not install
        pytest.skip(f"a C++ library is missing, see deploy/cpp/README.md: {done.stderr[:500]}")
    assert done.returncode == 0, done.stderr
    done = _run("cmake", "--build", BUILD, "--parallel", os.cpu_count() or 1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning:" not in done.stdout + done.stderr
    names = ("paddle", "openvino") if has_openvino else ("paddle",)
    return {name: BUILD / f"segment_{name}" for name in names}


@pytest.fixture(scope="session")
def read_images(programs: dict[str, Path]) -> Path:
    """Return the program that tells what the others make of image files."""
    return BUILD / "read_images"


def _run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def _segformer(head: type[nn.Layer], num_classes: int = NUM_CLASSES, **backbone: Any) -> nn.Layer:
    return small_segformer(num_classes, head, **backbone)


def _segmenter(head: type[nn.Layer], *arguments: int, **backbone: Any) -> nn.Layer:
    return head(NUM_CLASSES, small_vit(**backbone), *arguments)


MODELS: dict[str, Callable[[], nn.Layer]] = {
    "SegFormer": lambda: _segformer(SegFormer),
    "SegFormerMM": lambda: _segformer(SegFormerMM),
    "LinearSegmenter": lambda: _segmenter(LinearSegmenter),
    "padded MaskSegmenter": lambda: _segmenter(MaskSegmenter, 16, 2, 2, pad_input=True),
    "300 classes": lambda: _segformer(SegFormer, 300),
    "one channel": lambda: _segformer(SegFormer, in_channels=1),
    "four channels": lambda: _segformer(SegFormer, in_channels=4),
}
Edit = Callable[[dict[str, Any]], None]


def _make(name: str) -> nn.Layer:
    """Return a model of random weights in whose labels of a scene several classes have a share."""
    scene = render_scene(0, (96, 128))[0].astype(np.float32) / 128 - 1
    for seed in range(100):
        paddle.seed(seed)
        model = MODELS[name]()
        model.eval()
        for tensor in model.parameters():
            if tensor.ndim > 1:
                fan_in = np.prod(tensor.shape[:-1] if tensor.ndim == 2 else tensor.shape[1:])
                tensor.set_value(1.5 * paddle.randn(tensor.shape) / fan_in**0.5)
        channels = np.resize(np.arange(3), model.backbone.in_channels)
        with paddle.no_grad():
            logits = model(paddle.to_tensor(scene.transpose(2, 0, 1)[None, channels]))
        share = np.bincount(logits.argmax(axis=1).numpy().ravel(), minlength=NUM_CLASSES)
        if (share > 0.05 * share.sum()).sum() > 3:
            return model
    raise AssertionError(f"{name}: no seed gives more than 3 classes")


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that exports a model of `MODELS`; its deploy.yaml may then be edited."""
    folders: dict[str, Path] = {}
    is_convertible = bool(find_spec("openvino") and find_spec("onnx"))

    def export(name: str, edit: Edit | None = None) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("export") / "Modell ü"
            normalize = NORMALIZE if "channel" not in name else {"type": "Normalize"}
            preprocess = Preprocess.from_transforms([normalize])
            formats = FORMATS if is_convertible and name in CONVERTED else FORMATS[:1]
            export_model(_make(name), folders[name], preprocess=preprocess, formats=formats)
        if edit is None:
            return folders[name]
        folder = tmp_path_factory.mktemp("edited") / "export"
        shutil.copytree(folders[name], folder)
        content = yaml.safe_load((folder / "deploy.yaml").read_text(encoding="utf-8"))
        edit(content)
        text = yaml.safe_dump(content, allow_unicode=True)
        (folder / "deploy.yaml").write_text(text, encoding="utf-8")
        return folder

    return export
