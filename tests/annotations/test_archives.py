"""ZIP archives of annotation tools: the same labels as of their folders, or refused."""

from __future__ import annotations

import shutil
import stat
import zipfile
from pathlib import Path

import forms
import pytest

from paddleseg_segformer import UserError
from paddleseg_segformer.annotations import Options, detect, prepare
from paddleseg_segformer.annotations import archives as module
from paddleseg_segformer.data.io import read_label
from paddleseg_segformer.fitting.options import FitOptions

pytest.importorskip("pycocotools")


def read_labels(root: Path, out: Path) -> dict:
    prepared = prepare(detect(root, Options(val=0.34)), out, copy_labels=True)
    found = {
        str(path.relative_to(out)): read_label(path).tolist() for path in out.rglob("labels/**/*.*")
    }
    return {"classes": prepared.classes, **found}


@pytest.mark.parametrize("name", forms.WRITERS)
@pytest.mark.parametrize("folder", ["", "project at 2026-11-28/"])
def test_an_archive_gives_the_labels_of_its_folder(name: str, folder: str, tmp_path: Path) -> None:
    forms.WRITERS[name](tmp_path / "data" / folder)
    forks = tmp_path / "data" / "__MACOSX"
    forks.mkdir()
    (forks / "._a.jpg").write_bytes(b"\0")
    archive = Path(shutil.make_archive(str(tmp_path / "export"), "zip", tmp_path / "data"))
    found = read_labels(archive, tmp_path / "of archive")
    assert found == read_labels(tmp_path / "data", tmp_path / "of folder")
    assert len(found) == 1 + len(forms.SCENES)
    detected = detect(archive)
    assert str(detected.conclusions[0]).startswith(f"unpacked into {tmp_path / 'export'}")
    assert not (tmp_path / "export" / "__MACOSX").exists()


def write(archive: Path, **members: str) -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return archive


def refused(archive: Path, message: str) -> None:
    before = sorted(archive.parent.rglob("*"))
    with pytest.raises(UserError, match=message) as caught:
        detect(archive)
    assert "\n" not in str(caught.value)
    assert sorted(archive.parent.rglob("*")) == before


@pytest.mark.parametrize(
    "name", ["../a.txt", "a/../../b.txt", "/etc/a.txt", "..\\a.txt", "C:\\a.txt", "C:a.txt"]
)
def test_names_outside_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    refused(write(tmp_path / "a.zip", **{name: "x"}), "lies outside its folder")


def test_links_copies_and_names_that_no_disk_takes_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("images/a.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(link, "/etc/passwd")
    refused(tmp_path / "a.zip", "'images/a.jpg' is a link, expected files alone")
    with pytest.warns(UserWarning), zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a.txt", "1")
        file.writestr("a.txt", "2")
    refused(tmp_path / "a.zip", "holds 'a.txt' twice")
    refused(write(tmp_path / "a.zip", **{"ü" * 128: "x"}), "is too long")
    refused(write(tmp_path / "a.zip", **{"a": "x", "a/b": "x"}), "damaged, or no ZIP")


@pytest.mark.parametrize("name", ["images/con.jpg", "aux/a.jpg", "images/a.jpg ", "images./a.jpg"])
def test_names_that_mean_something_else_on_windows_are_refused_there(
    name: str, tmp_path: Path, windows: None
) -> None:
    message = f"^{tmp_path / 'a.zip'}: {name}: .* is no name of a file on Windows"
    refused(write(tmp_path / "a.zip", **{name: "x"}), message)


def test_names_that_differ_in_case_alone_are_refused_where_they_are_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write(tmp_path / "a.zip", **{"images/a.jpg": "1", "images/A.jpg": "2"})
    assert {path.name for path in module.unpacked(archive).rglob("*.jpg")} == {"a.jpg", "A.jpg"}
    shutil.rmtree(tmp_path / "a")
    monkeypatch.setattr(module, "FOLDS_CASE", True)
    refused(archive, "holds 'images/A.jpg' twice")


def test_bombs_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write(tmp_path / "a.zip", **{f"{n}.txt": "0" * 10_000_000 for n in range(3)})
    with monkeypatch.context() as changed:
        changed.setattr(module, "SMALL_BYTES", 20_000_000)
        refused(archive, r"\d+ bytes would become 30000000, more than 100 times as many")
    with monkeypatch.context() as changed:
        changed.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 4, 5))
        refused(archive, "takes 30000000 bytes unpacked, and 5 are free")
    monkeypatch.setattr(module, "MAX_FILES", 2)
    refused(archive, "found 3 files, expected 2")


def test_a_size_that_the_archive_understates_does_not_fill_the_disk(tmp_path: Path) -> None:
    archive = write(tmp_path / "a.zip", a="0" * 1_000_000)
    content = archive.read_bytes()
    archive.write_bytes(content.replace((1_000_000).to_bytes(4, "little"), bytes([9, 0, 0, 0])))
    refused(archive, "damaged, or no ZIP")


def test_damaged_and_encrypted_archives_are_refused(tmp_path: Path) -> None:
    archive = write(tmp_path / "a.zip", a="0123456789" * 50)
    content = archive.read_bytes()
    archive.write_bytes(content[:-9])
    refused(archive, "damaged, or no ZIP")
    archive.write_bytes(content[:33] + bytes([content[33] ^ 0xFF]) + content[34:])
    refused(archive, "damaged, or no ZIP")
    place = content.index(b"PK\x01\x02") + 8  # the flags of the directory's entry
    archive.write_bytes(content[:place] + b"\1\0" + content[place + 2 :])
    refused(archive, "is encrypted")
    (tmp_path / "a.tar").write_bytes(b"")
    refused(tmp_path / "a.tar", "found an archive, expected a folder. Run: tar -xf")


def test_a_folder_of_other_files_is_kept(tmp_path: Path) -> None:
    forms.write_folders(tmp_path / "data")
    archive = Path(shutil.make_archive(str(tmp_path / "export"), "zip", tmp_path / "data"))
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "thesis.txt").write_text("important")
    refused(archive, "is unpacked into .*export, which holds something else. Name that folder")
    shutil.rmtree(tmp_path / "export")
    detect(archive)
    when = (tmp_path / "export" / "images" / "third.jpg").stat().st_mtime_ns
    detect(archive)
    assert (tmp_path / "export" / "images" / "third.jpg").stat().st_mtime_ns == when
    write(archive, a="another")
    refused(archive, "which holds something else")


def test_results_are_not_written_among_the_unpacked_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    archive = write(tmp_path / "export.zip", a="x")
    with pytest.raises(UserError, match="lies in the data"):
        FitOptions(str(archive), out=str(tmp_path / "export" / "out"))
    with pytest.raises(UserError, match="lies in the data"):
        FitOptions(str(archive), out=str(tmp_path / "export"))
    assert FitOptions(str(archive), out=str(tmp_path / "out")).out_dir == tmp_path / "out"


def test_images_that_an_export_lacks_are_named(tmp_path: Path) -> None:
    forms.write_cvat(tmp_path)
    content = (tmp_path / "annotations.xml").read_text(encoding="utf-8")
    archive = write(tmp_path / "alone.zip", **{"annotations.xml": content})
    with pytest.raises(UserError, match="3 annotated images are not there .* export them too"):
        detect(archive)
