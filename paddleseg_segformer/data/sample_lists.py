"""Lists of image and label paths that need little memory, from list files or folders."""

from __future__ import annotations

import codecs
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from paddleseg_segformer.data.lists import (
    read_list_text,
    split_byte_order_mark,
    split_items,
    visible,
    walk_files,
    with_own_separators,
)
from paddleseg_segformer.errors import UserError

LONG_BYTES = 1 << 26  # of a list file that is not held in memory
BLOCK_BYTES = 1 << 23  # of it that are checked at a time


class SampleList:
    """Paths of images and labels, a sample per line of a text.

    Of each line its offset is kept, but no Python object, so that tens of millions of samples fit
    into memory. Every line is checked at once; long list files are read again line by line.

    Args:
        text: Lines `image<separator>label`, or `image` alone, as `lists.split_items` reads them;
            blank lines and comments are skipped.
        separator: Text between the two paths; NUL for lines that hold paths as they are.
        root: Folder that the paths are relative to.
        source: Name of the list in messages.
        needs_label: Refuse lines without a label.

    Raises:
        UserError: no line, or a line that is not one image and one label; the line is named.
    """

    def __init__(
        self,
        text: bytes | ListFile,
        *,
        separator: str,
        root: Path,
        source: str,
        needs_label: bool,
    ) -> None:
        self._text = _Text(text.rstrip() + b"\n") if isinstance(text, bytes) else text
        self._separator = separator
        self.root = "" if root == Path() else str(root)
        self._source = source
        self._needs_label = needs_label
        offsets = np.uint32 if self._text.size < 2**32 else np.int64
        found = [np.empty(0, offsets)]
        found += [
            (first + self._sample_starts(first, block)).astype(offsets)
            for first, block in self._text.blocks()
        ]
        self._starts = np.concatenate(found)
        if not len(self._starts):
            raise UserError(f"{source}: lists no samples; expected one sample per line.")

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> tuple[str, str | None]:
        start = int(self._starts[index])
        items = self._items(self._text.line(start), start)
        items = [os.path.join(self.root, item) for item in items]
        return items[0], items[1] if len(items) > 1 else None

    def fingerprint(self) -> str:
        """Return the number of samples, and a checksum of the list."""
        digest = hashlib.blake2b(digest_size=4)
        for _, block in self._text.blocks():
            digest.update(block.replace(b"\r\n", b"\n") if b"\r" in block else block)
        return f"{len(self)} samples, {digest.hexdigest()}"

    def _sample_starts(self, first: int, block: bytes) -> np.ndarray:
        """Return the offsets of the samples' lines in a block, which begins at `first`."""
        starts = _line_starts(block)
        unusual = self._unusual_lines(block, starts)
        lines = (int(starts[index]) for index in unusual)
        texts = ((start, block[start : block.index(b"\n", start)]) for start in lines)
        is_empty = [not self._items(text, first + start) for start, text in texts]
        return np.delete(starts, unusual[is_empty])

    def _items(self, content: bytes, start: int) -> list[str]:
        """Return the paths in the line at an offset; none in a comment."""
        line = os.fsdecode(content)
        is_plain = self._separator == "\0"
        items = line.split("\0") if is_plain else split_items(line, self._separator)
        if len(items) in (0, 2) or (len(items) == 1 and not self._needs_label):
            return items
        number = self._text.line_number(start)
        raise UserError(
            f"{self._source}, line {number}: found '{visible(line.strip())}', expected one image, "
            f"'{visible(self._separator)}' and one label. Correct the line, put paths with blanks "
            "in double quotes, or set `separator` of the data set."
        )

    def _unusual_lines(self, block: bytes, starts: np.ndarray) -> np.ndarray:
        """Return the indices of the lines that may hold anything but two paths and a separator."""
        separators = _count(block, starts, self._separator)
        if self._separator == "\0":
            return np.flatnonzero(separators != 1)
        if self._separator == " ":
            tabs = _count(block, starts, "\t")
            separators = np.where(tabs, tabs, separators)
        marks = _count(block, starts, '"') | _count(block, starts, "#")
        return np.flatnonzero((separators != 1) | marks)


