"""What Windows and macOS have otherwise, by faking what they refuse and lack."""

from __future__ import annotations

import ast
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from paddleseg_segformer.cli import main
from paddleseg_segformer.data.sample_lists import read_list_file
from paddleseg_segformer.inference.image_sources import find_images
from paddleseg_segformer.training.writers import JsonLinesWriter

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "paddleseg_segformer").rglob("*.py"))
POSIX_ALONE = {"fcntl", "grp", "pty", "pwd", "resource", "termios"}


@pytest.mark.check
@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_names_encodings_and_imports_nothing_of_posix_alone(path) -> None:
    """Text without an encoding is read and written in cp1252 there."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in tree.body:
        names = [getattr(node, "module", None) or ""]
        names += [alias.name for alias in getattr(node, "names", ())]
        assert not POSIX_ALONE & set(names), f"line {node.lineno}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        options = {keyword.arg for keyword in node.keywords}
        if name in ("run", "Popen", "check_output"):
            assert not options & {"text", "universal_newlines"} or "encoding" in options
        if "encoding" in options or name not in ("open", "read_text", "write_text"):
            continue
        if name == "open":
            if not isinstance(node.func, ast.Name):
                continue  # of another module: Image.open, os.open
            mode = node.args[1].value if len(node.args) > 1 else "r"
            assert "b" in mode, f"line {node.lineno}"
        elif name == "read_text":
            assert node.args, f"line {node.lineno}"
        elif isinstance(node.func, ast.Attribute):  # our `write_text` is always UTF-8
            raise AssertionError(f"line {node.lineno}")


def test_a_pipe_that_cannot_hold_every_character_does_not_end_a_job(tmp_path) -> None:
    (tmp_path / "道路").mkdir()
    (tmp_path / "道路" / "log.jsonl").write_text('{"iteration": 5, "Train/loss": 1.5}\n')
    done = subprocess.run(
        [sys.executable, "-m", "paddleseg_segformer", "curves", "道路", "--save_dir", "out"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "cp1252"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert rb"\u9053\u8def: 5 iterations" in done.stdout
    assert "道路" in (tmp_path / "out" / "curves.html").read_text("utf-8")


@pytest.fixture
def images(tmp_path) -> Path:
    """Return a folder with images in two sub-folders."""
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "images" / name / "1.png"), np.zeros((4, 4, 3), np.uint8))
    return tmp_path


@pytest.mark.skipif(os.sep == "\\", reason="that is how paths are written there")
def test_lists_that_windows_wrote_are_read(images) -> None:
    path = images / "list.txt"
    path.write_bytes(b"images\\a\\1.png images\\b\\1.png\r\nimages\\b\\1.png images\\a\\1.png\r\n")
    found = read_list_file(path, images, " ", needs_label=True)
    expected = [[str(images / "images" / name / "1.png") for name in "ab"]]
    assert [list(pair) for pair in found] == [*expected, expected[0][::-1]]
    assert [image.path for image in find_images(str(path))] == [
        images / "images" / name / "1.png" for name in "ab"
    ]


@pytest.mark.skipif(os.sep == "\\", reason="no such name is possible there")
def test_a_backslash_in_a_name_stays(images) -> None:
    cv2.imwrite(str(images / "x\\1.png"), np.zeros((4, 4, 3), np.uint8))
    (images / "list.txt").write_text("x\\1.png\nimages/a/1.png\n")
    assert [image.path.name for image in find_images(str(images / "list.txt"))] == [
        "x\\1.png", "1.png",
    ]  # fmt: skip


def test_logs_and_pages_are_written_on_windows(windows, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    log = "x - Iter [10/400]\tlr: 1e-3, loss: 1.5\nx - Iter [20/400]\tlr: 1e-3, loss: 1.25\n"
    (tmp_path / "a.log").write_text(log)
    job = ["import_log", str(tmp_path / "a.log"), "--save_dir", str(tmp_path / "run")]
    assert main([*job, "--trackers"]) == 0
    for _ in range(2):  # the second replaces the first
        assert main(["curves", str(tmp_path / "run"), "--save_dir", str(tmp_path / "page")]) == 0
    writer = JsonLinesWriter(tmp_path / "run", 10)
    writer.scalars(15, {"Train/loss": 1.0})
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [10, 15]


@pytest.mark.slow
def test_workers_that_are_spawned_make_the_same_samples(tmp_path, monkeypatch) -> None:
    """Windows has no fork server."""
    from paddleseg_segformer.data import cache, loader
    from paddleseg_segformer.data.datasets import Dataset
    from paddleseg_segformer.data.transforms import Normalize, RandomPaddingCrop

    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    assert cache.worker_context().get_start_method() == "spawn"
    lines = []
    for index in range(4):
        image = np.random.default_rng(index).integers(0, 255, (40, 40, 3)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"{index}.png"), image)
        cv2.imwrite(str(tmp_path / f"{index}_label.png"), image[..., 0] % 3)
        lines.append(f"{index}.png {index}_label.png\n")
    (tmp_path / "train.txt").write_text("".join(lines))
    options = {
        "transforms": [RandomPaddingCrop([32, 32]), Normalize()],
        "dataset_root": str(tmp_path),
        "num_classes": 3,
        "mode": "train",
        "train_path": str(tmp_path / "train.txt"),
    }

    def batches(num_workers: int) -> list[np.ndarray]:
        made = loader.train_loader(Dataset(**options), 2, num_workers, seed=3, start_iter=0)
        found = [next(made).img for _ in range(2)]
        made.close()
        return found

    for one, two in zip(batches(0), batches(1), strict=True):
        np.testing.assert_array_equal(one, two)
