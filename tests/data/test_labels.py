from __future__ import annotations

import numpy as np
import pytest

from paddleseg_segformer.data.labels import (
    COCO_STUFF_USED_IDS,
    LABEL_SETS,
    distinct_palette,
    generic_label_set,
    make_id_map,
    make_label_set,
)
from paddleseg_segformer.errors import UserError

pytestmark = pytest.mark.check


@pytest.mark.parametrize(
    ("name", "num_classes", "first", "last"),
    [
        ("cityscapes", 19, "road", "bicycle"),
        ("camvid", 11, "Sky", "Bicyclist"),
        ("ade20k", 150, "wall", "flag"),
        ("coco_stuff_182", 182, "person", "wood"),
        ("coco_stuff_171", 171, "person", "wood"),
    ],
)
def test_label_sets_are_complete(name: str, num_classes: int, first: str, last: str) -> None:
    label_set = LABEL_SETS[name]
    assert label_set.name == name and label_set.ignore_index == 255
    assert label_set.num_classes == len(set(label_set.classes)) == num_classes
    assert (label_set.classes[0], label_set.classes[-1]) == (first, last)
    assert len(label_set.palette) == num_classes
    assert label_set.colors.shape == (256, 3)
    np.testing.assert_array_equal(label_set.colors[:num_classes], label_set.palette)


def test_known_colors() -> None:
    assert LABEL_SETS["cityscapes"].palette[0] == (128, 64, 128)
    assert LABEL_SETS["camvid"].palette[10] == (0, 128, 192)
    assert LABEL_SETS["ade20k"].palette[2] == (6, 230, 230)


def test_coco_stuff_171_leaves_out_the_unused_names() -> None:
    all_names = LABEL_SETS["coco_stuff_182"].classes
    left_out = {name for index, name in enumerate(all_names) if index not in COCO_STUFF_USED_IDS}
    assert len(left_out) == 11 and {"street sign", "hair brush", "mirror"} <= left_out
    assert LABEL_SETS["coco_stuff_171"].classes[80] == "banner"
    assert all_names[91] == "banner"


def test_distinct_palette_of_a_thousand_classes() -> None:
    palette = distinct_palette(1000)
    assert palette[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert len(set(palette)) == 1000


def test_generic_label_set_of_more_than_256_classes() -> None:
    label_set = generic_label_set(300, ignore_index=65535)
    assert (label_set.num_classes, label_set.ignore_index) == (300, 65535)
    assert label_set.classes[299] == "class_299" and label_set.colors.shape == (256, 3)


def test_id_map_marks_what_it_does_not_name() -> None:
    table = make_id_map({0: 255, 7: 3})
    assert (table[0], table[7], table[255]) == (255, 3, 255)
    assert (np.delete(table, [0, 7, 255]) == 254).all()


def test_label_set_of_names_and_colors() -> None:
    label_set = make_label_set(2, ["grass", "sky"], [[1, 2, 3], [255, 0, 0]], ignore_index=9)
    assert label_set.classes == ("grass", "sky")
    assert label_set.palette == ((1, 2, 3), (255, 0, 0))
    assert label_set.ignore_index == 9
    assert make_label_set(2) == generic_label_set(2)
    assert make_label_set(2, ["grass", "sky"]).palette == generic_label_set(2).palette


@pytest.mark.parametrize(
    ("classes", "palette", "message"),
    [
        (["grass"], None, "classes: found 1 entries for 2 classes"),
        (None, [[0, 0, 0]] * 3, "palette: found 3 entries for 2 classes"),
        (None, [[0, 0, 0], [0, 0, 256]], r"palette: found \[0, 0, 256\], expected red"),
        (None, [[0, 0, 0], [0, 0]], r"palette: found \[0, 0\]"),
        (None, [[0, 0, 0], 7], "palette: found 7"),
    ],
)
def test_wrong_names_and_colors_are_refused(classes, palette, message) -> None:
    with pytest.raises(UserError, match=message):
        make_label_set(2, classes, palette)
