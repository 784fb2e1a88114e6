from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from paddleseg_segformer.cli import JOBS, main

ROOT = Path(__file__).resolve().parents[1]


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
        assert action.option_strings[-1] in text


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
