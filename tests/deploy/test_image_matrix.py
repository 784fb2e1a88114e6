"""Image files in many forms: the C++ programs and the browser read what Python reads, or refuse."""

from __future__ import annotations

import base64
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from image_forms import Form, image_forms
from PIL import Image

from benchmarks.deployment.browser import BROWSERS, PAGE, browser_page
from paddleseg_segformer.data.io import read_image, read_label, write_label
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.image_sources import find_images

pytestmark = pytest.mark.slow

Found = np.ndarray | str  # what a program read, or its refusal
MAX_LOSSY_DIFFERENCE = 3  # levels between builds of decoders of JPEG and lossy WebP
# of what Python reads
CPP_REFUSES = ("tiff", "png-animated", "webp-animated", "jpeg-exif long")
BROWSER_REFUSES = ("tiff", "webp-turn", "bmp-555", "bmp-565", "jpeg-cmyk", "jpeg-exif long")
BROWSER_REFUSES += tuple(f"png-{kind}-{bits}-turn" for kind in (4, 6) for bits in (8, 16))


@pytest.fixture(scope="module")
def forms(tmp_path_factory) -> dict[Path, Form]:
    folder = tmp_path_factory.mktemp("forms")
    forms = {folder / form.name: form for form in image_forms()}
    assert len(forms) >= 300
    for path, form in forms.items():
        path.write_bytes(form.content)
    return forms


def read_in_python(path: Path, channels: int) -> Found:
    try:
        return read_label(path) if channels == 0 else read_image(path, channels)
    except UserError as error:
        return str(error)


def read_in_cpp(
    program: Path, paths: Sequence[Path], channels: int, folder: Path
) -> Iterator[Found]:
    (folder / "list").write_text("".join(f"{channels} {path}\n" for path in paths))
    command = [program, folder / "list", folder / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    dtypes = {1: np.uint8, 2: np.uint16, 4: np.float32}
    for number, line in enumerate(done.stdout.splitlines()):
        if line.startswith("refused: "):
            yield line.removeprefix("refused: ")
            continue
        height, width, depth, size = map(int, line.split())
        values = np.fromfile(folder / "out" / str(number), dtypes[size])
        yield values.reshape(height, width, depth)


def check(forms: dict[Path, Form], found: Sequence[Found], channels: int) -> set[str]:
    """Compare with Python; return the names of what only Python reads."""
    refused = set()
    for (path, form), item in zip(forms.items(), found, strict=True):
        expected = read_in_python(path, channels)
        if isinstance(item, str):
            assert form.name in item
            assert "\n" not in item
            if not isinstance(expected, str):
                refused.add(form.name)
            continue
        assert not isinstance(expected, str), f"{form.name} is read, but Python says: {expected}"
        assert (item.shape, item.dtype) == (expected.shape, expected.dtype), form.name
        difference = np.abs(item.astype(float) - expected).max()
        assert difference <= (MAX_LOSSY_DIFFERENCE if form.tolerance > 1 else 0), form.name
    return refused


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_cpp_reads_what_python_reads_or_refuses(channels, forms, read_images, tmp_path) -> None:
    found = list(read_in_cpp(read_images, list(forms), channels, tmp_path))
    refused = check(forms, found, channels)
    assert all(name.startswith(CPP_REFUSES) for name in refused)
    if channels == 3:  # what is common is read
        kept = {form.name for form in forms.values() if form.rgb is not None} - refused
        assert {"tiff-u1-3-contig.tif", "tiff-u1-1-contig.tif", "tiff-u2-3-contig.tif"} <= kept


def test_cpp_reads_pythons_label_ids_or_refuses(forms, read_images, tmp_path) -> None:
    for highest in (6, 300):
        path = tmp_path / f"{highest}.png"
        write_label(path, np.arange(highest + 1).reshape(1, -1))
        forms = {**forms, path: Form(path.name, b"")}
    found = list(read_in_cpp(read_images, list(forms), 0, tmp_path))
    for path, ids in zip(forms, found, strict=True):
        if isinstance(ids, str):
            assert "\n" not in ids
        else:
            np.testing.assert_array_equal(ids[:, :, 0], read_in_python(path, 0))
    assert not any(isinstance(ids, str) for ids in found[-2:])


def test_browser_reads_what_python_reads_or_refuses(forms) -> None:
    if not (any(map(shutil.which, BROWSERS)) and find_spec("playwright")):
        # a system package and a large one of Python that nothing else needs
        pytest.skip("needs chromium, and pip install playwright")
    names = [form.name for form in forms.values()]
    contents = [base64.b64encode(form.content).decode() for form in forms.values()]
    script = """async ([names, contents]) => {
        const { decode } = await import("./decode.js");
        const { UserError } = await import("./errors.js");
        const results = [];
        for (const [index, name] of names.entries()) {
            const bytes = Uint8Array.from(atob(contents[index]), (letter) => letter.charCodeAt());
            try {
                const { height, width, planes } = await decode(new File([bytes], name));
                const letters = Array.from(planes, (byte) => String.fromCharCode(byte));
                results.push([height, width, btoa(letters.join(""))]);
            } catch (error) {
                if (!(error instanceof UserError)) throw error;
                results.push(error.message);
            }
        }
        return results;
    }"""
    handler = partial(SimpleHTTPRequestHandler, directory=str(PAGE))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, browser_page() as page:
        Thread(target=server.serve_forever, daemon=True).start()
        page.goto(f"http://127.0.0.1:{server.server_port}/errors.js")
        results = page.evaluate(script, [names, contents])
        server.shutdown()
    found = [item if isinstance(item, str) else from_planes(*item) for item in results]
    refused = check(forms, found, 3)
    assert all(name.startswith(BROWSER_REFUSES) for name in refused)


def from_planes(height: int, width: int, text: str) -> np.ndarray:
    planes = np.frombuffer(base64.b64decode(text), np.uint8)
    return planes.reshape(3, height, width).transpose(1, 2, 0)


def found_in_cpp(program: Path, path: Path, *results: Path) -> list[tuple[Path, str]]:
    done = subprocess.run(
        [program, "--find", path, *results], capture_output=True, text=True, check=True
    )
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    return [(Path(path), name) for path, name in lines]


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / name, "PNG")