def _count(block: bytes, starts: np.ndarray, mark: str) -> np.ndarray:
    """Return how often `mark` occurs in each line, (num_lines,)."""
    code = mark.encode()
    if code not in block:
        return np.zeros(len(starts), np.int64)
    if len(code) == 1:
        places = np.flatnonzero(np.frombuffer(block, np.uint8) == code[0])
    else:
        found = re.finditer(re.escape(code), block)
        places = np.fromiter((match.start() for match in found), np.int64)
    is_one_each = len(places) == len(starts) and (places >= starts).all()
    if is_one_each and (places[:-1] < starts[1:]).all():
        return np.ones(len(starts), np.int64)
    lines = np.searchsorted(starts, places, side="right") - 1
    return np.bincount(lines, minlength=len(starts))


class _Text:
    """A list in memory, whose last line ends in a newline."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size = len(content)

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """Yield whole lines together, with the offset of the first."""
        yield 0, self._content

    def line_number(self, start: int) -> int:
        """Return the number of the line that begins at an offset, from 1."""
        return self._content.count(b"\n", 0, start) + 1

    def line(self, start: int) -> bytes:
        """Return the line that begins at an offset, without its end."""
        return self._content[start : self._content.index(b"\n", start)]


class ListFile:
    """A list that stays in its file, as `_Text` for lists of any length.

    Args:
        path: Of UTF-8.

    Raises:
        UserError: another encoding, or lines that end in a carriage return; later, wherever it is
            read: the file has changed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = _state(os.stat(path))
        with self._opened() as file:
            self._first = 3 if file.read(3) == codecs.BOM_UTF8 else 0
            self.size = file.seek(0, os.SEEK_END)
            tail = b""
            while self.size > self._first and not tail:  # blank lines at the end do not count
                start = max(self.size - BLOCK_BYTES, self._first)
                file.seek(start)
                tail = file.read(self.size - start).rstrip()
                self.size = start + len(tail)

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """Yield whole lines together, with the offset of the first."""
        first = self._first
        with self._opened() as file:
            file.seek(first)
            while first < self.size:
                block = file.read(min(BLOCK_BYTES, self.size - first)) + file.readline()
                block = block if block.endswith(b"\n") else block + b"\n"
                self._check(first, block)
                yield first, block
                first += len(block)

    def _check(self, first: int, block: bytes) -> None:
        """Refuse lines that are not UTF-8, or that end in a carriage return alone."""
        try:
            block.decode()
        except UnicodeDecodeError as error:
            number = self.line_number(first) + block.count(b"\n", 0, error.start)
            raise UserError(
                f"{self._path}, line {number}: not UTF-8. Save the list as UTF-8."
            ) from None
        if b"\r" in block and block.count(b"\r") != block.count(b"\r\n"):
            raise UserError(f"{self._path}: lines end in \\r alone. Save the list with \\n.")

    def line_number(self, start: int) -> int:
        """Return the number of the line that begins at an offset, from 1."""
        number, left = 1, start
        with self._opened() as file:
            while left > 0 and (block := file.read(min(BLOCK_BYTES, left))):
                number += block.count(b"\n")
                left -= len(block)
        return number

    def line(self, start: int) -> bytes:
        """Return the line that begins at an offset, without its end."""
        with self._opened() as file:
            file.seek(start)
            return file.readline().rstrip(b"\r\n")

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        try:
            with open(self._path, "rb") as file:
                if _state(os.fstat(file.fileno())) == self._state:
                    yield file
                    return
        except OSError as error:
            raise UserError(f"{self._path}: cannot be read ({error.strerror}).") from None
        raise UserError(f"{self._path}: the list has changed since the start. Start again.")


