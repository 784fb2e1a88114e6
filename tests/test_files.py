"""Files and folders are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

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


@pytest.mark.parametrize("can_exchange", [True, False])
@pytest.mark.parametrize("name", ["a" * 251 + ".png", "道" * 83 + ".json", "." + "x" * 254])
def test_names_of_255_bytes_are_written(tmp_path, monkeypatch, name, can_exchange):
    assert 253 <= len(os.fsencode(name)) <= 255
    if not can_exchange:
        monkeypatch.setattr(files, "_exchange", lambda left, right: False)
    for text in ("1", "2"):
        files.write_text(tmp_path / "file" / name, text)
        make(tmp_path / "folder" / name, text)
        with files.atomic_files(tmp_path / "files" / name) as temporary:
            (temporary / "a").write_text(text)
        assert (tmp_path / "file" / name).read_text() == text
        assert read(tmp_path / "folder" / name) == [text, text]
        assert read(tmp_path / "files" / name) == [text]
    for kind in ("file", "folder", "files"):
        assert os.listdir(tmp_path / kind) == [name]
    files.remove_folder(tmp_path / "folder" / name)
    assert os.listdir(tmp_path / "folder") == []


def test_name_that_is_too_long_is_one_line(tmp_path):
    with pytest.raises(UserError, match="x: the name is too long for this system. Choose"):
        files.write_text(tmp_path / ("x" * 256), "1")
    assert os.listdir(tmp_path) == []


RACE = """
import sys, time
from pathlib import Path
from paddleseg_segformer import files
from paddleseg_segformer.errors import UserError
text, destination, told, done = sys.argv[1], Path(sys.argv[2]), 0, 0
end = time.monotonic() + 1.5
while time.monotonic() < end:
    try:
        with files.atomic_folder(destination) as folder:
            for name in "abc":
                (folder / name).write_text(text)
        done += 1
    except UserError as error:
        assert "another process is writing it" in str(error), error
        told += 1
print(done, told)
"""


def test_processes_that_write_one_folder_again_and_again_mix_nothing(tmp_path):
    commands = [[sys.executable, "-c", RACE, text, str(tmp_path / "new")] for text in "123"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for command in commands]
    seen = set()
    while any(process.poll() is None for process in running):
        with_folder = os.path.isdir(tmp_path / "new")
        if with_folder:
            handle = os.open(tmp_path / "new", os.O_RDONLY)  # the folder of now, whatever follows
            try:
                seen.add("".join([text_in(handle, n) for n in "abc"]))
            finally:
                os.close(handle)
    counts = [list(map(int, process.communicate()[0].split())) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert all(done for done, _ in counts) and sum(told for _, told in counts)
    assert {text for text in seen if "-" not in text} <= {"111", "222", "333"}
    assert len(set(read(tmp_path / "new"))) == 1
    assert os.listdir(tmp_path) == ["new"]


def test_folder_is_exchanged_once_the_process_before_has_let_go_of_it(tmp_path, monkeypatch):
    """Else a third one takes the old folder for a killed process's, while it is removed."""
    destination = tmp_path / "new"
    make(destination, "1")
    thread = threading.Thread(target=make, args=(destination, "2"))
    with files.locked(destination):
        thread.start()
        thread.join(0.3)
        assert thread.is_alive() and read(destination) == ["1", "1"]
    thread.join()
    assert read(destination) == ["2", "2"]
    monkeypatch.setattr(files, "FINISH_S", 0.05)
    with files.only_writer(destination):
        make(destination, "3")  # the holder's own
    with files.locked(destination), pytest.raises(UserError, match="another process is writing"):
        make(destination, "4")
    assert read(destination) == ["3", "3"] and os.listdir(tmp_path) == ["new"]


def text_in(folder: int, name: str) -> str:
    """Return what a file of an open folder holds; "-" once the folder is being removed."""
    try:
        handle = os.open(name, os.O_RDONLY, dir_fd=folder)
    except FileNotFoundError:
        return "-"
    try:
        return os.read(handle, 9).decode()
    finally:
        os.close(handle)


