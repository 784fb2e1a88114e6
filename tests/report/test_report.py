"""Reports of whole runs: the files, their figures against independent ones, the page."""

from __future__ import annotations

import csv
import html.parser
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from paddleseg_segformer.cli import main
from paddleseg_segformer.config import load_config
from paddleseg_segformer.data.labels import generic_label_set
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.evaluation.evaluate import EvaluatedImage
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.report import Findings, write_report
from paddleseg_segformer.report.curves import read_curves

pytest.importorskip("matplotlib")

CONFIG = """
batch_size: 2
iters: 6
model:
  type: SegFormer
  num_classes: 3
  embedding_dim: 16
  backbone: {type: MixVisionTransformer_B0, embed_dims: [8, 16, 20, 32], depths: [1, 1, 1, 1]}
train_dataset: &data
  type: Dataset
  dataset_root: ROOT
  num_classes: 3
  classes: [sky, "<road & co>", tree]
  mode: train
  train_path: ROOT/list.txt
  transforms: [{type: RandomPaddingCrop, crop_size: [48, 32]}, {type: Normalize}]
val_dataset:
  <<: *data
  mode: val
  val_path: ROOT/list.txt
  transforms: [{type: Normalize}]
lr_scheduler: {type: PolynomialDecay, learning_rate: 1.0e-2, power: 1.0}
"""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """Return the folder of a run on five images whose brightness tells the class."""
    root = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    lines = []
    for index in range(5):
        label = np.kron(rng.integers(0, 3, (5, 7)), np.ones((8, 8))).astype(np.uint8)
        image = np.clip(label[..., None] * 90.0 + rng.normal(30, 15, (40, 56, 3)), 0, 255)
        label[:2] = 255
        cv2.imwrite(str(root / f"{index}.png"), image.astype(np.uint8))
        cv2.imwrite(str(root / f"{index}_label.png"), label)
        lines.append(f"{index}.png {index}_label.png\n")
    (root / "list.txt").write_text("".join(lines))
    (root / "own.yml").write_text(CONFIG.replace("ROOT", str(root)))
    arguments = ["--config", str(root / "own.yml"), "--save_dir", str(root / "run")]
    flags = ["--seed", "3", "--log_iters", "1", "--do_eval", "--save_interval", "3", "--use_vdl"]
    assert main(["train", *arguments, *flags]) == 0
    return root / "run"


@pytest.fixture(scope="module")
def report(run_dir):
    return write_report(run_dir, num_shown=2)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_files(report, run_dir) -> None:
    assert report.folder == run_dir / "report"
    found = {path.name for path in report.folder.iterdir()}
    assert found == {
        *("report.html", "report.json", "calibrated.yml", "worst", "best"),
        *("results.csv", "images.csv", "confusion.csv", "curves.csv", "calibration.csv"),
        *("confusion.png", "iou.png", "curves.png", "reliability.png", "risk_coverage.png"),
    }
    assert sorted(path.name for path in (report.folder / "worst").iterdir())[-1] == "legend.png"
    assert len(list((report.folder / "worst").iterdir())) == 3
    strip = cv2.imread(str(next((report.folder / "best").glob("01_*.jpg"))))
    assert strip.shape == (40, 5 * 56, 3)


def test_figures_are_those_of_val(report, run_dir, tmp_path) -> None:
    flags = ["--json", str(tmp_path / "val.json"), "--per_image_csv", str(tmp_path / "val.csv")]
    model = str(run_dir / "best_model")
    assert main(["val", "--model_path", model, *flags, "--report", str(tmp_path / "out")]) == 0
    of_val = json.loads((tmp_path / "val.json").read_text())
    written = json.loads((report.folder / "report.json").read_text())
    assert written["confusion"] == of_val["confusion"] == report.metrics.confusion.tolist()
    assert written["mIoU"] == of_val["mIoU"] == report.metrics.miou
    by_val, by_report = rows(tmp_path / "val.csv"), rows(report.folder / "images.csv")
    for one, two in zip(by_val, by_report, strict=True):
        assert one["image"] == two["image"]
        assert float(one["mIoU"]) == pytest.approx(float(two["mIoU"]), abs=1e-5)
    for name, row in zip(of_val["classes"], rows(report.folder / "results.csv"), strict=True):
        assert row["class"] == name
        assert float(row["iou"]) == pytest.approx(of_val["classes"][name]["iou"], abs=1e-5)
        assert float(row["iou_low"]) <= float(row["iou"]) <= float(row["iou_high"])
    again = json.loads((tmp_path / "out" / "report.json").read_text())
    for key in ("calibration", "classes", "error_kinds", "objects"):
        assert again[key] == written[key]


