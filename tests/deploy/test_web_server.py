"""The page's small server, run by Node.js: what it serves, and what it holds open."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "deploy/web/serve.mjs"
CONTENT = bytes(range(256)) * (1 << 14)  # 4 MiB: more than a socket's buffers hold


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """Yield the process and the port of a server of one large file."""
    if not (node := shutil.which("node")):
        pytest.skip("Node.js is not installed")
    (tmp_path / "model.onnx").write_bytes(CONTENT)
    command = [node, str(PROGRAM), "--export", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().split(":")[2].split("/")[0])
        yield process.pid, port
        process.kill()


def request(port: int, path: str) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=20)
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    return client


def answer(port: int, path: str) -> tuple[bytes, bytes]:
    with request(port, path) as client:
        content = b"".join(iter(lambda: client.recv(1 << 20), b""))
    head, _, body = content.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_downloads_that_are_given_up_hold_no_file_open(server: tuple[int, int]) -> None:
    process, port = server
    for _ in range(50):
        with request(port, "/export/model.onnx") as client:
            client.recv(100)
    end = time.monotonic() + 20
    while (held := opened(process).count("model.onnx")) and time.monotonic() < end:
        time.sleep(0.05)
    assert held == 0
    head, body = answer(port, "/export/model.onnx")
    assert head.startswith(b"HTTP/1.1 200") and body == CONTENT


def opened(process: int) -> list[str]:
    """Return the names of the files that a process holds open."""
    names = []
    for path in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            names.append(os.path.basename(os.readlink(path)))
    return names


def test_only_the_two_folders_are_served(server: tuple[int, int]) -> None:
    # "//x" names another host and the path "/": the page itself, once it is built
    for path in ("/export/../../etc/passwd", "/export/%2e%2e/x", "/export/", "/%00", "//x/y"):
        assert answer(server[1], path)[0].startswith(b"HTTP/1.1 404")
