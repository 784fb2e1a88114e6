"""`robustness`: figures against evaluation by hand, resuming, files, bad input."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from paddleseg_segformer.cli import main
from paddleseg_segformer.data.io import read_image, read_label
from paddleseg_segformer.evaluation.corruptions import CORRUPTIONS, corrupt, seed_of
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.report import robustness
from paddleseg_segformer.report.robustness import PAPER, Robustness

pytest.importorskip("imagecorruptions")
ROOT = Path(__file__).resolve().parents[2]


def arguments(root: Path, out: Path, *flags: str) -> list[str]:
    data = str(root / "data.yml")
    return ["robustness", str(root / "a"), data, "--save_dir", str(out), *flags]


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("robustness")
    flags = ("--corruptions", "shot_noise", "contrast", "--num_workers", "1")
    assert main(arguments(root, out, *flags)) == 0
    return out


def test_figures_equal_predictions_on_images_corrupted_by_hand(root, finished) -> None:
    predictor = Predictor.from_pretrained(root / "a")
    content = json.loads((finished / "robustness.json").read_text())
    assert [len(values) for values in content["severities"].values()] == [3, 5]
    truth = np.stack([read_label(root / f"{i}_label.png", 3) for i in range(6)])
    for name, severity in (("shot_noise", 3), ("contrast", 5)):
        images = [
            corrupt(
                read_image(root / f"{i}.png"), name, severity, seed_of(f"{i}.png", name, severity)
            )
            for i in range(6)
        ]
        found = np.stack([predictor(image).label for image in images])
        is_counted = truth != 255
        ious = []
        for class_id in range(3):
            one, two = truth == class_id, (found == class_id) & is_counted
            ious.append((one & two).sum() / (one | two).sum())
        assert content["severities"][name][severity - 1] == pytest.approx(np.mean(ious))


def test_table_has_means_degradation_and_the_papers_row(finished) -> None:
    content = json.loads((finished / "robustness.json").read_text())
    rows = list(csv.DictReader((finished / "robustness.csv").read_text().splitlines()))
    assert [row["corruption"] for row in rows] == ["clean", "shot_noise", "contrast", "mean"]
    noise = rows[1]
    mean = np.mean(content["severities"]["shot_noise"])
    assert float(noise["mean"]) == pytest.approx(100 * mean, abs=1e-3)
    lost = 100 * (content["clean"] - mean) / content["clean"]
    assert float(noise["degradation"]) == pytest.approx(lost, abs=1e-3)
    assert noise["severity_4"] == "" and noise["group"] == "noise"
    assert float(noise["paper: SegFormer-B5"]) == 52.3
    assert float(rows[0]["paper: PSPNet"]) == 78.8
    assert (finished / "robustness.png").read_bytes().startswith(b"\x89PNG")


def test_the_papers_rows_have_all_figures() -> None:
    """Table 5 prints 17 figures; the paper's text names two of them."""
    assert all(len(values) == 1 + len(CORRUPTIONS) for values in PAPER.values())
    by_name = dict(zip(("clean", *CORRUPTIONS), PAPER["SegFormer-B5"], strict=True))
    assert (by_name["gaussian_noise"], by_name["snow"], by_name["frost"]) == (57.8, 40.7, 49.9)


def test_finished_cells_are_not_computed_again(root, finished, monkeypatch, capsys) -> None:
    before = (finished / "robustness.json").read_bytes()
    (finished / "cells" / "contrast_2.json").unlink()
    computed = []
    evaluate = robustness.evaluate

    def counted(network, dataset, *rest, **options):
        computed.append((dataset.corruption, dataset.severity))
        return evaluate(network, dataset, *rest, **options)

    monkeypatch.setattr(robustness, "evaluate", counted)
    flags = ("--corruptions", "shot_noise", "contrast", "--num_workers", "1")
    assert main(arguments(root, finished, *flags)) == 0
    assert computed == [("contrast", 2)]
    assert (finished / "robustness.json").read_bytes() == before


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_where_it_was(root, tmp_path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [sys.executable, "-m", "paddleseg_segformer"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command + arguments(root, killed, "--num_workers", "1"), cwd=tmp_path, env=environment
    )
    try:
        deadline = time.monotonic() + 300
        while len(list((killed / "cells").glob("[a-z]*.json"))) < 20:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = {path.name: path.stat().st_mtime_ns for path in (killed / "cells").glob("[a-z]*.json")}
    assert 20 <= len(done) < 73 and not (killed / "robustness.csv").exists()
    assert main(arguments(root, killed)) == 0
    assert main(arguments(root, whole)) == 0
    cells = {path.name: path.stat().st_mtime_ns for path in (killed / "cells").glob("[a-z]*.json")}
    assert len(cells) == 1 + 4 * 3 + 12 * 5
    assert {name: cells[name] for name in done} == done
    for name in ("robustness.json", "robustness.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


def test_other_models_are_drawn_beside(root, finished, tmp_path, monkeypatch) -> None:
    drawn = []
    monkeypatch.setattr(robustness, "severity_figure", lambda results: drawn.append(list(results)))
    monkeypatch.setattr(robustness, "save_png", lambda figure, path: path.write_bytes(b""))
    result = Robustness(0.5, {"fog": [0.4, 0.3, 0.2, 0.1, 0.1]})
    name, beside = robustness.read_robustness(finished)
    robustness.write_robustness("mine", result, tmp_path, {name: beside})
    assert drawn == [["mine", str(root / "a")]]
    assert result.degradation("fog") == pytest.approx(1 - 0.22 / 0.5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--beside", "ROOT"], "robustness.json: expected the figures of a finished run"),
        (["--beside", "OUT"], "is the model itself. Leave it out"),
        (["--opts", "val_dataset.num_classes=4"], "has 3 classes, the data set 4"),
    ],
)
def test_bad_input_is_one_line(root, finished, tmp_path, flags, message, capsys) -> None:
    flags = [flag.replace("ROOT", str(root)).replace("OUT", str(finished)) for flag in flags]
    assert main(arguments(root, tmp_path, *flags)) == 1
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error


def test_cells_of_another_model_are_refused(root, finished, tmp_path, capsys) -> None:
    other = arguments(root, finished, "--corruptions", "contrast")
    other[1] = str(root / "b")
    assert main(other) == 1
    error = capsys.readouterr().err.strip()
    assert "clean_0.json: was made with another model. Choose another" in error
    assert "\n" not in error
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "clean_0.json").write_text("{")
    assert main(arguments(root, tmp_path)) == 1
    assert "is no finished cell" in capsys.readouterr().err
