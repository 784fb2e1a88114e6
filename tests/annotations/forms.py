"""Small data sets in every form of annotations, and the labels that they stand for.

The scene of each image is a list of shapes, the lowest first. `truth` paints it by a rule of its
own: matplotlib says which centres of pixels lie within a polygon.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import quoteattr

import numpy as np
from matplotlib.path import Path as Outline
from PIL import Image
from pycocotools import mask as coco_mask

HEIGHT, WIDTH = 40, 60
CLASSES = ("car", "road", "tree")


class Polygon(NamedTuple):
    """A shape of a scene; the corners lie on whole pixels, where all rules agree."""

    name: str
    points: tuple[tuple[int, int], ...]  # (x, y)


class Mask(NamedTuple):
    """A shape that is a mask."""

    name: str
    pixels: np.ndarray  # (H, W) bool


Scene = Sequence[Polygon | Mask]


def blob(x: int, y: int, radius: int) -> np.ndarray:
    """Return a disk without its middle (H, W)."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(columns - x, rows - y)
    return (distance <= radius) & (distance > 2)


SCENES: dict[str, Scene] = {
    "first one": (
        Polygon("road", ((0, 20), (60, 20), (60, 40), (0, 40))),
        Polygon("car", ((10, 15), (30, 15), (30, 28), (20, 28), (20, 32), (10, 32))),
    ),
    "zwei-ü": (
        Polygon("road", ((0, 10), (60, 10), (60, 40), (0, 40))),
        Polygon("tree", ((5, 0), (15, 0), (15, 30), (5, 30))),
        Mask("car", blob(40, 20, 9)),
    ),
    "third": (Polygon("tree", ((30, 5), (50, 5), (50, 25), (30, 25))),),
}


def pixels_of(shape: Polygon | Mask) -> np.ndarray:
    """Return the pixels (H, W) of a shape."""
    if isinstance(shape, Mask):
        return shape.pixels
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    centres = np.stack([columns.ravel(), rows.ravel()], axis=1)
    return Outline(shape.points).contains_points(centres).reshape(HEIGHT, WIDTH)


def truth(scene: Scene, ids: Mapping[str, int], nothing: int) -> np.ndarray:
    """Return the label (H, W) of a scene."""
    label = np.full((HEIGHT, WIDTH), nothing, np.uint8)
    for shape in scene:
        label[pixels_of(shape)] = ids[shape.name]
    return label


def write_images(folder: Path, names: Sequence[str] = tuple(SCENES), suffix: str = ".jpg") -> None:
    """Write an image of noise for each name; no two are alike."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in names:
        blocks = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((WIDTH, HEIGHT)).save(folder / f"{name}{suffix}")


def png(array: np.ndarray, path: Path, palette: Sequence[int] | None = None) -> None:
    """Write a label image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette is not None:
        image.putpalette(palette)
    image.save(path)


def write_coco(root: Path) -> None:
    """COCO: polygons, an uncompressed and a compressed mask."""
    write_images(root / "images")
    images, annotations = [], []
    for image_id, (name, scene) in enumerate(SCENES.items(), 7):
        images.append(
            {"id": image_id, "file_name": f"{name}.jpg", "height": HEIGHT, "width": WIDTH}
        )
        for shape in scene:
            pixels = pixels_of(shape)
            rle: Any = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
            rle["counts"] = rle["counts"].decode()
            flat: Any = rle
            if isinstance(shape, Polygon):
                flat = [[float(value) for point in shape.points for value in point]]
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image_id,
                    "category_id": 10 * CLASSES.index(shape.name) + 3,
                    "segmentation": flat,
                    "area": int(pixels.sum()),
                    "bbox": [0, 0, 1, 1],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": 10 * i + 3, "name": name} for i, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories[::-1]}
    (root / "instances.json").write_text(json.dumps(content), encoding="utf-8")


