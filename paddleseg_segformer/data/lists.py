"""List files and folders: which files a person means."""

from __future__ import annotations

import codecs
import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path

from paddleseg_segformer.errors import UserError

_MARKS = {  # byte-order marks; the longer ones first
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_ARCHIVE_FOLDERS = ("__MACOSX",)  # resource forks that macOS packs into ZIP files


def read_list_text(path: Path) -> bytes:
    r"""Return a list file's text in UTF-8, without a byte-order mark, its lines ended by `\n`.

    Raises:
        UserError: no such file, or neither UTF-8 nor UTF-16 nor UTF-32 with a byte-order mark.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such list file.")
    return decode_list(path, path.read_bytes())


def decode_list(path: object, content: bytes) -> bytes:
    """Return a list file's text from its content, as `read_list_text` does."""
    encoding, content = split_byte_order_mark(content)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {number}: not UTF-8. Save the list as UTF-8.") from None
    if encoding != "utf-8":
        content = text.encode()
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def split_byte_order_mark(content: bytes) -> tuple[str, bytes]:
    """Return the encoding of a text, by its byte-order mark else UTF-8, and the text without it."""
    mark = next((mark for mark in _MARKS if content.startswith(mark)), b"")
    return _MARKS.get(mark, "utf-8"), content[len(mark) :]


def with_own_separators(text: bytes, root: Path, separator: str = " ") -> bytes:
    r"""Return the text of a list that may have been written on Windows, where `\` divides paths.

    It is taken for such a list where its first path with a `\` is found with `/` alone.
    """
    if os.sep == "\\" or b"\\" not in text:
        return text
    line = next(line for line in text.split(b"\n") if b"\\" in line)
    name = next(iter(split_items(os.fsdecode(line), separator)), "")
    if (root / name).exists() or not (root / name.replace("\\", "/")).exists():
        return text
    return text.replace(b"\\", b"/")


def split_items(line: str, separator: str = " ") -> list[str]:
    """Return the paths in a line of a list, such as an image and its label; none in a comment.

    Where the separator is a blank, tabs take its place in lines that have any. Paths may stand in
    double quotes, which hides separators in them. Comments begin with `#`.

    Raises:
        UserError: a path in quotes is longer than any path.
    """
    line = line.strip()
    if not line or line.startswith("#"):
        return []
    if separator == " " and "\t" in line:
        separator = "\t"
    if len(separator) == 1 and (line.startswith('"') or f'{separator}"' in line):
        try:
            [items] = csv.reader([line], delimiter=separator, skipinitialspace=True)
        except csv.Error as error:  # an item longer than any path
            raise UserError(f"{visible(line)[:40]}...: not a list's line ({error}).") from None
    else:
        items = line.split(separator)
    return [item.strip() for item in items]


def visible(line: str) -> str:
    r"""Return 200 characters of a line for a message: tabs as `\t`, blanks in a row as `␣`."""
    return re.sub("  +", lambda blanks: "␣" * len(blanks[0]), line[:200].replace("\t", "\\t"))


def walk_files(folder: Path, excluded: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yield the files under a folder and its sub-folders, in the order of their paths.

    Links to folders are followed, but no folder is entered twice. Hidden files and folders, and
    the resource forks in `__MACOSX`, are no one's images, nor are pipes and devices. Links that
    lead nowhere are yielded, for they are missed where they are read.

    Args:
        excluded: Folders that are not entered.

    Raises:
        UserError: a folder cannot be read.
    """
    entered = {os.path.realpath(item) for item in excluded}
    waiting = [str(folder)]
    while waiting:
        parent = waiting.pop()
        real = os.path.realpath(parent)
        if real in entered:
            continue
        entered.add(real)
        try:
            with os.scandir(parent) as entries:
                shown = sorted(
                    (entry for entry in entries if not entry.name.startswith(".")),
                    key=lambda entry: entry.name,
                )
        except OSError as error:
            raise UserError(f"{parent}: cannot be read ({error.strerror}).") from None
        folders = []
        for entry in shown:
            path, is_link = entry.path, entry.is_symlink()
            if os.path.isdir(path) if is_link else entry.is_dir():
                folders.append(entry)
            elif os.path.isfile(path) or not os.path.exists(path) if is_link else entry.is_file():
                yield Path(path)
        waiting += [x.path for x in reversed(folders) if x.name not in _ARCHIVE_FOLDERS]
