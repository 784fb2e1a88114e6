"""`val` and `predict` from the command line, on a small generated data set."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
from PIL import Image
from tqdm import tqdm

from paddleseg_segformer.cli import main, predict
from paddleseg_segformer.config import load_config
from paddleseg_segformer.config.building import build_model
from paddleseg_segformer.data import headers
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.memory_plan import plan_memory
from paddleseg_segformer.inference.overlay import write_image
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.weights import save_weights

CONFIG = """
model:
  type: SegFormer
  num_classes: 3
  embedding_dim: 16
  backbone: {{type: MixVisionTransformer_B0}}
train_dataset: &data
  type: Dataset
  dataset_root: {root}
  num_classes: 3
  mode: train
  train_path: {root}/list.txt
  val_path: {root}/list.txt
  transforms: []
val_dataset:
  <<: *data
  mode: val
  transforms: [{{type: Normalize}}]
test_config: {{is_slide: true, crop_size: [48, 32], stride: [32, 32]}}
"""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """Return a folder with images, labels, a config and weights."""
    root = tmp_path_factory.mktemp("数据 set")
    rng = np.random.default_rng(0)
    lines = []
    for index, (height, width) in enumerate([(48, 64), (40, 72), (64, 64)]):
        image = np.kron(
            rng.integers(0, 256, (height // 8, width // 8, 3)), np.ones((8, 8, 1))
        ).astype(np.uint8)
        write_image(root / "images" / f"{index}.png", image)
        label = rng.choice([0, 1, 2, 255], (height, width)).astype(np.uint8)
        Image.fromarray(label).save(root / f"{index}_label.png")
        lines.append(f"images/{index}.png {index}_label.png")
    (root / "list.txt").write_text("\n".join(lines))
    (root / "config.yml").write_text(CONFIG.format(root=root), encoding="utf-8")
    paddle.seed(0)
    save_weights(build_model(load_config(root / "config.yml")), root / "model.pdparams")
    return root


def job(name: str, run_dir: Path, *flags: str) -> int:
    given = [
        "--config",
        str(run_dir / "config.yml"),
        "--model_path",
        str(run_dir / "model.pdparams"),
    ]
    return main([name, *given, *flags])


@pytest.mark.check
def test_val_writes_json_and_csv(run_dir, tmp_path, capsys) -> None:
    files = ["--json", str(tmp_path / "m.json"), "--per_image_csv", str(tmp_path / "m.csv")]
    assert job("val", run_dir, *files) == 0
    report = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
    assert report["num_images"] == 3
    assert report["inference"]["crop_size_hw"] == [32, 48]
    assert f"mIoU {100 * report['mIoU']:.2f}" in capsys.readouterr().out
    with open(tmp_path / "m.csv", encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 3


def test_val_tells_the_areas_under_roc_curves(run_dir, tmp_path, capsys) -> None:
    files = ["--json", str(tmp_path / "m.json"), "--per_image_csv", str(tmp_path / "m.csv")]
    assert job("val", run_dir, "--auc_roc", "True", *files) == 0
    report = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
    areas = [item["auc"] for item in report["classes"].values()]
    assert all(0.3 < area < 0.7 for area in areas)  # of noise
    assert report["AUC"] == pytest.approx(np.mean(areas))
    assert f"AUC {100 * report['AUC']:.2f}" in capsys.readouterr().out
    assert len((tmp_path / "m.csv").read_text(encoding="utf-8").splitlines()) == 4


def test_val_flags_reach_the_pipeline(run_dir, tmp_path, capsys) -> None:
    flags = ["--aug_eval", "--scales", "0.75", "1.5", "--flip_horizontal", "--flip_vertical"]
    flags += [
        "--average",
        "softmax",
        "--is_slide",
        "--crop_size",
        "64",
        "48",
        "--stride",
        "40",
        "30",
    ]
    flags += ["--absent_class", "0", "--num_workers", "0", "--batch_size", "2"]
    assert job("val", run_dir, *flags, "--json", str(tmp_path / "m.json")) == 0
    report = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
    assert report["inference"] == {
        "is_slide": True,
        "crop_size_hw": [48, 64],
        "stride_hw": [30, 40],
        "scales": [0.75, 1.5],
        "flip_horizontal": True,
        "flip_vertical": True,
        "average": "softmax",
        "scale_mode": "transformed",
        "is_one_step": False,
        "window_batch": 2,
    }
    assert report["absent_class"] == "0"
    assert "average of softmax over 8 views" in capsys.readouterr().out


def test_one_step_of_the_config_reaches_the_pipeline(run_dir, tmp_path) -> None:
    opts = ["test_config={is_one_step: true}", "val_dataset.transforms.0.mean=[0.4, 0.4, 0.4]"]
    opts += ["val_dataset.classes=[a, b, c]", "train_dataset=null"]
    assert job("val", run_dir, "--opts", *opts, "--json", str(tmp_path / "m.json")) == 0
    report = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
    assert report["inference"]["is_one_step"] is True
    assert list(report["classes"]) == ["a", "b", "c"]


def test_val_prints_its_plan_without_weights(run_dir, capsys) -> None:
    flags = ["--print_plan", "--aug_eval", "--flip_horizontal"]
    assert main(["val", "--config", str(run_dir / "config.yml"), *flags]) == 0
    out = capsys.readouterr().out
    assert "view 2: scale 1, horizontal flip: 48x64, 4 windows from rows 0, 16" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--scales", "0.5"], "--scales has no effect without --aug_eval"),
        (["--is_slide", "--stride", "64", "64"], "stride 64x64 .* larger than crop_size 32x48"),
        (["--model_path", "none.pdparams"], "none.pdparams"),
        (["--opts", "val_dataset=null"], "no val_dataset"),
        (["--opts", "test_config.is_slide=False", "--crop_size", "9", "9"], "without --is_slide"),
    ],
)
def test_val_mistakes_are_one_line(run_dir, capsys, flags, message) -> None:
    assert job("val", run_dir, *flags) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(message, error)


def test_val_keeps_to_the_memory_budget(run_dir, capsys) -> None:
    assert job("val", run_dir, "--memory_budget_mib", "64", "--window_batch", "4") == 0
    assert re.search(
        r"0\.png: 4 windows \(4 of 32x48\) in about 1 call of up to 4; memory .* budget 64 MiB",
        capsys.readouterr().out,
    )
    assert job("val", run_dir, "--memory_budget_mib", "9") == 1
    message = capsys.readouterr().err
    assert "0.png: memory: the network needs about" in message and "9 MiB" in message


@pytest.fixture(scope="module")
def wide_dir(run_dir, tmp_path_factory) -> Path:
    """Return the same folder with images of 12 bits in 16."""
    root = tmp_path_factory.mktemp("wide")
    for path in run_dir.glob("*_label.png"):
        shutil.copy(path, root)
    (root / "images").mkdir()
    for path in (run_dir / "images").iterdir():
        stored = np.asarray(Image.open(path))[:, :, ::-1].astype(np.uint16) * 16
        cv2.imwrite(str(root / "images" / path.name), stored)
    shutil.copy(run_dir / "list.txt", root)
    opts = (f"val_dataset.dataset_root={root}", f"val_dataset.val_path={root / 'list.txt'}")
    (root / "opts").write_text("\n".join(opts), encoding="utf-8")
    return root


def test_value_range_gives_the_results_of_8_bits(run_dir, wide_dir, tmp_path) -> None:
    opts = (wide_dir / "opts").read_text(encoding="utf-8").splitlines()
    opts = ["--opts", *opts, "val_dataset.value_range=[0, 4080]"]
    for name, flags in (("plain", []), ("wide", opts)):
        assert job("val", run_dir, *flags, "--json", str(tmp_path / f"{name}.json")) == 0
        images = str((wide_dir if flags else run_dir) / "images")
        out = ["--save_dir", str(tmp_path / name), "--image_path", images]
        assert job("predict", run_dir, *flags, *out, "--outputs", "label,overlay") == 0
    plain, wide = (
        json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("plain", "wide")
    )
    assert wide["mIoU"] == pytest.approx(plain["mIoU"], abs=1e-3)
    for path in (tmp_path / "plain" / "pseudo_color_prediction").iterdir():
        other = tmp_path / "wide" / "pseudo_color_prediction" / path.name
        labels = [np.asarray(Image.open(item)) for item in (path, other)]
        assert (labels[0] == labels[1]).mean() > 0.999
        added = [
            np.asarray(Image.open(tmp_path / name / "added_prediction" / path.name)).astype(int)
            for name in ("plain", "wide")
        ]
        assert np.median(abs(added[0] - added[1])) == 0


@pytest.mark.check
def test_predict_folder(run_dir, tmp_path) -> None:
    flags = ["--image_path", str(run_dir / "images"), "--save_dir", str(tmp_path / "ü")]
    assert job("predict", run_dir, *flags, "--save_probabilities") == 0
    assert not (tmp_path / "ü" / "added_prediction").exists()
    assert job("predict", run_dir, *flags, "--overlay_alpha", "0.4") == 0
    predictor = Predictor.from_config(run_dir / "config.yml", run_dir / "model.pdparams")
    assert predictor.settings.is_slide
    for index in range(3):
        prediction = predictor(run_dir / "images" / f"{index}.png")
        saved = Image.open(tmp_path / "ü" / "pseudo_color_prediction" / f"{index}.png")
        assert saved.mode == "P"
        np.testing.assert_array_equal(np.asarray(saved), prediction.label)
        added = np.asarray(Image.open(tmp_path / "ü" / "added_prediction" / f"{index}.png"))
        np.testing.assert_array_equal(added, prediction.overlay())
        probabilities = np.load(tmp_path / "ü" / "probabilities" / f"{index}.npy")
        np.testing.assert_allclose(probabilities, prediction.probabilities, atol=1e-3)


@pytest.mark.check
def test_predict_writes_confidence_and_leaves_unsure_pixels_out(run_dir, tmp_path) -> None:
    flags = ["--image_path", str(run_dir / "images"), "--save_dir", str(tmp_path)]
    flags += ["--opts", "test_config.temperatures=[0.5]", "--save_confidence"]
    predictor = Predictor.from_config(run_dir / "config.yml", run_dir / "model.pdparams")
    prediction = predictor(run_dir / "images" / "0.png")
    powers = prediction.probabilities**2
    confidence = powers.max(0) / powers.sum(0)
    threshold = float(np.median(confidence))
    assert job("predict", run_dir, *flags, "--min_confidence", str(threshold)) == 0
    saved = np.asarray(Image.open(tmp_path / "confidence" / "0.png"))
    assert abs(saved - 255 * confidence).max() < 0.6 and saved.std() > 1
    label = np.asarray(Image.open(tmp_path / "pseudo_color_prediction" / "0.png"))
    is_clear = abs(confidence - threshold) > 1e-5
    expected = np.where(confidence < threshold, 255, prediction.label)
    np.testing.assert_array_equal(label[is_clear], expected[is_clear])
    assert 0.4 < (label == 255).mean() < 0.6


def test_unknown_pixels_need_an_id_that_is_no_class(run_dir) -> None:
    predictor = Predictor.from_config(
        run_dir / "config.yml", run_dir / "model.pdparams", ["val_dataset.ignore_index=2"]
    )
    with pytest.raises(UserError, match="ignore_index 2 is a class"):
        predictor(run_dir / "images" / "0.png").mark_unknown(0.5)


def test_confidence_flags_are_not_for_videos(run_dir, tmp_path, capsys) -> None:
    (tmp_path / "a.mp4").touch()
    flags = ["--image_path", str(tmp_path / "a.mp4"), "--min_confidence", "0.5"]
    assert job("predict", run_dir, *flags) == 1
    assert "--min_confidence has no effect on a video" in capsys.readouterr().err
    flags = ["--image_path", str(tmp_path / "a.mp4"), "--outputs", "label,polygons"]
    assert job("predict", run_dir, *flags) == 1
    assert "--outputs: polygons has no effect on a video" in capsys.readouterr().err
    flags = ["--image_path", str(run_dir / "images"), "--smooth", "0.5"]
    assert job("predict", run_dir, *flags) == 1
    assert "--smooth has an effect on videos alone" in capsys.readouterr().err


def test_predict_goes_on_after_a_bad_image(run_dir, tmp_path, capsys, monkeypatch) -> None:
    for name in ("a.png", "c.png"):
        write_image(tmp_path / "in" / "sub" / name, np.full((40, 40, 3), 99, np.uint8))
    (tmp_path / "in" / "b.png").write_bytes(b"no image")
    write_image(tmp_path / "in" / "wide.tif", np.zeros((40, 40, 3), np.uint8))
    long = "x" * 248  # .png fits, .geojson does not
    write_image(tmp_path / "in" / f"{long}.png", np.zeros((40, 40, 3), np.uint8))
    monkeypatch.setattr(headers, "max_decode_s", lambda: 0)  # for TIFF, which may say anything
    flags = ["--image_path", str(tmp_path / "in"), "--save_dir", str(tmp_path / "out")]
    flags += ["--outputs", "label,overlay,polygons"]
    assert job("predict", run_dir, *flags) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed: ")]
    for name, message in (
        ("b.png", "cannot be decoded"),
        (f"{long}.png", "the name is too long"),
        ("wide.tif", "decoding it takes more than 0 s"),
    ):
        [line] = [line for line in lines if f"{name}: " in line]
        assert message in line
    assert len(lines) == 3
    written = sorted(path.name for path in (tmp_path / "out").rglob("sub/*.png"))
    assert written == ["a.png", "a.png", "c.png", "c.png"]
    assert not list((tmp_path / "out").rglob("x*"))


def test_predict_custom_colors(run_dir, tmp_path, capsys) -> None:
    flags = ["--image_path", str(run_dir / "images" / "0.png"), "--save_dir", str(tmp_path)]
    colors = [str(value) for value in range(1, 10)]
    assert job("predict", run_dir, *flags, "--custom_color", *colors) == 0
    saved = Image.open(tmp_path / "pseudo_color_prediction" / "0.png")
    assert saved.getpalette()[:9] == list(range(1, 10))
    assert job("predict", run_dir, *flags, "--custom_color", "1", "2") == 1
    assert "found 2 values, expected 9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--image_path is missing"),
        (["--image_path", "none.jpg"], "none.jpg: no such file"),
        (["--image_path", "none.mp4"], "none.mp4: no such file (--image_path)"),
        (["--image_path", ".", "--overlay_alpha", "7"], "--overlay_alpha: found 7.0"),
        (
            ["--image_path", ".", "--overlay_alpha", "0.5", "--outputs", "label"],
            "--overlay_alpha has no effect without --outputs overlay",
        ),
    ],
)
def test_predict_mistakes_are_one_line(run_dir, capsys, tmp_path, flags, message) -> None:
    assert job("predict", run_dir, "--save_dir", str(tmp_path), *flags) == 1
    assert message in capsys.readouterr().err


def test_predict_needs_a_model(run_dir, capsys) -> None:
    assert main(["predict", "--image_path", str(run_dir / "images")]) == 1
    assert "give --config and --model_path, or --export_dir" in capsys.readouterr().err


def test_predict_with_an_export_equals_the_model(run_dir, tmp_path) -> None:
    export_dir = str(tmp_path / "export")
    assert job("export", run_dir, "--save_dir", export_dir, "--no-verify") == 0
    images = ["--image_path", str(run_dir / "images"), "--aug_pred", "--flip_horizontal"]
    assert job("predict", run_dir, *images, "--save_dir", str(tmp_path / "model")) == 0
    flags = ["--export_dir", export_dir, "--save_dir", str(tmp_path / "exported")]
    assert main(["predict", *flags, *images]) == 0
    for index in range(3):
        name = f"pseudo_color_prediction/{index}.png"
        labels = [np.asarray(Image.open(tmp_path / run / name)) for run in ("model", "exported")]
        assert (labels[0] != labels[1]).mean() < 1e-3


@pytest.mark.parametrize("is_terminal", [False, True])
def test_predict_shows_the_plan_of_large_images_and_each_window(
    run_dir: Path, tmp_path: Path, is_terminal: bool, monkeypatch, capsys
) -> None:
    rng = np.random.default_rng(1)
    for name, height in (("a", 32), ("b", 40), ("c", 96)):
        write_image(tmp_path / f"{name}.png", rng.integers(0, 256, (height, 48, 3), np.uint8))
    monkeypatch.setattr(predict, "LOG_INTERVAL_S", -1.0)
    monkeypatch.setattr(predict, "tqdm", partial(tqdm, ascii=True))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
    flags = ("--image_path", str(tmp_path), "--save_dir", str(tmp_path / "out"))
    assert job("predict", run_dir, *flags) == 0
    out, err = capsys.readouterr()
    plans = re.findall(r"(\w)\.png: (\d) windows? ", out)
    assert plans == [("a", "1"), ("c", "3")]  # 96 rows in windows of 32; b is hardly larger than a
    shown = re.findall(r"window \d of \d", err if is_terminal else out)
    windows = [f"window {done} of {total}" for total in (2, 3) for done in range(1, total + 1)]
    assert list(dict.fromkeys(shown)) == windows


def test_an_image_that_does_not_fit_is_predicted_in_windows(run_dir, tmp_path, capsys) -> None:
    folder = tmp_path / "images"
    image = np.random.default_rng(0).integers(0, 256, (640, 900, 3)).astype(np.uint8)
    for name, pixels in (("a.png", image[:64, :64]), ("large.png", image)):
        write_image(folder / name, pixels)
    plan = plan_memory(build_model(load_config(run_dir / "config.yml")))
    windows, whole = plan.peak_mib(1, (512, 512)), plan.peak_mib(1, (640, 900))
    logits = plan.logits_mib((640, 900))
    assert windows + logits < (budget := (windows + whole + logits) / 2) < whole
    flags = ["--image_path", str(folder), "--opts", "test_config.is_slide=False"]
    flags += ["--memory_budget_mib", f"{budget:.3f}", "--batch_size", "2"]
    assert job("predict", run_dir, *flags, "--save_dir", str(tmp_path / "auto")) == 0
    assert re.search(
        r"large.png: memory: .*640x900 px.* It is predicted in windows of 512x512 px instead",
        capsys.readouterr().out,
    )
    asked = ["--is_slide", "--crop_size", "512", "512", "--stride", "384", "384"]
    for name, extra in (("whole", flags[:4]), ("windows", [*flags[:4], *asked])):
        assert job("predict", run_dir, *extra, "--save_dir", str(tmp_path / name)) == 0
    for name, same in (("a.png", "whole"), ("large.png", "windows")):
        labels = [
            np.asarray(Image.open(tmp_path / run / "pseudo_color_prediction" / name))
            for run in ("auto", same)
        ]
        assert np.array_equal(*labels)
