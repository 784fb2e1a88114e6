"""Bad input to an exported model: one clear line and status 1, the same in Python and C++."""

from __future__ import annotations

import importlib.util
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import paddle
import pytest
from small_models import small_segformer

from paddleseg_segformer.data.headers import MAX_PIXELS
from paddleseg_segformer.data.io import read_label
from paddleseg_segformer.export import export_model
from paddleseg_segformer.files import sha256
from paddleseg_segformer.street_scenes.dataset import render_scene

INFER = Path(__file__).resolve().parents[2] / "deploy" / "python" / "infer.py"
PROGRAMS = ("python", pytest.param("c++", marks=pytest.mark.slow))
IMAGE = render_scene(1, (64, 80))[0]


class Result(NamedTuple):
    """What a program ended with."""

    status: int
    lines: list[str]  # of stderr


Run = Callable[..., Result]


@pytest.fixture(scope="module")
def good_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small model's export."""
    paddle.seed(4)
    model = small_segformer()
    for tensor in model.parameters():
        tensor.set_value(2 * tensor + 0.1 * paddle.randn(tensor.shape))
    folder = tmp_path_factory.mktemp("bad_input") / "export"
    export_model(model, folder, is_verified=False, formats=("paddle", "onnx"))
    return folder


@pytest.fixture
def folder(good_export, tmp_path) -> Path:
    """Return a copy of the export, to be spoilt."""
    return shutil.copytree(good_export, tmp_path / "export")


@pytest.fixture(params=PROGRAMS)
def run(request, tmp_path, capfd) -> Run:
    """Return a function that predicts in Python, or in C++ with Paddle Inference."""

    def run_python(folder: Path, *flags: object, backend: str = "onnxruntime") -> Result:
        spec = importlib.util.spec_from_file_location("infer", INFER)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        arguments = ["--config", folder, "--save_dir", tmp_path / "out", "--backend", backend]
        capfd.readouterr()
        status = module.main([str(item) for item in (*arguments, *flags)])
        return Result(status, capfd.readouterr().err.strip().splitlines())

    def run_cpp(folder: Path, *flags: object, backend: str = "paddle") -> Result:
        program = request.getfixturevalue("programs")["paddle"]
        command = [program, "--config", folder, "--save_dir", tmp_path / "out", *flags]
        done = subprocess.run(
            [str(item) for item in command], capture_output=True, text=True, check=False
        )
        return Result(done.returncode, done.stderr.strip().splitlines())

    return run_python if request.param == "python" else run_cpp


def write(path: Path, image: np.ndarray) -> Path:
    """Write an image in OpenCV's order of channels."""
    assert cv2.imwrite(str(path), image)
    return path


def remove(path: Path) -> None:
    path.unlink()


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize("name", ["model.json", "model.pdiparams"])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove, "no such file, but deploy.yaml names it. Export again."),
        (damage, "the file is damaged or was replaced (its checksum is not the one in"),
        (cut, "the file is damaged or was replaced (its checksum is not the one in"),
    ],
)
def test_model_files(run, folder, tmp_path, name, spoil, message) -> None:
    spoil(folder / name)
    image = write(tmp_path / "image.png", IMAGE)
    status, lines = run(folder, "--image_path", image, backend="paddle")
    assert status == 1
    assert len(lines) == 1
    assert f"error: {folder / name}: {message}" in lines[0]


def test_weights_that_are_not_finite(run, folder, tmp_path) -> None:
    """Paddle drops NaN on the way: a map would come that looks right."""
    path, deploy = folder / "model.pdiparams", folder / "deploy.yaml"
    was, content = sha256(path), bytearray(path.read_bytes())
    place = len(content) // 2
    content[place : place + 8] = b"\xff" * 8  # a whole number of 4 bytes at least
    path.write_bytes(content)
    deploy.write_text(deploy.read_text().replace(was, sha256(path)))
    image = write(tmp_path / "image.png", IMAGE)
    status, lines = run(folder, "--image_path", image, backend="paddle")
    assert (status, len(lines)) == (1, 1)
    assert f"error: {path}: its weights '" in lines[0]
    assert "are not finite (NaN or infinite)" in lines[0]