def test_worst_images_are_the_worst(report) -> None:
    by_score = sorted(rows(report.folder / "images.csv"), key=lambda row: float(row["mIoU"]))
    worst = sorted(path.name for path in (report.folder / "worst").glob("*.jpg"))
    assert worst == [f"{i + 1:02d}_{Path(by_score[i]['image']).stem}.jpg" for i in range(2)]
    best = sorted(path.name for path in (report.folder / "best").glob("*.jpg"))
    assert best == [f"{i + 1:02d}_{Path(by_score[-1 - i]['image']).stem}.jpg" for i in range(2)]


def test_calibrated_config_calibrates_the_predictor(report, run_dir) -> None:
    config = load_config(report.folder / "calibrated.yml")
    assert tuple(config.test_config.temperatures or ()) == report.temperatures
    image = str(run_dir.parent / "0.png")
    weights = run_dir / "best_model"
    plain = Predictor.from_pretrained(weights)(image)
    calibrated = Predictor.from_config(config, weights)(image)
    np.testing.assert_array_equal(plain.label, calibrated.label)
    assert report.temperatures
    assert abs(plain.confidence - calibrated.confidence).max() > 1e-3


def test_curves_of_the_log_and_of_visualdl_are_equal(run_dir, tmp_path) -> None:
    curves = read_curves(run_dir)
    assert [step for step, _ in curves["Train/loss"]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in curves["Evaluate/mIoU"]] == [3, 6]
    shutil.copy(next(run_dir.glob("vdlrecords.*")), tmp_path)
    of_visualdl = read_curves(tmp_path)
    assert of_visualdl.keys() == curves.keys()
    for tag, points in curves.items():
        np.testing.assert_allclose(points, of_visualdl[tag], rtol=1e-5)
    assert read_curves(tmp_path / "nothing") == {}


