"""Data sets with label images in folders of a fixed layout: VOC, CVAT's masks, Cityscapes ..."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from paddleseg_segformer.annotations.classes import BACKGROUNDS, read_table
from paddleseg_segformer.annotations.folders import Folders
from paddleseg_segformer.annotations.images import read_header
from paddleseg_segformer.annotations.source import (
    IGNORED,
    SETS,
    Annotations,
    Conclusion,
    Files,
    Options,
    Sample,
)
from paddleseg_segformer.data.datasets import (
    ADE20K,
    Cityscapes,
    CocoStuff,
    COCOStuff171,
    FolderDataset,
)
from paddleseg_segformer.data.io import read_label
from paddleseg_segformer.data.labels import IGNORE_INDEX, NO_CLASS, distinct_palette, make_id_map
from paddleseg_segformer.data.lists import read_list_text
from paddleseg_segformer.data.sample_lists import FolderLayout, pair_folders
from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError

VOC_NAME = re.compile(r"^20(07|08|09|10|11|12)_\d{6}$")  # of the challenge's own images
VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)
VOC_LABELS = ("SegmentationClass", "SegmentationClassAug", "SegmentationClassPNG")
CVAT_TABLE, VOC_NAMES = "labelmap.txt", "class_names.txt"
# Source: cityscapesscripts/helpers/labels.py; the other ids of 0..33 do not count
CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


class Voc(Folders):
    """Pascal VOC's folders: `JPEGImages`, `SegmentationClass`, and lists in `ImageSets`.

    Class 0 is the background. Names are those of `class_names.txt`, or of the challenge where the
    images are its own.
    """

    @classmethod
    def recognise(cls, files: Files) -> str:
        if (files.root / CVAT_TABLE).is_file():
            return ""
        found = [name for name in VOC_LABELS if (files.root / name).is_dir()]
        return f"there is a folder {found[0]}" if found else ""

    def __init__(self, files: Files, options: Options) -> None:
        samples, self.warnings = _voc_samples(files, options)
        self.open(samples, options.label_values, read_table(options.classes).colors, False)
        if not self.holds_ids:
            return
        listed = files.root / VOC_NAMES
        names: Sequence[str] = ["background"]
        if listed.is_file():
            names = read_list_text(listed).decode().split("\n")
            names = [name.strip() for name in names if name.strip() not in ("", "__ignore__")]
        elif all(VOC_NAME.match(sample.image.stem) for sample in samples):
            names = VOC_CLASSES
        self.classes = {**self.classes, **dict(enumerate(names))}


class CvatMasks(Folders):
    """CVAT's 'Segmentation mask 1.1': VOC's folders, with the colours in `labelmap.txt`."""

    @classmethod
    def recognise(cls, files: Files) -> str:
        table = files.root / CVAT_TABLE
        return f"there is a {CVAT_TABLE}" if table.is_file() else ""

    def __init__(self, files: Files, options: Options) -> None:
        table = read_table(files.root / CVAT_TABLE)
        positions = dict(zip(table.names, distinct_palette(len(table.names)), strict=True))
        colors = table.colors or positions  # without colours: VOC's colour map
        samples, self.warnings = _voc_samples(files, options)
        self.open(samples, "colors", colors)
        self.background = next((name for name in colors if name.lower() in BACKGROUNDS), None)


def _voc_samples(files: Files, options: Options) -> tuple[list[Sample], list[str]]:
    """Return the labelled images of VOC's folders, with the sets of its lists, and warnings."""
    folders = [files.root / name for name in VOC_LABELS if (files.root / name).is_dir()]
    if options.labels:
        folders = [folder for folder in folders if options.labels.startswith(f"{folder.name}/")]
    if len(folders) != 1:
        names = " and ".join(folder.name for folder in folders) or "none"
        raise UserError(
            f"{files.root}: expected one folder of labels, found {names}. Say which: --labels "
            f"'{folders[-1].name if folders else VOC_LABELS[0]}/{{stem}}.png'."
        )
    images: dict[str, Path] = {}
    labels: dict[str, Path] = {}
    for path in files.rasters:
        top = files.relative(path).partition("/")[0]
        if top.startswith("Segmentation"):
            if path.is_relative_to(folders[0]):
                labels[path.stem] = path
        elif images.setdefault(path.stem, path) != path:
            raise UserError(f"{path}: {images[path.stem]} has the same name. Keep one of the two.")
    sets: dict[str, str] = {}
    for name in (*SETS, "trainaug"):
        path = files.root / "ImageSets" / "Segmentation" / f"{name}.txt"
        if path.is_file() and (name != "trainaug" or folders[0].name.endswith("Aug")):
            for line in read_list_text(path).decode().split("\n"):
                if stem := line.strip():
                    sets.setdefault(stem, name.removesuffix("aug"))
    listed = [stem for stem in sets if sets[stem] != "test"]
    if missing := [stem for stem in listed if stem not in images or stem not in labels]:
        raise UserError(
            f"{files.root}: {missing[0]} is listed in ImageSets, but has no "
            f"{'label' if missing[0] in images else 'image'}. Add it, or correct the list."
        )
    chosen = sorted(images.keys() & labels.keys())
    alone = sorted(labels.keys() - images.keys())
    warnings = []
    if alone:
        first = labels[alone[0]]
        warnings.append(f"{len(alone)} labels without image are left out, such as {first}")
    if sets and (unlisted := [stem for stem in chosen if stem not in sets]):
        chosen = [stem for stem in chosen if stem in sets]
        warnings.append(
            f"{len(unlisted)} labelled images are in no list of ImageSets and left out, such as "
            f"{images[unlisted[0]]}"
        )
    if not chosen:
        raise UserError(
            f"{files.root}: no image fits a label of {folders[0].name}: {len(images)} images, "
            f"{len(labels)} labels. Put the images into JPEGImages."
        )
    return [Sample(images[s], labels[s], sets.get(s, "")) for s in chosen], warnings


