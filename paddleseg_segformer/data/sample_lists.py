"""Lists of image and label paths that need little memory, from list files or folders."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paddleseg_segformer.data.lists import (
    read_list_text,
    split_items,
    visible,
    walk_files,
    with_own_separators,
)
from paddleseg_segformer.errors import UserError


class SampleList:
    """Paths of images and labels in one block of text, a sample per line.

    The text and an offset per line are kept, but no Python object per sample, so that tens of
    millions of samples fit into memory.

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
        self, text: bytes, *, separator: str, root: Path, source: str, needs_label: bool
    ) -> None:
        self._text = text.rstrip() + b"\n"
        self._separator = separator
        self._root = "" if root == Path() else str(root)
        self._source = source
        self._needs_label = needs_label
        self._starts = _line_starts(self._text)
        unusual = self._unusual_lines()
        self._starts = np.delete(self._starts, [i for i in unusual if not self._items(int(i))])
        if not len(self._starts):
            raise UserError(f"{source}: lists no samples; expected one sample per line.")

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> tuple[str, str | None]:
        items = [os.path.join(self._root, item) for item in self._items(index)]
        return items[0], items[1] if len(items) > 1 else None

    def fingerprint(self) -> str:
        """Return the number of samples, and a checksum of the list."""
        return f"{len(self)} samples, {hashlib.blake2b(self._text, digest_size=4).hexdigest()}"

    def _items(self, index: int) -> list[str]:
        """Return the paths in a line; none in a comment."""
        start = int(self._starts[index])
        line = os.fsdecode(self._text[start : self._text.index(b"\n", start)])
        is_plain = self._separator == "\0"
        items = line.split("\0") if is_plain else split_items(line, self._separator)
        if len(items) in (0, 2) or (len(items) == 1 and not self._needs_label):
            return items
        number = self._text.count(b"\n", 0, start) + 1
        raise UserError(
            f"{self._source}, line {number}: found '{visible(line.strip())}', expected one image, "
            f"'{visible(self._separator)}' and one label. Correct the line, put paths with blanks "
            "in double quotes, or set `separator` of the data set."
        )

    def _unusual_lines(self) -> np.ndarray:
        """Return the indices of the lines that may hold anything but two paths and a separator."""
        separators = self._count(self._separator)
        if self._separator == "\0":
            return np.flatnonzero(separators != 1)
        if self._separator == " ":
            tabs = self._count("\t")
            separators = np.where(tabs, tabs, separators)
        return np.flatnonzero((separators != 1) | self._count('"') | self._count("#"))

    def _count(self, mark: str) -> np.ndarray:
        """Return how often `mark` occurs in each line, (num_lines,)."""
        code = mark.encode()
        if code not in self._text:
            return np.zeros(len(self._starts), np.int64)
        if len(code) == 1:
            places = np.flatnonzero(np.frombuffer(self._text, np.uint8) == code[0])
        else:
            found = re.finditer(re.escape(code), self._text)
            places = np.fromiter((match.start() for match in found), np.int64)
        lines = np.searchsorted(self._starts, places, side="right") - 1
        return np.bincount(lines, minlength=len(self._starts))


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
    text = with_own_separators(read_list_text(path), root, separator)
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
