"""Downloads from a real server on this machine: whole, resumed, verified, or refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import multiprocessing
import re
import tarfile
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.weights import open_checkpoint
from paddleseg_segformer.weights.files import download
from paddleseg_segformer.weights.files.download import fetch

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content` under every name; `requests` holds the Range header of each request."""

    content = CONTENT
    has_ranges = True
    tag = '"1"'
    breaks_after = 0  # bytes of each response, 0: never
    status = 0
    states_length = True
    is_chunked = False  # cut off before its last chunk
    requests: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, span = self.server, self.headers.get("Range")
        server.requests.append(span)
        if server.status:
            self.send_error(server.status)
            return
        start = 0
        if server.has_ranges and span and self.headers.get("If-Range") == server.tag:
            start = int(span.removeprefix("bytes=").removesuffix("-"))
        if start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        if start:
            last = len(server.content) - 1
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(server.content)}")
        if server.is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%s\r\n" % (len(body), body)
        elif server.states_length:
            self.send_header("Content-Length", str(len(body)))
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        self.wfile.write(body[: server.breaks_after or None])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLESEG_SEGFORMER_HOME", str(tmp_path))
    server = Server(("127.0.0.1", 0), Handler)
    server.requests = []
    serve = partial(server.serve_forever, poll_interval=0.01)  # how long its end takes
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def url_of(server: Server, name: str = "mit_b0.pth") -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/weights/{name}"


def left_in(folder) -> list[str]:
    return sorted(path.name for path in (folder / "weights").rglob("*") if path.is_file())


def test_file_is_fetched_once(server, tmp_path):
    assert fetch(url_of(server)).read_bytes() == CONTENT
    assert fetch(url_of(server) + "?download=true").read_bytes() == CONTENT
    assert server.requests == [None]
    assert left_in(tmp_path) == ["mit_b0.pth"]


@pytest.mark.usefixtures("windows")
def test_open_file_is_not_renamed_on_windows(server):
    assert fetch(f"{url_of(server)}#sha256={SHA256}").read_bytes() == CONTENT
    with pytest.raises(UserError, match="expected 00000000"):
        fetch(f"{url_of(server, 'other.pth')}#sha256=00000000")


def test_broken_connection_is_resumed_within_a_call(server, tmp_path):
    server.breaks_after = 120_000
    assert fetch(url_of(server)).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=120000-", "bytes=240000-"]
    assert left_in(tmp_path) == ["mit_b0.pth"]


