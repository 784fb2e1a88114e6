"""Atomic writes: files and folders are written beside their destination, then renamed."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import importlib
import math
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from paddleseg_segformer.cloud import is_url, upload
from paddleseg_segformer.errors import UserError

IS_WINDOWS = sys.platform == "win32"
FOLDS_CASE = IS_WINDOWS or sys.platform == "darwin"  # a and A are one file, as these are set up
# suffixes of what is being written, of a folder being replaced, and of Windows's locks
PART, OLD, LOCK = ".part", ".old", ".lock"
NAME_BYTES, CUT_BYTES = 255, 180  # of a file name: at most, and of a temporary one that is cut
LONGEST_SUFFIX = 16  # that a writer may choose the format by
WINDOWS_PATH = 259  # letters, unless the system is set otherwise
NO_SPACE_BYTES = 1 << 16  # less is left on a full disk
# age of a temporary path that nobody writes to: one that is just made may not be locked yet; and
# where the file system has no locks
UNLOCKED_S, ABANDONED_S = 60.0, 86400.0
CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux's renameat2; macOS's renamex_np has the same 2
POLL_S = 0.01  # between two looks at a lock
FINISH_S = 30.0  # in which the process before ends its write of a folder
REPLACE_TRIES, REPLACE_WAIT_S = 20, 0.1  # on Windows, where virus scanners hold new files open
# names that mean a device there, whatever follows a dot, and letters that no name may have
DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])\s*(\.|$)", re.IGNORECASE)
NOT_ON_WINDOWS = re.compile(r'[<>:"|?*\x00-\x1f]|[. ]$')


_held: ContextVar[frozenset[str]] = ContextVar("held", default=frozenset())


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a folder against other runs; the system lets go of it when the process ends.

    What holds it already may hold it again.

    Raises:
        UserError: another process has the folder.
    """
    name = os.path.realpath(folder)
    if name in _held.get():
        yield
        return
    with locked(folder) as is_mine:
        if is_mine is False:
            raise UserError(
                f"{folder}: another run writes into this folder. Choose another folder, or wait "
                "for its end."
            )
        token = _held.set(_held.get() | {name})
        try:
            yield
        finally:
            _held.reset(token)


@contextmanager
def locked(path: Path, wait_s: float = 0.0) -> Iterator[bool | None]:
    """Lock a file or folder; yield whether it could be, or None where the file system has no locks.

    The system lets go of it when the process ends. Windows opens no folder and renames nothing that
    is open, so that a file beside it is locked there.

    Args:
        wait_s: How long to wait for another process to let go of it; for ever, a file that is
            missing is made.
    """
    end = time.monotonic() + wait_s
    flags = os.O_RDONLY | (os.O_CREAT if wait_s == math.inf else 0)
    if IS_WINDOWS:
        path, flags = hidden(path, LOCK), os.O_RDWR | os.O_CREAT
    while True:
        handle = os.open(path, flags, 0o666)
        is_mine = _lock(handle)
        if is_mine is None or (is_mine and _is_at(handle, path)):
            break
        if not is_mine and time.monotonic() >= end:
            break
        os.close(handle)  # held by another, or moved away by the one before
        if not is_mine:
            time.sleep(POLL_S)
    try:
        yield is_mine
    finally:
        os.close(handle)
        if IS_WINDOWS:
            with suppress(OSError):  # another process has it open
                os.unlink(path)


