"""Decoded images and labels kept between passes, in memory or in a folder, within a bound.

A sample is found again by the names, sizes and times of its files, and by how the data set reads
them: what has changed is read anew, and a cached sample is the one that was read, bit for bit.
Several processes may use one cache. What does not fit any more is read from its files each time.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import mmap
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import atomic_path, locked, make_folder

logger = logging.getLogger(__name__)

RAM = "ram"
SUFFIX = ".sample"
_ENTRY = np.dtype([("digest", "V16"), ("start", np.int64), ("stop", np.int64)])


class Cache(Protocol):
    """Packed samples by digest."""

    def get(self, digest: bytes) -> bytes | None:
        """Return a sample, or None where it is not there."""

    def put(self, digest: bytes, packed: bytes) -> None:
        """Keep a sample, if there is room."""


def make_cache(place: str, gibibytes: float, num_samples: int) -> Cache:
    """Return the cache of a run.

    Args:
        place: "ram", or a folder.
        gibibytes: the most that it may hold.
        num_samples: of the data set.

    Raises:
        UserError: not a size above 0, or the folder cannot be written.
    """
    if not gibibytes > 0:
        raise UserError(f"cache_gib: found {gibibytes}, expected more than 0.")
    max_bytes = int(gibibytes * 2**30)
    return RamCache(max_bytes, num_samples) if place == RAM else FolderCache(Path(place), max_bytes)


def worker_context() -> BaseContext:
    """Return how worker processes are started: not forked, see `loader`."""
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")


def digest_of(
    names: tuple[str, str | None], reading: str, files: tuple[str | None, ...] = ()
) -> bytes:
    """Return what a sample is found by: its files as they are now, and how they are read.

    Args:
        names: Of its image and label.
        reading: How they are read.
        files: Theirs, where the names are not those of files.
    """
    parts = [reading]
    for name, path in zip(names, files or names, strict=True):
        with suppress(OSError, TypeError):  # a name of no file, or no label
            stat = os.stat(path)  # type: ignore[arg-type]
            name = f"{name} {stat.st_size} {stat.st_mtime_ns}"
        parts.append(str(name))
    return hashlib.blake2b("\0".join(parts).encode("utf-8", "replace"), digest_size=16).digest()


def pack(image: np.ndarray, label: np.ndarray) -> bytes:
    """Return image and label in NumPy's format, one after the other."""
    file = io.BytesIO()
    for array in (image, label):
        np.save(file, array, allow_pickle=False)
    return file.getvalue()


def unpack(packed: bytes) -> tuple[np.ndarray, np.ndarray] | None:
    """Return image and label, or None where they are damaged."""
    file = io.BytesIO(packed)
    try:
        image, label = (np.load(file, allow_pickle=False) for _ in range(2))
    except (ValueError, EOFError, OSError):
        return None
    return image, label


class FolderCache:
    """Samples as files of a folder, which stay there for later runs.

    Args:
        folder: made where it is missing.
        max_bytes: of all files together.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = make_folder(folder)
        self.max_bytes = max_bytes
        self.is_full = False
        with self._counted() as counter:
            sizes = (path.stat().st_size for path in self.folder.glob(f"*/*{SUFFIX}"))
            counter.write_text(str(sum(sizes)), encoding="utf-8")

    def get(self, digest: bytes) -> bytes | None:
        try:
            return self._path(digest).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, digest: bytes, packed: bytes) -> None:
        if self.is_full:
            return
        try:
            with self._counted() as counter:
                total = int(counter.read_text("utf-8") or 0) + len(packed)
                if total > self.max_bytes:
                    self.is_full = True
                    return
                counter.write_text(str(total), encoding="utf-8")
            with atomic_path(self._path(digest)) as temporary:
                temporary.write_bytes(packed)
        except OSError as error:
            self.is_full = True
            logger.warning("%s: the cache cannot be written to (%s)", self.folder, error)

    def _path(self, digest: bytes) -> Path:
        name = digest.hex()
        return self.folder / name[:2] / f"{name[2:]}{SUFFIX}"

    @contextmanager
    def _counted(self) -> Iterator[Path]:
        """Lock the file that holds the bytes of all files, where the system can."""
        path = self.folder / "bytes"
        path.touch()
        with locked(path, wait_s=math.inf):
            yield path


class RamCache:
    """Samples in memory that this process shares with its workers; it ends with them.

    Args:
        max_bytes: of all samples together.
        num_samples: that may be kept.
    """

    def __init__(self, max_bytes: int, num_samples: int) -> None:
        self.num_slots = 2 * num_samples + 1  # half are empty, so that few are tried
        self.max_bytes = max_bytes
        self.lock = worker_context().Lock()
        self.size = 8 + self.num_slots * _ENTRY.itemsize + max_bytes
        # pages take memory when they are written
        self.file = os.memfd_create("samples") if hasattr(os, "memfd_create") else -1
        if self.file >= 0:
            os.ftruncate(self.file, self.size)
        self._map(self.file)

    def _map(self, file: int) -> None:
        self.memory = mmap.mmap(file, self.size)
        self.used = np.frombuffer(self.memory, np.int64, 1)
        self.table = np.frombuffer(self.memory, _ENTRY, self.num_slots, offset=8)
        self.first = self.size - self.max_bytes

    def __getstate__(self) -> dict[str, Any]:
        if self.file < 0:
            raise TypeError("cache: memory is shared on Linux alone; name a folder instead")
        path = f"/proc/{os.getpid()}/fd/{self.file}"
        state = {key: vars(self)[key] for key in ("num_slots", "max_bytes", "lock", "size")}
        return {**state, "path": path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        with open(state["path"], "r+b") as file:
            self.file = -1
            self._map(file.fileno())

    def get(self, digest: bytes) -> bytes | None:
        slot, is_there = self._slot(digest)
        if not is_there:
            return None
        start, stop = int(self.table["start"][slot]), int(self.table["stop"][slot])
        kept = self.memory[self.first + start : self.first + stop]
        return kept[16:] if kept[:16] == digest else None  # being written by another process

    def put(self, digest: bytes, packed: bytes) -> None:
        with self.lock:
            slot, is_there = self._slot(digest)
            start = int(self.used[0])
            stop = start + 16 + len(packed)
            if is_there or slot < 0 or stop > self.max_bytes:
                return
            self.memory[self.first + start : self.first + stop] = digest + packed
            self.used[0] = stop
            self.table["start"][slot], self.table["stop"][slot] = start, stop
            self.table["digest"][slot] = np.void(digest)  # last: now it can be found

    def _slot(self, digest: bytes) -> tuple[int, bool]:
        """Return the sample's slot and True, or an empty one (-1: none is left) and False."""
        first = int.from_bytes(digest[:8], "little")
        for step in range(self.num_slots):
            slot = (first + step) % self.num_slots
            found = self.table["digest"][slot].tobytes()
            if found == digest:
                return slot, True
            if found == bytes(16):
                return slot, False
        return -1, False
