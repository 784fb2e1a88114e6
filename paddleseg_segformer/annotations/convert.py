"""A data set that was detected, written as label images, lists and a config's sections."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from paddleseg_segformer.annotations.classes import ClassMap, make_class_map
from paddleseg_segformer.annotations.detect import Detected
from paddleseg_segformer.annotations.images import read_header, stored_values
from paddleseg_segformer.annotations.source import (
    MADE,
    NOTHING,
    SETS,
    Color,
    Files,
    Sample,
)
from paddleseg_segformer.annotations.split import (
    Row,
    format_rows,
    needs_hashes,
    read_rows,
    refuse_empty,
    split,
)
from paddleseg_segformer.data.io import as_stored, decode_image, encode_label, read_file
from paddleseg_segformer.data.loader import map_in_order
from paddleseg_segformer.data.similar import difference_hash
from paddleseg_segformer.data.values import DeclaredRange
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import atomic_folder, make_folder
from paddleseg_segformer.yaml_files import dump_yaml, read_yaml

SECTIONS, FACTS = "dataset.yml", MADE
FEW = 1e-4  # share of the labelled pixels, below which a class is named
CLASSES, SPLIT, LABELS, IMAGES = "classes.txt", "split.csv", "labels", "images"


@dataclass(frozen=True)
class Prepared:
    """A data set that `data.Dataset` reads.

    Args:
        root: Folder of what was written, to which the lists' paths are relative.
        classes: Names; the position is the id.
        palette: Colour of each class.
        in_channels: Bands of the images.
        dtype: Type of the stored values, as NumPy names it.
        value_range: What they mean, as `data.Dataset` takes it.
        exif_orientation: Whether labels fit images as their EXIF turns them.
        num_samples: Of each set.
        warnings: What a person is to look at.
    """

    root: Path
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    in_channels: int
    dtype: str
    value_range: DeclaredRange | None
    exif_orientation: bool
    num_samples: Mapping[str, int]
    warnings: tuple[str, ...] = ()

    @property
    def train_list(self) -> Path:
        """Return the list of the training set."""
        return self.root / "train.txt"

    @property
    def val_list(self) -> Path:
        """Return the list of the validation set."""
        return self.root / "val.txt"

    def section(self, mode: str) -> dict[str, Any]:
        """Return the section of a config for the set `mode`, without transforms."""
        section = {
            "type": "Dataset",
            "mode": mode,
            "dataset_root": str(self.root),
            f"{mode}_path": str(self.root / f"{mode}.txt"),
            "num_classes": len(self.classes),
            "classes": list(self.classes),
            "palette": [list(color) for color in self.palette],
            "img_channels": self.in_channels,
            "value_range": self.value_range,
            "exif_orientation": self.exif_orientation,
        }
        defaults = {"img_channels": 3, "value_range": None, "exif_orientation": True}
        return {
            key: value
            for key, value in section.items()
            if key not in defaults or value != defaults[key]
        }

    @classmethod
    def read(cls, root: Path) -> Prepared:
        """Return what `prepare` wrote into a folder.

        Raises:
            UserError: it wrote nothing there, or not all of it is left.
        """
        for name in (FACTS, SECTIONS, "train.txt", "val.txt", SPLIT):
            if not (root / name).is_file():
                raise UserError(f"{root / name}: is missing. Convert the data again.")
        section = read_yaml(root / SECTIONS)["train_dataset"]
        facts = json.loads((root / FACTS).read_text(encoding="utf-8"))
        return cls(
            root,
            tuple(section["classes"]),
            tuple((red, green, blue) for red, green, blue in section["palette"]),
            section.get("img_channels", 3),
            facts["dtype"],
            section.get("value_range"),
            section.get("exif_orientation", True),
            facts["num_samples"],
            tuple(facts["warnings"]),
        )


@dataclass
class _Seen:
    """What reading one sample told."""

    pixels: dict[int, int]  # of each raw id
    hash: int | None = None


def prepare(
    detected: Detected,
    out_dir: str | Path,
    *,
    copy_labels: bool = False,
    num_threads: int = 2,
    show_progress: bool = False,
) -> Prepared:
    """Read all annotations; write label images, lists, `split.csv`, classes, `dataset.yml`.

    Images stay where they are, unless bands of them are chosen, and so do label images that hold
    the class ids already. A `split.csv` that is there already, of the same images, is kept. The
    folder is replaced as a whole, and stays as it was if anything fails.

    Args:
        out_dir: Folder of its own for what is written.
        copy_labels: Write label images that hold the class ids too, with the classes' colours.
        num_threads: Files read at a time.
        show_progress: Show a bar on standard error.

    Raises:
        UserError: a file is damaged or does not fit its image, or the folder holds something else;
            the file is named.
    """
    out_dir = Path(out_dir)
    kept = _earlier_split(out_dir)
    has_hashes = needs_hashes(detected.samples, detected.options) and not kept
    converter = _Converter(detected, out_dir, has_hashes, copy_labels)
    samples = detected.samples
    with atomic_folder(out_dir) as folder, ThreadPoolExecutor(num_threads) as executor:
        read = map_in_order(executor, converter.see, range(len(samples)), 4 * num_threads)
        seen = list(tqdm(read, total=len(samples), unit="image", disable=not show_progress))
        class_map = converter.make_map(seen)
        work = map_in_order(
            executor, converter.writer(folder), range(len(samples)), 4 * num_threads
        )
        paths = list(tqdm(work, total=len(samples), unit="label", disable=not show_progress))
        pixels = converter.num_pixels(seen)
        rows: Sequence[Row] = kept
        warnings: list[str] = []
        if not kept:
            hashes = {
                str(s.image): e.hash
                for s, e in zip(samples, seen, strict=True)
                if e.hash is not None
            }
            rows, warnings = split(samples, Files(detected.root), pixels, hashes, detected.options)
            rows = [replace(r, image=i, label=x) for r, (i, x) in zip(rows, paths, strict=True)]
        elif {(row.image, row.label) for row in kept} != {*paths}:
            raise UserError(
                f"{out_dir / SPLIT}: lists {len(kept)} images, the data has {len(paths)}, or "
                "others. Delete the file, or name another folder, to split anew."
            )
        refuse_empty(rows, detected.options)
        warnings += _class_warnings(class_map, pixels, rows, paths)
        return _write(folder, out_dir, detected, class_map, rows, warnings)


def _earlier_split(out_dir: Path) -> list[Row]:
    """Return the rows of an earlier `split.csv`; refuse a folder that holds something else."""
    if not out_dir.exists() or not any(out_dir.iterdir()):
        return []
    if not (out_dir / SPLIT).is_file() and not (out_dir / SECTIONS).is_file():
        raise UserError(
            f"{out_dir}: holds something else than a converted data set. Name a folder of its own."
        )
    return read_rows(out_dir / SPLIT) if (out_dir / SPLIT).is_file() else []


class _Converter:
    """Reads the samples of a data set, and writes their labels."""

    def __init__(
        self, detected: Detected, out_dir: Path, has_hashes: bool, copy_labels: bool
    ) -> None:
        self._detected, self._out_dir = detected, out_dir
        self._has_hashes, self._copy_labels = has_hashes, copy_labels
        self._map = detected.class_map

    def see(self, index: int) -> _Seen:
        """Read the image's header and the label of one sample; compare their sizes."""
        sample = self._detected.samples[index]
        ids, counts = np.unique(self._raw(index), return_counts=True)
        seen = _Seen(dict(zip(ids.tolist(), counts.tolist(), strict=True)))
        if self._has_hashes:
            image = stored_values(sample.image)
            image = image if image.dtype == np.uint8 else image.astype(np.float32)
            seen.hash = difference_hash(image.reshape(*image.shape[:2], -1))
        return seen

    def make_map(self, seen: Sequence[_Seen]) -> ClassMap:
        """Return the classes, now that all labels were read."""
        further = {raw_id for item in seen for raw_id in item.pixels if raw_id >= 0}
        detected = self._detected
        self._map = make_class_map(
            detected.annotations, detected.options, detected.covered, further
        )
        return self._map

    def num_pixels(self, seen: Sequence[_Seen]) -> np.ndarray:
        """Return the pixels of each sample and class, (N, K)."""
        pixels = np.zeros((len(seen), len(self._map.names)), np.int64)
        ids = {**self._map.ids, NOTHING: self._map.unlabelled}
        for row, item in zip(pixels, seen, strict=True):
            for raw_id, count in item.pixels.items():
                if ids.get(raw_id, len(row)) < len(row):
                    row[ids[raw_id]] += count
        return pixels

    def writer(self, folder: Path) -> Any:
        """Return what writes one sample into a folder and returns the listed paths."""
        detected = self._detected
        is_written = self._copy_labels or not (
            detected.annotations.holds_ids and self._map.is_identity
        )
        names = _names(detected.samples, Files(detected.root))
        colors = np.zeros((256, 3), np.uint8)
        colors[: len(self._map.palette)] = self._map.palette

        def write(index: int) -> tuple[str, str]:
            sample = detected.samples[index]
            image = _listed(sample.image, self._out_dir)
            if detected.options.bands:
                image = f"{IMAGES}/{names[index]}.npy"
                path = make_folder((folder / image).parent) / Path(image).name
                np.save(path, self._chosen_bands(sample.image))
            if not is_written:
                assert sample.annotation is not None
                return image, _listed(sample.annotation, self._out_dir)
            label = f"{LABELS}/{names[index]}.png"
            path = make_folder((folder / label).parent) / Path(label).name
            path.write_bytes(encode_label(self._map.apply(self._raw(index)), colors))
            return image, label

        return write

    def _chosen_bands(self, path: Path) -> np.ndarray:
        """Return the bands of an image that are to be used, (H, W, C), of the stored type."""
        header, options = read_header(path), self._detected.options
        content = read_file(path)
        image = decode_image(path, content, header.bands)
        if not self._detected.exif_orientation:
            image = as_stored(image, content)
        assert options.bands
        return image[:, :, [band - 1 for band in options.bands]].astype(header.dtype)

    def _raw(self, index: int) -> np.ndarray:
        """Return the raw ids (H, W) of a sample, of the image's size."""
        detected = self._detected
        sample = detected.samples[index]
        header = read_header(sample.image)
        size_hw = header.turned_hw if detected.exif_orientation else header.size_hw
        claimed = detected.annotations.size_hw(index)
        if claimed is not None and claimed != size_hw:
            is_turned = claimed == size_hw[::-1] and header.turn != 1
            remedy = "Say --exif stored or --exif turned." if is_turned else "Make them equal."
            raise UserError(
                f"{sample.annotation}: annotates an image of {claimed[0]}x{claimed[1]} (height x "
                f"width), but {sample.image} is {size_hw[0]}x{size_hw[1]}. {remedy}"
            )
        raw = detected.annotations.label(index, size_hw)
        if raw.shape != size_hw:
            raise UserError(
                f"{sample.annotation}: gives a label of {raw.shape[0]}x{raw.shape[1]} (height x "
                f"width), but {sample.image} is {size_hw[0]}x{size_hw[1]}. Make them equal."
            )
        return raw


