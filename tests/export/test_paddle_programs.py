"""PaddleX and PaddleSeg's `infer.py`, the real programs, on our exports: the labels of `Predictor`.

They run where variables name them:

- `PADDLEX_PYTHON`: a Python that has Paddle and PaddleX (`pip install 'paddlex[cv,serving]'`);
- `PADDLESEG_INFER`: `deploy/python/infer.py` of a checkout of PaddleSeg;
- `FASTDEPLOY_PYTHON`: a Python 3.10 that has `fastdeploy-python` 1.0.7; the tests with Paddle 2.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from itertools import product
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from PIL import Image
from small_models import IS_PADDLE_2, small_vit, spread

from paddleseg_segformer import Predictor
from paddleseg_segformer.export import export_model
from paddleseg_segformer.export.paddleseg_folder import paddlex_name, write_paddleseg_folder
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.models import BACKBONES, MaskSegmenter, SegFormer

SIZE_WH = (160, 96)
NORMALIZE = {"type": "Normalize", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
SHAPES = {"free": None, "fixed": [1, 3, *SIZE_WH[::-1]]}
CASES = [f"{model}-{shape}" for model, shape in product(("b0", "segmenter"), SHAPES)]
PLAIN = {"PADDLE_PDX_ENABLE_MKLDNN_BYDEFAULT": "False"}  # oneDNN of Paddle 3.3 fails
ENVIRONMENT = {"PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK": "True", **PLAIN}
CREATE_MODEL = """
import json, sys
import numpy as np
from paddlex import create_model
for name, folder, image, labels in json.load(sys.stdin):
    model = create_model(name, model_dir=folder, device="cpu")
    np.save(labels, next(iter(model.predict(image)))["pred"][0])
"""
CREATE_PIPELINE = """
import sys
import numpy as np
from paddlex import create_pipeline
pipeline = create_pipeline(pipeline=sys.argv[1], device="cpu")
np.save(sys.argv[3], next(iter(pipeline.predict(sys.argv[2])))["pred"][0])
"""
FASTDEPLOY = """
import json, sys
import cv2
import fastdeploy
import numpy as np
for backend, folder, image, labels in json.load(sys.stdin):
    option = fastdeploy.RuntimeOption()
    option.use_cpu()
    getattr(option, f"use_{backend}_backend")()
    names = ("inference.pdmodel", "inference.pdiparams", "deploy.yaml")
    files = [f"{folder}/{name}" for name in names]
    model = fastdeploy.vision.segmentation.PaddleSegModel(*files, runtime_option=option)
    result = model.predict(cv2.imread(image))
    np.save(labels, np.reshape(result.label_map, result.shape))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a blurred noise image's path."""
    coarse = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    path = tmp_path_factory.mktemp("images") / "image.png"
    Image.fromarray(coarse).resize(SIZE_WH, Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="module")
def exports(image: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple]:
    """Return by case: PaddleX's name, argmax's folder, softmax's folder, labels of `Predictor`."""
    paddle.seed(0)
    models = {
        "b0": spread(SegFormer(19, BACKBONES["MixVisionTransformer_B0"](), 256)),
        "segmenter": MaskSegmenter(19, small_vit(embed_dim=64, num_heads=2), 64, 1, 2),
    }
    preprocess = Preprocess.from_transforms([NORMALIZE])
    found = {}
    for case in CASES:
        kind, _, shape = case.partition("-")
        model = models[kind]
        root = tmp_path_factory.mktemp(case)
        for op in ("argmax", "softmax"):
            options = {"output_op": op, "input_shape": SHAPES[shape], "is_verified": False}
            export_model(model, root / f"our-{op}", preprocess=preprocess, **options)
            write_paddleseg_folder(root / f"our-{op}", root / op, paddlex_name(model))
        labels = Predictor(model, preprocess)(image).label
        assert len(np.unique(labels)) > 2
        found[case] = (paddlex_name(model), root / "argmax", root / "softmax", labels)
    return found


@pytest.fixture(scope="module")
def paddlex() -> Path:
    """Return the Python that has PaddleX."""
    if not (python := os.environ.get("PADDLEX_PYTHON")):
        pytest.skip("PADDLEX_PYTHON names no Python")
    return Path(python)


