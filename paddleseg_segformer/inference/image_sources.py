"""Images to predict: a file, a folder, or a list file."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np

from paddleseg_segformer import cloud
from paddleseg_segformer.cloud import CloudFile, is_url
from paddleseg_segformer.cpu import free_memory_mib
from paddleseg_segformer.data.headers import max_pixels, picture_size
from paddleseg_segformer.data.io import IMAGE_SUFFIXES
from paddleseg_segformer.data.lists import (
    decode_list,
    read_list_text,
    split_items,
    walk_files,
    with_own_separators,
)
from paddleseg_segformer.data.rasters import RASTER_SUFFIXES
from paddleseg_segformer.errors import UserError

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts"),
    *(".m2ts", ".wmv", ".flv", ".ogv", ".mxf"),
)

BYTES_PER_PIXEL = 16  # of an image that is predicted as a whole: its file, itself, labels, overlay
FREE_SHARE = 0.5  # of the free memory, for an image

T = TypeVar("T")
R = TypeVar("R")


class ImageFile(NamedTuple):
    """An image and the name of its results."""

    path: Path | CloudFile
    name: str  # relative to the folder of results, without a suffix

    @classmethod
    def of(cls, source: str, name: str) -> ImageFile:
        """Return the image of a path or URL."""
        return cls(CloudFile(source) if is_url(source) else Path(source), name)

    @property
    def source(self) -> str:
        """Return the absolute path, or the URL."""
        return self.path if isinstance(self.path, CloudFile) else os.path.abspath(self.path)


def is_video(path: str | None) -> bool:
    """Return whether the name is a video's."""
    return str(path or "").lower().endswith(VIDEO_SUFFIXES)


