"""The page on several runs: what it says against their logs, read by hand."""

from __future__ import annotations

import csv
import html
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from paddleseg_segformer.cli import main
from paddleseg_segformer.report.runs import smoothed

pytest.importorskip("matplotlib")


def log(folder: Path, rate: float, name: str, num: int = 120) -> None:
    """Write a run whose loss falls and whose mIoU is best at its second evaluation."""
    folder.mkdir(parents=True)
    lines = []
    for step in range(10, 10 * num + 1, 10):
        figures = {"Train/loss": 2 / (1 + rate * step), "Train/lr": rate, "Train/images_per_s": 5.0}
        lines.append({"iteration": step, **figures})
        if step % 400 == 0:
            score = 0.5 - abs(step - 800) / 4000 + rate
            scores = {"mIoU": score, "accuracy": score + 0.2, "IoU/<road>": score - 0.1}
            lines.append({"iteration": step, **{f"Evaluate/{k}": v for k, v in scores.items()}})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.yml").write_text(
        f"batch_size: 2\nlr_scheduler: {{learning_rate: {rate}}}\n"
        f"train_dataset: {{transforms: [{{type: {name}}}, {{type: Normalize}}]}}\n"
    )


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    log(tmp_path / "one", 0.01, "RandomHorizontalFlip")
    log(tmp_path / "two", 0.02, "RandomDistort")
    return tmp_path


def cells(page: str, section: str) -> list[list[str]]:
    """Return the text of the table below a heading."""
    body = page.partition(f'id="{section}"')[2]
    body = body.partition("<table")[2].partition("</table>")[0]
    return [
        [
            html.unescape(re.sub("<[^>]+>", "", cell))
            for cell in re.findall("<t[hd].*?</t[hd]>", row)
        ]
        for row in re.findall("<tr>.*?</tr>", body)
    ]


def test_page_and_tables(runs, capsys) -> None:
    assert main(["curves", "one", "two", "--save_dir", "page"]) == 0
    assert "two: 1200 iterations, best mIoU 0.5200 at 800" in capsys.readouterr().out
    page = (runs / "page" / "curves.html").read_text()
    assert cells(page, "runs")[1:] == [
        ["one", "1200", "51.00", "800", "71.00", f"{2 / 13:.4f}", "5.00"],
        ["two", "1200", "52.00", "800", "72.00", f"{2 / 25:.4f}", "5.00"],
    ]
    assert cells(page, "classes") == [["class", "one", "two"], ["<road>", "41.00", "42.00"]]
    assert cells(page, "settings-that-differ") == [
        ["key", "one", "two"],
        ["lr_scheduler.learning_rate", "0.01", "0.02"],
        ["train_dataset.transforms.0.type", "RandomHorizontalFlip", "RandomDistort"],
    ]
    assert "<road>" not in page
    with open(runs / "page" / "curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    losses = [float(r["value"]) for r in rows if (r["run"], r["tag"]) == ("two", "Train/loss")]
    np.testing.assert_allclose(losses, [2 / (1 + 0.02 * s) for s in range(10, 1201, 10)], rtol=1e-5)
    assert cv2.imread(str(runs / "page" / "curves.png")).shape[1] == 11 * 120
    assert sorted(path.name for path in (runs / "page").iterdir()) == [
        "curves.csv", "curves.html", "curves.png", "runs.csv",
    ]  # fmt: skip


def test_a_run_without_config_or_evaluation_has_what_it_logged(runs) -> None:
    bare = runs / "bare"
    bare.mkdir()
    (bare / "log.jsonl").write_text('{"iteration": 5, "Train/loss": 1.5}\n')
    assert main(["curves", "bare", "one", "--save_dir", "page"]) == 0
    page = (runs / "page" / "curves.html").read_text()
    assert cells(page, "runs")[1] == ["bare", "5", "", "", "", "1.5000", ""]
    assert "settings-that-differ" not in page  # of one config there is nothing to compare
    assert main(["curves", "bare", "--save_dir", "page"]) == 0
    assert "<h1>Training run bare</h1>" in (runs / "page" / "curves.html").read_text()


def test_smoothing_is_a_centred_mean() -> None:
    values = np.random.default_rng(0).random(300)
    found = smoothed(values)
    for index in (0, 1, 2, 150, 298, 299):
        assert found[index] == pytest.approx(values[max(index - 3, 0) : index + 4].mean())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["one", "nowhere"], "nowhere: no such folder"),
        (["empty"], "empty: found no log of a run (log.jsonl, vdlrecords.*.log)"),
        (["one"] * 25, "runs: found 25, expected at most 24"),
        (["broken"], "log.jsonl, line 1: expected an object with an iteration and numbers"),
    ],
)
def test_bad_input_is_one_line(runs, flags, message, capsys) -> None:
    (runs / "empty").mkdir()
    (runs / "broken").mkdir()
    (runs / "broken" / "log.jsonl").write_text("[]\n[]\n")
    assert main(["curves", *flags, "--save_dir", "page"]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert not (runs / "page").exists()


def test_page_in_a_browser(runs) -> None:
    browser = pytest.importorskip("benchmarks.deployment.browser")
    pytest.importorskip("playwright")
    if not any(map(shutil.which, browser.BROWSERS)):
        pytest.skip("needs chromium")
    assert main(["curves", "one", "two", "--save_dir", "page"]) == 0
    with browser.browser_page() as page:
        seen: list[str] = []
        page.on("console", lambda message: seen.append(message.text))
        page.on("request", lambda request: seen.append(request.url))
        page.goto((runs / "page" / "curves.html").as_uri())
        assert [item for item in seen if not item.startswith("file:")] == []
        page.get_by_role("button", name="best mIoU %").click()
        assert page.locator("tbody").first.inner_text().startswith("two")
