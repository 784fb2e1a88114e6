from __future__ import annotations

import argparse
import importlib
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from paddleseg_segformer.cli import JOBS, main
from paddleseg_segformer.cli.common import set_up_logging
from paddleseg_segformer.cli.predict import _follow
from paddleseg_segformer.inference.image_sources import ImageFile
from paddleseg_segformer.training.writers import TextLog
from paddleseg_segformer.yaml_files import dump_yaml

pytestmark = pytest.mark.check

ROOT = Path(__file__).resolve().parents[2]


def arguments_of(job: str) -> list[argparse.Action]:
    """Return the arguments of one job, without `--help`."""
    parser = argparse.ArgumentParser(add_help=False)
    importlib.import_module(f"paddleseg_segformer.cli.{job}").add_arguments(parser)
    return parser._actions


@pytest.mark.parametrize("job", JOBS)
def test_help_of_a_job_lists_its_flags_and_defaults(
    job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([job, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert JOBS[job] in " ".join(text.split())
    assert "(default:" in text
    for action in arguments_of(job):
        assert (action.option_strings or [action.metavar])[-1] in text


@pytest.mark.parametrize("job", JOBS)
def test_every_flag_of_a_job_has_help_and_paddleseg_spelling(job: str) -> None:
    for action in arguments_of(job):
        assert action.help, action.option_strings
        spelled = [flag.removeprefix("--").removeprefix("no-") for flag in action.option_strings]
        assert all("-" not in name for name in spelled)


@pytest.mark.parametrize("job", JOBS)
def test_every_job_has_a_thin_tool(job: str) -> None:
    assert f'main(["{job}", *sys.argv[1:]])' in (ROOT / "tools" / f"{job}.py").read_text()


def test_tool_runs_from_another_folder(tmp_path: Path) -> None:
    tool = [sys.executable, ROOT / "tools" / "make_dataset.py", "--help"]
    done = subprocess.run(tool, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert JOBS["make_dataset"] in " ".join(done.stdout.split())


def test_unknown_job_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["trian"])
    assert stop.value.code == 2
    assert "invalid choice: 'trian'" in capsys.readouterr().err


STREET_SCENES = "segformer_b0_street_scenes_256x512"
MISTAKES = {
    "train with an unknown config": ("train --config nowhere", "nowhere: neither a file nor"),
    "train with an unknown key": (
        f"train --config {STREET_SCENES} --opts iterz=3",
        "Did you mean 'iters'?",
    ),
    "train without data": (
        f"train --config {STREET_SCENES} --opts train_dataset.dataset_root=nowhere",
        "nowhere: no such folder (dataset_root)",
    ),
    "convert_weights of missing weights": (
        "convert_weights nowhere.pth out.pth --to nvlabs",
        "nowhere.pth: no such weight file",
    ),
    "val without weights": (f"val --config {STREET_SCENES}", "--model_path is missing"),
    "predict without an image": (
        f"predict --config {STREET_SCENES} --model_path any --image_path nowhere.jpg",
        "nowhere.jpg: no such file",
    ),
    "visualize without weights": (
        f"visualize --config {STREET_SCENES} --image_path any.jpg",
        "--model_path is missing",
    ),
    "export of missing weights": (
        f"export --config {STREET_SCENES} --model_path nowhere.pdparams",
        "nowhere.pdparams",
    ),
    "check_dataset with an unknown config": ("check_dataset --config nowhere", "nowhere: neither"),
    "make_dataset of tiny images": ("make_dataset --height 8", "height x width: found 8x512"),
    "demo without scenes": ("demo --num_val -1", "--num_val: found -1, expected 1 or more"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_line_and_status_1(
    mistake: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    command, expected = MISTAKES[mistake]
    assert main(command.split()) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line for line in errors if not line.startswith("error: ")] == []
    assert expected in "\n".join(errors)
    assert len(errors) == 1


@pytest.mark.slow
def test_demo_reports_and_replaces_an_earlier_one(tmp_path: Path) -> None:
    earlier = tmp_path / "output" / "demo" / "predict" / "earlier.png"
    earlier.parent.mkdir(parents=True)
    earlier.touch()
    tool = [sys.executable, ROOT / "tools" / "demo.py", "--iters", "2"]
    sizes = ["--num_train", "4", "--num_val", "2"]
    done = subprocess.run([*tool, *sizes], cwd=tmp_path, capture_output=True, text=True, check=True)
    report = done.stdout.rpartition("part                seconds")[2]
    for text in ("train ", "val flip ", "infer ", "mIoU"):
        assert text in report
    (agreement,) = re.findall(r"([\d.]+)% of the pixels get the same label", report)
    assert float(agreement) > 99.9
    assert (tmp_path / "output" / "demo" / "pictures.png").is_file()
    assert not earlier.exists()


@pytest.mark.check
def test_names_of_files_cannot_steer_the_terminal(tmp_path, capsys):
    name = "a\x1b]0;title\x07\x9b31m\u202e.txt"
    assert main(["predict", "--config", "x", "--image_path", str(tmp_path / name)]) == 1
    error = capsys.readouterr().err
    assert r"a\x1b]0;title\x07\x9b31m\u202e.txt" in error
    assert error.rstrip("\n").isprintable()


SHOWN, STEERED = r"a\x1b]0;title\x07", "a\x1b]0;title\x07"


def test_names_in_data_cannot_steer_the_terminal_or_the_log(tmp_path, capsys):
    """Names of damaged files and of classes, as far as a stranger chooses them."""
    (tmp_path / f"{STEERED}.png").write_bytes(b"x")
    Image.new("L", (8, 8)).save(tmp_path / "b.png")
    (tmp_path / "list.txt").write_text(f"{STEERED}.png {STEERED}.png\nb.png b.png\n")
    (tmp_path / "classes.txt").write_text(f"{STEERED}\nsky\n")
    sections = {"model": {"type": "SegFormer"}}
    sections["val_dataset"] = {
        "type": "Dataset",
        "dataset_root": str(tmp_path),
        "val_path": str(tmp_path / "list.txt"),
        "classes": str(tmp_path / "classes.txt"),
        "num_classes": 2,
        "mode": "val",
    }
    (tmp_path / "x.yml").write_text(dump_yaml(sections))
    assert main(["check_dataset", "--config", str(tmp_path / "x.yml")]) == 1
    printed = capsys.readouterr()
    assert printed.out.count(SHOWN) > 1 and "\x1b" not in printed.out + printed.err

    set_up_logging()
    log = TextLog(tmp_path)
    package = logging.getLogger("paddleseg_segformer")
    package.addHandler(log)
    package.warning("%s is damaged", STEERED)
    log.close()
    package.removeHandler(log)
    written = capsys.readouterr().out, (tmp_path / "log.txt").read_text()
    for text in written:
        assert f"{SHOWN} is damaged" in text and "\x1b" not in text

    _follow([(ImageFile(tmp_path / STEERED, STEERED), f"{STEERED}: damaged")], 1)
    assert f"failed: {SHOWN}: damaged" in capsys.readouterr().err


def test_names_of_runs_cannot_steer_the_terminal(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    run = tmp_path / STEERED
    run.mkdir()
    (run / "log.jsonl").write_text('{"iteration": 5, "Train/loss": 1.5}\n')
    assert main(["curves", str(run), "--save_dir", str(tmp_path / "page")]) == 0
    printed = capsys.readouterr().out
    assert f"{SHOWN}: 5 iterations" in printed and "\x1b" not in printed