def find_images(
    image_path: str | None, file_list: str | None = None, results: Sequence[Path | str] = ()
) -> list[ImageFile]:
    """Return the images of a file, a folder with its sub-folders, a pattern or a list file.

    Args:
        image_path: An image, a folder, a pattern such as `photos/*.jpg`, or a list file (.txt, or
            any name where the file is no image).
        file_list: A list file, an image a line; paths are relative to `image_path` if it is given,
            else to the list's folder. A second column (labels) is ignored; see
            `lists.split_items`.
        results: Folders of earlier results, which are no images to predict.

    Both may be URLs of an object store, see `cloud`. In a list, URLs below its folder are allowed.

    Raises:
        UserError: no such path, or no image in it.
    """
    if is_url(image_path) or is_url(file_list):
        return _find_in_store(image_path, file_list, [str(folder) for folder in results])
    if file_list:
        return name_results(*_listed(Path(file_list), Path(image_path) if image_path else None))
    if not image_path:
        raise UserError("--image_path is missing: name an image, a folder, a list or a video.")
    path = Path(image_path)
    if path.is_dir():
        files = walk_files(path, tuple(Path(folder) for folder in results))
        found = sorted(file for file in files if file.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise UserError(f"{path}: no images in this folder ({', '.join(IMAGE_SUFFIXES)}).")
        return name_results(found, path)
    if not path.is_file():
        matches = (Path(item) for item in sorted(glob(image_path, recursive=True)))
        if found := [item for item in matches if item.suffix.lower() in IMAGE_SUFFIXES]:
            return name_results(found, None)
        raise UserError(f"{path}: no such file or folder (--image_path).")
    suffix = path.suffix.lower()
    is_known = suffix in (*IMAGE_SUFFIXES, *RASTER_SUFFIXES)
    if suffix == ".txt" or (not is_known and not cv2.haveImageReader(str(path))):
        return name_results(*_listed(path, None))
    return name_results([path], path.parent)


def is_large(path: Path | CloudFile) -> bool:
    """Return whether a picture is predicted in strips, as it does not fit into memory."""
    if isinstance(path, CloudFile):
        return False
    if path.suffix.lower() in RASTER_SUFFIXES:
        return True
    size_hw = picture_size(path)
    if size_hw is None:
        return False  # what is wrong with it is said where it is read
    limit_px = min(max_pixels(), FREE_SHARE * free_memory_mib() * 2**20 / BYTES_PER_PIXEL)
    return size_hw[0] * size_hw[1] > limit_px


def read_ahead(
    images: Sequence[ImageFile], read: Callable[[Any], np.ndarray], threads: int = 1
) -> Iterator[tuple[ImageFile, np.ndarray | UserError]]:
    """Yield each image, or what was wrong with it, while `read` reads the next ones."""

    def read_or_error(image: ImageFile) -> tuple[ImageFile, np.ndarray | UserError]:
        try:
            return image, read(image.path)
        except UserError as error:
            return image, error

    return in_order(read_or_error, images, threads)


def in_order(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Yield what a function makes of each item, while threads make that of the next ones.

    Args:
        function: Called in the threads.
        items: Taken in the caller's thread, no more than `threads` ahead of what is yielded.
        threads: Their number.
    """
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def in_streams(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Yield what a function makes of each item; of so many at a time, but for the first.

    That goes alone, since engines get ready for a size while they compute its first image.
    """
    items = iter(items)
    yield from map(function, islice(items, 1))
    yield from map(function, items) if threads == 1 else in_order(function, items, threads)


def _listed(list_path: Path, root: Path | None) -> tuple[list[Path], Path]:
    """Return the images in a list file, and the folder that their paths are relative to."""
    root = root or list_path.parent
    paths = []
    text = with_own_separators(read_list_text(list_path), root)
    for line in text.decode().split("\n"):
        if items := split_items(line):
            paths.append(root / _first_path(items, root))
    if not paths:
        raise UserError(f"{list_path}: names no images.")
    return paths, root


def _first_path(items: list[str], root: Path) -> str:
    """Return the image in a line; a label may follow it, and both may hold blanks."""
    joined = (" ".join(items[:count]) for count in range(len(items), 0, -1))
    return next((name for name in joined if (root / name).is_file()), items[0])


def _find_in_store(
    image_path: str | None, file_list: str | None, results: Sequence[str]
) -> list[ImageFile]:
    """Return the images of URLs, as `find_images` does of paths."""
    if not file_list and str(image_path).lower().endswith(".txt"):
        image_path, file_list = None, image_path
    root = (image_path or str(file_list).rpartition("/")[0]).rstrip("/")
    if file_list:
        if is_url(file_list):
            lines = decode_list(file_list, cloud.read_bytes(file_list)).decode().split("\n")
        else:
            lines = read_list_text(Path(file_list)).decode().split("\n")
        urls = [_url_in_list(items[0], root) for line in lines if (items := split_items(line))]
        if not urls:
            raise UserError(f"{file_list}: names no images.")
    elif cloud.is_file(root):
        urls, root = [root], root.rpartition("/")[0]
    else:
        folders = tuple(f"{folder}/" for folder in results)
        urls = [
            url
            for url in cloud.find_files(root)
            if CloudFile(url).suffix.lower() in IMAGE_SUFFIXES and not url.startswith(folders)
        ]
        if not urls:
            raise UserError(f"{image_path}: no images there ({', '.join(IMAGE_SUFFIXES)}).")
        root = root.partition("*")[0].rpartition("/")[0] if "*" in root else root
    scheme = root.partition("://")[0]
    paths = [Path(url.removeprefix(f"{scheme}:/")) for url in urls]
    named = name_results(paths, Path(root.removeprefix(f"{scheme}:/")))
    return [ImageFile.of(f"{scheme}:/{Path(path).as_posix()}", name) for path, name in named]


def _url_in_list(item: str, root: str) -> str:
    """Return the URL of an image in a list, which is at `root`."""
    url = item if is_url(item) else f"{root}/{item.removeprefix('./')}"
    if not url.startswith(f"{root}/") or ".." in url.split("/"):
        raise UserError(
            f"{item}: is in the list, but not below {root}. Name a folder of all its images as "
            "--image_path."
        )
    return url


def name_results(paths: Sequence[Path], root: Path | None) -> list[ImageFile]:
    """Name the results of each image once, below one folder.

    Names are relative to `root`, or to the folder that all images share where some lie elsewhere.
    Suffixes are dropped, but where two images would then have one name (a.jpg and a.png).
    """
    absolute = dict.fromkeys(Path(os.path.abspath(path)) for path in paths)
    folder = Path(os.path.abspath(root or "."))
    if not root or not all(path.is_relative_to(folder) for path in absolute):
        try:
            folder = Path(os.path.commonpath([path.parent for path in absolute]))
        except ValueError:  # on several drives
            folder = Path()
    names = {
        path: path.relative_to(folder if path.is_relative_to(folder) else path.anchor)
        for path in absolute
    }
    shown = {os.path.abspath(path): path for path in reversed(paths)}
    short = {path: str(name.with_suffix("") if name.name else name) for path, name in names.items()}
    while True:
        counts = Counter(name.casefold() for name in short.values())
        clashing = [
            path
            for path, name in short.items()
            if counts[name.casefold()] > 1 and name != str(names[path])
        ]
        if not clashing:
            break
        short |= {path: str(names[path]) for path in clashing}
    return [ImageFile(shown[str(path)], name) for path, name in short.items()]
