"""The Gradio demo in a real browser: Python's labels, what is drawn, errors in one line."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.deployment.browser import BROWSERS, browser_page
from benchmarks.deployment.gradio_client import gradio_labels, served_demo
from paddleseg_segformer.data.io import read_label
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.overlay import overlay, write_image
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.street_scenes.dataset import render_scene

has_browser = any(map(shutil.which, BROWSERS)) and find_spec("playwright")
pytestmark = [
    pytest.mark.slow,
    # Gradio is large, and bounds Pillow below what others take; a browser is a system package
    pytest.mark.skipif(
        not (has_browser and find_spec("gradio")),
        reason="needs chromium, and pip install playwright '.[demo]'",
    ),
]
MIN_AGREEMENT = 0.9999
UPLOAD = "#image input[type=file]"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / "street.png", folder / "wide.png"]
    for index, (path, size_hw) in enumerate(zip(paths, ((97, 131), (64, 200)), strict=True)):
        write_image(path, render_scene(index, size_hw)[0])
    return paths


@pytest.fixture(scope="module")
def demo(exported) -> Iterator[str]:
    with served_demo(exported("SegFormer"), "paddle") as url:
        yield url


@pytest.fixture
def page(demo) -> Iterator[Any]:
    """Open the demo; it fails on errors in the console and on requests to elsewhere."""
    errors: list[str] = []
    urls: list[str] = []
    with browser_page() as page:
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on(
            "console",
            lambda message: errors.append(message.text) if message.type == "error" else None,
        )
        page.on("request", lambda request: urls.append(request.url))
        page.goto(demo)
        yield page
    assert errors == []
    assert urls
    assert [url for url in urls if not url.startswith((demo, "blob:", "data:"))] == []


def shown(page: Any, before: str | None = None) -> tuple[np.ndarray, str]:
    """Return the picture (H, W, 3) that replaces the one of the address `before`, and its own."""
    page.wait_for_function(
        """(before) => {
            const image = document.querySelector("#picture img");
            return image && image.complete && image.src !== before;
        }""",
        arg=before,
    )
    url = page.get_attribute("#picture img", "src")
    content = page.request.get(url).body()
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")), url


def test_clicks_change_the_picture_and_not_the_prediction(exported, images, page) -> None:
    predictor = Predictor.from_export(exported("SegFormer"), device="cpu", backend="paddle")
    prediction = predictor(images[0])
    page.set_input_files(UPLOAD, images[0])
    picture, url = shown(page)
    np.testing.assert_array_equal(picture, prediction.overlay(0.6))
    times = page.inner_text("#timings")
    assert "Paddle Inference" in times
    assert "97 x 131 px" in times

    with page.expect_download() as download:
        page.click("#labels")
    label = read_label(download.value.path())
    assert (label == prediction.label).mean() >= MIN_AGREEMENT
    assert len(np.unique(label)) > 3

    counts = np.bincount(label.ravel())
    order = sorted(np.flatnonzero(counts), key=lambda index: -counts[index])
    switches = page.locator("#classes label")
    names = [predictor.label_set.classes[index] for index in order]
    assert [text.split()[0] for text in switches.all_inner_texts()] == names
    color = switches.first.evaluate("x => getComputedStyle(x, '::before').backgroundColor")
    assert color == f"rgb{predictor.label_set.palette[order[0]]}"

    switches.first.click()
    picture, url = shown(page, url)
    is_hidden = (label == order[0])[:, :, None]
    expected = overlay(prediction.image, label, predictor.label_set, 0.6)
    np.testing.assert_array_equal(picture, np.where(is_hidden, prediction.image, expected))

    page.locator("#opacity input[type=number]").fill("100")
    page.keyboard.press("Enter")
    picture, url = shown(page, url)
    np.testing.assert_array_equal(picture, np.where(is_hidden, prediction.image, prediction.colors))

    page.locator("#view").get_by_text("Confidence").click()
    picture, _ = shown(page, url)
    assert np.abs(picture.astype(int) - prediction.colors).max() > 50
    assert page.inner_text("#timings") == times  # the network did not run again


def test_example_is_predicted(exported, page) -> None:
    page.locator("button.gallery-item, .gallery button, .examples button").first.click()
    picture, _ = shown(page)
    assert picture.shape == (256, 512, 3)


def test_bad_file_is_told_in_a_line(images, page, tmp_path) -> None:
    """And the next image then works."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(images[0].read_bytes()[:60])
    page.set_input_files(UPLOAD, broken)
    toast = page.locator("[data-testid=toast-body]")
    toast.wait_for()
    assert "broken.png" in toast.inner_text()
    assert str(Path("/tmp")) not in toast.inner_text()
    page.locator("#image").get_by_label("Remove Image").click()
    page.set_input_files(UPLOAD, images[0])
    assert shown(page)[0].shape == (97, 131, 3)


def test_port_in_use_is_told_in_a_line(exported, demo) -> None:
    command = [sys.executable, "-m", "paddleseg_segformer.gradio_page", "--backend", "paddle"]
    command += ["--model", str(exported("SegFormer")), "--port", demo.strip("/").rpartition(":")[2]]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: --port ")
    assert "in use" in done.stderr.splitlines()[-1]


def test_client_gets_pythons_labels(exported, images, tmp_path) -> None:
    predictor = Predictor.from_export(exported("SegFormer"), device="cpu", backend="paddle")
    found = gradio_labels(exported("SegFormer"), images, "paddle")
    for path, result in zip(images, found, strict=True):
        assert (result.label == predictor(path).label).mean() >= MIN_AGREEMENT
        assert result.ms["total"] >= result.ms["network"] > 0
    no_image = tmp_path / "notes.png"
    no_image.write_text("no image")
    with pytest.raises(UserError, match=r"notes\.png"):
        gradio_labels(exported("SegFormer"), [no_image], "paddle")
