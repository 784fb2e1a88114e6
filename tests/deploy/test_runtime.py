"""Exports run without Paddle, PaddleSeg and PyTorch, with the labels that they have beside them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddleseg_segformer.data.io import read_image, read_label
from paddleseg_segformer.export import export_model
from paddleseg_segformer.inference.overlay import write_image
from paddleseg_segformer.inference.pipeline import predict_label
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.models import MixVisionTransformer, SegFormer
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.runtimes.deploy_config import DeployConfig
from paddleseg_segformer.street_scenes.dataset import render_scene

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("runtime_program.py")
ENGINES = ("onnxruntime", "openvino")
SURFACES = ("from_export", "infer", "predict", "demo", "serve")
SETTINGS = InferenceSettings(
    is_slide=True, crop_size_hw=(64, 72), stride_hw=(48, 56), flip_horizontal=True
)


@pytest.fixture(scope="module")
def model() -> SegFormer:
    paddle.seed(11)
    backbone = MixVisionTransformer(embed_dims=(8, 16, 20, 32), depths=(1, 1, 1, 1))
    model = SegFormer(5, backbone, embedding_dim=16)
    for tensor in model.parameters():
        tensor.set_value(2 * tensor + 0.1 * paddle.randn(tensor.shape))
    model.eval()
    return model


@pytest.fixture(scope="module")
def preprocess() -> Preprocess:
    rules = [{"type": "ResizeByShort", "short_size": 80}, {"type": "Normalize"}]
    return Preprocess.from_transforms(rules)


@pytest.fixture(scope="module")
def folder(model, preprocess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an export that every engine reads."""
    folder = tmp_path_factory.mktemp("runtime") / "Modell ü"
    options = {"preprocess": preprocess, "settings": SETTINGS, "is_verified": False}
    export_model(model, folder, formats=("paddle", "onnx"), **options)
    return folder


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "scene.png"
    write_image(path, render_scene(3, (97, 131))[0])
    return path


def run(python: Path | str, *arguments: object, **options: object) -> None:
    done = subprocess.run(
        [python, *map(str, arguments)], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr


def assert_labels(path: Path, expected: np.ndarray) -> None:
    assert len(np.unique(expected)) > 1
    with np.load(path) as found:
        assert set(found) == set(SURFACES)
        for surface in SURFACES:
            np.testing.assert_array_equal(found[surface], expected, err_msg=surface)


@pytest.mark.parametrize("backend", ENGINES)
def test_every_surface_runs_where_paddle_cannot_be_imported(
    model, preprocess, folder, image, backend, tmp_path
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run(sys.executable, PROGRAM, folder, backend, image, tmp_path / "labels.npz", env=environment)
    expected = Predictor.from_export(folder, "cpu", os.cpu_count() or 1, backend=backend)(image)
    assert_labels(tmp_path / "labels.npz", expected.label)
    by_dygraph = predict_label(model, read_image(image), preprocess, SETTINGS)
    assert (expected.label == by_dygraph).mean() > 0.9995  # rounding of equally likely classes


def test_paddle_is_not_imported_where_it_could_be(folder, image, tmp_path) -> None:
    code = """
import sys
from paddleseg_segformer.cli import main
folder, *flags = sys.argv[1:]
assert main(["infer", "--config", folder, "--backend", "onnxruntime", *flags]) == 0
assert main(["predict", "--export_dir", folder, "--backend", "openvino", *flags]) == 0
assert not {"paddle", "paddleseg", "torch"} & set(sys.modules)
"""
    flags = ("--image_path", image, "--save_dir", tmp_path)
    run(sys.executable, "-c", code, folder, *flags, cwd=ROOT)


def test_an_export_for_paddle_alone_says_what_to_do_without_it(
    folder, tmp_path, image, capfd
) -> None:
    deploy = DeployConfig.load(folder)
    replace(deploy, artefacts={"paddle": deploy.artefacts["paddle"]}).save(tmp_path)
    code = """
import sys
sys.modules["paddle"] = None
from paddleseg_segformer.cli import main
folder, image = sys.argv[1:]
assert main(["infer", "--config", folder, "--image_path", image]) == 1
assert main(["predict", "--export_dir", folder, "--image_path", image]) == 1
assert main(["serve", "--config", folder]) == 1
"""
    subprocess.run([sys.executable, "-c", code, tmp_path, image], check=True, cwd=ROOT)
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 3
    for line in lines:
        expected = (
            f"error: {tmp_path}: holds paddle, but no engine that reads it is installed. Run "
        )
        assert line.startswith(expected)
        assert "paddlepaddle-gpu" in line and "--format onnx" in line


@pytest.mark.slow
@pytest.mark.parametrize("backend", ENGINES)
def test_an_environment_of_the_runtime_alone(folder, image, backend, tmp_path) -> None:
    """Install the package with one engine and the service into an environment of its own."""
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".*", "build", "output", "*.egg-info", "node_modules")
    shutil.copytree(ROOT, source, ignore=ignored)
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    extras = "runtime,serve" if backend == "onnxruntime" else "serve"
    engine = ("openvino",) if backend == "openvino" else ()
    run(python, "-m", "pip", "install", "--quiet", f"{source}[{extras}]", *engine)
    run(python, "-m", "pip", "check")
    code = "from importlib.util import find_spec\nassert not any(map(find_spec, {}))"
    run(python, "-c", code.format(["paddle", "paddleseg", "torch"]))
    program = shutil.copy(PROGRAM, tmp_path)
    run(python, program, folder, backend, image, tmp_path / "labels.npz", cwd=tmp_path)
    expected = Predictor.from_export(folder, "cpu", os.cpu_count() or 1, backend=backend)(image)
    with np.load(tmp_path / "labels.npz") as found:
        for surface in SURFACES:  # other versions of NumPy and OpenCV round the resize otherwise
            assert (found[surface] == expected.label).mean() > 0.9995, surface


@pytest.mark.slow
def test_the_locked_runtime_is_small(folder, image, tmp_path) -> None:
    """The commands of docs/installation.md: under 300 MiB, and the labels are right."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    install = ("-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-compile")
    lock = ROOT / "requirements" / "runtime.txt"
    run(sys.executable, *install, "--require-hashes", "-r", lock)
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".*", "build", "output", "*.egg-info", "node_modules")
    shutil.copytree(ROOT, source, ignore=ignored)
    run(sys.executable, *install, source)
    if sys.version_info >= (3, 11):  # the last ONNX Runtime for 3.10 needs SymPy
        size_mib = sum(p.lstat().st_size for p in (tmp_path / "venv").rglob("*")) / 2**20
        assert size_mib < 300
    command = ("-m", "paddleseg_segformer", "infer", "--config", folder, "--image_path", image)
    run(python, *command, "--save_dir", tmp_path / "out", cwd=tmp_path)
    expected = Predictor.from_export(folder, "cpu", os.cpu_count() or 1, backend="onnxruntime")
    label = read_label(tmp_path / "out" / "pseudo_color_prediction" / "scene.png")
    assert (label == expected(image).label).mean() > 0.9995
