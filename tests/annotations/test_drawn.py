from __future__ import annotations

import json
from pathlib import Path

import forms
import numpy as np
import pytest
from matplotlib.patches import Ellipse, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.transforms import Affine2D
from PIL import Image

from paddleseg_segformer import UserError
from paddleseg_segformer.annotations import Options, detect, prepare
from paddleseg_segformer.annotations.drawn import box, ellipse, of_mask, polygons

coco_mask = pytest.importorskip("pycocotools.mask")

SIZE_HW = (40, 60)


def inside(outline: Outline) -> np.ndarray:
    """Return the pixels (H, W) whose centres matplotlib finds within an outline."""
    rows, columns = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]] + 0.5
    points = np.stack([columns.ravel(), rows.ravel()], axis=1)
    return outline.contains_points(points).reshape(SIZE_HW)


def differing(rle: dict, expected: np.ndarray) -> tuple[int, int]:
    """Return how many pixels are too many, and how many are missing."""
    found = coco_mask.decode(rle).astype(bool)
    return int((found & ~expected).sum()), int((expected & ~found).sum())


def test_pixels_belong_to_a_polygon_by_their_centres_without_a_bias() -> None:
    rng = np.random.default_rng(0)
    total = np.zeros(3)
    for _ in range(100):
        count = rng.integers(3, 9)
        angle = np.sort(rng.uniform(0, 2 * np.pi, count))
        radius = rng.uniform(4, 30, count)
        ring = np.stack([30 + radius * np.cos(angle), 20 + radius * np.sin(angle)], axis=1)
        expected = inside(Outline(ring))
        total += *differing(polygons([ring.tolist()], SIZE_HW, "x"), expected), expected.sum()
    more, fewer, pixels = total
    assert more + fewer < 0.03 * pixels
    assert abs(more - fewer) < 0.005 * pixels


def test_polygons_that_reach_beyond_the_image_are_cut_at_its_edges() -> None:
    rle = polygons([[(-20, -30), (30, -30), (30, 90), (-20, 90)]], SIZE_HW, "x")
    assert differing(rle, np.arange(60)[None].repeat(40, 0) < 30) == (0, 0)
    rle = polygons(
        [[(10, 10), (90, 10), (90, 20), (10, 20)], [(0, 0), (5, 0), (5, 5)]], SIZE_HW, "x"
    )
    found = coco_mask.decode(rle).astype(bool)
    assert found[10:20, 10:].all() and not found[20:].any() and found[:5, :5].any()


@pytest.mark.parametrize("rotation", [0, 30, 90, -75])
def test_boxes_and_ellipses_turn_clockwise(rotation: float) -> None:
    expected = inside(
        Affine2D()
        .rotate_deg_around(30, 20, rotation)  # y points down, so this is clockwise
        .transform_path(Rectangle((20, 14), 20, 12).get_path().transformed(
            Rectangle((20, 14), 20, 12).get_patch_transform()))
    )  # fmt: skip
    assert sum(differing(box((20, 14, 40, 26), SIZE_HW, "x", rotation), expected)) <= 4
    corner = inside(
        Affine2D()
        .rotate_deg_around(30, 20, rotation)
        .transform_path(Outline([(30, 20), (40, 20), (40, 26), (30, 26), (30, 20)]))
    )
    rle = box((30, 20, 40, 26), SIZE_HW, "x", rotation, pivot=(30, 20))
    assert sum(differing(rle, corner)) <= 4
    patch = Ellipse((30.3, 20.2), 30, 14, angle=rotation)
    oval = inside(patch.get_path().transformed(patch.get_patch_transform()))
    assert sum(differing(ellipse((30.3, 20.2), (15, 7), SIZE_HW, "x", rotation), oval)) <= 4


def test_masks_outside_the_image_are_refused() -> None:
    mask = np.ones((4, 5), bool)
    expected = np.zeros(SIZE_HW, bool)
    expected[36:, 55:] = True
    assert differing(of_mask(mask, (36, 55), SIZE_HW, "x"), expected) == (0, 0)
    for place in ((37, 55), (36, 56), (-1, 0)):
        with pytest.raises(UserError, match="x: a mask of 4x5 .* at row"):
            of_mask(mask, place, SIZE_HW, "x")


def written(root: Path) -> np.ndarray:
    """Return the converted label of the one image that has boxes and rounds."""
    prepare(detect(root, Options(val=0.34)), root.parent / f"{root.name} out")
    [path] = (root.parent / f"{root.name} out").rglob("labels/**/*third.png")
    return np.asarray(Image.open(path))


def test_boxes_and_rounds_of_each_tool_are_where_they_were_drawn(tmp_path: Path) -> None:
    ids = {name: index + 1 for index, name in enumerate(forms.CLASSES)}
    rows, columns = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]] + 0.5
    expected = np.zeros(SIZE_HW, np.uint8)
    expected[5:25, 30:50] = ids["tree"]
    expected[(columns - 20) ** 2 + (rows - 20) ** 2 <= 25] = ids["car"]

    forms.write_labelme(tmp_path / "labelme")
    path = tmp_path / "labelme" / "third.json"
    content = json.loads(path.read_text())
    content["shapes"] = [
        {"label": "tree", "shape_type": "rectangle", "points": [[50, 25], [30, 5]]},
        {"label": "car", "shape_type": "circle", "points": [[20, 20], [23, 24]]},
    ]
    path.write_text(json.dumps(content))
    np.testing.assert_array_equal(written(tmp_path / "labelme"), expected)

    forms.write_cvat(tmp_path / "cvat")
    path = tmp_path / "cvat" / "annotations.xml"
    head, _, tail = path.read_text(encoding="utf-8").partition('name="third.jpg"')
    shapes = (
        '<box label="tree" xtl="30" ytl="5" xbr="50" ybr="25" z_order="0"/>'
        '<ellipse label="car" cx="20" cy="20" rx="5" ry="5" z_order="0"/>'
    )
    size = ' width="60" height="40">'
    path.write_text(f'{head}name="third.jpg"{size}{shapes}</image></annotations>', encoding="utf-8")
    np.testing.assert_array_equal(written(tmp_path / "cvat"), expected)

    forms.write_labelstudio(tmp_path / "studio")
    path = tmp_path / "studio" / "project.json"
    tasks = json.loads(path.read_text())
    whole = {"original_width": 60, "original_height": 40, "image_rotation": 0}
    tree = {"x": 50, "y": 12.5, "width": 100 / 3, "height": 50, "rotation": 0}
    car = {"x": 100 / 3, "y": 50, "radiusX": 25 / 3, "radiusY": 12.5, "rotation": 0}
    tasks[2]["annotations"][0]["result"] = [
        {**whole, "type": "rectanglelabels", "value": {**tree, "rectanglelabels": ["tree"]}},
        {**whole, "type": "ellipselabels", "value": {**car, "ellipselabels": ["car"]}},
    ]
    path.write_text(json.dumps(tasks))
    np.testing.assert_array_equal(written(tmp_path / "studio"), expected)