def _names(samples: Sequence[Sample], files: Files) -> list[str]:
    """Return a path of its own for each sample: the image's, without its suffix if that is one."""
    paths = [files.relative(sample.image).replace("../", "") for sample in samples]
    stems = [os.path.splitext(path)[0] for path in paths]
    counts = Counter(stems)
    return [stem if counts[stem] == 1 else path for stem, path in zip(stems, paths, strict=True)]


def _listed(path: Path, out_dir: Path) -> str:
    """Return a path as it stands in a list: relative to the folder if it lies in it."""
    absolute, root = os.path.abspath(path), os.path.abspath(out_dir)
    if absolute.startswith(root + os.sep):
        absolute = os.path.relpath(absolute, root)
    return absolute.replace(os.sep, "/")


def _class_warnings(
    class_map: ClassMap,
    pixels: np.ndarray,
    rows: Sequence[Row],
    paths: Sequence[tuple[str, str]],
) -> list[str]:
    """Return warnings of classes that no label holds, or none of a set."""
    index_of = {image: index for index, (image, _) in enumerate(paths)}
    warnings = []
    shares = pixels.sum(axis=0) / max(int(pixels.sum()), 1)
    if few := [class_map.names[i] for i in np.flatnonzero((shares > 0) & (shares < FEW))]:
        warnings.append(f"fewer than one in {1 / FEW:.0f} labelled pixels: {', '.join(few)}")
    for set_name, where in (
        ("", "no label"),
        ("train", "no training label"),
        ("val", "no validation label"),
    ):
        chosen = [index_of[row.image] for row in rows if set_name in ("", row.set)]
        lacking = np.flatnonzero(pixels[chosen].sum(axis=0) == 0).tolist() if chosen else []
        if set_name:
            lacking = [index for index in lacking if pixels[:, index].any()]
        if len(lacking):
            names = ", ".join(class_map.names[index] for index in lacking)
            warnings.append(f"{where} holds: {names}")
    return warnings