def _run(command: list, **options) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | ENVIRONMENT
    result = subprocess.run(command, env=environment, capture_output=True, text=True, **options)
    assert result.returncode == 0, result.stderr[-2000:]


def test_paddlex_create_model(exports, image: Path, paddlex: Path, tmp_path: Path) -> None:
    jobs = [
        [name, str(folder), str(image), str(tmp_path / f"{case}.npy")]
        for case, (name, folder, _, _) in exports.items()
    ]
    _run([paddlex, "-c", CREATE_MODEL], input=json.dumps(jobs))
    for case, (*_, labels) in exports.items():
        np.testing.assert_array_equal(np.load(tmp_path / f"{case}.npy"), labels, case)


def _pipeline(folder: Path, path: Path) -> Path:
    section = {"module_name": "semantic_segmentation", "model_name": "SegFormer-B0"}
    section |= {"model_dir": str(folder), "batch_size": 1, "target_size": None}
    content = {"pipeline_name": "semantic_segmentation"}
    path.write_text(yaml.safe_dump(content | {"SubModules": {"SemanticSegmentation": section}}))
    return path


def test_paddlex_pipeline_and_service(exports, image: Path, paddlex: Path, tmp_path: Path) -> None:
    _, folder, _, labels = exports["b0-free"]
    pipeline = _pipeline(folder, tmp_path / "pipeline.yaml")
    _run([paddlex, "-c", CREATE_PIPELINE, pipeline, image, tmp_path / "labels.npy"])
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), labels)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    flags = ["--serve", "--pipeline", pipeline, "--host", "127.0.0.1", "--port", str(port)]
    service = subprocess.Popen(
        [paddlex, "-m", "paddlex", *flags, "--device", "cpu"],
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(f"{address}/health", service)
        body = {"image": base64.b64encode(image.read_bytes()).decode(), "visualize": False}
        request = urllib.request.Request(
            f"{address}/semantic-segmentation",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            result = json.load(answer)["result"]
    finally:
        service.terminate()
        service.wait()
    np.testing.assert_array_equal(np.reshape(result["labelMap"], result["size"]), labels)


def _wait_for(address: str, service: subprocess.Popen) -> None:
    for _ in range(240):
        assert service.poll() is None, "the service ended"
        try:
            urllib.request.urlopen(address).close()
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the service does not answer")


@pytest.mark.skipif(not IS_PADDLE_2, reason="FastDeploy reads programs of Paddle 2")
def test_fastdeploy(exports, image: Path, tmp_path: Path) -> None:
    if not (python := os.environ.get("FASTDEPLOY_PYTHON")):
        pytest.skip("FASTDEPLOY_PYTHON names no Python")
    jobs = {
        (backend, case): [backend, str(folder), str(image), str(tmp_path / f"{backend}{case}.npy")]
        for case, (_, folder, _, _) in exports.items()
        for backend in ("paddle_infer", "ort")
    }
    _run([python, "-c", FASTDEPLOY], input=json.dumps(list(jobs.values())))
    for (_, case), (*_, path) in jobs.items():
        np.testing.assert_array_equal(np.load(path), exports[case][-1], path)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("op", ["argmax", "softmax"])
def test_paddlesegs_infer(case: str, op: str, exports, image: Path, tmp_path: Path) -> None:
    if not (program := os.environ.get("PADDLESEG_INFER")):
        pytest.skip("PADDLESEG_INFER names no program")
    # on Paddle 3.3 memory optimisation fails as it is asked for, and oneDNN, which is on by default
    text = Path(program).read_text(encoding="utf-8")
    assert "enable_memory_optim()" in text
    mended = tmp_path / "infer.py"
    mended.write_text(text.replace("enable_memory_optim()", "disable_mkldnn()"), encoding="utf-8")
    _, argmax, softmax, labels = exports[case]
    folder, extra = (argmax, []) if op == "argmax" else (softmax, ["--with_argmax"])
    flags = ["--config", folder / "deploy.yaml", "--image_path", image, "--save_dir", tmp_path]
    _run([sys.executable, mended, *flags, "--device", "cpu", "--cpu_threads", "1", *extra])
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "image.png")), labels)
