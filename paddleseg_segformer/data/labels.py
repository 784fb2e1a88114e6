"""Label sets: names and colours of the class ids in label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from paddleseg_segformer.data.lists import read_list_text
from paddleseg_segformer.errors import UserError

IGNORE_INDEX = 255
NO_CLASS = 254  # the id that an id map gives to stored ids that must not occur


@dataclass(frozen=True)
class LabelSet:
    """The classes of a data set.

    Args:
        name: Key in `LABEL_SETS`.
        classes: Class names; the position is the id.
        palette: One RGB colour in 0..255 per class.
        ignore_index: The id of pixels that do not count in loss and metrics.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int = IGNORE_INDEX

    @property
    def num_classes(self) -> int:
        """Return the number of classes, K."""
        return len(self.classes)

    @cached_property
    def colors(self) -> np.ndarray:
        """Return a uint8 RGB colour (256, 3) for every 8-bit id; ids without a class are black."""
        colors = np.zeros((256, 3), np.uint8)
        shown = self.palette[:256]
        colors[: len(shown)] = shown
        return colors


def distinct_palette(num_colors: int) -> tuple[tuple[int, int, int], ...]:
    """Return distinct colours; the first one is black.

    The bits of an id go to red, green and blue in turn, from the highest bit down.

    Source: the colour map of the PASCAL VOC development kit.
    """
    ids = np.arange(num_colors)
    colors = np.zeros((num_colors, 3), np.int64)
    for level in range(8):
        for channel in range(3):
            colors[:, channel] |= ((ids >> (3 * level + channel)) & 1) << (7 - level)
    return tuple((int(red), int(green), int(blue)) for red, green, blue in colors)


def generic_label_set(num_classes: int, ignore_index: int = IGNORE_INDEX) -> LabelSet:
    """Return a label set with classes named by their ids, for data whose classes have no names."""
    names = tuple(f"class_{index}" for index in range(num_classes))
    return LabelSet("generic", names, distinct_palette(num_classes), ignore_index)


def class_names(path: str) -> list[str]:
    """Return the names in a file with a name a line."""
    lines = read_list_text(Path(path)).decode().split("\n")
    return [line.strip() for line in lines if line.strip()]