def _lock(handle: int) -> bool | None:
    """Lock an open file, if no other process has; None where the file system has no locks."""
    try:
        if IS_WINDOWS:
            windows: Any = importlib.import_module("msvcrt")
            windows.locking(handle, windows.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Tell whether an open file still has its path."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def hidden(path: Path, end: str) -> Path:
    """Return the path of a hidden name beside `path`, which is cut where it would be too long."""
    name = path.name
    if len(os.fsencode(name)) + len(end) + len(LOCK) + 2 > NAME_BYTES:
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
        name = f"{cut_name(name)}~{digest}"
    return path.with_name(f".{name}{end}")


def cut_name(name: str) -> str:
    """Return the beginning of a name, short enough for something to follow."""
    return os.fsencode(name)[:CUT_BYTES].decode("utf-8", "ignore")


def refuse_name(path: str | os.PathLike[str]) -> None:
    """Refuse a name that is too long, or that Windows would write elsewhere: to a device, say.

    Raises:
        UserError: the path holds such a name.
    """
    path = Path(path)
    if len(os.fsencode(path.name)) > NAME_BYTES:
        raise _too_long(path)
    if not IS_WINDOWS:
        return
    for part in path.relative_to(path.anchor).parts:
        if part not in (".", "..") and (DEVICES.match(part) or NOT_ON_WINDOWS.search(part)):
            raise UserError(
                f"{path}: {part!r} is no name of a file on Windows. Rename what it is made of."
            )


@contextmanager
def atomic_path(destination: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `destination`; on success it is synced and renamed onto it.

    The temporary name keeps the destination's suffix, since many writers choose the format by it.
    On an exception the temporary file is removed and the destination stays as it was. The first
    write into a folder removes what killed processes left there. Where the destination is a URL the
    file is written here, and uploaded on success.

    Raises:
        UserError: the disk is full, or cannot be written to.
    """
    if is_url(destination):
        url = str(destination)
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder, url.rpartition("/")[2])
            yield temporary
            upload(temporary, url)
        return
    destination = Path(destination)
    refuse_name(destination)
    make_folder(destination.parent)
    _sweep(destination.parent)
    suffix = destination.suffix if len(destination.suffix) <= LONGEST_SUFFIX else ""
    with _explained(destination):
        handle, name = tempfile.mkstemp(
            prefix=f".{cut_name(destination.name.removesuffix(suffix))}.",
            suffix=f"{PART}{suffix}",
            dir=destination.parent,
        )
    os.close(handle)
    temporary = Path(name)
    try:
        with _explained(destination), locked(temporary):
            yield temporary
            _sync(temporary)
            umask = os.umask(0)  # it can only be read by setting it
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)
            _replace(temporary, destination)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(destination: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `destination`; on success it is synced and takes its place.

    An existing folder is exchanged with the new one in a single step where the system can (Linux),
    then deleted. On an exception the destination stays as it was. What a killed process left is
    removed.

    Raises:
        UserError: the disk is full, or cannot be written to; or another process writes the folder.
    """
    destination = Path(destination)
    with _temporary_folder(destination) as temporary:
        yield temporary
        replace_folder(destination, temporary)


@contextmanager
def atomic_files(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder; on success its files are moved into `folder`, else none is.

    A folder that is new is there as a whole or not at all; in one that holds files, they are
    replaced one after the other.

    Raises:
        UserError: as of `atomic_folder`.
    """
    folder = Path(folder)
    with _temporary_folder(folder) as temporary:
        yield temporary
        if not folder.exists():
            replace_folder(folder, temporary)
            return
        paths = sorted(temporary.iterdir())
        for path in paths:
            _sync(path)
        for path in paths:
            if path.is_dir():
                replace_folder(folder / path.name, path)
            else:
                _replace(path, folder / path.name)
        _sync(folder)


@contextmanager
def _temporary_folder(destination: Path) -> Iterator[Path]:
    """Yield a folder beside `destination`, which is removed at the end."""
    refuse_name(destination)
    if destination.is_file():
        raise UserError(f"{destination}: expected a folder, found a file. Choose another folder.")
    temporary = hidden(make_folder(destination.parent) / destination.name, PART)
    _sweep(destination.parent)
    with ExitStack() as stack:
        with _explained(destination), suppress(FileExistsError):
            temporary.mkdir()
        try:
            is_mine = stack.enter_context(locked(temporary))
            for path in temporary.iterdir() if is_mine is not False else ():  # of a killed process
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except FileNotFoundError:  # another process has just put it in its place
            is_mine = False
        if is_mine is False:
            raise _being_written(destination)
        made = temporary.stat()
        try:
            with _explained(destination):
                yield temporary
        except UserError as error:  # of a file within
            if str(temporary) not in str(error):
                raise
            raise type(error)(str(error).replace(str(temporary), str(destination))) from error
        finally:
            with suppress(OSError):  # the path may be another process's by now
                if os.path.samestat(made, temporary.stat()):
                    shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(destination: Path, new: Path) -> None:
    """Put a finished folder in its place; an existing one is deleted."""
    for path in new.iterdir():
        _sync(path)
    _sync(new)
    if not destination.exists():
        new.rename(destination)
        _sync(destination.parent)
        return
    with ExitStack() as stack:
        # Until it is removed under the other's name, so that nobody takes it there for a killed
        # process's. Windows locks that name, and it is held already.
        if not IS_WINDOWS and os.path.realpath(destination) not in _held.get():
            is_mine = stack.enter_context(locked(destination, FINISH_S))
            if is_mine is False:  # longer than another's write takes to end: of a run
                raise _being_written(destination)
        if _exchange(new, destination):
            shutil.rmtree(new)
        else:
            old = hidden(destination, OLD)
            shutil.rmtree(old, ignore_errors=True)
            destination.rename(old)
            new.rename(destination)
            shutil.rmtree(old)
    _sync(destination.parent)


def _being_written(folder: Path) -> UserError:
    return UserError(
        f"{folder}: another process is writing it. Wait for its end, or choose another folder."
    )


def remove_folder(folder: Path) -> None:
    """Delete a folder; if killed, it is left whole or under a temporary name."""
    temporary = hidden(folder, PART)
    shutil.rmtree(temporary, ignore_errors=True)
    folder.rename(temporary)
    shutil.rmtree(temporary, ignore_errors=True)


def clear_leftovers(folder: str | os.PathLike[str]) -> list[str]:
    """Remove what killed processes left in `folder`; restore folders that were being replaced.

    Returns:
        Names of what was found.
    """
    found = []
    for path in sorted(Path(folder).glob(f".*{OLD}")):
        destination = path.with_name(path.name[1:].removesuffix(OLD))
        if destination.exists():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.rename(destination)
        found.append(path.name)
    return found + _clear_parts(Path(folder), 0.0)


_swept: set[Path] = set()


def _sweep(folder: Path) -> None:
    """Remove what killed processes left in `folder`, once in this process."""
    if folder not in _swept:
        _swept.add(folder)
        _clear_parts(folder, UNLOCKED_S)


def _clear_parts(folder: Path, min_age_s: float) -> list[str]:
    """Remove temporary files and folders to which no process writes; return their names."""
    parts = [path for end in ("", ".*") for path in folder.glob(f".*{PART}{end}")]
    found = []
    for path in sorted(parts):
        with suppress(OSError), locked(path) as is_mine:  # others may remove it at the same time
            age_s = time.time() - path.stat().st_mtime
            if is_mine is not False and age_s >= (min_age_s if is_mine else ABANDONED_S):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                found.append(path.name)
    return found


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    """Write a file's content, or a folder's entries, to the disk."""
    if path.is_dir() and IS_WINDOWS:  # which cannot open a folder
        return
    handle = os.open(path, os.O_RDWR if IS_WINDOWS else os.O_RDONLY)  # it syncs writers only
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(left: Path, right: Path) -> bool:
    """Exchange two paths in one step; return whether the system could."""
    if IS_WINDOWS:
        return False
    library = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(left), os.fsencode(right)
    if hasattr(library, "renameat2"):
        status = library.renameat2(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_EXCHANGE)
    elif hasattr(library, "renamex_np"):  # macOS
        status = library.renamex_np(*paths, RENAME_EXCHANGE)
    else:
        return False
    return int(status) == 0


def _replace(source: Path, destination: Path) -> None:
    """Rename a file onto another, which Windows refuses while somebody has either open."""
    for left in reversed(range(REPLACE_TRIES if IS_WINDOWS else 1)):
        try:
            return os.replace(source, destination)
        except PermissionError:
            if not left:
                raise
            time.sleep(REPLACE_WAIT_S)


@contextmanager
def _explained(destination: Path) -> Iterator[None]:
    """Turn an error of the disk into one line that names the file.

    Libraries that write files themselves have errors of their own for a full disk, or none until
    the file is read back.
    """
    try:
        yield
    except _CannotWrite:
        raise
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else None
        is_long = IS_WINDOWS and len(str(destination.absolute())) > WINDOWS_PATH
        if code == errno.ENAMETOOLONG or (is_long and isinstance(error, FileNotFoundError)):
            raise _too_long(destination) from error
        if code not in CANNOT_WRITE:
            code = errno.ENOSPC
            has_space = shutil.disk_usage(destination.parent).free >= NO_SPACE_BYTES
            if has_space and os.strerror(code) not in str(error):
                raise
        raise _CannotWrite(
            f"{destination}: cannot be written ({os.strerror(code)}). What was there before is "
            "unchanged. Free some space, or choose another disk."
        ) from error


class _CannotWrite(UserError):
    pass


def _too_long(path: Path) -> UserError:
    return _CannotWrite(f"{path}: the name is too long for this system. Choose a shorter one.")


def write_text(destination: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8 to `destination`, atomically."""
    with atomic_path(destination) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder that `make_folder` could not make, without making it.

    Raises:
        UserError: the path, or one above it, is a file or cannot be written to.
    """
    folder = Path(folder)
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not above.is_dir():
        raise UserError(f"{folder}: expected a folder, found a file. Choose another folder.")
    if not os.access(above, os.W_OK):
        reason = "not writable" if folder == above else f"cannot be created ({above} is read-only)"
        raise UserError(f"{folder}: {reason}. Choose a folder that you can write to.")


def make_folder(folder: str | os.PathLike[str]) -> Path:
    """Create `folder` and its parents.

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
