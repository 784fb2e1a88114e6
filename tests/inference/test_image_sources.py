from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from paddleseg_segformer.data.io import read_image
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.image_sources import (
    find_images,
    in_streams,
    is_large,
    read_ahead,
)
from paddleseg_segformer.inference.overlay import write_image


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("b.png", "a/x.jpg", "a/x.png", "ü/two words.PNG"):
        write_image(tmp_path / name, np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "note.txt").write_text("no image")
    return tmp_path


def names(images) -> list[str]:
    return [image.name for image in images]


def test_folder_with_sub_folders(folder) -> None:
    assert names(find_images(str(folder))) == ["a/x.jpg", "a/x.png", "b", "ü/two words"]


def test_single_image(folder) -> None:
    assert names(find_images(str(folder / "a" / "x.jpg"))) == ["x"]


def test_list_with_labels_and_spaces(folder) -> None:
    lines = ["b.png labels/b.png", "", "ü/two words.PNG", str(folder / "a" / "x.jpg")]
    (folder / "list.txt").write_text("\n".join(lines), encoding="utf-8")
    images = find_images(str(folder / "list.txt"))
    assert [image.path for image in images[:2]] == [folder / "b.png", folder / "ü/two words.PNG"]
    assert names(images) == ["b", "ü/two words", "a/x"]
    assert images[2].path == folder / "a" / "x.jpg"


def test_list_needs_no_suffix(folder) -> None:
    image = (folder / "a" / "x.png").read_bytes()
    (folder / "unnamed").write_bytes(image)
    assert names(find_images(str(folder / "unnamed"))) == ["unnamed"]
    for name in ("list", "val.lst"):
        (folder / name).write_text("b.png labels/b.png\n")
        assert [image.path for image in find_images(str(folder / name))] == [folder / "b.png"]


def test_list_relative_to_another_folder(folder, tmp_path_factory) -> None:
    list_path = tmp_path_factory.mktemp("lists") / "val.txt"
    list_path.write_text("a/x.png\n")
    assert find_images(str(folder), str(list_path))[0].path == folder / "a" / "x.png"


@pytest.mark.parametrize(("path", "message"), [("none", "no such file"), (None, "--image_path")])
def test_nothing_there(path, message) -> None:
    with pytest.raises(UserError, match=message):
        find_images(path)


def test_empty_folder_and_list(tmp_path) -> None:
    with pytest.raises(UserError, match="no images in this folder"):
        find_images(str(tmp_path))
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(UserError, match="names no images"):
        find_images(str(tmp_path / "list.txt"))


def test_read_ahead_goes_on_after_a_bad_image(folder) -> None:
    (folder / "b.png").write_bytes(b"broken")
    results = [pixels for _, pixels in read_ahead(find_images(str(folder)), read_image)]
    assert [isinstance(result, UserError) for result in results] == [False, False, True, False]
    assert "b.png" in str(results[2])


def test_streams_keep_the_order_run_together_and_stay_near_what_is_taken() -> None:
    taken: list[int] = []
    together = Barrier(3)

    def items() -> Iterator[int]:
        for index in range(1 + 3 * 4):
            taken.append(index)
            yield index

    def square(index: int) -> int:
        if index:  # the first is alone
            together.wait(10)
        time.sleep(0.01 * (index % 3))  # so that they end in another order
        return index * index

    found = []
    for result in in_streams(square, items(), 3):
        assert len(taken) <= len(found) + 4
        found.append(result)
    assert found == [index * index for index in range(13)]


def test_one_stream_takes_an_item_when_it_is_asked_for() -> None:
    numbers = iter(range(9))
    results = in_streams(str, numbers, 1)
    assert [next(results), next(results), next(numbers)] == ["0", "1", 2]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    "files",
    [
        ("a.jpg", "a.png", "a.jpg.png"),
        ("a.jpg", "a.png", "a.jpg.png", "a.jpg.png.bmp", "a.jpg.jpg"),
        ("A.jpg", "a.png", "b/a.jpg", "b.a/a.jpg"),
    ],
)
def test_names_of_results_never_collide(tmp_path, files) -> None:
    touch(tmp_path, *files)
    found = names(find_images(str(tmp_path)))
    assert len({name.casefold() for name in found}) == len(files) == len(found)


def test_list_that_leads_out_of_its_folder(tmp_path) -> None:
    touch(tmp_path, "lists/a/x.jpg", "a/x.jpg")
    (tmp_path / "lists" / "list.txt").write_text("a/x.jpg\n../a/x.jpg\na/x.jpg\n")
    found = find_images(str(tmp_path / "lists" / "list.txt"))
    assert names(found) == ["lists/a/x", "a/x"]
    assert all(image.path.is_file() for image in found)


