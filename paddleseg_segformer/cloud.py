"""Files in object stores, named by URLs such as `s3://BUCKET/KEY`, through fsspec.

Credentials and endpoints are fsspec's own affair: the environment and files of each store's client,
and fsspec's configuration. A URL holds none, and nothing in it is expanded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError, one_line

# the package of each scheme; these stores show a file only when it is whole
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "memory": "fsspec"}


class CloudFile(str):
    """The URL of a file, in the place of a `Path`."""

    @property
    def suffix(self) -> str:
        """Return the end of the name, with its dot."""
        return PurePosixPath(self).suffix


def is_url(path: object) -> bool:
    """Tell whether a path is a URL."""
    return re.match(r"[A-Za-z][\w+.-]*://", str(path)) is not None


def check_store(url: str) -> None:
    """Refuse a folder in a store that cannot be reached, or whose bucket does not exist.

    Raises:
        MissingDependency: the package for this store is not installed.
        UserError: another scheme, no such bucket, or no access.
    """
    with _store(url, "reached") as (store, key):
        bucket = key.strip("/").partition("/")[0]
        if store.protocol != "memory" and not store.exists(bucket):
            raise UserError(f"{url}: no such bucket, or no access to it. Check the name.")


def read_bytes(url: str) -> bytes:
    """Return a file's content.

    Raises:
        UserError: no such file, or it cannot be read.
    """
    with _store(url, "read") as (store, key):
        content: bytes = store.cat_file(key)
    return content


def upload(path: Path, url: str) -> None:
    """Write a local file to a URL.

    Raises:
        UserError: it cannot be written.
    """
    with _store(url, "written") as (store, key):
        store.put_file(str(path), key)


def remove(url: str) -> None:
    """Delete a file, if it exists."""
    with _store(url, "deleted") as (store, key):
        if store.exists(key):
            store.rm_file(key)


def is_file(url: str) -> bool:
    """Tell whether a URL is a file's."""
    with _store(url, "read") as (store, key):
        found: bool = store.isfile(key)
    return found


def find_files(url: str) -> dict[str, float]:
    """Return the URLs of the files of a pattern or under a folder, and when each was modified.

    Raises:
        UserError: the store cannot be read.
    """
    with _store(url, "listed") as (store, key):
        store.invalidate_cache()
        find = store.glob if "*" in key else store.find
        found = find(key, detail=True)
    scheme = url.partition("://")[0]
    return {
        f"{scheme}://{name.lstrip('/')}": _seconds(info)
        for name, info in sorted(found.items())
        if info["type"] == "file"
    }


def _seconds(info: dict[str, Any]) -> float:
    """Return when a file was modified, by the names of s3fs, gcsfs, adlfs and memory."""
    keys = ("LastModified", "mtime", "last_modified", "created")
    time = next((info[key] for key in keys if info.get(key)), 0.0)
    return float(time.timestamp() if isinstance(time, datetime) else time)


@contextmanager
def _store(url: str, verb: str) -> Iterator[tuple[Any, str]]:
    """Yield the file system of a URL and the path in it; errors in the block name the URL."""
    scheme, _, key = url.partition("://")
    if scheme not in PACKAGES:
        known = ", ".join(f"{name}://" for name in PACKAGES)
        raise UserError(
            f"{url}: URLs are not fetched. Download it, and name the file; or use an object store "
            f"({known})."
        )
    parts = key.strip("/").split("/")
    if not parts[0] or any(part in ("", ".", "..") for part in parts):
        raise UserError(f"{url}: expected {scheme}://BUCKET/KEY without empty parts and '..'.")
    with explained():
        import fsspec

        import_module(PACKAGES[scheme])
        store = fsspec.filesystem(scheme)
    try:
        yield store, store._strip_protocol(key)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{url}: no such file. Check the URL.") from None
    except Exception as error:  # each store's client has its own
        reason = one_line(error) or type(error).__name__
        raise UserError(f"{url}: cannot be {verb} ({reason[:300]}).") from error
