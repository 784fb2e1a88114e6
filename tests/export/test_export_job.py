"""The jobs `export` and `deploy/python/infer.py`, as a user runs them."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from paddleseg_segformer.cli import main
from paddleseg_segformer.data.io import read_label
from paddleseg_segformer.data.labels import LABEL_SETS
from paddleseg_segformer.inference.overlay import write_image
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.runtimes.deploy_config import DeployConfig
from paddleseg_segformer.street_scenes.dataset import render_scene
from paddleseg_segformer.weights import save_weights

ROOT = Path(__file__).resolve().parents[2]
INFER = ROOT / "deploy" / "python" / "infer.py"
CONFIG = """
train_dataset: {type: Cityscapes, dataset_root: none}
val_dataset:
  type: Cityscapes
  dataset_root: none
  transforms: [{type: ResizeByShort, short_size: 64}, {type: Normalize}]
model:
  type: SegFormer
  num_classes: 19
  embedding_dim: 16
  backbone: {type: MixVisionTransformer_B0, embed_dims: [8, 16, 20, 32], depths: [1, 1, 1, 1]}
test_config: {is_slide: true, crop_size: [96, 64], stride: [48, 32]}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "small.yml"
    path.write_text(CONFIG)
    return path


def test_trained_weights_are_exported_with_all_that_evaluation_uses(
    config, tmp_path, small_model, capsys
) -> None:
    model = small_model(num_classes=19)
    save_weights(model, tmp_path / "model.pdparams")
    save_dir = tmp_path / "deep" / "out"
    flags = [
        "--config",
        config,
        "--model_path",
        tmp_path / "model.pdparams",
        "--save_dir",
        save_dir,
    ]
    assert main(["export", *map(str, flags)]) == 0
    assert capsys.readouterr().out.count("without --output_op the export gives logits") == 1
    deploy = DeployConfig.load(save_dir)
    assert deploy.artefacts["paddle"].verified[0].label_agreement > 0.999
    assert deploy.classes == list(LABEL_SETS["cityscapes"].classes)
    assert deploy.inference["crop_size_hw"] == [64, 96]
    assert [section["type"] for section in deploy.preprocess["transforms"]] == [
        "ResizeByShort",
        "Normalize",
    ]
    image, _ = render_scene(1, (80, 160))
    predictor = Predictor.from_export(save_dir)
    preprocess = Preprocess.from_dict(deploy.preprocess)
    reference = Predictor(model, preprocess, predictor.settings)
    assert (predictor(image).label == reference(image).label).mean() > 0.999


@pytest.mark.parametrize("declared", ["[0, 4095]", "{percentile: [2, 98]}"])
def test_value_range_goes_from_the_config_to_the_export(
    config, infer_here, tmp_path, small_model, declared
) -> None:
    weights, save_dir, image = (tmp_path / name for name in ("model.pdparams", "out", "a.png"))
    save_weights(small_model(num_classes=19), weights)
    opts = [f"val_dataset.value_range={declared}"]
    flags = ["--config", config, "--model_path", weights, "--save_dir", save_dir, "--no-verify"]
    assert main(["export", *map(str, flags), "--opts", *opts]) == 0
    assert "format: 4" in (save_dir / "deploy.yaml").read_text()
    stored = render_scene(1, (80, 160))[0].astype(np.uint16) * 16
    cv2.imwrite(str(image), stored[:, :, ::-1])
    trained = Predictor.from_config(config, weights, opts)
    expected = trained(image)
    if declared == "[0, 4095]":
        np.testing.assert_allclose(expected.image, stored / 4095 * 255, atol=1e-4)
    assert len(np.unique(expected.label)) > 1
    exported = Predictor.from_export(save_dir, "cpu", backend="paddle")
    for given in (image, stored):
        assert (exported(given).label == expected.label).mean() > 0.999
    flags = ["--config", save_dir, "--image_path", image, "--save_dir", tmp_path / "infer"]
    assert infer_here(*flags, "--cpu_threads", 1, "--self_check").returncode == 0
    found = read_label(tmp_path / "infer" / "pseudo_color_prediction" / "a.png")
    assert (found == expected.label).mean() > 0.999
    trained.save_pretrained(tmp_path / "folder")
    again = Predictor.from_pretrained(tmp_path / "folder")
    np.testing.assert_array_equal(again(image).label, expected.label)


def test_export_without_weights_warns(config, tmp_path, capsys) -> None:
    flags = ["--config", str(config), "--save_dir", str(tmp_path / "out"), "--no-verify"]
    assert main(["export", *flags, "--input_shape", "1", "3", "64", "96"]) == 0
    assert "without --model_path the export holds initial weights" in capsys.readouterr().out
    deploy = DeployConfig.load(tmp_path / "out")
    assert deploy.artefacts["paddle"].verified == []
    assert deploy.input.shape == [1, 3, 64, 96]