def test_broken_download_is_resumed_by_the_next_call(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.breaks_after = 200_000
    with pytest.raises(UserError, match="broke after 200000 of 300000 bytes"):
        fetch(url_of(server))
    assert "mit_b0.pth" not in left_in(tmp_path)
    assert fetch(url_of(server)).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=200000-"]


@pytest.mark.parametrize("change", ["no ranges", "another version", "no tag", "shorter file"])
def test_part_that_cannot_be_continued_is_fetched_anew(server, monkeypatch, change):
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    server.breaks_after = 100_000
    if change == "no tag":
        server.tag = ""
    with pytest.raises(UserError, match="cannot be fetched"):
        fetch(url_of(server))
    server.breaks_after = 0
    if change == "no ranges":
        server.has_ranges = False
    elif change == "another version":
        server.content, server.tag = CONTENT[::-1], '"2"'
    elif change == "shorter file":
        server.content = CONTENT[:1000]
    assert fetch(url_of(server)).read_bytes() == server.content


def test_checksum_of_the_fragment_is_verified(server, tmp_path):
    assert fetch(f"{url_of(server)}#sha256={SHA256}").read_bytes() == CONTENT
    with pytest.raises(UserError, match=r"mit_b0.pth: its SHA-256 starts with .*, expected 0{64}"):
        fetch(f"{url_of(server)}#sha256={'0' * 64}")
    with pytest.raises(UserError, match="expected #sha256="):
        fetch(f"{url_of(server)}#md5=00")
    wrong = url_of(server, "other.pth") + "#sha256=00000000"
    with pytest.raises(UserError, match="expected 00000000"):
        fetch(wrong)
    assert left_in(tmp_path) == ["mit_b0.pth"]  # nothing of the wrong one stays


def test_checksum_in_the_name_is_verified(server, tmp_path):
    assert fetch(url_of(server, f"mit_b0_20220624-{SHA256[:8]}.pth")).read_bytes() == CONTENT
    with pytest.raises(UserError, match="its SHA-256 starts with"):
        fetch(url_of(server, "mit_b1_20220624-02e5a6a1.pth"))
    assert len(left_in(tmp_path)) == 1


@pytest.mark.parametrize("name", ["model.pdparams", "best.pth"])
def test_files_of_one_name_do_not_collide(server, name):
    first = fetch(url_of(server, f"segformer_b0/{name}"))
    server.content = b"of another model"
    second = fetch(url_of(server, f"segformer_b1/{name}"))
    assert first.name == second.name == name
    assert first.read_bytes() == CONTENT and second.read_bytes() == b"of another model"


def archive(**members: bytes) -> bytes:
    """Return a gzipped tar archive of files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(f"{name}.pdparams")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_archives_of_one_name_but_its_end_do_not_collide(server):
    found = []
    for version in ("1", "2"):
        server.content = archive(model=version.encode())
        found.append(fetch(url_of(server, f"v.{version}.tar.gz")))
    assert [path.read_bytes() for path in found] == [b"1", b"2"]


def endless(kind: bytes, size: int) -> bytes:
    """Return an archive of a part that claims and holds `size` zeros."""
    member = tarfile.TarInfo("a.pdparams")
    member.type, member.size = kind, size
    parts = [member.tobuf(tarfile.GNU_FORMAT), *[bytes(1 << 20)] * (size >> 20)]
    return gzip.compress(b"".join(parts))


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_archive_that_unpacks_without_end_is_refused(server, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(download, "MAX_BYTES", 8 << 20)
    server.content = endless(kind, 16 << 20)
    with pytest.raises(UserError, match="not a readable archive .*a part of 16777216 bytes"):
        fetch(url_of(server, "x.tar.gz"))
    assert left_in(tmp_path) == ["x.tar.gz"]


def test_damaged_archive_is_one_line(server):
    whole = archive(model=CONTENT)
    for name, content in (
        ("a", whole[: len(whole) // 2]),
        ("b", whole[:10] + b"\xff" * 1000),
        ("c", b"x" * 1000),
    ):
        server.content = content
        with pytest.raises(UserError, match="not a readable archive .* fetched again"):  # a line
            fetch(url_of(server, f"{name}.tar.gz"))


@pytest.mark.parametrize("status", [403, 404, 500])
def test_refusal_says_where_to_put_the_file(server, tmp_path, status):
    server.status = status
    with pytest.raises(UserError) as caught:
        fetch(url_of(server))
    pattern = rf"Put the file at ({re.escape(str(tmp_path / 'weights'))}/\w+/mit_b0.pth)"
    place = Path(re.search(pattern, str(caught.value))[1])
    assert len(server.requests) == 1 and not place.exists()
    place.write_bytes(b"by hand")
    assert fetch(url_of(server)).read_bytes() == b"by hand"


def test_file_of_unknown_length_needs_a_checksum(server, tmp_path):
    server.states_length = False
    with pytest.raises(UserError, match="does not say how long the file is"):
        fetch(url_of(server))
    assert "mit_b0.pth" not in left_in(tmp_path)
    assert fetch(f"{url_of(server)}#sha256={SHA256}").read_bytes() == CONTENT


def test_chunked_file_that_is_cut_off_is_not_the_whole(server, tmp_path):
    server.is_chunked, server.tag = True, ""
    with pytest.raises(UserError, match="cannot be fetched"):
        fetch(url_of(server))
    assert "mit_b0.pth" not in left_in(tmp_path)


def test_file_without_end_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "MAX_BYTES", 100_000)
    with pytest.raises(UserError, match="300000 bytes, expected at most 100000"):
        fetch(url_of(server))
    server.states_length = False
    with pytest.raises(UserError, match="more than 100000 bytes"):
        fetch(f"{url_of(server)}#sha256={SHA256}")
    assert "mit_b0.pth" not in left_in(tmp_path)


def test_names_that_are_no_file_names_are_refused(server):
    for name in ("", "..", ".hidden"):
        with pytest.raises(UserError, match="names no file"):
            fetch(url_of(server, name))
    inside = fetch(url_of(server, "%2e%2e%2f%2e%2e%2fescaped.pth"))
    assert inside.parent.parent.name == "weights" and inside.name == "escaped.pth"


def _fetch_in_process(url: str, queue) -> None:
    queue.put(hashlib.sha256(fetch(url).read_bytes()).hexdigest())


def test_processes_share_one_download(server, tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [
        context.Process(target=_fetch_in_process, args=(url_of(server), queue)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    assert {queue.get(timeout=60) for _ in processes} == {SHA256}
    for process in processes:
        process.join()
    assert server.requests == [None]
    assert left_in(tmp_path) == ["mit_b0.pth"]


def test_weights_are_opened_by_their_url(server, tmp_path):
    arrays = {"stem.weight": np.ones(3, np.float32)}
    paddle.save(arrays, str(tmp_path / "net.pdparams"))
    server.content = (tmp_path / "net.pdparams").read_bytes()
    checkpoint = open_checkpoint(url_of(server, "net.pdparams"), is_known=False)
    np.testing.assert_array_equal(checkpoint.state["stem.weight"], arrays["stem.weight"])