def drop(line: str) -> Callable[[str], str]:
    """Return an edit that leaves a key of one line out."""
    return lambda text: "".join(
        item for item in text.splitlines(keepends=True) if not item.startswith(line)
    )


def temperatures(values: str) -> Callable[[str], str]:
    """Return an edit that sets temperatures."""
    return lambda text: text.replace("inference:\n", f"inference:\n  temperatures: {values}\n")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text + "\nbroken: [", "YAML"),
        (lambda text: "", "deploy.yaml: "),
        (drop("format"), "deploy.yaml: "),
        (drop("  op: "), "op"),
        (drop("  num_classes: "), "num_classes"),
        (lambda text: text.replace("format: 3", "format: 8"), "format 8, but this"),
        (lambda text: text.replace("format: 3", "format: three"), "format"),
        (temperatures("[1, 2]"), "temperatures: found 2, expected 1, or one for each of the 5"),
        (temperatures("[0]"), "expected numbers above 0"),
        (temperatures("[x]"), "temperatures"),
    ],
)
def test_deploy_yaml(run, folder, tmp_path, edit, message) -> None:
    path = folder / "deploy.yaml"
    path.write_text(edit(path.read_text(encoding="utf-8")), encoding="utf-8")
    status, lines = run(folder, "--image_path", write(tmp_path / "image.png", IMAGE))
    assert status == 1
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {path}")
    assert message in lines[0]


@pytest.mark.parametrize("run", ["c++"], indirect=True)
@pytest.mark.slow
def test_value_range_is_for_python(run, folder, tmp_path) -> None:
    path = folder / "deploy.yaml"
    text = path.read_text(encoding="utf-8").replace("format: 3", "format: 4")
    path.write_text(text.replace("preprocess:\n", "preprocess:\n  value_range: [0, 4095]\n"))
    status, lines = run(folder, "--image_path", write(tmp_path / "image.png", IMAGE))
    assert status == 1
    assert lines == [
        f"error: {path}: preprocess.value_range: this program maps no stored values to 0..255. Use "
        "deploy/python/infer.py."
    ]


def labels_of(run: Run, folder: Path, path: Path, out: Path) -> np.ndarray:
    """Return the labels of an image that can be predicted."""
    status, lines = run(folder, "--image_path", path)
    assert (status, lines) == (0, [])
    return read_label(out / "pseudo_color_prediction" / f"{path.stem}.png")


def test_images_of_other_kinds_are_taken_as_their_rgb(run, good_export, tmp_path) -> None:
    """One channel, four channels, and 16 bits: the labels of what they show, in 8 bits of RGB."""
    grey = cv2.cvtColor(IMAGE, cv2.COLOR_BGR2GRAY)
    alpha = np.dstack([IMAGE, grey])
    wide = IMAGE.astype(np.uint16) * 257
    for name, image, shown in (
        ("one", grey, np.dstack([grey] * 3)),
        ("four", alpha, IMAGE),
        ("sixteen", wide, IMAGE),
    ):
        path, other = tmp_path / f"{name}.png", tmp_path / f"{name}_rgb.png"
        found = labels_of(run, good_export, write(path, image), tmp_path / "out")
        expected = labels_of(run, good_export, write(other, shown), tmp_path / "out")
        assert len(np.unique(expected)) > 1
        np.testing.assert_array_equal(found, expected)