def test_file_as_save_dir_ends_with_one_line(config, capsys) -> None:
    assert main(["export", "--config", str(config), "--save_dir", str(config)]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error == f"error: {config}: expected a folder, found a file. Choose another save_dir."
    assert config.read_text() == CONFIG


def infer(*flags: object) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own."""
    return subprocess.run(
        [sys.executable, INFER, *map(str, flags)], capture_output=True, text=True, check=False
    )


@pytest.fixture
def infer_here(monkeypatch, capfd) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs the program in this process, which is quicker."""

    def run(*flags: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "path", [*sys.path])
        main = runpy.run_path(str(INFER))["main"]
        capfd.readouterr()
        status = main([str(flag) for flag in flags])
        return subprocess.CompletedProcess(flags, status, *capfd.readouterr())

    return run


def test_infer_writes_label_maps_and_overlays(exported, tmp_path) -> None:
    images = tmp_path / "images"
    for seed, name in enumerate(("Straße 森.png", "sub/b.png")):
        write_image(images / name, render_scene(seed, (64 + 8 * seed, 96))[0])
    flags = ["--config", exported.folder / "deploy.yaml", "--image_path", images]
    flags += ["--save_dir", tmp_path / "out", "--cpu_threads", 1, "--batch_size", 2, "--benchmark"]
    flags += ["--outputs", "label,overlay"]
    done = infer(
        *flags, "--is_slide", "--crop_size", 64, 64, "--stride", 48, 48, "--flip_horizontal"
    )
    assert done.returncode == 0, done.stderr
    assert "2 images, batch size 2, fp32, 1 threads, Paddle Inference" in done.stdout
    assert "network" in done.stdout
    reference = Predictor.from_export(
        exported.folder,
        is_slide=True,
        crop_size_hw=(64, 64),
        stride_hw=(48, 48),
        flip_horizontal=True,
    )
    for name in ("Straße 森.png", "sub/b.png"):
        path = tmp_path / "out" / "pseudo_color_prediction" / name
        prediction = reference(images / name)
        assert (read_label(path) == prediction.label).mean() > 0.999
        with Image.open(path) as file:
            assert file.mode == "P"
            shown = np.asarray(file.convert("RGB"))
        assert (shown == prediction.colors).mean() > 0.999
        with Image.open(tmp_path / "out" / "added_prediction" / name) as file:
            assert np.asarray(file).shape == prediction.image.shape


@pytest.mark.parametrize("batch_size", [1, 3])
def test_infer_reports_failed_images_and_goes_on(
    exported, infer_here, tmp_path, batch_size
) -> None:
    write_image(tmp_path / "good.png", render_scene(0, (64, 64))[0])
    write_image(tmp_path / "small.png", np.zeros((20, 64, 3), np.uint8))
    (tmp_path / "broken.png").write_bytes(b"no image")
    flags = ["--config", exported.folder, "--image_path", tmp_path, "--cpu_threads", 1]
    done = infer_here(*flags, "--save_dir", tmp_path / "out", "--batch_size", batch_size)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith(("failed", "error"))]
    assert len(lines) == 3
    assert "broken.png: cannot be decoded" in lines[0]
    assert "small.png: image of 20x64 px: the network needs 29 px or more" in lines[1]
    assert lines[2].startswith("error: 2 of 3 images could not be predicted; see above, or ")
    written = (tmp_path / "out" / "pseudo_color_prediction").iterdir()
    assert [path.name for path in written] == ["good.png"]


def test_infer_predicts_a_video(exported, infer_here, tmp_path) -> None:
    av = pytest.importorskip("av")
    source = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(source), cv2.VideoWriter_fourcc(*"MJPG"), 12, (96, 64))
    for seed in range(3):
        writer.write(np.ascontiguousarray(render_scene(seed, (64, 96))[0][:, :, ::-1]))
    writer.release()
    flags = ["--config", exported.folder, "--cpu_threads", 1, "--save_dir", tmp_path / "out"]
    flags += ["--outputs", "label,overlay,side_by_side"]
    done = infer_here(*flags, "--image_path", source)
    assert done.returncode == 0, done.stderr
    assert "drive.mp4: 3 frames" in done.stdout
    for folder, size_wh in (("added_prediction", (96, 64)), ("side_by_side", (192, 64))):
        capture = cv2.VideoCapture(str(tmp_path / "out" / folder / "drive.mp4"))
        frames = [capture.read()[1] for _ in range(4)]
        assert [None if x is None else x.shape[1::-1] for x in frames] == [*3 * [size_wh], None]
        assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12)
    with av.open(str(tmp_path / "out" / "pseudo_color_prediction" / "drive.mkv")) as film:
        labels = [frame.to_ndarray() for frame in film.decode(video=0)]
    capture, predictor = cv2.VideoCapture(str(source)), Predictor.from_export(exported.folder)
    for label in labels:  # the readers' JPEG decoders differ by a level
        assert (predictor(capture.read()[1], bgr=True).label == label).mean() > 0.97


def test_infer_without_an_export_ends_with_one_line(infer_here, tmp_path) -> None:
    write_image(tmp_path / "a.png", np.zeros((40, 40, 3), np.uint8))
    done = infer_here("--config", tmp_path, "--image_path", tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"error: {tmp_path}/deploy.yaml: no such file. Name the folder that an export was written "
        "into."
    )


def test_infer_imports_nothing_of_training(exported, tmp_path) -> None:
    write_image(tmp_path / "a.png", np.zeros((40, 40, 3), np.uint8))
    flags = ["--config", exported.folder, "--image_path", tmp_path, "--save_dir", tmp_path / "out"]
    code = f"""
import json, sys
sys.path.insert(0, {str(INFER.parent)!r})
import infer
status = infer.main({[str(flag) for flag in flags]!r})
print(json.dumps([status, sorted(sys.modules)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status, modules = json.loads(done.stdout.splitlines()[-1])
    assert status == 0
    ours = "paddleseg_segformer"
    assert f"{ours}.inference.pipeline" in modules
    for absent in ("training", "config", "models", "paddleseg_components"):
        assert f"{ours}.{absent}" not in modules
    assert not {"paddleseg", "visualdl"} & set(modules)
