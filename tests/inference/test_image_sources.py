from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.image_sources import find_images, read_ahead
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
    assert names(images)[:2] == ["b", "ü/two words"]
    assert images[2].path == folder / "a" / "x.jpg"
    assert not Path(images[2].name).is_absolute()


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
    results = [pixels for _, pixels in read_ahead(find_images(str(folder)), 3)]
    assert [isinstance(result, UserError) for result in results] == [False, False, True, False]
    assert "b.png" in str(results[2])
