"""Whole runs of `fit` on a small data set: what they leave, and that other jobs agree with it."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from own_data import write_data
from PIL import Image

import paddleseg_segformer
from paddleseg_segformer import Predictor, UserError
from paddleseg_segformer.cli import main
from paddleseg_segformer.weights.files.pickles import read_pickle
from paddleseg_segformer.yaml_files import parse_yaml

pytest.importorskip("matplotlib")
ITERS = 8


def weights(folder: Path) -> dict[str, np.ndarray]:
    return read_pickle(folder / "model.pdparams")


def assert_equal_weights(left: Path, right: Path) -> None:
    a, b = weights(left), weights(right)
    assert a.keys() == b.keys() and a
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], err_msg=name)


def content(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


@pytest.fixture(scope="module")
def done(data, model, tmp_path_factory):
    """One run, as Python's `fit` gives it."""
    out = tmp_path_factory.mktemp("fit") / "out"
    names = data / "names.txt"
    return paddleseg_segformer.fit(
        data, out=out, model=model, iters=ITERS, classes=str(names), export="paddle", size="auto"
    )


def test_run_leaves_what_people_look_for(done):
    names = {path.name for path in done.folder.iterdir()}
    assert names >= {
        *("best_model", "export", "data", "worst", "log.txt", "log.jsonl", "config.yml"),
        *("results.csv", "curves.png", "confusion.png", "classes.txt", "report.html", "README.md"),
    }
    assert not [name for name in names if name.startswith("iter_")]
    assert (done.folder / "classes.txt").read_text() == "sky\nroad\ncar\n"
    size = sum(path.stat().st_size for path in done.folder.rglob("*") if path.is_file())
    assert size < 60e6 - 2 * 15e6  # a B0 takes 15 MB more, in model and export
    log = (done.folder / "log.txt").read_text()
    assert f"iter {ITERS}/{ITERS}" in log and "annotations are folders" in log


def test_python_gives_the_figures_of_the_files(done):
    state = json.loads((done.folder / "fit.json").read_text())
    assert state["metrics"] == done.metrics.to_dict()
    lines = map(json.loads, (done.folder / "log.jsonl").read_text().splitlines())
    first_s = next(line["time_s"] for line in lines if "Evaluate/mIoU" in line)
    assert done.first_score_s == pytest.approx(first_s - state["begun_s"], abs=0.1)
    assert 0 < done.first_score_s <= sum(done.seconds.values())
    assert (
        f"; first score after {done.first_score_s / 60:.1f} min"
        in (done.folder / "log.txt").read_text()
    )
    assert json.loads((done.folder / "report.json").read_text())["mIoU"] == done.metrics.miou
    card = (done.folder / "README.md").read_text()
    assert f"mIoU {done.metrics.miou:.4f}" in card and "Licences" in card
    for name, iou in zip(done.metrics.classes, done.metrics.iou, strict=True):
        assert re.search(rf"\| {name} \| .* \| {iou:.4f} \|", card)
    assert str(done).splitlines()[-1].endswith(f"on {done.metrics.num_images} images")
    assert done.predictor()(np.zeros((40, 50, 3), np.uint8)).label.shape == (40, 50)


def test_val_reproduces_the_figures(done, tmp_path):
    path = tmp_path / "val.json"
    assert main(["val", "--model_path", str(done.model), "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    for name, value in done.metrics.to_dict().items():
        assert found[name] == value, name


def test_train_runs_the_config_unchanged_to_the_same_weights(done, tmp_path):
    text = (done.folder / "config.yml").read_text()
    header = " ".join(line.strip("# ") for line in text.split("\n\n")[0].splitlines())
    (command,) = re.findall(r"paddleseg_segformer (train .*) --save_dir", header)
    assert main([*shlex.split(command), "--save_dir", str(tmp_path / "again")]) == 0
    assert_equal_weights(tmp_path / "again" / "best_model", done.model)


def test_export_gives_the_models_labels(done, data):
    images = sorted((data / "images").iterdir())
    model = done.predictor()
    export = Predictor.from_export(done.export, backend="paddle")
    assert export.label_set.classes == ("sky", "road", "car")
    for image in images:
        np.testing.assert_array_equal(export(image).label, model(image).label)


def test_finished_run_resumes_by_doing_nothing(done, data, model):
    before = content(done.folder)
    again = paddleseg_segformer.fit(
        data,
        out=done.folder,
        model=model,
        iters=ITERS,
        classes=data / "names.txt",
        export=["paddle"],
        resume=True,
    )
    assert again.metrics.to_dict() == done.metrics.to_dict()
    assert again.choices == done.choices and again.config_yaml == done.config_yaml
    changed = {path for path, when in content(done.folder).items() if before.get(path) != when}
    assert changed <= {str(done.folder / "log.txt")}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "holds an earlier run. Go on with it by --resume, or choose another --out."),
        ("--resume --seed 5", "had other options: seed was 0, now 5. Give the same, or choose"),
        ("--resume --val 0.3", "had other options: val was 0.2, now 0.3."),
    ],
)
def test_other_run_in_the_folder_is_kept(done, data, model, flags, message, capsys):
    before = content(done.folder)
    command = f"fit {data} --out {done.folder} --model {model} --iters {ITERS} --export paddle"
    command += f" --classes {data / 'names.txt'} {flags}"
    assert main(shlex.split(command)) == 1
    assert message in capsys.readouterr().err
    assert content(done.folder) == before


