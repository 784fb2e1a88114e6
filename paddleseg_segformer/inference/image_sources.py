"""Images to predict: a file, a folder, or a list file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from paddleseg_segformer.data.io import IMAGE_SUFFIXES
from paddleseg_segformer.data.lists import read_list_text, split_items, walk_files
from paddleseg_segformer.data.rasters import RASTER_SUFFIXES
from paddleseg_segformer.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov")


class ImageFile(NamedTuple):
    """An image and the name of its results."""

    path: Path
    name: str  # relative to the folder of results, without a suffix


def is_video(path: str | None) -> bool:
    """Return whether the name is a video's."""
    return str(path or "").lower().endswith(VIDEO_SUFFIXES)


def find_images(
    image_path: str | None, file_list: str | None = None, results: Sequence[Path] = ()
) -> list[ImageFile]:
    """Return the images of a file, a folder with its sub-folders, a pattern or a list file.

    Args:
        image_path: An image, a folder, a pattern such as `photos/*.jpg`, or a list file (.txt, or
            any name where the file is no image).
        file_list: A list file, an image a line; paths are relative to `image_path` if it is given,
            else to the list's folder. A second column (labels) is ignored; see
            `lists.split_items`.
        results: Folders of earlier results, which are no images to predict.

    Raises:
        UserError: no such path, or no image in it.
    """
    for source in (image_path, file_list):
        if "://" in (source or ""):
            raise UserError(f"{source}: URLs are not fetched. Download it, and name the file.")
    if file_list:
        return _named(*_listed(Path(file_list), Path(image_path) if image_path else None))
    if not image_path:
        raise UserError("--image_path is missing: name an image, a folder, a list or a video.")
    path = Path(image_path)
    if path.is_dir():
        files = walk_files(path, tuple(results))
        found = sorted(file for file in files if file.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise UserError(f"{path}: no images in this folder ({', '.join(IMAGE_SUFFIXES)}).")
        return _named(found, path)
    if not path.is_file():
        matches = (Path(item) for item in sorted(glob(image_path, recursive=True)))
        if found := [item for item in matches if item.suffix.lower() in IMAGE_SUFFIXES]:
            return _named(found, None)
        raise UserError(f"{path}: no such file or folder (--image_path).")
    suffix = path.suffix.lower()
    is_known = suffix in (*IMAGE_SUFFIXES, *RASTER_SUFFIXES)
    if suffix == ".txt" or (not is_known and not cv2.haveImageReader(str(path))):
        return _named(*_listed(path, None))
    return _named([path], path.parent)


def read_ahead(
    images: Sequence[ImageFile], read: Callable[[Path], np.ndarray]
) -> Iterator[tuple[ImageFile, np.ndarray | UserError]]:
    """Yield each image, or what was wrong with it, while `read` reads the next one."""

    def read_or_error(image: ImageFile) -> np.ndarray | UserError:
        try:
            return read(image.path)
        except UserError as error:
            return error

    with ThreadPoolExecutor(1) as reader:
        future = reader.submit(read_or_error, images[0])
        for image, following in zip(images, [*images[1:], None], strict=True):
            result = future.result()
            if following:
                future = reader.submit(read_or_error, following)
            yield image, result


def _listed(list_path: Path, root: Path | None) -> tuple[list[Path], Path]:
    """Return the images in a list file, and the folder that their paths are relative to."""
    root = root or list_path.parent
    paths = []
    for line in read_list_text(list_path).decode().split("\n"):
        if items := split_items(line):
            paths.append(root / _first_path(items, root))
    if not paths:
        raise UserError(f"{list_path}: names no images.")
    return paths, root


def _first_path(items: list[str], root: Path) -> str:
    """Return the image in a line; a label may follow it, and both may hold blanks."""
    joined = (" ".join(items[:count]) for count in range(len(items), 0, -1))
    return next((name for name in joined if (root / name).is_file()), items[0])


def _named(paths: Sequence[Path], root: Path | None) -> list[ImageFile]:
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