def told_in_a_thread(folder: Path) -> list[str]:
    """Return what another holder of a folder is told."""
    found = []

    def hold() -> None:
        try:
            with files.only_writer(folder):
                found.append("")
        except UserError as error:
            found.append(str(error))

    thread = threading.Thread(target=hold)
    thread.start()
    thread.join()
    return found


@pytest.mark.parametrize("system", ["this", "windows"])
def test_second_run_is_told_and_the_first_may_hold_its_folder_again(request, tmp_path, system):
    if system == "windows":
        request.getfixturevalue("windows")
    folder = tmp_path / "run"
    folder.mkdir()
    with files.only_writer(folder):
        with files.only_writer(tmp_path / "run" / ".." / "run"):
            pass
        [message] = told_in_a_thread(folder)
        assert message.startswith(f"{folder}: another run writes into this folder")
        folder.rename(tmp_path / "moved")  # as Windows allows where nothing in it is open
        (tmp_path / "moved").rename(folder)
    assert told_in_a_thread(folder) == [""]
    assert os.listdir(tmp_path) == ["run"] and os.listdir(folder) == []


@pytest.mark.usefixtures("windows")
def test_folder_that_another_process_writes_is_left_alone_on_windows(tmp_path):
    def write() -> None:
        with files.atomic_folder(tmp_path / "new") as folder:
            (folder / "a").write_text("1")
            begun.set()
            go_on.wait()

    begun, go_on = threading.Event(), threading.Event()
    thread = threading.Thread(target=write)
    thread.start()
    begun.wait()
    with pytest.raises(UserError, match="another process is writing it"):
        make(tmp_path / "new", "2")
    go_on.set()
    thread.join()
    assert read(tmp_path / "new") == ["1"] and os.listdir(tmp_path) == ["new"]


@pytest.mark.usefixtures("windows")
def test_file_that_somebody_holds_open_for_a_moment_is_replaced_on_windows(tmp_path, monkeypatch):
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            file.close()

    monkeypatch.setattr(files.time, "sleep", wait)
    (tmp_path / "a").write_text("1")
    with open(tmp_path / "a") as file:  # as a virus scanner
        files.write_text(tmp_path / "a", "2")
    assert (tmp_path / "a").read_text() == "2" and len(waits) == 3
    with open(tmp_path / "a"), pytest.raises(PermissionError):
        files.write_text(tmp_path / "a", "3")
    assert len(waits) == 3 + files.REPLACE_TRIES - 1
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize(
    "name",
    [
        *("CON", "nul.png", "Com1.tar.gz", "LPT9", "AUX .txt", "street:rgb.png", "a?", "b*.png"),
        *("ends in a dot.", "ends in a blank ", "NUL/a.png", 'a"b', "a|b", "a\tb"),
    ],
)
def test_names_that_mean_something_else_on_windows_are_refused(tmp_path, name):
    for write in (files.write_text, make):
        with pytest.raises(UserError, match="is no name of a file on Windows"):
            write(tmp_path / name, "1")
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize("name", ["console.png", "com.png", "a b.c", "nulls", ".x", "道路.png"])
def test_other_names_are_taken_on_windows(tmp_path, name):
    files.write_text(tmp_path / name, "1")
    assert os.listdir(tmp_path) == [name]


@pytest.mark.usefixtures("windows")
def test_path_beyond_what_windows_takes_is_one_line(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(files.tempfile, "mkstemp", refuse)
    with pytest.raises(UserError, match="the name is too long for this system"):
        files.write_text(tmp_path / ("x" * 250), "1")
    with pytest.raises(FileNotFoundError):
        files.write_text(tmp_path / "x", "1")


def test_macos_exchanges_folders_in_one_step(tmp_path, monkeypatch):
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        pytest.skip("this system cannot exchange two paths")
    calls = []

    def renamex_np(left: bytes, right: bytes, flags: int) -> int:
        calls.append(flags)
        return library.renameat2(-100, left, -100, right, 2)

    monkeypatch.setattr(
        files.ctypes, "CDLL", lambda *args, **options: SimpleNamespace(renamex_np=renamex_np)
    )
    for text in ("1", "2"):
        make(tmp_path / "new", text)
    assert calls == [2]  # RENAME_SWAP
    assert read(tmp_path / "new") == ["2", "2"] and os.listdir(tmp_path) == ["new"]