def _write(
    folder: Path,
    out_dir: Path,
    detected: Detected,
    class_map: ClassMap,
    rows: Sequence[Row],
    warnings: Sequence[str],
) -> Prepared:
    """Write the lists, tables and sections."""
    counts = {name: sum(row.set == name for row in rows) for name in SETS}
    prepared = Prepared(
        out_dir,
        class_map.names,
        class_map.palette,
        detected.in_channels,
        detected.dtype,
        detected.value_range,
        detected.exif_orientation,
        {name: count for name, count in counts.items() if count},
        (*detected.warnings, *warnings),
    )
    for name in prepared.num_samples:
        text = io.StringIO()
        writer = csv.writer(text, delimiter=" ", lineterminator="\n")
        writer.writerows((row.image, row.label) for row in rows if row.set == name)
        (folder / f"{name}.txt").write_text(text.getvalue(), encoding="utf-8")
    (folder / SPLIT).write_text(format_rows(rows), encoding="utf-8")
    (folder / CLASSES).write_text("\n".join(class_map.names) + "\n", encoding="utf-8")
    sections = {f"{mode}_dataset": prepared.section(mode) for mode in ("train", "val")}
    (folder / SECTIONS).write_text(dump_yaml(sections), encoding="utf-8")
    facts = {
        "data": str(detected.root),
        "format": detected.format,
        "dtype": detected.dtype,
        "num_samples": prepared.num_samples,
        "conclusions": [str(item) for item in detected.conclusions],
        "warnings": prepared.warnings,
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return prepared
