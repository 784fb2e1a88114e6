"""Weights by URL: downloaded once into a cache folder, completely, and verified where possible."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import lzma
import math
import os
import re
import shutil
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from paddleseg_segformer.errors import UserError, one_line
from paddleseg_segformer.files import atomic_path, locked, make_folder, sha256
from paddleseg_segformer.zoo import HOME, PublishedModel, cache_folder, find_model, local_copy

TIMEOUT_S = 20
ATTEMPTS = 3  # per call; each resumes the one before
CHUNK_BYTES = 1 << 20
NO_HUB = "Models on the hub are downloaded first: hf download {0} --local-dir FOLDER"
MAX_BYTES = 16 << 30  # of a file; the largest model here has 1.3 GB
MAX_HEADER_BYTES = 1 << 20  # of a name and the like in an archive


def is_url(source: str) -> bool:
    """Return whether `source` is a URL rather than a path."""
    return source.startswith(("http://", "https://"))


def local_path(source: str | os.PathLike[str]) -> Path:
    """Return the path of weights, downloaded first if a URL or a published model's name is given.

    A file or folder of that name comes first.
    """
    if isinstance(source, str) and is_url(source):
        return fetch(source)
    model = None if os.path.exists(source) else find_model(source)
    return _fetch_model(model) if model else Path(source)


def _fetch_model(model: PublishedModel) -> Path:
    """Return the file or folder of a published model."""
    if path := local_copy(model):
        return _extracted(path) if path.name.endswith(".tar.gz") else path
    folder = cache_folder() / model.name.replace("/", "--")
    urls = [f"{model.url}/{name}" for name in model.files] or [model.url]
    checksum = f"#sha256={model.sha256}" if model.sha256 else ""
    paths = [fetch(url + (checksum if url == urls[-1] else ""), folder) for url in urls]
    return folder if model.files else paths[0]


def known_names(missing: Path) -> str:
    """Say what names weights that exist, for one that does not."""
    known = (
        "Expected a file, a folder, a URL, whose file is kept under "
        f"${HOME} or ~/.cache/paddleseg_segformer, or a name that `list_models` knows."
    )
    is_hub_name = len(missing.parts) == 2 and not (missing.suffix or missing.parent.is_dir())
    return f"{known} {NO_HUB.format(missing.as_posix())}" if is_hub_name else known


@dataclass(frozen=True)
class Remote:
    """A file on a server, and where it is kept here."""

    url: str  # without the fragment
    target: Path
    sha256: str  # the first hexadecimal digits, or all; "" where unknown

    @property
    def part(self) -> Path:
        """Return the path of the file while it is downloaded."""
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def tag_file(self) -> Path:
        """Return the path of what identifies the server's version of the file."""
        return self.target.with_name(f"{self.target.name}.part.tag")

    @classmethod
    def from_url(cls, url: str, folder: Path | None = None) -> Remote:
        """Take file name and checksum from a URL.

        The checksum is a fragment `#sha256=...`, or the digits at the end of the names of PyTorch's
        and OpenMMLab's files. Unless there is a `folder`, each URL has one of its own, for many
        files share a name.
        """
        address, _, fragment = url.partition("#")
        path = urllib.parse.unquote(urllib.parse.urlsplit(address).path)
        name = path.rpartition("/")[2]
        if not name or name.startswith("."):
            raise UserError(f"{url}: names no file. Give the URL of a weight file.")
        stated = re.fullmatch(r"sha256=([0-9a-fA-F]{8,64})", fragment)
        if fragment and not stated:
            raise UserError(f"{url}: expected #sha256= and 8 to 64 hexadecimal digits after it.")
        in_name = re.search(r"-([0-9a-f]{8,64})\.(pth|pt|bin|safetensors|pdparams)$", name)
        found = stated or in_name
        key = hashlib.sha256(address.removesuffix("?download=true").encode()).hexdigest()[:16]
        target = (folder or cache_folder() / key) / name
        return cls(address, target, found[1].lower() if found else "")


def fetch(url: str, folder: Path | None = None) -> Path:
    """Return the local file of a URL, downloaded if need be; of a tar archive its `.pdparams`.

    Args:
        folder: where it is kept; by default one of its own in the cache.

    Raises:
        UserError: it cannot be downloaded (the message says where to put the file by hand), or its
            checksum is wrong.
    """
    remote = Remote.from_url(url, folder)
    target = remote.target
    if not target.is_file():
        _fetch_once(remote)
    _verify(target, remote)
    return _extracted(target) if target.name.endswith((".tar.gz", ".tar")) else target