def test_cpp_finds_the_images_of_a_folder(read_images, tmp_path) -> None:
    root = tmp_path / "images"
    make(root, "a.jpg", "A.png", "a.jpg.png", "b.PNG", ".hidden.png", "._a.jpg", "notes.md")
    make(
        root,
        "x/a.tif",
        "x.y/a.bmp",
        ".ipynb_checkpoints/a.png",
        "__MACOSX/a.jpg",
        "ü/two words.webp",
    )
    make(root, "out/added_prediction/a.png", "out/a.png")
    make(tmp_path / "elsewhere", "z.png")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "linked too").symlink_to(tmp_path / "elsewhere")
    (root / "x" / "loop").symlink_to(root)
    (root / "to nowhere.png").symlink_to(root / "nowhere")
    results = [root / "out" / "added_prediction", root / "out" / "not made yet"]
    expected = [tuple(item) for item in find_images(str(root), results=results)]
    assert len(expected) == 10
    assert found_in_cpp(read_images, root, *results) == expected
    expected = [tuple(item) for item in find_images(str(root / "b.PNG"))]
    assert found_in_cpp(read_images, root / "b.PNG") == expected


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_cpp_finds_the_images_of_a_list(mark, end, read_images, tmp_path) -> None:
    make(tmp_path, "lists/a/x.jpg", "a/x.jpg", "lists/two words.png", "lists/c.png", "lists/c.jpg")
    lines = ["# a comment", "", "a/x.jpg", "a/x.jpg label.png", "  c.png\tlabels/c d.png", "\t"]
    lines += [
        "two words.png  label.png",
        '"two words.png" "label 1.png"',
        '"c.jpg"',
        "missing.png 1",
    ]
    path = tmp_path / "lists" / "list.txt"
    for extra in ([], ["../a/x.jpg"], [str(tmp_path / "a" / "x.jpg")]):
        path.write_text(mark + end.join([*lines, *extra]), encoding="utf-8", newline="")
        expected = [tuple(item) for item in find_images(str(path))]
        assert len(expected) == 5 + len(extra)
        assert found_in_cpp(read_images, path) == expected


def test_cpp_refuses_a_list_in_utf_16(read_images, tmp_path) -> None:
    (tmp_path / "list.txt").write_text("a.png\n", encoding="utf-16")
    command = [read_images, "--find", tmp_path / "list.txt"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "list.txt: a list in UTF-16, expected UTF-8" in done.stdout
    assert len(done.stdout.splitlines()) == 1
