"""Networks that OpenVINO compiled, kept in the user's own cache folder.

Never beside the export: a compiled network is trusted, and an export may be a stranger's. A file's
name stands for all that it was compiled from and for, and the file begins with the checksum of name
and content, so that what is damaged, stale, renamed or another machine's is compiled anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

from paddleseg_segformer import __version__
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import atomic_path
from paddleseg_segformer.zoo import cache_folder

MAX_BYTES = 1 << 30  # of all files; the ones that were not used for longest go first
SUFFIX = ".openvino"
DIGEST_BYTES = 32  # of SHA-256


def read_compiled(key: dict[str, Any]) -> bytes | None:
    """Return the network of a key, or None where there is none that is whole.

    Args:
        key: What it was compiled from and for, as plain data; see `_path`.
    """
    path = _path(key)
    try:
        content = path.read_bytes()
        os.utime(path)  # it was used
    except OSError:
        return None
    digest, blob = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    return blob if _digest(path, blob) == digest else None


def write_compiled(key: dict[str, Any], blob: bytes) -> None:
    """Keep a network; where the folder cannot be written, nothing is kept."""
    path = _path(key)
    with suppress(OSError, UserError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(_digest(path, blob) + blob)
        _prune(path.parent)


def _path(key: dict[str, Any]) -> Path:
    """Return the file of a key, with this version of the package on this processor."""
    text = json.dumps([key, __version__, _processor()], sort_keys=True)
    return (
        cache_folder().parent / "compiled" / f"{hashlib.sha256(text.encode()).hexdigest()}{SUFFIX}"
    )


def _digest(path: Path, blob: bytes) -> bytes:
    """Return the checksum of a file's name and content."""
    return hashlib.sha256(path.name.encode() + blob).digest()


def _processor() -> list[str]:
    """Return what tells processors with other instructions apart."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8", "replace").splitlines() if cpuinfo.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return [platform.machine(), platform.processor(), flags]


def _prune(folder: Path) -> None:
    """Remove the files that were not used for longest, beyond `MAX_BYTES`."""
    files = [(path.stat(), path) for path in folder.glob(f"*{SUFFIX}")]
    total = 0
    for stat, path in sorted(files, key=lambda item: -item[0].st_mtime):
        total += stat.st_size
        if total > MAX_BYTES:
            path.unlink(missing_ok=True)
