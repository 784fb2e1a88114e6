"""`resolution_sweep`: figures against prediction and NumPy, the files, bad input."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from paddleseg_segformer.cli import main
from paddleseg_segformer.data.io import read_image, read_label
from paddleseg_segformer.predictor import Predictor

NORMALIZE = "{type: Normalize}"


def test_figures_equal_predictions_of_resized_images(root, tmp_path, capsys) -> None:
    flags = ["--short_sides", "96", "32", "--window", "40", "--save_dir", str(tmp_path)]
    models = [str(root / "a"), str(root / "b")]
    assert main(["resolution_sweep", *models, str(root / "data.yml"), *flags]) == 0
    rows = list(csv.DictReader((tmp_path / "resolution_sweep.csv").read_text().splitlines()))
    # by windows where the image is larger than one
    shown = [(row["short_side_px"], row["window_px"]) for row in rows]
    assert shown == [("96", ""), ("96", "40"), ("32", "")] * 2
    assert [row["model"] for row in rows] == [models[0]] * 3 + [models[1]] * 3
    assert (tmp_path / "resolution_sweep.png").read_bytes().startswith(b"\x89PNG")
    assert "windows of 40" in capsys.readouterr().out
    truth = np.stack([read_label(root / f"{i}_label.png", 3) for i in range(6)])
    for row in (rows[0], rows[1], rows[5]):
        side = row["short_side_px"]
        overrides = {"is_slide": True, "crop_size_hw": (40, 40), "stride_hw": (30, 30)}
        predictor = Predictor.from_pretrained(
            row["model"],
            [f"val_dataset.transforms=[{{type: ResizeByShort, short_size: {side}}}, {NORMALIZE}]"],
            **(overrides if row["window_px"] else {}),
        )
        found = np.stack([predictor(read_image(root / f"{i}.png")).label for i in range(6)])
        ious = []
        for class_id in range(3):
            one, two = truth == class_id, (found == class_id) & (truth != 255)
            ious.append((one & two).sum() / (one | two).sum())
        assert float(row["miou"]) == pytest.approx(np.mean(ious), abs=1e-5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["A", "A", "DATA"], "one is named twice"),
        (["A", "DATA", "--opts", "val_dataset.num_classes=4"], "has 3 classes, the data set 4"),
        (["A", "DATA", "--opts", "val_dataset=null"], "has no val_dataset"),
        (["A", "DATA", "--window", "20"], "image of 20x20 px: MiT needs 29 px"),
    ],
)
def test_bad_input_is_one_line(root, tmp_path, flags, message, capsys) -> None:
    names = {"A": str(root / "a"), "DATA": str(root / "data.yml")}
    models = [names.get(flag, flag) for flag in flags]
    common = ["--short_sides", "48", "--window", "32", "--save_dir", str(tmp_path)]
    place = models.index(names["DATA"]) + 1  # flags of the case come last, so that they count
    assert main(["resolution_sweep", *models[:place], *common, *models[place:]]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert not (tmp_path / "resolution_sweep.csv").exists()
