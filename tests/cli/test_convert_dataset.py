from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paddleseg_segformer.cli import main
from paddleseg_segformer.config import load_config


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write images and labels of ids; the labels are grey."""
    rng = np.random.default_rng(0)
    for name in "abcdef":
        for folder in ("images", "labels"):
            (tmp_path / "my data" / folder).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "my data" / "images" / f"{name}.png")
        label = rng.integers(0, 3, (20, 30), dtype=np.uint8)
        Image.fromarray(label).save(tmp_path / "my data" / "labels" / f"{name}.png")
    return tmp_path / "my data"


def test_a_dry_run_says_what_is_concluded_and_how_to_override_it(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["convert_dataset", str(data), "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert "6 pairs of image and label, such as images/a.png with labels/a.png (by their" in out
    for option in ("--format", "--labels", "--label_values", "--classes", "--bands"):
        assert f"else {option}" in out
    assert {path.name for path in tmp_path.iterdir()} == {"my data"}


def test_what_is_written_is_a_base_of_a_config(data: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("sky\nland\nsea\n")
    flags = ["--out", str(tmp_path / "out"), "--classes", str(names), "--copy_labels"]
    assert main(["convert_dataset", str(data), *flags, "--preview", "2", "--val", "0.34"]) == 0
    assert len([*(tmp_path / "out" / "preview").iterdir()]) == 2
    label = Image.open(tmp_path / "out" / "labels" / "images" / "a.png")
    assert label.mode == "P"
    original = Image.open(data / "labels" / "a.png")
    np.testing.assert_array_equal(np.asarray(label), np.asarray(original))
    (tmp_path / "own.yml").write_text(
        "_base_: out/dataset.yml\nbatch_size: 2\niters: 3\n"
        "train_dataset: {transforms: [{type: Normalize}]}\n"
        "val_dataset: {transforms: [{type: Normalize}]}\n"
        "model: {type: SegFormer, num_classes: 3, embedding_dim: 8, backbone: "
        "{type: MixVisionTransformer_B0}}\n"
        "optimizer: {type: AdamW}\n"
        "lr_scheduler: {type: PolynomialDecay, learning_rate: 1.0e-3}\n"
        "loss: {types: [{type: CrossEntropyLoss}], coef: [1]}\n"
    )
    config = load_config(str(tmp_path / "own.yml"))
    assert config.val_dataset["classes"] == ["sky", "land", "sea"]
    assert main(["check_dataset", "--config", str(tmp_path / "own.yml")]) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--out is missing"),
        (["--out", "OUT", "--to", "voc", "--preview", "3"], "excludes --preview and --bands"),
        (["--out", "DATA"], "holds something else than a converted data set"),
        (["--out", "OUT", "--format", "coco"], "expected|no image|no annotations"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    flags: list[str], message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    places = {"OUT": str(tmp_path / "out"), "DATA": str(data)}
    assert main(["convert_dataset", str(data), *(places.get(flag, flag) for flag in flags)]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and any(part in error for part in message.split("|"))
    assert not (tmp_path / "out").exists() and len([*data.iterdir()]) == 2


def test_labels_by_template_in_lists_and_other_forms(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    for form in ("voc", "coco"):
        assert (
            main(["convert_dataset", str(data), "--out", str(tmp_path / form), "--to", form]) == 0
        )
    flags = ["--labels", "labels/{stem}.png", "--label_values", "ids"]
    assert main(["convert_dataset", str(data), "--out", str(tmp_path / "o"), *flags]) == 0


def test_it_needs_no_paddle(data: Path, tmp_path: Path) -> None:
    import subprocess

    code = (
        "import sys; sys.modules['paddle'] = None; from paddleseg_segformer.cli import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "convert_dataset",
        str(data),
        "--out",
        str(tmp_path / "o"),
    ]
    subprocess.run([*command, "--preview", "1"], check=True)