def make_label_set(
    num_classes: int,
    classes: Sequence[str] | str | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> LabelSet:
    """Return a label set of given names and colours; by default the generic ones.

    Args:
        classes: One name per class, or the path of a file with a name a line.
        palette: One RGB colour in 0..255 per class.

    Raises:
        UserError: not one name or colour for each class.
    """
    label_set = generic_label_set(num_classes, ignore_index)
    if isinstance(classes, str):
        classes = class_names(classes)
    for name, values in (("classes", classes), ("palette", palette)):
        if values is not None and len(values) != num_classes:
            raise UserError(
                f"{name}: found {len(values)} entries for {num_classes} classes, expected one each."
            )
    if classes is not None:
        label_set = replace(label_set, classes=tuple(str(name) for name in classes))
    if palette is not None:
        label_set = replace(label_set, palette=tuple(_color(color) for color in palette))
    return label_set


def _color(values: Sequence[int], name: str = "palette") -> tuple[int, int, int]:
    """Return one colour of the list `name`."""
    is_rgb = isinstance(values, Sequence) and len(values) == 3
    if not is_rgb or not all(type(value) is int and 0 <= value <= 255 for value in values):
        raise UserError(f"{name}: found {values!r}, expected red, green and blue in 0..255.")
    red, green, blue = values
    return red, green, blue


def mark_unknown(
    label: np.ndarray, confidence: np.ndarray, limits: np.ndarray, label_set: LabelSet
) -> np.ndarray:
    """Return class ids (H, W) with `ignore_index` where the confidence is lower than a limit.

    Args:
        label: Class ids (H, W).
        confidence: (H, W), 0..1.
        limits: One for all classes, or one for each, (K,).
        label_set: Of the classes.

    Raises:
        UserError: `ignore_index` is the id of a class, or not one limit for each class.
    """
    if limits.ndim and limits.shape != (label_set.num_classes,):
        raise UserError(
            f"min_confidence: found {limits.size} numbers, expected one, or one for each of "
            f"the {label_set.num_classes} classes."
        )
    unknown = label_set.ignore_index
    if not label_set.num_classes <= unknown <= 65535:
        raise UserError(
            f"min_confidence: ignore_index {unknown} is a class, or no id of 16 bits, so it "
            "cannot mark unknown pixels. Choose another ignore_index in the data set."
        )
    is_class = label < label_set.num_classes
    if limits.ndim:
        limits = limits[np.where(is_class, label, 0)]
    label = label if unknown <= np.iinfo(label.dtype).max else np.int32(label)
    return np.where(~is_class | (confidence < limits), label.dtype.type(unknown), label)


def make_id_map(train_ids: Mapping[int, int]) -> np.ndarray:
    """Return the uint8 table (256,) of a map from stored to training ids.

    `IGNORE_INDEX` is unchanged; ids that the map does not name become `NO_CLASS`.
    """
    table = np.full(256, NO_CLASS, np.uint8)
    table[IGNORE_INDEX] = IGNORE_INDEX
    table[list(train_ids)] = list(train_ids.values())
    return table


def reduced_id_map(num_classes: int, ignore_index: int = IGNORE_INDEX) -> np.ndarray:
    """Return the id map of label files with 0 for no class and 1..K for the classes.

    Raises:
        UserError: more classes than 8-bit files can hold, or another ignore_index.
    """
    if num_classes > NO_CLASS or ignore_index != IGNORE_INDEX:
        raise UserError(
            f"reduce_zero_label: found {num_classes} classes and ignore_index {ignore_index}, "
            f"expected at most {NO_CLASS} classes and ignore_index {IGNORE_INDEX}."
        )
    return make_id_map({0: IGNORE_INDEX} | {index + 1: index for index in range(num_classes)})


def value_map(
    values: Sequence[int], num_classes: int, ignore_index: int = IGNORE_INDEX
) -> np.ndarray:
    """Return the id map of label files that hold `values[id]` for the class `id`.

    Raises:
        UserError: not one value of 0..255 for each class, or one twice, or another ignore_index.
    """
    is_fitting = all(type(value) is int and 0 <= value <= 255 for value in values)
    if not is_fitting or len({*values}) != num_classes or len(values) != num_classes:
        raise UserError(
            f"label_values: found {list(values)}, expected {num_classes} different values of "
            "0..255, one for each class."
        )
    if num_classes > NO_CLASS or ignore_index != IGNORE_INDEX:
        raise UserError(
            f"label_values: found {num_classes} classes and ignore_index {ignore_index}, expected "
            f"at most {NO_CLASS} classes and ignore_index {IGNORE_INDEX}."
        )
    return make_id_map({value: index for index, value in enumerate(values)})


def color_map(
    colors: Sequence[Sequence[int]], num_classes: int, ignore_index: int = IGNORE_INDEX
) -> np.ndarray:
    """Return the id map of labels whose ids are positions in `colors`; those from K on are ignored.

    Raises:
        UserError: fewer colours than classes, no colours, or one twice, or another ignore_index.
    """
    found = [_color(color, "label_colors") for color in colors]
    if not num_classes <= len(found) <= NO_CLASS or len({*found}) != len(found):
        raise UserError(
            f"label_colors: found {len(found)} colours for {num_classes} classes, expected one for "
            f"each, then those without a class, at most {NO_CLASS}, and none twice."
        )
    if ignore_index != IGNORE_INDEX:
        raise UserError(
            f"label_colors: found ignore_index {ignore_index}, expected {IGNORE_INDEX}."
        )
    ids = range(len(found))
    return make_id_map({index: index if index < num_classes else IGNORE_INDEX for index in ids})


def _names(text: str) -> tuple[str, ...]:
    """Return the comma-separated names of a table below."""
    return tuple(name.strip() for name in text.replace("\n", " ").split(",") if name.strip())


def _colors(text: str) -> tuple[tuple[int, int, int], ...]:
    """Return the RGB colours of a table of hexadecimal `rrggbb`."""
    rows = (bytes.fromhex(word) for word in text.split())
    return tuple((row[0], row[1], row[2]) for row in rows)


_CITYSCAPES_CLASSES = """
    road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation,
    terrain, sky, person, rider, car, truck, bus, train, motorcycle, bicycle
"""
_CITYSCAPES_COLORS = """
    804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98 4682b4 dc143c ff0000
    00008e 000046 003c64 005064 0000e6 770b20
"""

_CAMVID_CLASSES = """
    Sky, Building, Pole, Road, Pavement, Tree, SignSymbol, Fence, Car, Pedestrian, Bicyclist
"""
_CAMVID_COLORS = """
    808080 800000 c0c080 804080 3c28de 808000 c08080 404080 400080 404000 0080c0
"""

_ADE20K_CLASSES = """
    wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk,
    person, earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa,
    shelf, house, sea, mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp,
    bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter, sand,
    sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case,
    pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table,
    toilet, flower, book, hill, bench, countertop, stove, palm, kitchen island, computer,
    swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck, tower, chandelier,
    awning, streetlight, booth, television receiver, airplane, dirt track, apparel, pole, land,
    bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain,
    conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall,
    tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot,
    animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase,
    traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower,
    radiator, glass, clock, flag
"""
_ADE20K_COLORS = """
    787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d
    787846 08ff33 ff0652 8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0
    0907e6 dcdcdc ff095c 7009ff 08ffd6 07ffe0 ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06
    ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff 8c8c8c fa0a0f 14ff00 1fff00
    ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff 0bc8c8 ff5200 00fff5 003dff 00ff70
    00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99
    ff5c00 ff00ff ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2 00ff52
    000aff 0070ff 3300ff 00c2ff 007aff 00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00
    08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070 5cff00 00e0ff 70e0ff 46b8a0 a300ff
    9900ff 47ff00 ff00a3 ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500 0abed4 d6ff00
    00ccff 1400ff ffff00 0099ff 0029ff 00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8
    005cff b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
"""

# In the order of the ids 1..182 of COCO-Stuff; its label images hold id - 1, and 255 for none.
_COCO_STUFF_CLASSES = """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light,
    fire hydrant, street sign, stop sign, parking meter, bench, bird, cat, dog, horse, sheep,
    cow, elephant, bear, zebra, giraffe, hat, backpack, umbrella, shoe, eye glasses, handbag,
    tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove,
    skateboard, surfboard, tennis racket, bottle, plate, wine glass, cup, fork, knife, spoon,
    bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair,
    couch, potted plant, bed, mirror, dining table, window, desk, toilet, door, tv, laptop,
    mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, blender,
    book, clock, vase, scissors, teddy bear, hair drier, toothbrush, hair brush, banner,
    blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet,
    ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff,
    dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood,
    flower, fog, food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house,
    leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement,
    pillow, plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock,
    roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone,
    straw, structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick,
    wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other,
    waterdrops, window-blind, window-other, wood
"""
# Names that COCO-Stuff numbers but never uses; without them 171 classes are left.
_COCO_STUFF_UNUSED = """
    street sign, hat, shoe, eye glasses, plate, mirror, window, desk, door, blender, hair brush
"""

_COCO_STUFF_182 = _names(_COCO_STUFF_CLASSES)
COCO_STUFF_USED_IDS = tuple(
    index for index, name in enumerate(_COCO_STUFF_182) if name not in _names(_COCO_STUFF_UNUSED)
)
_COCO_STUFF_PALETTE = distinct_palette(len(_COCO_STUFF_182) + 1)[1:]  # black is for no class

LABEL_SETS: dict[str, LabelSet] = {
    label_set.name: label_set
    for label_set in (
        LabelSet("cityscapes", _names(_CITYSCAPES_CLASSES), _colors(_CITYSCAPES_COLORS)),
        LabelSet("camvid", _names(_CAMVID_CLASSES), _colors(_CAMVID_COLORS)),
        LabelSet("ade20k", _names(_ADE20K_CLASSES), _colors(_ADE20K_COLORS)),
        LabelSet("coco_stuff_182", _COCO_STUFF_182, _COCO_STUFF_PALETTE),
        LabelSet(
            "coco_stuff_171",
            tuple(_COCO_STUFF_182[index] for index in COCO_STUFF_USED_IDS),
            tuple(_COCO_STUFF_PALETTE[index] for index in COCO_STUFF_USED_IDS),
        ),
    )
}


def palette_of(classes: Sequence[str]) -> list[list[int]] | None:
    """Return the colours of the data set whose classes have these names; None if none has."""
    names = [name.lower() for name in classes]
    for label_set in LABEL_SETS.values():
        if [name.lower() for name in label_set.classes] == names:
            return [list(color) for color in label_set.palette]
    return None