def test_folder_of_other_files_is_kept(data, model, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("important")
    assert main(["fit", str(data), "--out", str(tmp_path), "--model", model]) == 1
    assert "holds other files (thesis.txt), and a run takes a folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_dry_run_prints_conclusions_and_recipe_and_writes_nothing(
    data, model, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    before = content(data)
    command = ["fit", str(data), "--model", model, "--epochs", "5", "--dry_run"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "annotations are folders" in printed and "10 iterations: --epochs 5." in printed
    assert "\n# 10 iterations" in printed and "\niters: 10\n" in printed
    assert content(data) == before and not any(tmp_path.iterdir())
    report = paddleseg_segformer.fit(data, model=model, epochs=5, dry_run=True)
    assert report.folder is None and report.metrics is None
    text = printed[printed.index("# Written by") :]
    assert parse_yaml(report.config_yaml, "") == parse_yaml(text, "")  # comments hold times
    with pytest.raises(UserError, match="a dry run leaves nothing behind"):
        report.predictor()


BACKBONE = """
from paddle import nn
from paddleseg_segformer import register_component

@register_component("backbone")
class FitConvNet(nn.Layer):
    def __init__(self, in_channels=3):
        super().__init__()
        self.in_channels, self.feat_channels = in_channels, [8, 8, 8, 8]
        strides = zip([in_channels, 8, 8, 8], [4, 2, 2, 2])
        self.stages = nn.LayerList(
            nn.Conv2D(c, 8, 2 * s - 1, stride=s, padding=s - 1) for c, s in strides
        )

    def forward(self, x):
        maps = []
        for stage in self.stages:
            maps.append(stage(maps[-1] if maps else x))
        return maps
"""


def test_model_may_be_of_components_of_ones_own(data, tmp_path, own_components, capsys):
    (tmp_path / "my_fit_backbone.py").write_text(BACKBONE)
    config = tmp_path / "own.yml"
    config.write_text("model: {type: SegFormer, embedding_dim: 8, backbone: {type: FitConvNet}}\n")
    command = ["fit", str(data), "--model", str(config), "--iters", "2", "--dry_run"]
    assert main([*command, "--import", str(tmp_path / "my_fit_backbone.py")]) == 0
    printed = capsys.readouterr().out
    assert "type: FitConvNet" in printed and "needs_import: [my_fit_backbone]" in printed


def test_audit_stops_a_run_before_it_trains(tmp_path, model, capsys):
    data = write_data(tmp_path / "scenes", count=6)
    for path in (data / "labels").iterdir():
        Image.fromarray(np.ones((64, 80), np.uint8)).save(path)
    out = tmp_path / "out"
    assert main(["fit", str(data), "--model", model, "--iters", "2", "--out", str(out)]) == 1
    assert "train-one-class (1): All labelled pixels" in capsys.readouterr().err
    assert not (out / "best_model").exists() and not (out / "config.yml").exists()


def test_frozen_stages_need_start_weights(data, model, tmp_path, capsys):
    flags = ["--freeze", "2", "--iters", "2", "--out", str(tmp_path / "out")]
    assert main(["fit", str(data), "--model", model, *flags]) == 1
    assert "--freeze needs start weights, but there are none" in capsys.readouterr().err


@pytest.mark.slow
def test_run_starts_from_a_run_of_its_own(done, data, model, tmp_path):
    weights_before = weights(done.model)
    again = paddleseg_segformer.fit(
        data,
        out=tmp_path / "out",
        model=model,
        iters=1,
        pretrained=str(done.model),
        freeze=1,
        opts=["lr_scheduler.learning_rate=0.0", "ema_decay=0.0"],
        export=["paddle"],
    )
    assert "freeze_stages: 1\n" in again.config_yaml
    after = weights(again.model)
    learnt = [name for name in after if not name.endswith(("_mean", "_variance"))]
    for name in learnt:  # at a rate of 0 they are the start weights
        np.testing.assert_array_equal(after[name], weights_before[name], err_msg=name)


def fit_command(data: Path, model: str, out: Path) -> list[str]:
    command = [sys.executable, "-m", "paddleseg_segformer", "fit", str(data), "--out", str(out)]
    return [*command, "--model", model, "--iters", "60", "--export", "paddle"]


@pytest.mark.slow
def test_killed_run_resumes_to_the_unbroken_runs_weights(data, model, tmp_path):
    opts = ["--opts", "ema_decay=0.9"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*fit_command(data, model, whole), *opts], check=True)
    for _ in range(2):
        flags = ["--resume"] if killed.exists() else []
        process = subprocess.Popen([*fit_command(data, model, killed), *opts, *flags])
        before = sorted(killed.glob("iter_*"))
        while process.poll() is None and sorted(killed.glob("iter_*")) == before:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (killed / "report.html").exists()
    subprocess.run([*fit_command(data, model, killed), *opts, "--resume"], check=True)
    assert_equal_weights(killed / "best_model", whole / "best_model")
    states = [json.loads((folder / "fit.json").read_text()) for folder in (whole, killed)]
    assert states[0]["metrics"] == states[1]["metrics"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: None, ""),
        (lambda data: scene(data, "scene0", "new"), "2 added (images/new.png"),
        (lambda data: scene(data, "scene0", None), "1 gone (images/scene0.png)"),
        (lambda data: (data / "names.txt").write_text("sky\nlake\ncar\n"), "classes were ['sky', "),
    ],
    ids=["nothing", "added", "removed", "classes"],
)
def test_data_that_changed_since_the_stop_are_named(
    model, tmp_path, monkeypatch, caplog, change, said
):
    data = write_data(tmp_path / "data")
    stopped = UserError("stopped")

    def stop(*args, **options):
        raise stopped

    monkeypatch.setattr("paddleseg_segformer.fitting.run.train", stop)
    options = {"out": tmp_path / "out", "model": model, "iters": 4, "export": "paddle"}
    options |= {"classes": data / "names.txt"}
    with pytest.raises(UserError, match="stopped"):
        paddleseg_segformer.fit(data, **options)
    change(data)
    caplog.clear()
    with pytest.raises(UserError, match="stopped"):
        paddleseg_segformer.fit(data, **options, resume=True)
    warned = [text for text in caplog.messages if text.startswith("the data have changed")]
    assert len(warned) == bool(said) and all(said in text for text in warned)


def scene(data: Path, name: str, copy: str | None) -> None:
    """Copy or remove an image and its label."""
    for folder in ("images", "labels"):
        path = data / folder / f"{name}.png"
        if copy:
            for new in (copy, f"{copy}2"):
                path.with_stem(new).write_bytes(path.read_bytes())
        else:
            path.unlink()


@pytest.mark.slow
def test_second_run_into_the_folder_is_told(data, model, tmp_path):
    command = fit_command(data, model, tmp_path / "out")
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [process.communicate()[1] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 1]
    [told] = [e for e, p in zip(errors, processes, strict=True) if p.returncode]
    assert re.search("error: .*out: (another run writes|holds an earlier run)", told)
    verify = paddleseg_segformer.Predictor.from_export(tmp_path / "out" / "export")
    assert verify.label_set.classes


@pytest.mark.slow
def test_minutes_are_kept(data, model, tmp_path):
    command = [sys.executable, "-m", "paddleseg_segformer", "fit", str(data), "--model", model]
    start = time.monotonic()
    flags = ["--out", str(tmp_path / "out"), "--minutes", "1.5", "--export", "paddle"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, *flags], check=True, env=environment)
    assert 45 <= time.monotonic() - start <= 99  # a machine that gets faster ends it earlier
