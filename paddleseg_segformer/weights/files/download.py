"""Weights named by URL: fetched once into a cache folder, whole, and verified where possible."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import tarfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import atomic_path, make_folder, sha256
from paddleseg_segformer.weights.files.containers import FOLDER_FILES

TIMEOUT_S = 20
ATTEMPTS = 3  # per call; each goes on where the one before broke off
CHUNK_BYTES = 1 << 20


def is_url(source: str) -> bool:
    """Return whether `source` is fetched rather than opened."""
    return source.startswith(("http://", "https://"))


def local_path(source: str | os.PathLike[str]) -> Path:
    """Return the path of weights that are named by a path or by a URL."""
    return fetch(source) if isinstance(source, str) and is_url(source) else Path(source)


def cache_folder() -> Path:
    """Return the folder of fetched weights, under `$PADDLESEG_SEGFORMER_HOME` or `~/.cache`."""
    default = Path.home() / ".cache" / "paddleseg_segformer"
    return Path(os.environ.get("PADDLESEG_SEGFORMER_HOME", default)) / "weights"


@dataclass(frozen=True)
class Remote:
    """What a URL says about a file."""

    url: str  # without the fragment
    target: Path
    sha256: str  # hexadecimal digits, the first ones or all; "" where unknown

    @classmethod
    def from_url(cls, url: str) -> Remote:
        """Read file name and checksum off a URL.

        The checksum is a fragment `#sha256=...`, or what the names of PyTorch's and OpenMMLab's
        files end in. Files of names that many URLs have in common get a folder of their own.
        """
        address, _, fragment = url.partition("#")
        path = urllib.parse.unquote(urllib.parse.urlsplit(address).path)
        name = path.rpartition("/")[2]
        if not name or name.startswith("."):
            raise UserError(f"{url}: names no file.")
        stated = re.fullmatch(r"sha256=([0-9a-fA-F]{8,64})", fragment)
        if fragment and not stated:
            raise UserError(f"{url}: expected #sha256= and 8 to 64 hexadecimal digits after it.")
        in_name = re.search(r"-([0-9a-f]{8,64})\.(pth|pt|bin|safetensors|pdparams)$", name)
        found = stated or in_name
        folder = cache_folder()
        if name in FOLDER_FILES:
            folder /= hashlib.sha256(address.encode()).hexdigest()[:8]
        return cls(address, folder / name, found[1].lower() if found else "")


def fetch(url: str) -> Path:
    """Return the local file of `url`, or the `.pdparams` in it if it is a tar, fetched if need be.

    Raises:
        UserError: it cannot be fetched (the message says where to put the file by hand), or is not
            what its checksum says.
    """
    remote = Remote.from_url(url)
    target = remote.target
    if not target.is_file():
        _fetch_once(remote)
    _verify(target, remote)
    return _extracted(target) if target.name.endswith((".tar.gz", ".tar")) else target


def _fetch_once(remote: Remote) -> None:
    """Fetch beside the target and rename; processes that want the same file wait for each other."""
    make_folder(remote.target.parent)
    part = remote.target.with_name(f"{remote.target.name}.part")
    with _locked(part) as file:
        if remote.target.is_file():
            part.unlink(missing_ok=True)  # another process fetched it meanwhile
            return
        if not part.exists():  # another process fetched it meanwhile, and found it wrong
            return _fetch_once(remote)
        _download(remote, file, part)
        file.flush()
        os.fsync(file.fileno())
        try:
            _verify(part, remote)
        except UserError:
            _forget(part)
            raise
        os.replace(part, remote.target)
    _tag_file(part).unlink(missing_ok=True)


def _download(remote: Remote, file: BinaryIO, part: Path) -> None:
    problem = ""
    for _ in range(ATTEMPTS):
        try:
            problem = _receive(remote, file, part)
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


def _receive(remote: Remote, file: BinaryIO, part: Path) -> str:
    """Append what is missing to `file`; return what went wrong, or ""."""
    tag_file = _tag_file(part)
    tag = tag_file.read_text() if tag_file.is_file() else ""
    start = file.seek(0, os.SEEK_END) if tag else 0
    request = urllib.request.Request(remote.url)
    if start:  # the server starts anew if its file is no longer the one of which this is a part
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", tag)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # no such range: the part is not of this file
            _restart(file, tag_file)
        raise
    with response:
        start = start if _continues(response, start) else 0
        if not start:
            _restart(file, tag_file)
            tag_file.write_text(_validator(response))
        size = start + int(response.headers.get("Content-Length") or 0)
        with tqdm(
            total=size, initial=start, unit="B", unit_scale=True, desc=remote.target.name
        ) as bar:
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
    length = file.tell()
    is_short = size > start and length != size
    return f"the connection broke after {length} of {size} bytes" if is_short else ""


def _continues(response: Any, start: int) -> bool:
    """Return whether a response is the rest of the file from `start` on."""
    span = response.headers.get("Content-Range") or ""
    return response.status == 206 and span.startswith(f"bytes {start}-")


def _validator(response: Any) -> str:
    """Return what tells one version of the server's file from another, "" if nothing does."""
    tag = response.headers.get("ETag") or ""
    return tag if tag.startswith('"') else response.headers.get("Last-Modified") or ""


def _restart(file: BinaryIO, tag_file: Path) -> None:
    file.seek(0)
    file.truncate()
    tag_file.unlink(missing_ok=True)


def _tag_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.tag")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag_file(part).unlink(missing_ok=True)


@contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """Open a file for appending, for this process alone where the system can lock files."""
    with open(part, "ab") as file:
        try:
            import fcntl
        except ImportError:  # Windows
            pass
        else:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _verify(path: Path, remote: Remote) -> None:
    if not remote.sha256:
        return
    digest = sha256(path)
    if not digest.startswith(remote.sha256):
        raise UserError(
            f"{path}: its SHA-256 starts with {digest[: len(remote.sha256)]}, expected "
            f"{remote.sha256}. Delete the file and fetch it again from {remote.url}."
        )


def _extracted(archive: Path) -> Path:
    """Return the one `.pdparams` of the archive, written beside it."""
    target = archive.with_name(archive.name.split(".")[0] + ".pdparams")
    if target.is_file():
        return target
    try:
        with tarfile.open(archive) as tar:
            member = next(
                (item for item in tar if item.isfile() and item.name.endswith(".pdparams")), None
            )
            content = tar.extractfile(member) if member else None
            if content is None:
                raise UserError(f"{archive}: holds no .pdparams file.")
            with atomic_path(target) as temporary, open(temporary, "wb") as file:
                shutil.copyfileobj(content, file)
    except (tarfile.TarError, EOFError) as error:
        raise UserError(
            f"{archive}: not a readable archive ({error}). Delete it and try again."
        ) from None
    return target