def _fetch_once(remote: Remote) -> None:
    """Download beside the target and rename; processes that want the same file wait in line."""
    make_folder(remote.target.parent)
    with locked(remote.part, wait_s=math.inf):
        if remote.target.is_file():  # another process was faster
            remote.part.unlink(missing_ok=True)
            return
        with open(remote.part, "ab") as file:
            _download(remote, file)
            file.flush()
            os.fsync(file.fileno())
        try:
            _verify(remote.part, remote)
        except UserError:
            remote.part.unlink(missing_ok=True)
            remote.tag_file.unlink(missing_ok=True)
            raise
        os.replace(remote.part, remote.target)
    remote.tag_file.unlink(missing_ok=True)


def _download(remote: Remote, file: BinaryIO) -> None:
    problem = ""
    for _ in range(ATTEMPTS):
        try:
            problem = _receive(remote, file)
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            problem = str(getattr(error, "reason", error)) or type(error).__name__
            if isinstance(error, urllib.error.HTTPError) and error.code != 416:
                break  # asking again gives the same answer
        if not problem:
            return
    raise UserError(
        f"{remote.url}: cannot be fetched ({problem}). Put the file at {remote.target}, or try "
        "again."
    )


def _receive(remote: Remote, file: BinaryIO) -> str:
    """Append to `file` what it lacks; return what went wrong, or ""."""
    tag = remote.tag_file.read_text("utf-8") if remote.tag_file.is_file() else ""
    start = file.seek(0, os.SEEK_END) if tag else 0
    request = urllib.request.Request(remote.url)
    if start:  # where its file has changed, the server sends all of it
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", tag)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # no such range: the server's file has changed
            _restart(remote, file)
        raise
    with response:
        headers = response.headers
        span = headers.get("Content-Range") or ""
        if not (response.status == 206 and span.startswith(f"bytes {start}-")):
            start = 0
        if not start:
            _restart(remote, file)
            tag = headers.get("ETag") or ""
            is_strong = tag.startswith('"')
            new_tag = tag if is_strong else headers.get("Last-Modified") or ""
            remote.tag_file.write_text(new_tag, encoding="utf-8")
        length = headers.get("Content-Length")
        is_chunked = "chunked" in (headers.get("Transfer-Encoding") or "")
        if length is None and not is_chunked and not remote.sha256:
            raise UserError(
                f"{remote.url}: the server does not say how long the file is, so that a part could "
                "pass for the whole. Add #sha256= and its checksum to the URL."
            )
        size = start + int(length or 0)
        if size > MAX_BYTES:
            raise UserError(f"{remote.url}: {size} bytes, expected at most {MAX_BYTES}.")
        with tqdm(
            total=size, initial=start, unit="B", unit_scale=True, desc=remote.target.name
        ) as bar:
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > MAX_BYTES:
                    raise UserError(f"{remote.url}: more than {MAX_BYTES} bytes.")
    received = file.tell()
    is_short = size > start and received != size
    return f"the connection broke after {received} of {size} bytes" if is_short else ""


def _restart(remote: Remote, file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()
    remote.tag_file.unlink(missing_ok=True)


def _verify(path: Path, remote: Remote) -> None:
    if not remote.sha256:
        return
    digest = sha256(path)
    if not digest.startswith(remote.sha256):
        raise UserError(
            f"{path}: its SHA-256 starts with {digest[: len(remote.sha256)]}, expected "
            f"{remote.sha256}. Delete the file and fetch it again from {remote.url}."
        )


class _Member(tarfile.TarInfo):
    """A file in an archive, which a few bytes could make endless; headers are read into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        member = super().frombuf(buf, encoding, errors)
        if member.size > (MAX_BYTES if member.isreg() else MAX_HEADER_BYTES):
            raise tarfile.ReadError(f"a part of {member.size} bytes")
        return member


def _extracted(archive: Path) -> Path:
    """Return the first `.pdparams` of an archive, extracted beside it."""
    target = archive.with_name(archive.name.split(".")[0] + ".pdparams")
    if target.is_file():
        return target
    try:
        with tarfile.open(archive, tarinfo=_Member) as tar:
            member = next(
                (item for item in tar if item.isfile() and item.name.endswith(".pdparams")), None
            )
            content = tar.extractfile(member) if member else None
            if content is None:
                raise UserError(f"{archive}: holds no .pdparams file, expected one.")
            with atomic_path(target) as temporary, open(temporary, "wb") as file:
                shutil.copyfileobj(content, file)
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise UserError(
            f"{archive}: not a readable archive ({one_line(error)}). Delete it to have it "
            "fetched again."
        ) from None
    return target