def test_images_that_cannot_be_predicted(run, good_export, tmp_path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    write(folder / "good.png", IMAGE)
    (folder / "empty.png").write_bytes(b"")
    (folder / "zeros.png").write_bytes(bytes(1000))
    (folder / "text.jpg").write_text("no image")
    write(folder / "small.png", IMAGE[:20])
    packed = b"zTXtk\0\0" + zlib.compress(b"a")  # each may become 8 MB
    text = struct.pack(">I", len(packed) - 4) + packed + struct.pack(">I", zlib.crc32(packed))
    content = (folder / "good.png").read_bytes()
    (folder / "texts.png").write_bytes(content[:-12] + 101 * text + content[-12:])
    write(folder / "wide.png", np.zeros((30, 30_000, 3), np.uint8))
    expected = {
        "empty.png": "the file is empty",
        "small.png": "image of 20x80 px: the network needs 29 px or more per side",
        "text.jpg": "cannot be decoded as an image",
        "texts.png": "a PNG of more than 100 texts",
        "wide.png": "image of 30x30000 px (height x width): more than 8192 px at once. Use a "
        "sliding window (--is_slide --crop_size 1024 1024), or raise --max_side_px.",
        "zeros.png": "cannot be decoded as an image",
    }
    status, lines = run(good_export, "--image_path", folder)
    assert status == 1
    assert len(lines) == len(expected) + 1
    for (name, message), line in zip(expected.items(), lines, strict=False):
        assert line.startswith(f"failed: {folder / name}: ")
        assert message in line
    assert lines[-1].startswith("error: 6 of 7 images could not be predicted; see above")
    labels = (tmp_path / "out" / "pseudo_color_prediction").iterdir()
    assert [path.name for path in labels] == ["good.png"]


def test_wide_image_goes_through_in_windows(run, good_export, tmp_path) -> None:
    path = write(tmp_path / "wide.png", np.tile(IMAGE, (1, 113, 1)))
    flags = ("--is_slide", "--crop_size", 1024, 64, "--stride", 1024, 64)
    assert run(good_export, "--image_path", path)[0] == 1
    assert run(good_export, "--image_path", path, *flags) == (0, [])
    label = read_label(tmp_path / "out" / "pseudo_color_prediction" / "wide.png")
    assert label.shape == (64, 113 * 80)


@pytest.mark.parametrize(
    ("limit", "message"), [("1000", "at most 1000 px"), ("many", f"{MAX_PIXELS}: found 'many'")]
)
def test_more_pixels_than_are_decoded(
    run, good_export, tmp_path, monkeypatch, limit, message
) -> None:
    monkeypatch.setenv(MAX_PIXELS, limit)
    path = write(tmp_path / "image.png", IMAGE)
    status, lines = run(good_export, "--image_path", path)
    assert status == 1
    assert message in lines[0]
    assert len(lines) <= 2  # Python looks at the bound before the first image


def test_self_check_of_a_damaged_fixture(run, folder) -> None:
    assert run(folder, "--self_check") == (0, [])
    damage(folder / "fixture.png")
    status, [line] = run(folder, "--self_check")
    assert status == 1
    assert line.startswith(f"error: {folder / 'fixture.png'}: the file is damaged or was replaced")


def test_self_check_that_fails(run, folder) -> None:
    path = folder / "deploy.yaml"
    text = path.read_text(encoding="utf-8")
    rule = "transforms:\n  - {type: Normalize, mean: [0.5], std: [0.5]}"
    assert "transforms: []" in text
    path.write_text(text.replace("transforms: []", rule), encoding="utf-8")
    status, [line] = run(folder, "--self_check", "--image_path", folder)
    assert status == 1
    engines = ("Paddle Inference ", "ONNX Runtime ")
    assert line.startswith(tuple(f"error: {path}: self-check failed; {name}" for name in engines))
    assert "of 12707 labels of the fixture are the model's (" in line


def test_self_check_without_a_fixture(run, folder) -> None:
    path = folder / "deploy.yaml"
    text = path.read_text(encoding="utf-8")
    start = text.index("fixture:")
    path.write_text(text[:start].replace("format: 3", "format: 2"), encoding="utf-8")
    status, [line] = run(folder, "--self_check")
    assert status == 1
    assert line == f"error: {path}: names no fixture to check an engine with. Export again."