def test_a_cut_off_line_of_a_log_is_left_out_and_a_wrong_one_refused(tmp_path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"iteration": 1, "Train/loss": 2.0}\n{"iterat')
    assert read_curves(tmp_path) == {"Train/loss": [(1, 2.0)]}
    log.write_text('nonsense\n{"iteration": 1, "Train/loss": 2.0}\n')
    with pytest.raises(UserError, match=r"log\.jsonl, line 1: expected an object"):
        read_curves(tmp_path)


class References(html.parser.HTMLParser):
    """Collects what a page loads, and its tags that were not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        if tag not in ("meta", "img", "br", "path", "use", "image"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "xlink:href") or (name == "href" and tag == "link"):
                self.loaded.append(value)

    def handle_startendtag(self, tag, attrs) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def test_page_needs_nothing_beside_it(report) -> None:
    text = report.page.read_text()
    page = References()
    page.feed(text)
    assert page.open == []
    assert page.loaded and all(item.startswith(("data:", "#")) for item in page.loaded)
    assert "@import" not in text and "url(http" not in text
    assert "&lt;road &amp; co&gt;" in text and "<road" not in text
    assert f"{100 * report.metrics.miou:.2f} %" in text
    assert len(text) < 2**20


def test_without_a_run_there_are_no_curves(report, run_dir, tmp_path) -> None:
    model = str(run_dir / "best_model")
    assert main(["val", "--model_path", model, "--report", str(tmp_path)]) == 0
    assert not (tmp_path / "curves.png").exists()
    assert '<h2 id="training"' not in (tmp_path / "report.html").read_text()


def test_other_files_stay_and_old_pictures_go(run_dir, tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    first = write_report(run_dir, tmp_path, num_shown=2)
    second = write_report(run_dir, tmp_path, num_shown=1, opts=["test_config.absent_class=0"])
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert len(list((tmp_path / "worst").glob("*.jpg"))) == 1
    assert first.figures["confusion"] == second.figures["confusion"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such folder. Name the --save_dir of a training run"),
        (["."], "found neither best_model nor a checkpoint iter_N"),
        (["RUN", "--num_shown", "-1"], "--num_shown: found -1, expected 0 or more"),
        (["RUN", "--out", "FILE"], "expected a folder, found a file"),
        (["RUN", "--model_path", "nowhere"], "nowhere: no such weight file"),
        (["RUN", "--opts", "val_dataset.val_path=nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_line(arguments, message, run_dir, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    names = {"RUN": str(run_dir), "FILE": str(tmp_path / "file")}
    assert main(["report", *(names.get(item, item) for item in arguments)]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error


class Uniform:
    """Logits of an image that are not a network's: equal probabilities."""

    def log_probabilities(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return np.full((len(rows), 3), -np.log(3), np.float32)


def test_memory_does_not_grow_with_the_images() -> None:
    import tracemalloc

    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (64, 64)).astype(np.uint8)
    sample = type("Sample", (), {"label": label, "image_path": "x.png"})()
    counts = np.eye(3, dtype=np.int64) * 100

    def held(num_images: int) -> int:
        tracemalloc.start()
        findings = Findings(num_images, 3, 255)
        for _ in range(num_images):
            findings(EvaluatedImage(sample, Uniform(), label, counts, 0.1))
        assert len(findings.images) == num_images
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return size

    # each image: some figures, and its share of a sample whose size is the same for any number
    assert (held(200) - held(50)) / 150 < 8000


def test_numbers_that_do_not_exist_are_empty(tmp_path) -> None:
    findings = Findings(1, 3, 255)
    label = np.full((8, 8), 255, np.uint8)
    sample = type("Sample", (), {"label": label, "image_path": "x.png"})()
    findings(EvaluatedImage(sample, Uniform(), label * 0, np.zeros((3, 3), np.int64), 0.1))
    assert findings.calibration is None and findings.ranking == []
    assert np.isnan(findings.boundary_iou).all() and np.isnan(findings.intervals.miou).all()


def test_legend_takes_names_of_any_script() -> None:
    import dataclasses

    from paddleseg_segformer.inference.overlay import legend

    label_set = dataclasses.replace(generic_label_set(2), classes=("道路", "x" * 80))
    assert legend(label_set).shape == (44, 260, 3)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_in_a_browser(report, scheme) -> None:
    """It loads nothing, says nothing in the console, has the theme, and sorts its tables."""
    browser_module = pytest.importorskip("benchmarks.deployment.browser")
    pytest.importorskip("playwright")
    if not any(map(shutil.which, browser_module.BROWSERS)):
        pytest.skip("needs chromium")
    with browser_module.browser_page() as first:
        page = first.context.browser.new_page(
            color_scheme=scheme, viewport={"width": 700, "height": 900}
        )
        seen: list[str] = []
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("request", lambda request: seen.append(request.url[:30]))
        page.goto(report.page.as_uri())
        assert [item for item in seen if not item.startswith(("data:", "file:"))] == []
        assert len([item for item in seen if item.startswith("file:")]) == 1
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(255, 255, 255)") == (scheme == "light")
        assert page.evaluate("document.documentElement.scrollWidth") <= 700
        images = page.locator("img.strip")
        assert images.count() == 4
        assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 50)")
        table = page.locator("#all-images ~ .scroll table").first
        for is_descending in (True, False):
            table.get_by_role("button", name="mIoU", exact=True).click()
            cells = table.locator("tbody tr td:nth-child(3)").all_inner_texts()
            assert cells == sorted(cells, key=float, reverse=is_descending)
        assert len(cells) == 5