class Sbd(Annotations):
    """The Semantic Boundaries Dataset: VOC's classes in `cls/*.mat`, which augment VOC's own."""

    holds_ids = False

    @classmethod
    def recognise(cls, files: Files) -> str:
        found = [path for path in files.of_kind(".mat") if path.parent.name == "cls"]
        return f"{len(found)} files such as {files.relative(found[0])}" if found else ""

    def __init__(self, files: Files, options: Options) -> None:
        labels = [path for path in files.of_kind(".mat") if path.parent.name == "cls"]
        images = {path.stem: path for path in files.rasters}
        sets = {
            line.strip(): name
            for name in SETS
            if (path := files.root / f"{name}.txt").is_file()
            for line in read_list_text(path).decode().split("\n")
        }
        self.samples = [
            Sample(images[path.stem], path, sets.get(path.stem, ""))
            for path in labels
            if path.stem in images
        ]
        self.classes = dict(enumerate(VOC_CLASSES))
        self.palette = dict(enumerate(distinct_palette(len(VOC_CLASSES))))
        if alone := [path for path in labels if path.stem not in images]:
            self.warnings = [f"{len(alone)} labels without image are left out, such as {alone[0]}"]

    def label(self, index: int, size_hw: tuple[int, int]) -> np.ndarray:
        with explained():
            from scipy.io import loadmat
        path = self.samples[index].annotation
        assert path is not None
        try:
            stored = loadmat(path, simplify_cells=True)["GTcls"]["Segmentation"]
        except Exception as error:  # of any type: it is not made for damaged files
            reason = " ".join(str(error).split())[:100]
            raise UserError(f"{path}: has no GTcls.Segmentation ({reason}).") from None
        ids = np.asarray(stored).astype(np.int32)
        if ids.ndim != 2 or not 0 <= ids.min(initial=0) <= ids.max(initial=0) <= 20:
            raise UserError(f"{path}: found ids of {ids.min()} to {ids.max()}, expected 0 to 20.")
        return ids


class Variant(NamedTuple):
    """Where a published data set has its labels, and the class of each id in them."""

    layout: FolderLayout
    id_map: np.ndarray | None = None  # None: the ids are the classes'


