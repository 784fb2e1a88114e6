"""Exports as PaddleSeg and PaddleX describe them, read by `Predictor`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
import yaml
from PIL import Image

from paddleseg_segformer import Predictor
from paddleseg_segformer.cli import main
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.runtimes.paddleseg_export import num_classes_of

SIZE_WH = (47, 33)
NORMALIZE = {"type": "Normalize", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
RESIZE = {"type": "Resize", "target_size": [64, 40]}
NUM_CLASSES = 7
# argmax in the old form can be written by Paddle 2 alone
OPS = {"model.json": ("none", "argmax", "softmax"), "model.pdmodel": ("none", "softmax")}
# PaddleSeg's own tools/export.py puts one of these behind the model
WRITE = """
import sys
import paddle

class Network(paddle.nn.Layer):
    def __init__(self, op):
        super().__init__()
        self.conv, self.op = paddle.nn.Conv2D(3, 7, 3, padding=1), op

    def forward(self, x):
        logits = self.conv(x)
        if self.op == "argmax":
            return paddle.argmax(logits, axis=1, dtype="int32")
        return paddle.nn.functional.softmax(logits, axis=1) if self.op == "softmax" else logits

paddle.seed(3)
for op in sys.argv[3:]:
    network = Network(op)
    network.set_state_dict(paddle.load(sys.argv[1]))
    network.eval()
    spec = [paddle.static.InputSpec([None, 3, None, None], "float32", name="x")]
    paddle.jit.save(paddle.jit.to_static(network, input_spec=spec), f"{sys.argv[2]}/{op}/model")
"""


@pytest.fixture(scope="module")
def conv(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray, Path]:
    """Return weights and bias of the network, and the file that holds them."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(NUM_CLASSES, 3, 3, 3)).astype(np.float32)
    bias = rng.normal(size=NUM_CLASSES).astype(np.float32)
    path = tmp_path_factory.mktemp("weights") / "model.pdparams"
    state = {"conv.weight": paddle.to_tensor(weight), "conv.bias": paddle.to_tensor(bias)}
    paddle.save(state, str(path))
    return weight, bias, path


@pytest.fixture(scope="module", params=list(OPS))
def program(request, conv, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a folder with the network's three exports, in the form of Paddle 3 or before it."""
    folder = tmp_path_factory.mktemp("theirs")
    is_new = request.param == "model.json"
    environment = os.environ | {"FLAGS_enable_pir_api": "1" if is_new else "0"}
    (folder / "write.py").write_text(WRITE)  # Paddle reads the source of what it makes a graph of
    command = [sys.executable, folder / "write.py", conv[2], folder, *OPS[request.param]]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return folder, request.param


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8)
    path = tmp_path_factory.mktemp("images") / "image.png"
    Image.fromarray(pixels).resize(SIZE_WH, Image.Resampling.BICUBIC).save(path)
    return path


def _describe(folder: Path, program: str, op: str, *rules: dict, name: str = "deploy.yaml") -> Path:
    section = {"model": program, "params": "model.pdiparams", "output_op": op}
    section["transforms"] = [*rules, NORMALIZE]
    for path in folder.glob("*.y*ml"):
        path.unlink()
    (folder / name).write_text(yaml.safe_dump({"Deploy": section}))
    return folder


