"""Killed runs lose nothing: the tool that shows it, at small numbers."""

from __future__ import annotations

import re

import pytest

from paddleseg_segformer.cli import main


def chaos(folder, capsys, *flags: str) -> str:
    status = main(["chaos", "--save_dir", str(folder / "chaos"), *flags])
    captured = capsys.readouterr()
    assert status == 0, captured.out + captured.err
    return captured.out


def test_killed_run_ends_as_the_uninterrupted_one(tmp_path, capsys):
    flags = ("--kills", "2", "--iters", "12", "--alive_s", "0.8", "--num_workers", "1")
    printed = chaos(tmp_path, capsys, *flags)
    assert "nothing was lost" in printed
    assert re.search(r"^2 kills in ", printed, re.M)
    assert re.search(r"^[1-9]\d* runs came to their end", printed, re.M)


@pytest.mark.slow
def test_twenty_kills_lose_nothing(tmp_path, capsys):
    printed = chaos(tmp_path, capsys, "--kills", "20", "--iters", "120", "--seed", "1")
    assert int(re.search(r"(\d+) resumed from the newest", printed)[1]) >= 10


def test_folder_of_something_else_is_kept(tmp_path, capsys):
    (tmp_path / "chaos").mkdir()
    (tmp_path / "chaos" / "precious").touch()
    assert main(["chaos", "--save_dir", str(tmp_path / "chaos")]) == 1
    assert "exists, and this job makes its folder anew" in capsys.readouterr().err
    assert (tmp_path / "chaos" / "precious").exists()