class Published(Annotations):
    """A data set of this package in the layout as it is published; subclasses say which."""

    dataset: ClassVar[type[FolderDataset]]
    variants: ClassVar[tuple[Variant, ...]]  # the first that is there counts

    @classmethod
    def recognise(cls, files: Files) -> str:
        return next((reason for item in cls.variants if (reason := _reason(item, files))), "")

    def __init__(self, files: Files, options: Options) -> None:
        found = (item for item in self.variants if _reason(item, files))
        layout, self._id_map = next(found, self.variants[0])
        samples = []
        how = self.dataset.HOW_TO_GET
        for mode, split in layout.splits.items():
            if mode != "test" and (files.root / layout.images.format(split=split)).is_dir():
                pairs = pair_folders(files.root, layout, mode, how)
                for image, label in (pairs[index] for index in range(len(pairs))):
                    assert label is not None
                    samples.append(Sample(Path(image), Path(label), mode))
        if not samples:
            raise UserError(f"{files.root}: found none of its folders. {how}")
        self.samples = samples
        self.holds_ids = self._id_map is None
        label_set = self.dataset.label_set
        self.classes = dict(enumerate(label_set.classes))
        self.palette = dict(enumerate(label_set.palette))
        self.conclusions = [
            Conclusion(f"classes and colours are {label_set.name}'s", "the layout of its folders")
        ]

    def size_hw(self, index: int) -> tuple[int, int] | None:
        path = self.samples[index].annotation
        return read_header(path).size_hw if path else None

    def label(self, index: int, size_hw: tuple[int, int]) -> np.ndarray:
        path = self.samples[index].annotation
        assert path is not None
        stored = read_label(path)
        ids = stored.astype(np.int32)
        if self._id_map is not None:
            is_byte = (stored >= 0) & (stored <= IGNORE_INDEX)
            ids = self._id_map[np.where(is_byte, stored, NO_CLASS)].astype(np.int32)
        is_wrong = ((ids < 0) | (ids >= len(self.classes))) & (ids != IGNORE_INDEX)
        if is_wrong.any():
            raise UserError(
                f"{path}: found the id {stored[is_wrong][0]}, which {self.dataset.__name__} does "
                "not have. Is it another data set? Say --format folders."
            )
        ids[ids == IGNORE_INDEX] = IGNORED
        return ids


def _reason(variant: Variant, files: Files) -> str:
    """Return which folders a variant has among the files; empty if it has none."""
    layout = variant.layout
    for split in layout.splits.values():
        folders = [files.root / item.format(split=split) for item in (layout.images, layout.labels)]
        if all(folder.is_dir() for folder in folders):
            endings = tuple(str(folders[1]) + "*" + end for end in layout.label_suffixes)
            if any(fnmatch(str(path), end) for path in files.rasters for end in endings):
                images, labels = map(files.relative, folders)
                return f"{images} and {labels} as published"
    return ""


class CityscapesFiles(Published):
    """Cityscapes, with labels of training ids, or else with those of its package."""

    dataset = Cityscapes
    variants = (
        Variant(Cityscapes.LAYOUT),
        Variant(
            replace(Cityscapes.LAYOUT, label_suffixes=("_gtFine_labelIds.png",)),
            make_id_map(
                dict.fromkeys(range(34), IGNORE_INDEX)
                | {stored: index for index, stored in enumerate(CITYSCAPES_IDS)}
            ),
        ),
    )


class AdeFiles(Published):
    """ADE20K's challenge data: 0 for no class, 1 to 150."""

    dataset = ADE20K
    variants = (Variant(ADE20K.LAYOUT, ADE20K.ID_MAP),)


class CocoStuffFiles(Published):
    """COCO-Stuff, with labels of training ids, or else as published with ids of 0 to 181."""

    dataset = CocoStuff
    variants = (
        Variant(replace(CocoStuff.LAYOUT, label_suffixes=("_labelTrainIds.png",))),
        Variant(replace(COCOStuff171.LAYOUT, label_suffixes=(".png",)), COCOStuff171.ID_MAP),
    )
