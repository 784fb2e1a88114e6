"""ZIP archives, as annotation tools export: unpacked beside themselves, within bounds."""

from __future__ import annotations

import hashlib
import shutil
import stat
import zipfile
import zlib
from lzma import LZMAError
from pathlib import Path, PurePosixPath

from paddleseg_segformer.errors import UserError, mistakes_in
from paddleseg_segformer.files import FOLDS_CASE, atomic_folder, refuse_name

MARK = ".unpacked"  # in folders that were unpacked: of which content
MAX_FILES = 1_000_000
# an archive of images hardly grows; more is a bomb
SMALL_BYTES, MAX_GROWTH = 1 << 30, 100
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 1000


def folder_of(data: Path) -> Path:
    """Return the folder of a data set: itself, an archive's, or that of an annotation file."""
    if data.is_dir():
        return data
    return data.with_suffix("") if data.suffix.lower() == ".zip" else data.parent


def unpacked(archive: Path) -> Path:
    """Return the folder of an archive's files, beside it and of its name; it is unpacked once.

    Raises:
        UserError: the archive is damaged, encrypted or too large, or would write outside the
            folder; or the folder holds something else. Nothing is left then.
    """
    folder = folder_of(archive)
    try:
        with zipfile.ZipFile(archive) as file:
            members = _members(archive, file)
            content = repr([(item.filename, item.file_size, item.CRC) for item in members])
            mark = hashlib.sha256(content.encode()).hexdigest()
            if folder.exists():
                if not (folder / MARK).is_file() or (folder / MARK).read_text("utf-8") != mark:
                    raise UserError(
                        f"{archive}: is unpacked into {folder}, which holds something else. Name "
                        "that folder in place of the archive, or move it away."
                    )
                return folder
            with atomic_folder(folder) as new:
                for item in members:
                    file.extract(item, new)
                (new / MARK).write_text(mark, encoding="utf-8")
    except (
        *(zipfile.BadZipFile, zlib.error, LZMAError, EOFError, NotImplementedError),
        *(FileExistsError, IsADirectoryError, NotADirectoryError, UnicodeDecodeError),
    ) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{archive}: damaged, or no ZIP ({reason}). Export it again.") from None
    return folder


def _members(archive: Path, file: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Return the files of an archive, without hidden ones, after checking all names and sizes."""
    kept: dict[str, zipfile.ZipInfo] = {}
    if len(file.infolist()) > MAX_FILES:
        raise UserError(f"{archive}: found {len(file.infolist())} files, expected {MAX_FILES}.")
    for item in file.infolist():
        path = PurePosixPath(item.filename.replace("\\", "/"))
        if ".." in path.parts or path.is_absolute() or ":" in item.filename:
            raise UserError(f"{archive}: {item.filename!r} lies outside its folder. Do not use it.")
        if item.is_dir() or any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
            continue
        if stat.S_ISLNK(item.external_attr >> 16):
            raise UserError(f"{archive}: {item.filename!r} is a link, expected files alone.")
        if item.flag_bits & 1:
            raise UserError(f"{archive}: is encrypted. Unpack it with its password.")
        with mistakes_in(str(archive)):
            refuse_name(path)
        if (key := str(path).casefold() if FOLDS_CASE else str(path)) in kept:
            raise UserError(f"{archive}: holds {item.filename!r} twice. Export it again.")
        longest = max((len(part.encode()) for part in path.parts), default=0)
        if longest > MAX_NAME_BYTES or len(str(path).encode()) > MAX_PATH_BYTES:
            raise UserError(f"{archive}: the name {item.filename[:60]!r}... is too long.")
        item.filename = str(path)
        kept[key] = item
    size, total = archive.stat().st_size, sum(item.file_size for item in kept.values())
    if total > max(SMALL_BYTES, MAX_GROWTH * size):
        raise UserError(
            f"{archive}: {size} bytes would become {total}, more than {MAX_GROWTH} times as many. "
            "If you trust it, unpack it yourself and name its folder."
        )
    free = shutil.disk_usage(archive.resolve().parent).free
    if total > free:
        raise UserError(f"{archive}: takes {total} bytes unpacked, and {free} are free beside it.")
    return list(kept.values())
