"""Runs, exports and configs that were written elsewhere: by the first version, by Paddle 3.2.2.

Each archive holds a data set of four images, a config, the checkpoint of iteration 2 of 4 (averages
too), an export, and in `expected/` the weights and log of the unbroken run and a predicted label.
"""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddleseg_segformer import Predictor
from paddleseg_segformer.cli import main
from paddleseg_segformer.weights.files.pickles import read_pickle

HERE = Path(__file__).with_name("old_runs")
ARCHIVES = sorted(HERE.glob("*.tar.xz"))


@pytest.fixture(params=ARCHIVES, ids=[path.name.removesuffix(".tar.xz") for path in ARCHIVES])
def old(request, tmp_path, monkeypatch):
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_checkpoint_is_resumed_to_the_unbroken_runs_end(old, capsys):
    command = "train --config tiny.yml --save_dir run --seed 3 --log_iters 1 --do_eval --use_ema"
    assert main([*command.split(), "--resume_model", "auto"]) == 0
    printed = capsys.readouterr().out
    assert "resumed from run/iter_2 at iter 2" in printed and "has changed since" not in printed
    before, theirs, ours = (
        read_pickle(Path(folder, "model.pdparams"))
        for folder in ("run/iter_2", "expected", "run/iter_4")
    )
    assert theirs.keys() == ours.keys() and theirs
    moved, differ = (
        sum(float(((theirs[key] - other[key]) ** 2).sum()) for key in theirs) ** 0.5
        for other in (before, ours)
    )
    print(differ / moved)
    assert differ < 0.01 * moved  # sums in another order, which AdamW's first steps enlarge
    logs = []
    for path in ("expected/log.jsonl", "run/log.jsonl"):
        lines = map(json.loads, Path(path).read_text().splitlines())
        logs.append({line["iteration"]: line for line in lines if "Train/loss" in line})
    for iteration in (3, 4):
        for key in ("Train/loss", "Train/lr"):
            then, now = (log[iteration][key] for log in logs)
            assert now == pytest.approx(then, rel=1e-5)


def test_export_gives_the_label_of_then(old):
    predictor = Predictor.from_export("export", backend="paddle")
    expected = np.asarray(Image.open("expected/label.png"))
    np.testing.assert_array_equal(predictor("0.png").label, expected)


def test_config_and_weights_are_read(old, capsys):
    assert main(["val", "--model_path", "run/iter_2", "--config", "tiny.yml"]) == 0
    assert "4 images, in %: mIoU" in capsys.readouterr().out
    assert main(["val", "--model_path", "run/iter_2"]) == 0
    assert len(os.listdir("run/iter_2")) == 4
