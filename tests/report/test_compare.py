"""Two models compared: figures against NumPy, exports, the files, bad input."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_models import small_segformer

from paddleseg_segformer.cli import main
from paddleseg_segformer.config import load_config
from paddleseg_segformer.config.building import build_val_dataset
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.report.compare import compare, holm
from paddleseg_segformer.weights import save_weights


def labels(root: Path, name: str) -> list[np.ndarray]:
    predictor = Predictor.from_pretrained(root / name)
    return [predictor(str(root / f"{index}.png")).label for index in range(6)]


def iou(truth: np.ndarray, found: np.ndarray, class_id: int) -> float:
    one, two = truth == class_id, (found == class_id) & (truth != 255)
    return (one & two).sum() / (one | two).sum()


@pytest.fixture(scope="module")
def compared(root) -> Path:
    arguments = [str(root / "a"), str(root / "b"), str(root / "data.yml")]
    out = str(root / "out")
    assert main(["compare", *arguments, "--save_dir", out, "--num_shown", "2"]) == 0
    return root / "out"


def test_figures_equal_numpy(root, compared) -> None:
    truth = np.stack([cv2.imread(str(root / f"{i}_label.png"), -1) for i in range(6)])
    one, two = (np.stack(labels(root, name)) for name in ("a", "b"))
    is_counted = truth != 255
    content = json.loads((compared / "compare.json").read_text())
    assert content["agreement"] == pytest.approx((one == two)[is_counted].mean())
    for class_id, (name, row) in enumerate(list(content["classes"].items())[:-1]):
        assert name == f"class_{class_id}"
        expected = iou(truth, one, class_id), iou(truth, two, class_id)
        assert (row["iou_a"], row["iou_b"]) == pytest.approx(expected)
        assert row["difference"] == pytest.approx(expected[1] - expected[0])
        assert row["low"] <= row["difference"] <= row["high"]
    with open(compared / "images.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    differing = [(one[i] != two[i])[is_counted[i]].mean() for i in range(6)]
    np.testing.assert_allclose([float(row["differing"]) for row in rows], differing, atol=1e-5)
    right = [(one == truth)[is_counted].mean(), (two == truth)[is_counted].mean()]
    assert content["accuracy"] == pytest.approx(right)
    only_b = ((two == truth) & (one != truth))[0][is_counted[0]].mean()
    assert float(rows[0]["only_b_right"]) == pytest.approx(only_b, abs=1e-5)
    shown = sorted(path.name for path in (compared / "most_different").glob("*.jpg"))
    order = np.argsort(-np.array(differing), kind="stable")[:2]
    assert shown == [f"{rank:02d}_{index}.jpg" for rank, index in enumerate(order, 1)]
    page = (compared / "compare.html").read_text()
    assert page.count("data:image/jpeg") == 2 and "class_2" in page


def test_a_model_and_its_export_agree(root) -> None:
    dataset = build_val_dataset(load_config(root / "data.yml"))
    pair = Predictor.from_pretrained(root / "a"), Predictor.from_export(root / "exp", "cpu")
    comparison = compare(*pair, dataset)
    assert comparison.agreement > 0.999
    assert (comparison.difference.p[-1]) > 0.1
    assert [image.differing < 0.01 for image in comparison.images] == [True] * 6


def test_each_model_keeps_its_own_settings(root) -> None:
    dataset = build_val_dataset(load_config(root / "data.yml"))
    whole, windows = (Predictor.from_pretrained(root / "a") for _ in range(2))
    sizes = {"is_slide": True, "crop_size_hw": (32, 32)}
    windows.settings = InferenceSettings().replace(sizes)
    assert 0 < compare(whole, windows, dataset).agreement < 1


def test_holm() -> None:
    # by hand: 0.01 x 4, 0.02 x 3, max(0.06, 0.03 x 2), 0.5
    found = holm(np.array([0.5, 0.01, np.nan, 0.03, 0.02]))
    np.testing.assert_allclose(found, [0.5, 0.04, np.nan, 0.06, 0.06])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ROOT/a", "nowhere", "ROOT/data.yml"), "nowhere: no such weight file"),
        (("ROOT/a", "ROOT/list.txt", "ROOT/data.yml"), "list.txt"),
        (("ROOT/a", "ROOT/b", "nowhere"), "config nowhere: neither a file nor the name"),
        (("ROOT/a", "ROOT/b", "ROOT/model.yml"), "has no val_dataset"),
        (("ROOT/four", "ROOT/a", "ROOT/data.yml"), "has 4 classes, the data set 3"),
        (("ROOT/named", "ROOT/a", "ROOT/other.yml"), "class 1 is 'tree', in the data set 'car'"),
        (("ROOT/a", "ROOT/b", "ROOT/range.yml"), "takes images of value_range None"),
    ],
)
def test_bad_input_is_one_line(root, arguments, message, capsys) -> None:
    data = (root / "data.yml").read_text()
    (root / "model.yml").write_text(data.partition("val_dataset:")[0])
    named = data.replace("  mode: val", "  mode: val\n  classes: [sky, tree, road]")
    (root / "other.yml").write_text(named.replace("[sky, tree,", "[sky, car,"))
    (root / "range.yml").write_text(data.replace("  mode: val", "  mode: val\n  value_range: data"))
    for name, classes, text in (("four", 4, data.replace("es: 3", "es: 4")), ("named", 3, named)):
        (root / name).mkdir(exist_ok=True)
        save_weights(small_segformer(classes), root / name / "model.pdparams")
        (root / name / "config.yml").write_text(text)
    given = [item.replace("ROOT", str(root)) for item in arguments]
    assert main(["compare", *given, "--save_dir", str(root / "none")]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert not (root / "none").exists()