def write_labelme(root: Path) -> None:
    """LabelMe: JSON beside the images."""
    write_images(root)
    for name, scene in SCENES.items():
        shapes = []
        for shape in scene:
            entry: dict[str, Any] = {"label": shape.name, "group_id": None, "flags": {}}
            if isinstance(shape, Polygon):
                entry |= {"points": shape.points, "shape_type": "polygon"}
            else:
                rows, columns = np.nonzero(shape.pixels)
                box = (columns.min(), rows.min(), columns.max(), rows.max())
                part = shape.pixels[box[1] : box[3] + 1, box[0] : box[2] + 1]
                buffer = io.BytesIO()
                Image.fromarray(part).save(buffer, format="PNG")
                entry |= {
                    "points": [[float(box[0]), float(box[1])], [float(box[2]), float(box[3])]],
                    "shape_type": "mask",
                    "mask": base64.b64encode(buffer.getvalue()).decode(),
                }
            shapes.append(entry)
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": f"{name}.jpg",
            "imageData": None,
            "imageHeight": HEIGHT,
            "imageWidth": WIDTH,
        }
        (root / f"{name}.json").write_text(json.dumps(content, indent=2), encoding="utf-8")


def write_cvat(root: Path) -> None:
    """CVAT for images 1.1."""
    write_images(root / "images")
    lines = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations>", "<version>1.1</version>"]
    labels = "".join(
        f"<label><name>{name}</name><color>#{index + 1:06x}</color></label>"
        for index, name in enumerate(CLASSES)
    )
    lines.append(f"<meta><task><labels>{labels}</labels></task></meta>")
    for number, (name, scene) in enumerate(SCENES.items()):
        head = f'id="{number}" name={quoteattr(name + ".jpg")}'
        lines.append(f'<image {head} width="{WIDTH}" height="{HEIGHT}">')
        for order, shape in reversed([*enumerate(scene)]):  # in an order of its own
            common = f'label="{shape.name}" occluded="0" z_order="{order}"'
            if isinstance(shape, Polygon):
                points = ";".join(f"{x:.2f},{y:.2f}" for x, y in shape.points)
                lines.append(f'<polygon {common} points="{points}"></polygon>')
            else:
                rows, columns = np.nonzero(shape.pixels)
                top, left = int(rows.min()), int(columns.min())
                part = shape.pixels[top : rows.max() + 1, left : columns.max() + 1]
                runs, value = [0], 0
                for pixel in part.ravel().tolist():
                    if pixel != value:
                        runs.append(0)
                        value = pixel
                    runs[-1] += 1
                lines.append(
                    f'<mask {common} rle="{", ".join(map(str, runs))}" left="{left}" top="{top}" '
                    f'width="{part.shape[1]}" height="{part.shape[0]}"></mask>'
                )
        lines.append("<tag label='car'></tag></image>")
    lines.append("</annotations>")
    (root / "annotations.xml").write_text("\n".join(lines), encoding="utf-8")


def brush(pixels: np.ndarray) -> list[int]:
    """Return the run lengths of a mask as Label Studio writes them, by hand: one word a run."""
    values = np.repeat(pixels.ravel().astype(np.uint8) * 255, 4)
    bits = f"{len(values):032b}" + f"{8 - 1:05b}" + "".join(f"{n - 1:04b}" for n in (3, 4, 8, 16))
    starts = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    for start, end in zip(starts, starts[1:], strict=False):
        bits += "1" + "11" + f"{end - start - 1:016b}" + f"{int(values[start]):08b}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def write_labelstudio(root: Path) -> None:
    """Label Studio's JSON, with the names of uploads."""
    write_images(root / "upload", [f"0a1b2c3d-{name}" for name in SCENES])
    tasks = []
    for number, (name, scene) in enumerate(SCENES.items()):
        results = []
        for shape in scene:
            value: dict[str, Any]
            if isinstance(shape, Polygon):
                kind = "polygonlabels"
                points = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in shape.points]
                value = {"points": points, "closed": True, kind: [shape.name]}
            else:
                kind = "brushlabels"
                value = {"format": "rle", "rle": brush(shape.pixels), kind: [shape.name]}
            results.append(
                {
                    "id": f"r{len(results)}",
                    "type": kind,
                    "from_name": "label",
                    "to_name": "image",
                    "original_width": WIDTH,
                    "original_height": HEIGHT,
                    "image_rotation": 0,
                    "value": value,
                }
            )
        tasks.append(
            {
                "id": number,
                "annotations": [{"id": 1, "was_cancelled": False, "result": results}],
                "data": {"image": f"/data/upload/1/0a1b2c3d-{name}.jpg"},
            }
        )
    (root / "project.json").write_text(json.dumps(tasks), encoding="utf-8")


