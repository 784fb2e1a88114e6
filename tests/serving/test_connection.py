"""What a real uvicorn does with connections that ask for nothing, or take no answer."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from paddleseg_segformer.serving import connection
from paddleseg_segformer.serving.server import listen

ANSWER = bytes(64 << 20)  # more than sockets hold


async def app(scope: dict, receive: object, send: object) -> None:
    headers = [(b"content-length", str(len(ANSWER)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": ANSWER})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(connection, "HEADER_S", 0.3)
    monkeypatch.setattr(connection, "ANSWER_S", 1.0)
    config = uvicorn.Config(
        app,
        http=connection.BoundedConnection,
        ws="none",
        lifespan="off",
        log_config=None,
        h11_max_incomplete_event_size=connection.HEADER_BYTES,
    )
    server = uvicorn.Server(config)
    with listen("127.0.0.1", 0) as sock:
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield sock.getsockname()[1]
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def seconds_until_closed(client: socket.socket) -> float:
    start = time.monotonic()
    client.settimeout(10)
    try:
        while client.recv(1 << 20):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - start


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_connection_without_a_whole_header_is_cut(port: int, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(sent)
        assert 0.1 < seconds_until_closed(client) < 3


def test_trickling_header_is_cut_too(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        start = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() < start + 5:
                client.sendall(b"G")
                time.sleep(0.05)
        assert time.monotonic() < start + 3


def test_answer_that_nobody_takes_is_given_up(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(2.5)
        client.settimeout(10)
        num_bytes = 0
        with contextlib.suppress(ConnectionResetError):
            while chunk := client.recv(1 << 20):
                num_bytes += len(chunk)
        assert num_bytes < len(ANSWER)


def test_answer_that_is_taken_comes_whole_and_requests_can_follow(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(10)
        for _ in range(2):
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            head, _, body = client.recv(1 << 20).partition(b"\r\n\r\n")
            num_bytes = len(body)
            while num_bytes < len(ANSWER) and (chunk := client.recv(1 << 20)):
                num_bytes += len(chunk)
            assert head.startswith(b"HTTP/1.1 200") and num_bytes == len(ANSWER)


def test_header_without_an_end_is_refused(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(10)
        client.sendall(b"GET / HTTP/1.1\r\nX: " + bytes(b"x" * 2 * connection.HEADER_BYTES))
        assert client.recv(100).startswith(b"HTTP/1.1 400")
