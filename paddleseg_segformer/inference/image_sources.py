"""Images to predict: a file, a folder, or a list file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from paddleseg_segformer.data.io import IMAGE_SUFFIXES, read_image
from paddleseg_segformer.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov")


class ImageFile(NamedTuple):
    """An image and the name of its results."""

    path: Path
    name: str  # relative to the folder of results, without a suffix


def is_video(path: str | None) -> bool:
    """Return whether the name is a video's."""
    return str(path or "").lower().endswith(VIDEO_SUFFIXES)


def find_images(image_path: str | None, file_list: str | None = None) -> list[ImageFile]:
    """Return the images of a file, a folder with its sub-folders, or a list file.

    Args:
        image_path: An image, a folder, or a list file (.txt).
        file_list: A list file, an image a line; paths are relative to `image_path` if it is given,
            else to the list's folder. A second column (labels) is ignored.

    Raises:
        UserError: no such path, or no image in it.
    """
    if file_list:
        return _named(_listed(Path(file_list), Path(image_path) if image_path else None))
    if not image_path:
        raise UserError("--image_path is missing: name an image, a folder, a list or a video.")
    path = Path(image_path)
    if path.is_dir():
        found = sorted(item for item in path.rglob("*") if item.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise UserError(f"{path}: no images in this folder ({', '.join(IMAGE_SUFFIXES)}).")
        return _named([(item, item.relative_to(path)) for item in found])
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder (--image_path).")
    is_list = path.suffix.lower() == ".txt"
    return _named(_listed(path, None) if is_list else [(path, Path(path.name))])


def read_ahead(
    images: Sequence[ImageFile], img_channels: int
) -> Iterator[tuple[ImageFile, np.ndarray | UserError]]:
    """Yield each image, or what was wrong with it, while the next one is being read."""

    def read(image: ImageFile) -> np.ndarray | UserError:
        try:
            return read_image(image.path, img_channels)
        except UserError as error:
            return error

    with ThreadPoolExecutor(1) as reader:
        future = reader.submit(read, images[0])
        for image, following in zip(images, [*images[1:], None], strict=True):
            result = future.result()
            if following:
                future = reader.submit(read, following)
            yield image, result


def _listed(list_path: Path, root: Path | None) -> list[tuple[Path, Path]]:
    """Return path and relative path of the images in a list file."""
    if not list_path.is_file():
        raise UserError(f"{list_path}: no such list file.")
    root = root or list_path.parent
    images = []
    for line in list_path.read_text(encoding="utf-8").splitlines():
        name = line.strip()
        if not name:
            continue
        if not (root / name).is_file():  # not a name with spaces, so a name and a label
            name = name.split()[0]
        below = [part for part in Path(name).parts if part not in (Path(name).anchor, "..")]
        images.append((root / name, Path(*below)))
    if not images:
        raise UserError(f"{list_path}: names no images.")
    return images


def _named(images: Sequence[tuple[Path, Path]]) -> list[ImageFile]:
    """Drop the suffixes, but where two images would then have one name (a.jpg and a.png)."""
    counts = Counter(relative.with_suffix("") for _, relative in images)
    return [
        ImageFile(path, str(relative if counts[stem] > 1 else stem))
        for path, relative in images
        for stem in [relative.with_suffix("")]
    ]
