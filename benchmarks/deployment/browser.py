"""Label maps from the static page in `deploy/web` in a real browser without a window."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from paddleseg_segformer.data.io import read_label
from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError

if TYPE_CHECKING:
    from playwright.sync_api import Page

PAGE = Path(__file__).resolve().parents[2] / "deploy" / "web"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu")
TIMEOUT_S = 300.0  # for a model to load, or an image to be predicted


class SurfaceResult(NamedTuple):
    """What a user interface showed for an image."""

    label: np.ndarray  # (H, W) class ids
    ms: dict[str, float]  # time of each step, as the interface shows it; `total` is their sum


def browser_labels(
    export: str | os.PathLike[str], images: Sequence[str | os.PathLike[str]]
) -> list[SurfaceResult]:
    """Predict images on the static page: load the export, choose each file, save its labels.

    Args:
        export: Folder of an export that holds `model.onnx`.
        images: Image files.

    Raises:
        UserError: the page cannot be built, there is no browser, or the page shows an error.
        MissingDependency: playwright is not installed.
    """
    with served_page(export) as url, browser_page() as page:
        page.goto(url)
        wait_until_ready(page)
        return [label_on_page(page, Path(image)) for image in images]


def label_on_page(page: Page, image: Path) -> SurfaceResult:
    """Choose an image on the open page and save the labels that it shows.

    Raises:
        UserError: the page shows an error.
    """
    page.set_input_files("#image-file", image)
    wait_until_ready(page)
    with page.expect_download() as download:
        page.click("#save")
    label = read_label(download.value.path())
    rows = zip(
        page.locator("#timings dt").all_inner_texts(),
        page.locator("#timings dd").all_inner_texts(),
        strict=True,
    )
    ms = {step: float(value.removesuffix(" ms")) for step, value in rows if value.endswith(" ms")}
    return SurfaceResult(label, ms)


def wait_until_ready(page: Page) -> None:
    """Wait until the page has done what it is busy with.

    Raises:
        UserError: the page shows an error.
    """
    body = page.locator("body[data-state=ready], body[data-state=error]")
    body.wait_for(state="attached", timeout=1000 * TIMEOUT_S)
    if body.get_attribute("data-state") == "error":
        raise UserError(f"the page in the browser says: {page.inner_text('#error')}")


@contextmanager
def served_page(export: str | os.PathLike[str]) -> Iterator[str]:
    """Serve the built page and an export on this computer; yield the address that opens both.

    Raises:
        UserError: the page cannot be built.
    """
    build_page()
    flags = ["--port", "0", "--export", str(Path(export).resolve())]
    command = [_program("node"), str(PAGE / "serve.mjs"), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def build_page() -> None:
    """Build the page where a source has changed; its packages are installed once.

    Raises:
        UserError: no clone of the repository, Node.js is missing, or npm fails.
    """
    if not PAGE.is_dir():
        raise UserError(f"{PAGE}: no such folder. Run this in a clone of the repository.")
    page = PAGE / "dist" / "index.html"
    sources = [path for path in PAGE.iterdir() if path.is_file()]
    if page.is_file() and page.stat().st_mtime > max(path.stat().st_mtime for path in sources):
        return
    commands = [["run", "build"]]
    if not (PAGE / "node_modules").is_dir():
        commands.insert(0, ["ci"])
    for command in commands:
        npm = [_program("npm"), "--prefix", str(PAGE), *command]
        done = subprocess.run(npm, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            reason = " ".join((done.stdout + done.stderr).split())[-500:]
            raise UserError(f"{' '.join(npm)}: failed ({reason}).")


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise UserError(f"{name}: not found. Install Node.js 18 or later.")
    return path


@contextmanager
def browser_page(width: int = 1280, height: int = 800) -> Iterator[Page]:
    """Open an empty page in the installed Chromium.

    Args:
        width: Of the page, in px.
        height: Of the page, in px.

    Raises:
        UserError: there is no Chromium.
        MissingDependency: playwright is not installed.
    """
    with explained():
        from playwright.sync_api import sync_playwright

    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        raise UserError("chromium: not found. Install it: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(FLAGS))
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(1000 * TIMEOUT_S)
            yield page
        finally:
            browser.close()
