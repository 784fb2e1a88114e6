"""A converted data set in the forms that other programs read: Pascal VOC's and COCO's."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from paddleseg_segformer.annotations.classes import NOT_COUNTED
from paddleseg_segformer.annotations.convert import SPLIT, Prepared
from paddleseg_segformer.annotations.split import Row, read_rows
from paddleseg_segformer.data.io import encode_label, read_label
from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import atomic_folder, make_folder

Writer = Callable[[Prepared, Path], None]


def write_voc(prepared: Prepared, folder: Path) -> None:
    """Write Pascal VOC's folders, with the names of the classes in `class_names.txt`.

    Images are copied; the pixels of labels are the class ids, and 255.
    """
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(prepared.palette)] = prepared.palette
    rows = read_rows(prepared.root / SPLIT)
    lists = make_folder(folder / "ImageSets" / "Segmentation")
    for row, name in zip(rows, _flat_names(rows), strict=True):
        image = prepared.root / row.image
        make_folder(folder / "JPEGImages")
        shutil.copyfile(image, folder / "JPEGImages" / f"{name}{image.suffix}")
        label = encode_label(read_label(prepared.root / row.label), colors)
        (make_folder(folder / "SegmentationClass") / f"{name}.png").write_bytes(label)
        with (lists / f"{row.set}.txt").open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")
    (folder / "class_names.txt").write_text("\n".join(prepared.classes) + "\n", encoding="utf-8")


def write_coco(prepared: Prepared, folder: Path) -> None:
    """Write COCO's JSON: `annotations/instances_SET.json`, and the images in `SET/`.

    Each connected area of a class is one annotation, with run lengths; the category is the class
    id + 1. Pixels that do not count have a category of their own, `__ignore__`.
    """
    with explained():
        from pycocotools import mask as coco_mask
    rows = read_rows(prepared.root / SPLIT)
    content: dict[str, dict[str, list[Any]]] = {}
    categories = [
        {"id": index + 1, "name": name, "supercategory": ""}
        for index, name in enumerate((*prepared.classes, NOT_COUNTED))
    ]
    for row, name in zip(rows, _flat_names(rows), strict=True):
        image = prepared.root / row.image
        copied = make_folder(folder / row.set) / f"{name}{image.suffix}"
        shutil.copyfile(image, copied)
        listed = content.setdefault(
            row.set, {"images": [], "annotations": [], "categories": categories}
        )
        label = read_label(prepared.root / row.label)
        image_id = len(listed["images"]) + 1
        height, width = label.shape
        listed["images"].append(
            {"id": image_id, "file_name": copied.name, "height": height, "width": width}
        )
        for class_id, area in _areas(label):
            rle = coco_mask.encode(np.asfortranarray(area))
            listed["annotations"].append(
                {
                    "id": len(listed["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": min(class_id, len(prepared.classes)) + 1,
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                    "area": int(coco_mask.area(rle)),
                    "bbox": coco_mask.toBbox(rle).tolist(),
                    "iscrowd": 0,
                }
            )
    annotations = make_folder(folder / "annotations")
    for set_name, part in content.items():
        path = annotations / f"instances_{set_name}.json"
        path.write_text(json.dumps(part), encoding="utf-8")


WRITERS: dict[str, Writer] = {"voc": write_voc, "coco": write_coco}


def write_as(prepared: Prepared, form: str, out_dir: Path) -> None:
    """Write a converted data set in another form, into a folder of its own.

    Args:
        form: A name of `WRITERS`.

    Raises:
        UserError: the folder holds something, or images are of another kind than the form's.
    """
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise UserError(f"{out_dir}: is not empty. Name a folder of its own.")
    with atomic_folder(out_dir) as folder:
        WRITERS[form](prepared, folder)


def _areas(label: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Return the connected areas (H, W) of each class, those that do not count among them."""
    areas = []
    for class_id in np.unique(label).tolist():
        mask = (label == class_id).astype(np.uint8)
        count, parts = cv2.connectedComponents(mask, connectivity=8)
        areas += [(class_id, (parts == part).astype(np.uint8)) for part in range(1, count)]
    return areas


def _flat_names(rows: Sequence[Row]) -> list[str]:
    """Return a file name for each image, without folders and suffix, none of them twice."""
    stems = [PurePosixPath(row.image).stem for row in rows]
    counts = Counter(stems)
    names = []
    for row, stem in zip(rows, stems, strict=True):
        parts = PurePosixPath(row.image).with_suffix("").parts
        length = 1 if counts[stem] == 1 else len(parts)
        names.append("_".join(part.strip("/") for part in parts[-length:] if part != "/"))
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"several images would be called {twice[0]}. Give them different names.")
    return names
