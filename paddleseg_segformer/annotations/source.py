"""What every form of annotations gives: its samples, its classes, and each label as raw ids."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paddleseg_segformer.annotations.archives import unpacked
from paddleseg_segformer.data.io import IMAGE_SUFFIXES
from paddleseg_segformer.data.lists import walk_files
from paddleseg_segformer.errors import UserError

NOTHING, IGNORED = -1, -2  # raw ids: nothing was drawn there; pixels that do not count
SETS = ("train", "val", "test")
MADE = "prepared.json"  # in folders that `convert.prepare` wrote
LOOK = 100  # images and labels that are looked at before all are read

Color = tuple[int, int, int]


class Conclusion(NamedTuple):
    """What was concluded of a data set.

    Args:
        text: The conclusion.
        reason: What it follows from.
        option: The flag that overrides it; empty where none does.
    """

    text: str
    reason: str
    option: str = ""

    def __str__(self) -> str:
        remedy = f"; else {self.option}" if self.option else ""
        return f"{self.text} ({self.reason}{remedy})"


@dataclass(frozen=True)
class Options:
    """What a person says of a data set, so that it is not concluded.

    Args:
        format: Form of the annotations, a name of `annotation_format`; "auto" recognises it.
        labels: Template of the label files' names or paths, such as `{stem}_mask.png`.
        label_values: What mask images hold: "auto", "ids", "colors", or the value of each class.
        classes: File of names, colours or of a mapping; see `classes.read_table`.
        background: Class of pixels that nothing was drawn on; "none": they do not count.
        value_range: As of `data.Dataset`; "auto" concludes it, "none" maps nothing.
        bands: Numbers of the bands to be used, from 1; None for all.
        exif: Whether labels fit images as their EXIF turns them: "auto", "turned" or "stored".
        val: Share of the images for validation.
        test: Share of the images that are kept for a test.
        val_by: Beginning of the paths of the validation images; or of a `metadata.csv` in the
            data: `COLUMN=VALUE`, or a `COLUMN` of sets, or of values that are to stay together.
        val_dir: Folder of the validation images, in the data set.
        seed: Of the split.
    """

    format: str = "auto"
    labels: str = ""
    label_values: str | Sequence[int] = "auto"
    classes: Path | None = None
    background: str = "auto"
    value_range: Any = "auto"
    bands: Sequence[int] | None = None
    exif: str = "auto"
    val: float = 0.2
    test: float = 0.0
    val_by: str = ""
    val_dir: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class Sample:
    """An image and the file of its annotations; `set` is one of `SETS` where the data says it."""

    image: Path
    annotation: Path | None
    set: str = ""


class Annotations:
    """The annotations of a data set in one form; `annotation_format` components derive from it.

    A form is recognised by `recognise`, and opened by its constructor, (files, options), which sets
    the attributes below.

    Args:
        samples: In a fixed order.
        classes: Name of each raw id, 0 or above.
        palette: Colour of each raw id, where the form has one.
        background: Name of the class of pixels that nothing was drawn on, where the form says it.
        is_drawn: Annotations are objects, between which nothing may be drawn.
        is_open: Labels may hold further raw ids, whose names `name_of` gives.
        holds_ids: The annotation files are label images that `data.io.read_label` reads as they
            are meant.
        conclusions, warnings: What a person is to be told.
    """

    samples: Sequence[Sample]
    classes: Mapping[int, str]
    palette: Mapping[int, Color] | None = None
    background: str | None = None
    is_drawn = False
    is_open = False
    holds_ids = False
    conclusions: Sequence[Conclusion] = ()
    warnings: Sequence[str] = ()

    def __init__(self, files: Files, options: Options) -> None:
        raise NotImplementedError

    @classmethod
    def recognise(cls, files: Files) -> str:
        """Return why files look like this form; empty if they do not."""
        raise NotImplementedError

    def size_hw(self, index: int) -> tuple[int, int] | None:
        """Return the (height, width) that a sample's annotations claim; None if they claim none."""
        return None

    def label(self, index: int, size_hw: tuple[int, int]) -> np.ndarray:
        """Return the raw ids (H, W) int32 of a sample; see `NOTHING` and `IGNORED`.

        Args:
            size_hw: Of the image.

        Raises:
            UserError: the annotations are damaged, or of no known kind; the file is named.
        """
        raise NotImplementedError

    def name_of(self, raw_id: int) -> str:
        """Return the name of a raw id that `classes` does not hold."""
        return f"class_{raw_id}"


@dataclass(frozen=True)
class Files:
    """The files of a data set.

    Args:
        root: Its folder.
        only: The one annotation file that was named, in place of the folder.
    """

    root: Path
    only: Path | None = None
    _texts: dict[Path, str] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, data: Path) -> Files:
        """Return the files of a folder, or of an annotation file's folder.

        A ZIP archive is unpacked beside itself. A folder that holds nothing but another one, as
        archives unpack, stands for that one.

        Raises:
            UserError: there is no such path, or it is an archive that cannot be unpacked.
        """
        if data.is_file() and data.suffix.lower() == ".zip":
            data = unpacked(data)
        if data.is_file() and data.suffix.lower() in (".tar", ".tgz", ".gz"):
            raise UserError(f"{data}: found an archive, expected a folder. Run: tar -xf '{data}'")
        if data.is_dir():
            while len(inner := _shown(data)) == 1 and inner[0].is_dir():
                [data] = inner
            return cls(data)
        if not data.is_file():
            raise UserError(f"{data}: no such folder. Name the folder of images and annotations.")
        return cls(data.parent, data)

    @cached_property
    def all(self) -> list[Path]:
        """Return every file, in the order of their paths; without converted data sets below."""
        found = list(walk_files(self.root))
        made = {path.parent for path in found if path.name == MADE} - {self.root}
        return [path for path in found if made.isdisjoint(path.parents)] if made else found

    @cached_property
    def rasters(self) -> list[Path]:
        """Return the image files."""
        return [path for path in self.all if path.suffix.lower() in IMAGE_SUFFIXES]

    def of_kind(self, *suffixes: str) -> list[Path]:
        """Return the files with these suffixes; of a named file, that one."""
        paths = [self.only] if self.only else self.all
        return [path for path in paths if path.suffix.lower() in suffixes]

    def head(self, path: Path, num_bytes: int = 4096) -> str:
        """Return the beginning of a text file."""
        if path not in self._texts:
            with path.open("rb") as file:
                self._texts[path] = file.read(num_bytes).decode("utf-8", errors="replace")
        return self._texts[path]

    def relative(self, path: Path) -> str:
        """Return a path below the root, with slashes."""
        text, start = str(path), f"{self.root}{os.sep}"
        if text.startswith(start):  # many times as fast
            return text[len(start) :].replace(os.sep, "/")
        return os.path.relpath(path, self.root).replace(os.sep, "/")


def _shown(folder: Path) -> list[Path]:
    """Return what a folder holds, without hidden files and macOS's resource forks."""
    items = folder.iterdir()
    return [item for item in items if not item.name.startswith(".") and item.name != "__MACOSX"]


def spread(count: int, most: int = LOOK) -> list[int]:
    """Return at most so many indices below `count`, spread evenly."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(int)).tolist()
