"""Weights named by URL: fetched once into a cache folder."""

from __future__ import annotations

import os
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import atomic_path

TIMEOUT_S = 20


def is_url(source: str) -> bool:
    """Return whether `source` is fetched rather than opened."""
    return source.startswith(("http://", "https://"))


def cache_folder() -> Path:
    """Return the folder of fetched weights, under `$PADDLESEG_SEGFORMER_HOME` or `~/.cache`."""
    default = Path.home() / ".cache" / "paddleseg_segformer"
    return Path(os.environ.get("PADDLESEG_SEGFORMER_HOME", default)) / "weights"


def fetch(url: str) -> Path:
    """Return the local `.pdparams` of `url`, a plain file or a tar.gz, fetching it if need be.

    Raises:
        UserError: it cannot be fetched; the message says where to put the file by hand.
    """
    target = cache_folder() / Path(url.split("?")[0]).name
    if not target.is_file():
        _download(url, target)
    return _extracted(target) if target.name.endswith((".tar.gz", ".tar")) else target


def _download(url: str, target: Path) -> None:
    try:
        with (
            urllib.request.urlopen(url, timeout=TIMEOUT_S) as response,
            atomic_path(target) as temporary,
        ):
            size = int(response.headers.get("Content-Length") or 0)
            with (
                open(temporary, "wb") as file,
                tqdm(total=size, unit="B", unit_scale=True, desc=target.name) as bar,
            ):
                while chunk := response.read(1 << 20):
                    file.write(chunk)
                    bar.update(len(chunk))
            if size and temporary.stat().st_size != size:
                raise UserError(
                    f"{url}: the connection broke after {temporary.stat().st_size} of {size} bytes."
                )
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"{url}: cannot be fetched ({reason}). Put the file at {target}.") from None


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
            with atomic_path(target) as temporary:
                temporary.write_bytes(content.read())
    except (tarfile.TarError, EOFError) as error:
        raise UserError(
            f"{archive}: not a readable archive ({error}). Delete it and try again."
        ) from None
    return target
