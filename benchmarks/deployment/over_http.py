"""The HTTP service as a process of its own, and a client on the same machine."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import numpy as np

from benchmarks.deployment.job import Job, NotHere, Outcome, time_images
from benchmarks.speed.memory import peak_mib

READY_S = 120.0
TIMEOUT_S = 600.0  # of an answer


def run(job: Job) -> Outcome:
    """Send all images, one after the other; options: `backend` of the service."""
    from paddleseg_segformer.data.io import read_label

    engine = ""
    received = Path(job.results) / "received.png"

    def answer_to(image: bytes) -> bytes:
        nonlocal engine
        connection.request("POST", "/predict", image, {"Content-Type": "image/png"})
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise RuntimeError(f"status {response.status}: {content[:500].decode()}")
        engine = response.headers["X-Engine"]
        return content

    def decoded(content: bytes) -> np.ndarray:
        received.write_bytes(content)
        return read_label(received)

    with _service(job) as (process, connection):
        ms, _ = time_images(
            job, answer_to, lambda: None, read=lambda path: Path(path).read_bytes(), decode=decoded
        )
        return Outcome(ms, None, peak_mib(process.pid), engine)


@contextmanager
def _service(job: Job) -> Iterator[tuple[subprocess.Popen[str], HTTPConnection]]:
    """Start the service and wait until it is ready; yield its process and a connection."""
    command = [sys.executable, "-W", "ignore", "-m", "paddleseg_segformer", "serve"]
    command += ["--config", job.export_dir, "--backend", job.options["backend"], "--port", "0"]
    command += ["--device", "cpu", "--threads", str(job.threads)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            connection = HTTPConnection(_address(process), timeout=TIMEOUT_S)
            _wait_until_ready(connection)
            yield process, connection
            connection.close()
        finally:
            process.terminate()


def _address(process: subprocess.Popen[str]) -> str:
    """Return the address that the service says it listens on; go on reading what it prints.

    Raises:
        NotHere: a package of the service is not installed.
    """
    assert process.stdout is not None
    last = "it printed nothing"
    for line in process.stdout:
        if found := re.search(r"listening on http://(\S+)", line):
            threading.Thread(target=process.stdout.read, daemon=True).start()  # or its pipe fills
            return found[1]
        last = line.strip() or last
    if "is not installed" in last:
        raise NotHere(last.removeprefix("error: "))
    raise RuntimeError(f"the service did not start: {last}")


def _wait_until_ready(connection: HTTPConnection) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        connection.request("GET", "/health")
        response = connection.getresponse()
        content = response.read()
        if response.status == 200:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"not ready within {READY_S:g} s: {content[:200].decode()}")
        time.sleep(0.2)