def _logits(conv, image: Path, size_wh: tuple[int, int] | None = None) -> np.ndarray:
    """Return (K, H, W) as PaddleSeg's transforms and the convolution define them."""
    weight, bias, _ = conv
    pixels = np.asarray(Image.open(image)).astype(np.float32)
    if size_wh:
        pixels = cv2.resize(pixels, size_wh, interpolation=cv2.INTER_LINEAR)
    mean, std = np.float32(NORMALIZE["mean"]), np.float32(NORMALIZE["std"])
    x = np.pad((pixels / 255 - mean) / std, ((1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (0, 1))  # (H, W, C, 3, 3)
    return np.einsum("hwcij,kcij->khw", windows, weight) + bias[:, None, None]


@pytest.mark.parametrize("op", ["none", "argmax", "softmax"])
@pytest.mark.parametrize("name", ["deploy.yaml", "inference.yml"])
def test_labels_are_theirs(op: str, name: str, program, conv, image: Path) -> None:
    folder, file = program
    if op not in OPS[file]:
        pytest.skip("Paddle 3 cannot write it")
    predictor = Predictor.from_export(_describe(folder / op, file, op, name=name))
    prediction = predictor(image)
    logits = _logits(conv, image)
    np.testing.assert_array_equal(prediction.label, logits.argmax(0))
    assert predictor.label_set and predictor.label_set.num_classes == NUM_CLASSES
    if op == "argmax":
        with pytest.raises(UserError, match="need logits"):
            _ = prediction.confidence
    else:
        expected = np.exp(logits) / np.exp(logits).sum(0)
        np.testing.assert_allclose(prediction.probabilities, expected, atol=1e-5)


@pytest.mark.parametrize("program", ["model.json"], indirect=True)
def test_size_rules_are_undone(program, conv, image: Path) -> None:
    folder, file = program
    logits = _logits(conv, image, (64, 40))
    predictor = Predictor.from_export(_describe(folder / "argmax", file, "argmax", RESIZE))
    nearest = cv2.resize(logits.argmax(0).astype(np.uint8), SIZE_WH, interpolation=0)
    np.testing.assert_array_equal(predictor(image).label, nearest)
    padding = {"type": "Padding", "target_size": [80, 80]}
    predictor = Predictor.from_export(_describe(folder / "argmax", file, "argmax", padding))
    inside = np.s_[:-1, :-1]  # the last row and column look into the padding
    np.testing.assert_array_equal(
        predictor(image).label[inside], _logits(conv, image).argmax(0)[inside]
    )


@pytest.mark.parametrize("program", ["model.json"], indirect=True)
def test_paddlex_has_other_defaults(program, conv, image: Path) -> None:
    folder, file = program
    rule = {"type": "Resize", "target_size": [64, 40]}
    path = _describe(folder / "argmax", file, "argmax", rule, name="inference.yml")
    # the ratio is kept (56x40 would fit), and both sides are multiples of 32
    logits = _logits(conv, image, (64, 64))
    nearest = cv2.resize(logits.argmax(0).astype(np.uint8), SIZE_WH, interpolation=0)
    np.testing.assert_array_equal(Predictor.from_export(path)(image).label, nearest)
    path = _describe(folder / "argmax", file, "argmax", {"type": "Resize"}, name="inference.yml")
    np.testing.assert_array_equal(
        Predictor.from_export(path)(image).label, _logits(conv, image).argmax(0)
    )


@pytest.mark.parametrize("program", ["model.json"], indirect=True)
def test_infer_writes_their_labels(program, conv, image: Path, tmp_path: Path, capsys) -> None:
    folder, file = program
    path = _describe(folder / "argmax", file, "argmax", name="inference.yml")
    flags = ["--image_path", str(image), "--save_dir", str(tmp_path)]
    assert main(["infer", "--config", str(path / "inference.yml"), *flags]) == 0
    written = np.asarray(Image.open(tmp_path / "pseudo_color_prediction" / "image.png"))
    np.testing.assert_array_equal(written, _logits(conv, image).argmax(0))
    assert main(["predict", "--export_dir", str(path), *flags, "--save_probabilities"]) == 1
    assert "need logits" in capsys.readouterr().err


@pytest.mark.parametrize("program", ["model.json"], indirect=True)
def test_what_has_no_equal_is_refused(program, image: Path) -> None:
    folder, file = program
    path = _describe(folder / "argmax", file, "argmax", {"type": "RandomBlur"})
    with pytest.raises(UserError, match="'RandomBlur' has no equal here"):
        Predictor.from_export(path)
    path = _describe(folder / "argmax", file, "sigmoid")
    with pytest.raises(UserError, match="output_op: found 'sigmoid'"):
        Predictor.from_export(path)
    path = _describe(folder / "argmax", "other.json", "argmax")
    with pytest.raises(UserError, match="names other.json, but there is no such file"):
        Predictor.from_export(path)
    with pytest.raises(UserError, match="windows, scales and flips need logits"):
        Predictor.from_export(_describe(path, file, "argmax"), flip_horizontal=True)(image)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{}", b"[]", b"\xff\xfe", b""])
@pytest.mark.parametrize("suffix", [".json", ".pdmodel"])
def test_programs_that_are_none_are_one_line(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a program of a segmentation model") as failure:
        num_classes_of(path, "none")
    assert "\n" not in str(failure.value)
