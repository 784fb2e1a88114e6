"""Files and folders are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paddleseg_segformer import files
from paddleseg_segformer.errors import UserError

pytestmark = pytest.mark.check


def make(folder: Path, text: str) -> None:
    with files.atomic_folder(folder) as temporary:
        (temporary / "a").write_text(text)
        (temporary / "b").write_text(text)


def read(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_folder_is_replaced_and_nothing_is_left(tmp_path, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(files, "_exchange", lambda left, right: False)
    make(tmp_path / "run" / "new", "1")
    make(tmp_path / "run" / "new", "2")
    assert read(tmp_path / "run" / "new") == ["2", "2"]
    assert os.listdir(tmp_path / "run") == ["new"]


def test_linux_exchanges_folders_in_one_step(tmp_path):
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not files._exchange(tmp_path / "left", tmp_path / "right"):
        pytest.skip("this system cannot exchange two paths")
    assert os.listdir(tmp_path / "left") == ["right"]
    assert not files._exchange(tmp_path / "left", tmp_path / "nowhere")


def test_error_within_leaves_the_folder_as_it_was(tmp_path):
    make(tmp_path / "new", "1")
    with pytest.raises(KeyError), files.atomic_folder(tmp_path / "new") as temporary:
        (temporary / "a").write_text("2")
        raise KeyError
    assert read(tmp_path / "new") == ["1", "1"]
    assert os.listdir(tmp_path) == ["new"]


@pytest.mark.parametrize("write", [files.atomic_folder, files.atomic_path])
def test_full_disk_is_one_line_that_names_the_destination(tmp_path, write):
    with pytest.raises(UserError) as caught, write(tmp_path / "new"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(caught.value).startswith(f"{tmp_path / 'new'}: cannot be written (No space left")
    assert os.listdir(tmp_path) == []


def test_full_disk_within_a_folder_names_the_folder_to_be(tmp_path):
    with (
        pytest.raises(UserError, match=f"^{tmp_path / 'new' / 'a'}: cannot be written"),
        files.atomic_folder(tmp_path / "new") as folder,
        files.atomic_path(folder / "a"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_other_errors_keep_their_kind(tmp_path):
    with pytest.raises(ConnectionResetError), files.atomic_path(tmp_path / "new"):
        raise ConnectionResetError(errno.ECONNRESET, "reset")


def test_leftovers_are_cleared_and_a_folder_under_exchange_is_put_back(tmp_path):
    for name in (".iter_4.part", ".iter_2.old", ".iter_3.old", "iter_3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(name)
    assert files.clear_leftovers(tmp_path) == [".iter_2.old", ".iter_3.old", ".iter_4.part"]
    assert sorted(os.listdir(tmp_path)) == ["iter_2", "iter_3"]
    assert read(tmp_path / "iter_2") == [".iter_2.old"] and read(tmp_path / "iter_3") == ["iter_3"]


def test_removed_folder_is_gone(tmp_path):
    make(tmp_path / "new", "1")
    files.remove_folder(tmp_path / "new")
    assert os.listdir(tmp_path) == []


WRITER = """
import sys, time
from pathlib import Path
from paddleseg_segformer import files
with files.atomic_path(Path(sys.argv[1]) / "a.png"), files.atomic_folder(Path(sys.argv[1]) / "b"):
    print("writing", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"writing\n"
        parts = sorted(os.listdir(tmp_path))
        assert len(parts) == 2 and all(".part" in name for name in parts)
        age(tmp_path, parts)
        files._swept.clear()
        files.write_text(tmp_path / "c.txt", "c")
        assert files.clear_leftovers(tmp_path) == []
        with pytest.raises(UserError, match="b: another process is writing it"):
            make(tmp_path / "b", "1")
        process.send_signal(signal.SIGKILL)
    assert sorted(os.listdir(tmp_path)) == [*parts, "c.txt"]
    make(tmp_path / "b", "1")  # takes the dead one's place at once
    files._swept.clear()
    files.write_text(tmp_path / "c.txt", "c")
    assert sorted(os.listdir(tmp_path)) == ["b", "c.txt"]


def age(folder: Path, names: list[str]) -> None:
    past = time.time() - 2 * files.UNLOCKED_S
    for name in names:
        os.utime(folder / name, (past, past))


def test_files_are_moved_into_a_folder_together_or_not_at_all(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "kept").write_text("0")
    with pytest.raises(KeyError), files.atomic_files(tmp_path / "model") as temporary:
        (temporary / "a").write_text("1")
        raise KeyError
    assert os.listdir(tmp_path / "model") == ["kept"]
    with files.atomic_files(tmp_path / "model") as temporary:
        (temporary / "a").write_text("1")
    assert read(tmp_path / "model") == ["1", "0"]
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.usefixtures("windows")
def test_folders_and_files_are_replaced_on_windows(tmp_path):
    for text in ("1", "2"):
        make(tmp_path / "new", text)
        files.write_text(tmp_path / "a.txt", text)
        with files.atomic_files(tmp_path / "model") as temporary:
            (temporary / "a").write_text(text)
        assert read(tmp_path / "new") == [text, text] and read(tmp_path / "model") == [text]
        assert (tmp_path / "a.txt").read_text() == text
    with files.only_writer(tmp_path):
        files.remove_folder(tmp_path / "new")
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "model"]


def test_files_of_a_new_folder_are_there_together(tmp_path):
    folder = tmp_path / "new"
    with files.atomic_files(folder) as temporary:
        (temporary / "a").write_text("1")
        assert not folder.exists()  # a kill here leaves nothing under its name
        (temporary / "b").write_text("2")
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]
    with files.atomic_files(folder) as temporary:
        (temporary / "b").write_text("3")
    assert (folder / "a").read_text() + (folder / "b").read_text() == "13"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