def test_absolute_paths_are_named_below_their_common_folder(tmp_path) -> None:
    touch(tmp_path, "deep/one/x.jpg", "deep/two/x.jpg")
    lines = [str(tmp_path / "deep" / name / "x.jpg") for name in ("one", "two")]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "list.txt").write_text("\n".join(lines))
    assert names(find_images(str(tmp_path / "other" / "list.txt"))) == ["one/x", "two/x"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be-bom", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lists_as_editors_save_them(folder, encoding, end) -> None:
    lines = ["# ü comment", "", "b.png", "  ", "a/x.jpg\tlabels/a x.png", "ü/two words.PNG x.png"]
    lines += ['"ü/two words.PNG" "labels/two words.png"']
    text = end.join(lines)
    content = "\ufeff".encode("utf-16-be") + text.encode("utf-16-be")
    content = content if encoding == "utf-16-be-bom" else text.encode(encoding)
    (folder / "list.txt").write_bytes(content)
    images = find_images(str(folder / "list.txt"))
    expected = ["b.png", "a/x.jpg", "ü/two words.PNG"]
    assert [image.path for image in images] == [folder / name for name in expected]


def test_lines_that_name_no_file_fail_by_themselves(folder) -> None:
    (folder / "list.txt").write_text('""\n.\nb.png\n""  x\n')
    images = find_images(str(folder / "list.txt"))
    assert [image.path for image in images] == [folder, folder / "b.png"]
    results = [pixels for _, pixels in read_ahead(images, read_image)]
    assert [isinstance(result, UserError) for result in results] == [True, False]
    (folder / "list.txt").write_text(f'"{"x" * 200_000}"\n')
    with pytest.raises(UserError, match="not a list's line"):
        find_images(str(folder / "list.txt"))


def test_list_in_another_encoding_is_refused(tmp_path) -> None:
    (tmp_path / "list.txt").write_bytes("a.png\nü.png\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"list.txt, line 2: not UTF-8"):
        find_images(str(tmp_path / "list.txt"))


def test_links_are_followed_once_and_hidden_files_skipped(tmp_path) -> None:
    touch(tmp_path / "real", "x.jpg", ".hidden.jpg", ".ipynb_checkpoints/x.jpg")
    touch(tmp_path / "real", "__MACOSX/._x.jpg", "__MACOSX/y.jpg", "._x.jpg")
    touch(tmp_path / "elsewhere", "z.jpg")
    (tmp_path / "real" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "w.jpg").symlink_to(tmp_path / "elsewhere" / "z.jpg")
    assert names(find_images(str(tmp_path / "real"))) == ["linked/z", "w", "x"]


def test_links_that_lead_nowhere_are_listed_and_missed(tmp_path) -> None:
    touch(tmp_path, "x.jpg")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "itself.jpg").symlink_to(tmp_path / "itself.jpg")
    found = find_images(str(tmp_path))
    assert names(found) == ["broken", "itself", "x"]
    errors = [str(result) for _, result in read_ahead(found, read_image)]
    assert "broken.jpg: no such file" in errors[0] and "itself.jpg: " in errors[1]


def test_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch) -> None:
    touch(tmp_path, "a/x.jpg")
    scan = os.scandir

    def refuse(path: str):
        if path.endswith("/a"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"/a: cannot be read \(Permission denied\)"):
        find_images(str(tmp_path))


def test_results_are_not_predicted_again(tmp_path) -> None:
    touch(tmp_path, "x.jpg", "added_prediction/x.jpg", "out/added_prediction/x.jpg", "out/y.jpg")
    results = [tmp_path / "out" / "added_prediction"]
    found = names(find_images(str(tmp_path), results=results))
    assert found == ["added_prediction/x", "out/y", "x"]
    assert "added_prediction/x" not in names(
        find_images(str(tmp_path), results=[tmp_path / "added_prediction"])
    )


def test_pattern(folder) -> None:
    assert names(find_images(str(folder / "*" / "x.*"))) == ["x.jpg", "x.png"]
    with pytest.raises(UserError, match="no such file"):
        find_images(str(folder / "*" / "y.*"))


def test_pipes_are_no_images_and_hold_nothing_up(tmp_path: Path) -> None:
    """Also where links lead to them: no one writes into them, and readers would wait for ever."""
    (tmp_path / "x.png").touch()
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("link.png", "link.npy", "link.tif"):
        (tmp_path / name).symlink_to("pipe.png")
        assert not is_large(tmp_path / name)
    (tmp_path / "lost.png").symlink_to("nowhere")
    assert [image.name for image in find_images(str(tmp_path))] == ["lost", "x"]
