"""What the pixels of label images stand for: ids, grey levels, 0 and 255, or colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from paddleseg_segformer.annotations.source import IGNORED, Color, Conclusion, spread
from paddleseg_segformer.data.headers import JPEG_START, open_image
from paddleseg_segformer.data.io import color_codes, decode_label, decode_rgb, read_file
from paddleseg_segformer.data.labels import IGNORE_INDEX, LABEL_SETS, distinct_palette
from paddleseg_segformer.errors import UserError

LOOK_LABELS = 50
MAX_COLORS = 256


class LabelValues:
    """What the pixels of label images stand for.

    Args:
        kind: "ids", "levels" (grey values that stand for classes, in order), "binary" (0 and the
            highest value), or "colors".
    """

    def __init__(
        self,
        labels: Sequence[Path],
        given: str | Sequence[int],
        table: Mapping[str, Color],
        may_be_levels: bool,
    ) -> None:
        self.is_open = False
        self.palette: dict[int, Color] | None = None
        self._is_auto = given == "auto"
        self._shown: dict[int, tuple[Color, Path]] = {}  # colour of each id in palette images
        self._palettes: set[bytes] = {b""}  # that agree with it
        looked = [labels[index] for index in spread(len(labels), LOOK_LABELS)]
        self._where = f"{len(looked)} labels"
        if not isinstance(given, str):
            self._levels(list(given), "--label_values")
            return
        if given not in ("auto", "ids", "colors"):
            raise UserError(f"--label_values: found {given!r}, expected ids, colors or numbers.")
        are_colors = given == "colors" or (
            given == "auto" and (bool(table) or any(map(is_color, looked)))
        )
        if are_colors:
            self._colors(looked, table)
        else:
            self._ids(looked, given == "auto", may_be_levels)

    def raw_ids(self, path: Path) -> np.ndarray:
        """Return the raw ids (H, W) of one label image."""
        content = read_file(path)
        if content.startswith(JPEG_START):
            raise UserError(
                f"{path}: a label stored as JPEG, whose loss makes values that nobody drew. Export "
                "it again as PNG."
            )
        if self.kind == "colors":
            codes = color_codes(decode_rgb(path, content))
            ids = codes.astype(np.int32)
            for code in self._ignored:
                ids[codes == code] = IGNORED
            found = np.unique(ids)
            unknown = [] if self.is_open else sorted({*found.tolist()} - {*self.classes, IGNORED})
            if unknown or len(found) > MAX_COLORS:
                what = f"the colour {_color(unknown[0])}" if unknown else f"{len(found)} colours"
                raise UserError(
                    f"{path}: found {what}, expected one of {len(self.classes)} colours. Colours "
                    "between others come of smoothed edges or lossy files: export the labels again."
                )
            return ids
        ids = decode_label(path, content).astype(np.int32)
        if self.kind == "ids":
            if self._is_auto:
                self._check_palette(path, content)
            ids[ids == IGNORE_INDEX] = IGNORED
            if ids.min(initial=0) < IGNORED:
                raise UserError(f"{path}: found the id {ids.min()}, expected 0 or above.")
            return ids
        table = np.full(max(int(ids.max(initial=0)), *self._places) + 1, IGNORED - 1, np.int32)
        table[list(self._places)] = list(self._places.values())
        if len(table) > IGNORE_INDEX and IGNORE_INDEX not in self._places:
            table[IGNORE_INDEX] = IGNORED
        places = table[ids]
        if places.min(initial=0) < IGNORED:
            wrong = int(ids[places < IGNORED][0])
            raise UserError(
                f"{path}: found the value {wrong}, expected one of {[*self._places]}. Correct the "
                "label, or list all values: --label_values."
            )
        return places

    @cached_property
    def _places(self) -> dict[int, int]:
        return {value: index for index, value in enumerate(self._stored)}

    def _levels(self, values: list[int], reason: str) -> None:
        self.kind, self._stored = "levels", values
        self.classes = {index: f"class_{index}" for index in range(len(values))}
        self.conclusion = Conclusion(f"labels hold {values} for the classes", reason)

    def _ids(self, looked: Sequence[Path], is_auto: bool, may_be_levels: bool) -> None:
        self.kind, self.is_open = "ids", True
        values: set[int] = set()
        for path in looked:
            label = decode_label(path, read_file(path))
            values |= set(np.unique(label).tolist())
        option = "--label_values"
        highest = max(values)
        may_be_levels &= is_auto
        if may_be_levels and highest in (IGNORE_INDEX, (1 << 16) - 1) and values <= {0, highest}:
            self.kind, self.is_open, self._stored = "binary", False, [0, highest]
            self.classes = {0: "background", 1: "foreground"}
            self.conclusion = Conclusion(
                f"masks of two classes, 0 is background and {highest} is foreground",
                f"{self._where} hold these values alone",
                f"{option} ids",
            )
            return
        ids = sorted(values - {IGNORE_INDEX})
        if may_be_levels and ids[-1] >= max(8 * len(ids), 16):
            levels = ",".join(map(str, ids))
            raise UserError(
                f"{looked[0]}: the labels hold {ids} alone: grey levels that stand for "
                f"{len(ids)} classes ({option} {levels}), or ids of up to {ids[-1] + 1} classes "
                f"({option} ids)? Say which."
            )
        if not ids:
            raise UserError(
                f"{looked[0]}: the labels hold {IGNORE_INDEX} alone, which is for pixels without a "
                "class. Correct them."
            )
        for path in looked if is_auto else ():
            self._check_palette(path, read_file(path))
        self.palette = {raw_id: color for raw_id, (color, _) in self._shown.items()} or None
        self.classes = {index: f"class_{index}" for index in range(ids[-1] + 1)}
        self.conclusion = Conclusion(
            f"labels hold ids 0..{ids[-1]}" + (", 255 is ignored" * (IGNORE_INDEX in values)),
            f"{self._where} hold {_listing(sorted(values))}",
            option,
        )

    def _check_palette(self, path: Path, content: bytes) -> None:
        """Refuse a palette image in which an id has another colour than in those before."""
        if path.suffix.lower() == ".npy":
            return
        with open_image(content) as file:
            palette = file.palette.palette if file.mode == "P" and file.palette else b""
            if palette in self._palettes:
                return
            ids = np.unique(np.asarray(file)).tolist()
        table = np.frombuffer(palette[: len(palette) // 3 * 3], np.uint8).reshape(-1, 3)
        used = [raw_id for raw_id in ids if raw_id < len(table)]
        if (table[used] == table[used][:, :1]).all():  # greys, as optimisers of files write them
            return
        for raw_id in used:
            red, green, blue = table[raw_id].tolist()
            color, other = self._shown.setdefault(raw_id, ((red, green, blue), path))
            if color != (red, green, blue):
                raise UserError(
                    f"{path}: the id {raw_id} is shown as {(red, green, blue)}, but in {other} as "
                    f"{color}. Say what counts: --label_values ids or --label_values colors."
                )
        if set(range(len(table))) <= self._shown.keys():  # all of it was compared
            self._palettes.add(palette)

    def _colors(self, looked: Sequence[Path], table: Mapping[str, Color]) -> None:
        self.kind = "colors"
        found: set[int] = set()
        for path in looked:
            codes = np.unique(color_codes(decode_rgb(path, read_file(path)))).tolist()
            found |= set(codes)
            if len(codes) > MAX_COLORS or read_file(path).startswith(JPEG_START):
                raise UserError(
                    f"{path}: found {len(codes)} colours, expected one for each class. Is it a "
                    "label? Colours between others come of smoothed edges or lossy files."
                )
        named = {_code(color): name for name, color in table.items()}
        reason = f"{self._where} hold {len(found)} colours"
        if not named:
            named, source = _known_colors(found)
            reason += source
            self.is_open = not named
        if not named:
            named = {code: "background" if code == 0 else f"color_{code:06x}" for code in found}
        self._ignored = tuple(code for code, name in named.items() if not name)
        self.classes = {code: name for code, name in named.items() if name}
        self.palette = {code: _color(code) for code in self.classes}
        self.conclusion = Conclusion(
            f"labels hold colours of {len(self.classes)} classes", reason, "--label_values"
        )


def _known_colors(found: set[int]) -> tuple[dict[int, str], str]:
    """Return the names of colours that are a known data set's, and which; unnamed: ignored."""
    fitting = []
    colors = [_code(color) for color in distinct_palette(256)]
    for label_set in LABEL_SETS.values():
        named = {_code(c): n for c, n in zip(label_set.palette, label_set.classes, strict=True)}
        is_distinct = len(named) == label_set.num_classes and not named.keys() <= {*colors}
        if is_distinct and len(found & named.keys()) > 2 and found <= {*named, 0}:
            fitting.append((label_set.name, {0: ""} | named))
    if len(fitting) == 1:
        return fitting[0][1], f", all of them {fitting[0][0]}'s"
    if not fitting and len(found) > 1 and found <= {*colors}:
        ids = [colors.index(code) for code in found]
        if max((index for index in ids if index != IGNORE_INDEX), default=256) < 64:
            named = {code: f"class_{index}" for index, code in enumerate(colors[:64])}
            named[0] = "background"
            last = max(index for index in ids if index != IGNORE_INDEX)
            kept = {code: name for code, name in named.items() if colors.index(code) <= last}
            return kept | {colors[255]: ""}, ", all of them of Pascal VOC's colour map"
    return {}, ""


def is_color(path: Path) -> bool:
    """Tell whether a label image has colours in place of ids."""
    if path.suffix.lower() in (".npy", ".tif", ".tiff"):
        return False
    content = read_file(path)
    with open_image(content) as file:
        if file.mode not in ("RGB", "RGBA"):
            return False
        pixels = np.asarray(file.convert("RGB"))
    return bool((pixels != pixels[:, :, :1]).any())


def _code(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]


def _color(code: int) -> Color:
    return code >> 16, code >> 8 & 255, code & 255


def _listing(values: Sequence[int], most: int = 12) -> str:
    shown = ", ".join(map(str, values[:most]))
    return f"{shown} ..." if len(values) > most else shown
