"""Classes: a person's names, colours and merging, and the id that each raw id becomes."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paddleseg_segformer.annotations.source import (
    IGNORED,
    NOTHING,
    Annotations,
    Color,
    Conclusion,
    Options,
)
from paddleseg_segformer.data.labels import IGNORE_INDEX, distinct_palette
from paddleseg_segformer.data.lists import read_list_text
from paddleseg_segformer.errors import UserError, did_you_mean
from paddleseg_segformer.yaml_files import read_yaml

NOT_COUNTED = "__ignore__"  # LabelMe's name of pixels that do not count
IGNORE = "ignore"  # in place of a new name: pixels of the class do not count
COVERED = 0.85  # of the pixels: more are annotations of whole scenes
BACKGROUNDS = ("background", "_background_", "__background__", "bg")
COLORED = (  # CVAT's labelmap.txt, and CamVid's label_colors.txt
    re.compile(r"^(?P<name>[^:]+):(?P<r>\d+),(?P<g>\d+),(?P<b>\d+)(?::.*)?$"),
    re.compile(r"^(?P<r>\d+)\s+(?P<g>\d+)\s+(?P<b>\d+)\s+(?P<name>.+)$"),
)


@dataclass(frozen=True)
class Table:
    """What a file of classes says.

    Args:
        names: In the order of the ids, where the file lists names.
        colors: Of names, where it lists colours.
        renamed: Old name or id -> new name or `IGNORE`, where it maps.
    """

    names: tuple[str, ...] = ()
    colors: Mapping[str, Color] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)


def read_table(path: Path | None) -> Table:
    """Read a file of classes; none says nothing.

    A `.txt` holds a name a line, in the order of the ids, or `name:r,g,b` (CVAT's labelmap.txt), or
    `r g b name` (CamVid's label_colors.txt). A `.csv` holds lines `name,r,g,b`. A `.yml` maps names
    or ids to new names, to `ignore`, or to colours [r, g, b].

    Raises:
        UserError: no such file, or another content; the line is named.
    """
    if path is None:
        return Table()
    suffix = path.suffix.lower()
    if suffix in (".yml", ".yaml"):
        content = {str(key): value for key, value in read_yaml(path).items()}
        if content and all(isinstance(value, list) for value in content.values()):
            colors = {name: _color(value, f"{path}: {name}") for name, value in content.items()}
            return Table(tuple(colors), colors)
        return Table(renamed={key: _new_name(value, path, key) for key, value in content.items()})
    lines = [line.strip() for line in read_list_text(path).decode().split("\n")]
    if suffix == ".csv":
        rows = [row for row in csv.reader(io.StringIO("\n".join(lines))) if row]
        if rows and not any(item.strip().isdigit() for item in rows[0]):  # a header
            rows = rows[1:]
        colors = {}
        for row in rows:
            if len(row) != 4:
                raise UserError(f"{path}: found {','.join(row)!r}, expected name,red,green,blue.")
            colors[row[0].strip()] = _color(row[1:], f"{path}: {row[0]}")
        return Table(tuple(colors), colors)
    lines = [line for line in lines if line and not line.startswith("#")]
    matches = [next(filter(None, (form.match(line) for form in COLORED)), None) for line in lines]
    if any(matches):
        colors = {}
        for line, match in zip(lines, matches, strict=True):
            if not match:
                raise UserError(f"{path}: found {line!r}, expected name:red,green,blue.")
            colors[match["name"].strip()] = _color(match.group("r", "g", "b"), f"{path}: {line}")
        return Table(tuple(colors), colors)
    lines = [line.rstrip(":") for line in lines]  # of a labelmap.txt without colours
    twice = {name for name in lines if lines.count(name) > 1}
    if twice or not lines:
        found = f"the class '{min(twice)}' twice" if twice else "no names"
        raise UserError(f"{path}: found {found}, expected the name of each class once.")
    return Table(tuple(lines))


def _color(values: Any, where: str) -> Color:
    texts = [str(value).strip() for value in values]
    if len(texts) != 3 or not all(text.isdigit() and int(text) <= 255 for text in texts):
        raise UserError(f"{where}: found {values!r}, expected red, green and blue in 0..255.")
    red, green, blue = map(int, texts)
    return red, green, blue


def _new_name(value: Any, path: Path, key: str) -> str:
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise UserError(
            f"{path}: {key}: found {value!r}, expected a class's new name, or {IGNORE}."
        )
    return str(value)


@dataclass(frozen=True)
class ClassMap:
    """The classes of the labels, and how they come of raw ids.

    Args:
        names: The position is the id.
        ids: Of each raw id; `IGNORE_INDEX` where its pixels do not count.
        unlabelled: Id of pixels that nothing was drawn on.
        palette: Colour of each id.
        conclusions: With their reasons.
    """

    names: tuple[str, ...]
    ids: Mapping[int, int]
    unlabelled: int
    palette: tuple[Color, ...]
    conclusions: tuple[Conclusion, ...] = ()

    @property
    def is_identity(self) -> bool:
        """Return whether raw ids are the ids."""
        return all(raw_id == new for raw_id, new in self.ids.items())

    def apply(self, raw: np.ndarray) -> np.ndarray:
        """Return the ids (H, W) uint8 of raw ids (H, W).

        Raises:
            KeyError: a raw id that the map does not hold.
        """
        known = {**self.ids, NOTHING: self.unlabelled, IGNORED: IGNORE_INDEX}
        found, places = np.unique(raw, return_inverse=True)
        table = np.array([known[value] for value in found.tolist()], np.uint8)
        return table[places].reshape(raw.shape)


def make_class_map(
    annotations: Annotations, options: Options, covered: float, further: Iterable[int] = ()
) -> ClassMap:
    """Return the classes of annotations as a person's file and `background` have them.

    Args:
        covered: Share of the pixels that something was drawn on.
        further: Raw ids in labels that `annotations.classes` does not hold.

    Raises:
        UserError: names in the file that are none, classes that it leaves out, or too many.
    """
    table = read_table(options.classes)
    named = dict(annotations.classes)
    missing = sorted(set(further) - named.keys())
    if annotations.holds_ids and missing:  # ids in between are classes without pixels
        missing = [raw_id for raw_id in range(missing[-1] + 1) if raw_id not in named]
    named |= {raw_id: annotations.name_of(raw_id) for raw_id in missing}
    if not table.names and annotations.is_open:
        named = dict(sorted(named.items()))
    renamed = {
        raw_id: IGNORE if name == NOT_COUNTED else name
        for raw_id, name in _renamed(named, table, options, annotations.is_open).items()
    }
    background, conclusions = _background(annotations, renamed, options, covered)
    order = list(dict.fromkeys(name for name in renamed.values() if name != IGNORE))
    if table.names and not annotations.is_open:
        order = sorted(order, key=table.names.index)
    elif table.names and annotations.holds_ids:
        order = list(table.names)
    if background and background not in order:
        order = [background, *order]
    if not 1 <= len(order) <= IGNORE_INDEX:
        raise UserError(
            f"found {len(order)} classes, expected 1 to {IGNORE_INDEX}. Merge some by a file: "
            "--classes FILE with lines `old: new`."
        )
    ids = {
        raw_id: IGNORE_INDEX if name == IGNORE else order.index(name)
        for raw_id, name in renamed.items()
    }
    unlabelled = order.index(background) if background else IGNORE_INDEX
    palette = _palette(order, renamed, annotations.palette, table)
    return ClassMap(tuple(order), ids, unlabelled, palette, tuple(conclusions))


def _renamed(
    named: Mapping[int, str], table: Table, options: Options, is_open: bool
) -> dict[int, str]:
    """Return the new name of each raw id."""
    if table.renamed:
        old = {*named.values(), *map(str, named)}
        if unknown := sorted(table.renamed.keys() - old):
            raise UserError(
                f"{options.classes}: the data has no class '{unknown[0]}'."
                f"{did_you_mean(unknown[0], set(named.values()))}"
            )
        return {
            raw_id: table.renamed.get(name, table.renamed.get(str(raw_id), name))
            for raw_id, name in named.items()
        }
    if table.names and is_open and not table.colors:  # names of ids
        if len(named) > len(table.names):
            raise UserError(
                f"{options.classes}: names {len(table.names)} classes, but the labels hold the id "
                f"{max(named)}. Add the names that are missing."
            )
        return {raw_id: table.names[raw_id] for raw_id in named}
    if table.names and not table.colors:
        if len(table.names) == len(named) and all(
            name == f"class_{raw_id}" for raw_id, name in named.items()
        ):
            return {raw_id: table.names[raw_id] for raw_id in named}
        known = {*table.names, NOT_COUNTED}
        if unknown := [name for name in named.values() if name not in known]:
            raise UserError(
                f"{options.classes}: does not name the class '{unknown[0]}' of the data."
                f"{did_you_mean(unknown[0], table.names)} Add it, or leave it out by a file with "
                f"the line `{unknown[0]}: {IGNORE}`."
            )
    return dict(named)


def _background(
    annotations: Annotations, renamed: Mapping[int, str], options: Options, covered: float
) -> tuple[str, list[Conclusion]]:
    """Return the class of pixels that nothing was drawn on, or nothing; and why."""
    option, chosen = "--background NAME|none", options.background
    if not annotations.is_drawn:
        if chosen not in ("auto", "none", *renamed.values()):
            raise UserError(
                f"--background: found '{chosen}', but every pixel of a label image has a value. "
                "Name the classes: --classes FILE."
            )
        return "", []
    if chosen != "auto":
        return ("" if chosen == "none" else chosen), []
    of_form = annotations.background
    known = next((name for name in renamed.values() if name.lower() in BACKGROUNDS), of_form)
    if known:
        reason = "the annotations have this class"
        return known, [Conclusion(f"unlabelled pixels are '{known}'", reason, option)]
    drawn = f"{covered:.0%} of the pixels that were looked at are annotated"
    if covered < COVERED:
        text = "unlabelled pixels are a class of their own, 'background'"
        return "background", [Conclusion(text, drawn, option)]
    return "", [Conclusion("unlabelled pixels do not count (255)", drawn, option)]


def _palette(
    order: list[str],
    renamed: Mapping[int, str],
    given: Mapping[int, Color] | None,
    table: Table,
) -> tuple[Color, ...]:
    """Return a colour for each class: the table's, the form's, else distinct ones."""
    colors = dict(table.colors)
    for raw_id, color in (given or {}).items():
        if raw_id in renamed:
            colors.setdefault(renamed[raw_id], color)
    if not colors:
        return distinct_palette(len(order))
    free = (c for c in distinct_palette(256) if c not in colors.values())
    return tuple(colors[name] if name in colors else next(free) for name in order)
