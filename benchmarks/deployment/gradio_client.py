"""Label maps from the Gradio demo, through its own client, in another process than the model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks.deployment.browser import SurfaceResult
from paddleseg_segformer.data.io import read_label
from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError

STEP = re.compile(r"<dt>(\w+)</dt><dd>([\d.]+) ms</dd>")


def gradio_labels(
    model: str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]],
    backend: str | None = None,
    python: str = sys.executable,
) -> list[SurfaceResult]:
    """Predict images in the Gradio demo: send each file, fetch the label map that it offers.

    Args:
        model: Folder of an export, or a model folder.
        images: Image files.
        backend: Engine of an export; by default the demo's choice.
        python: Interpreter that has Gradio.

    Raises:
        UserError: the demo does not start, or answers with an error.
        MissingDependency: gradio_client is not installed.
    """
    with explained():
        from gradio_client import Client, handle_file
        from gradio_client.exceptions import AppError

    results = []
    with served_demo(model, backend, python) as url:
        client = Client(url, verbose=False, analytics_enabled=False)
        for image in images:
            try:
                outputs = client.predict(handle_file(image), "Overlay", 60, api_name="/predict")
            except AppError as error:
                raise UserError(f"the demo says: {error}") from None
            *_, timings, download = outputs
            ms = {step: float(value) for step, value in STEP.findall(str(timings))}
            results.append(SurfaceResult(read_label(download["value"]), ms))
    return results


@contextmanager
def served_demo(
    model: str | os.PathLike[str], backend: str | None = None, python: str = sys.executable
) -> Iterator[str]:
    """Run the demo on a free port of this computer; yield its address.

    Raises:
        UserError: it does not start.
    """
    command = [
        python,
        "-m",
        "paddleseg_segformer.gradio_page",
        "--model",
        str(model),
        "--port",
        "0",
    ]
    if backend:
        command += ["--backend", backend]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            lines: list[str] = []
            for line in server.stdout:
                lines.append(line.strip())
                if line.startswith("http://"):
                    break
            else:
                raise UserError(f"the demo did not start: {' '.join(command)}")
            yield lines[-1]
        finally:
            server.terminate()