def write_yolo(root: Path) -> None:
    """YOLO: polygons alone; masks are left out."""
    (root / "labels").mkdir(parents=True)
    write_images(root / "images")
    for name, scene in SCENES.items():
        lines = []
        for shape in scene:
            if isinstance(shape, Polygon):
                values = [v for x, y in shape.points for v in (x / WIDTH, y / HEIGHT)]
                lines.append(f"{CLASSES.index(shape.name)} " + " ".join(map(repr, values)))
        (root / "labels" / f"{name}.txt").write_text("\n".join(lines))
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(CLASSES))
    (root / "data.yaml").write_text(f"path: .\ntrain: images\nnames:\n{names}", encoding="utf-8")


def labels(nothing: int = 0, first: int = 1) -> dict[str, np.ndarray]:
    """Return the label of each scene; classes from the id `first`."""
    ids = {name: index + first for index, name in enumerate(CLASSES)}
    return {name: truth(scene, ids, nothing) for name, scene in SCENES.items()}


def write_folders(root: Path) -> None:
    """Label images of ids."""
    write_images(root / "images")
    for name, label in labels().items():
        png(label, root / "masks" / f"{name}_mask.png")


COLORS = ((0, 0, 0), (10, 20, 30), (200, 0, 0), (0, 0, 90))


def write_colors(root: Path) -> None:
    """Label images of colours."""
    write_images(root)
    for name, label in labels().items():
        png(np.array(COLORS, np.uint8)[label], root / f"{name}_label.png")


def write_binary(root: Path) -> None:
    """Masks of 0 and 255."""
    write_images(root / "train" / "img")
    for name, label in labels().items():
        png(np.uint8(255) * (label > 0), root / "train" / "gt" / f"{name}.png")


def write_voc(root: Path) -> None:
    """Pascal VOC's folders."""
    write_images(root / "JPEGImages")
    palette = [value for color in COLORS for value in color]
    for name, label in labels().items():
        png(label, root / "SegmentationClass" / f"{name}.png", palette)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("zwei-ü\nthird\n", encoding="utf-8")
    (lists / "val.txt").write_text("first one\n", encoding="utf-8")


def write_cvat_masks(root: Path) -> None:
    """CVAT's 'Segmentation mask 1.1'."""
    write_images(root / "JPEGImages")
    lines = ["# label:color_rgb:parts:actions"]
    for name, color in zip(("background", *CLASSES), COLORS, strict=True):
        lines.append(f"{name}:{','.join(map(str, color))}::")
    (root / "labelmap.txt").write_text("\n".join(lines) + "\n")
    for name, label in labels().items():
        png(np.array(COLORS, np.uint8)[label], root / "SegmentationClass" / f"{name}.png")


WRITERS: dict[str, Callable[[Path], None]] = {
    "coco": write_coco,
    "labelme": write_labelme,
    "cvat": write_cvat,
    "cvat_masks": write_cvat_masks,
    "labelstudio": write_labelstudio,
    "yolo": write_yolo,
    "voc": write_voc,
    "folders": write_folders,
    "colors": write_colors,
    "binary": write_binary,
}
