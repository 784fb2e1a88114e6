"""Files that are never half written: written beside their destination, then renamed onto it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from paddleseg_segformer.errors import UserError


@contextmanager
def atomic_path(destination: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `destination`; on success it is synced and renamed onto it.

    The temporary name keeps the destination's suffix, since many writers choose the format by it.
    On an exception the temporary file is removed and the destination stays as it was.
    """
    destination = Path(destination)
    make_folder(destination.parent)
    handle, name = tempfile.mkstemp(
        prefix=f".{destination.stem}.", suffix=destination.suffix, dir=destination.parent
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, destination)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(destination: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8 to `destination`, atomically."""
    with atomic_path(destination) as temporary:
        temporary.write_text(text, encoding="utf-8")


def make_folder(folder: str | os.PathLike[str]) -> Path:
    """Create `folder` and its parents; say in one line why it cannot be written to.

    Raises:
        UserError: the path is a file, or the folder cannot be created or written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(
            f"{folder}: expected a folder, found a file. Choose another folder."
        ) from None
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be created ({error.strerror}). Choose a folder that you can "
            "write to."
        ) from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: not writable. Choose a folder that you can write to.")
    return folder


def _umask() -> int:
    """Return the process's umask (which can only be read by setting it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
