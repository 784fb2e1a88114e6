"""What version 0.1.0 wrote still works: configs, checkpoints, model folders, exports.

`artefacts/` was written by that version on Paddle 3.3.1: `scenes/` by make_dataset (2 + 1 scenes of
64x128), `run/` by two steps of `train --config own.yml --save_interval 2 --do_eval --use_ema --seed
1`, `labels.png` by predict, `export/` by `export --format paddle onnx`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from paddleseg_segformer import Predictor
from paddleseg_segformer.cli import main
from paddleseg_segformer.data.io import read_label

ARTEFACTS = Path(__file__).parent / "artefacts"
(IMAGE,) = (ARTEFACTS / "scenes/leftImg8bit/val").rglob("*.png")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy, which is the current folder."""
    copy = tmp_path / "artefacts"
    shutil.copytree(ARTEFACTS, copy)
    monkeypatch.chdir(copy)
    return copy


def assert_same_labels(predictor: Predictor) -> None:
    """Pixels between two classes may take the other one on another processor, by rounding."""
    expected = read_label(ARTEFACTS / "labels.png")
    assert np.mean(predictor(IMAGE).label == expected) > 0.9999 - 1 / expected.size


def test_model_folder_predicts_the_same_labels() -> None:
    assert_same_labels(Predictor.from_pretrained(ARTEFACTS / "run/best_model"))


@pytest.mark.parametrize("backend", ["paddle", "onnxruntime", "openvino"])
def test_export_gives_the_same_labels_in_every_backend(backend: str) -> None:
    pytest.importorskip(backend)
    predictor = Predictor.from_export(ARTEFACTS / "export", backend=backend, self_check=True)
    assert_same_labels(predictor)


def test_run_is_resumed_from_its_checkpoint(folder: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ["--save_dir", "run", "--resume_model", "run/iter_2", "--iters", "4", "--use_ema"]
    assert main(["train", "--config", "own.yml", "--save_interval", "2", *flags]) == 0
    assert "iter 4/4" in capsys.readouterr().out
    assert (folder / "run/iter_4/model.pdopt").is_file()


def test_older_names_work_with_a_warning() -> None:
    with pytest.warns(FutureWarning, match="is now paddleseg_segformer.model_folder"):
        from paddleseg_segformer.pretrained import load_model
    with pytest.warns(FutureWarning, match="is now paddleseg_segformer.weights"):
        from paddleseg_segformer.checkpoints import open_checkpoint
    model = load_model(ARTEFACTS / "run/best_model")
    checkpoint = open_checkpoint(ARTEFACTS / "run/best_model")
    assert set(checkpoint.state) == set(model.state_dict())


@pytest.mark.parametrize("job", ["demo", "benchmark", "compare_engines", "chaos"])
def test_older_jobs_answer(job: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main([job, "--help"])
    assert stop.value.code == 0
    assert "usage:" in capsys.readouterr().out