def _state(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns


def read_list_file(
    path: str | os.PathLike[str], root: Path, separator: str, needs_label: bool
) -> SampleList:
    """Return the samples of a list file.

    Raises:
        UserError: the file is missing, empty or in another encoding, or a line is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such list file. Expected lines 'image{separator}label'.")
    with path.open("rb") as file:
        encoding, head = split_byte_order_mark(file.read(BLOCK_BYTES))
    is_long = path.stat().st_size >= LONG_BYTES and encoding == "utf-8" and b"\\" not in head
    text = ListFile(path) if is_long else with_own_separators(read_list_text(path), root, separator)
    return SampleList(
        text, separator=separator, root=root, source=str(path), needs_label=needs_label
    )


@dataclass(frozen=True)
class FolderLayout:
    """Folders and file names of a data set.

    Args:
        images: Folder of the images under the root, with `{split}`.
        labels: The same for the labels.
        image_suffixes: Ends of image names; an image and its label share the rest of the name.
        label_suffixes: Ends of label names.
        splits: Folder name of each mode.
    """

    images: str
    labels: str
    image_suffixes: tuple[str, ...]
    label_suffixes: tuple[str, ...]
    splits: Mapping[str, str]


def pair_folders(root: Path, layout: FolderLayout, mode: str, how_to_get: str) -> SampleList:
    """Return the samples of a folder, each image paired with the label of the same name.

    Only the mode 'test' may lack labels.

    Raises:
        UserError: a missing folder, an image without its label or a label without its image.
    """
    split = layout.splits[mode]
    image_folder, label_folder = (
        root / folder.format(split=split) for folder in (layout.images, layout.labels)
    )
    needs_label = mode != "test"
    for folder in (image_folder, label_folder) if needs_label else (image_folder,):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder. {how_to_get}")
    images = _find_files(image_folder, layout.image_suffixes)
    labels = _find_files(label_folder, layout.label_suffixes) if label_folder.is_dir() else {}
    if not images:
        names = " or ".join(f"*{suffix}" for suffix in layout.image_suffixes)
        raise UserError(f"{image_folder}: no images {names} found. {how_to_get}")
    if needs_label:
        _check_partners(images, labels, "label", label_folder, layout.label_suffixes, how_to_get)
    _check_partners(labels, images, "image", image_folder, layout.image_suffixes, how_to_get)
    lines = (
        "\0".join(
            files[name].removeprefix(f"{root}{os.sep}")
            for files in (images, labels)
            if name in files
        )
        for name in sorted(images)
    )
    return SampleList(
        os.fsencode("\n".join(lines)),
        separator="\0",
        root=root,
        source=str(image_folder),
        needs_label=needs_label,
    )


def _check_partners(
    files: Mapping[str, str],
    partners: Mapping[str, str],
    kind: str,
    folder: Path,
    suffixes: tuple[str, ...],
    how_to_get: str,
) -> None:
    """Refuse files without a partner of the same name."""
    lonely = sorted(files.keys() - partners.keys())
    if lonely:
        more = f" (and {len(lonely) - 1} more)" if len(lonely) > 1 else ""
        raise UserError(
            f"{files[lonely[0]]}: has no {kind}; expected {folder / lonely[0]}{suffixes[0]}{more}. "
            f"Add it or remove its partner. {how_to_get if not partners else ''}".rstrip()
        )


def _find_files(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Return the files under a folder: path below it without the suffix -> path."""
    found: dict[str, str] = {}
    for file in walk_files(folder):
        path = str(file)
        suffix = next((suffix for suffix in suffixes if path.endswith(suffix)), None)
        if suffix is None:
            continue
        key = os.path.relpath(path, folder).removesuffix(suffix)
        if key in found:
            raise UserError(f"{path}: {found[key]} has the same name. Keep one of the two.")
        found[key] = path
    return found


def _line_starts(text: bytes) -> np.ndarray:
    """Return the offsets (num_lines,) of the lines of a text that are not blank."""
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts
    is_return = np.frombuffer(text, np.uint8)[starts] == ord("\r")
    return starts[(lengths > 1) | ((lengths == 1) & ~is_return)]
