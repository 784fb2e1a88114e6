"""Training and validation sets: alike in their classes, and without images that are alike."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np

from paddleseg_segformer.annotations.source import SETS, Files, Options, Sample
from paddleseg_segformer.data.lists import read_list_text
from paddleseg_segformer.data.similar import find_pairs, find_videos
from paddleseg_segformer.errors import UserError

COLUMNS = ("image", "label", "set", "group", "reason")
TILE = re.compile(r"^(.*?)[-_ ]?[a-z]?(\d+)[-_ ,x][a-z]?(\d+)$", re.IGNORECASE)
METADATA = "metadata.csv"


@dataclass(frozen=True)
class Row:
    """One line of `split.csv`.

    Args:
        image, label: Paths, as they stand in the lists.
        set: One of `SETS`.
        group: Name of the images that are kept together.
        reason: Why the image is in this set.
    """

    image: str
    label: str
    set: str
    group: str = ""
    reason: str = ""


def needs_hashes(samples: Sequence[Sample], options: Options) -> bool:
    """Return whether images are to be compared, for nothing says which are for validation."""
    return not (options.val_by or options.val_dir or any(s.set == "val" for s in samples))


def split(
    samples: Sequence[Sample],
    files: Files,
    num_pixels: np.ndarray,
    hashes: Mapping[str, int],
    options: Options,
) -> tuple[list[Row], list[str]]:
    """Put each image into a set; the labels of the rows are left empty.

    Args:
        num_pixels: Of each sample and class, (N, K).
        hashes: Of the images that are not flat, by their path; see `data.similar`.

    Returns:
        A row for each sample, and warnings.

    Raises:
        UserError: a set would be empty, or the options name no image.
    """
    rows = [
        Row(str(s.image), "", s.set, reason="as the data has it" if s.set else "") for s in samples
    ]
    values = _by_column(rows, files, options.val_by) if options.val_by else {}
    if values and {*values.values()} <= {*SETS}:
        why = f"as {options.val_by} says"
        rows = [replace(row, set=values[row.image], reason=why) for row in rows]
    elif values:  # they say what belongs together
        rows = [replace(row, set=row.set if row.set == "test" else "", reason="") for row in rows]
    elif options.val_by or options.val_dir:
        rows = _by_name(rows, files, options)
    warnings: list[str] = []
    is_drawn = not any(row.set == "val" for row in rows)
    if options.test and not is_drawn:
        raise UserError(
            f"--test {options.test:g}: is for sets that are drawn, but validation images are named "
            "already. Leave it out."
        )
    if is_drawn:
        rows, warnings = _drawn(rows, files, num_pixels, hashes, options, values)
    rows = [
        row if row.set else replace(row, set="train", reason=row.reason or "the rest")
        for row in rows
    ]
    return rows, warnings


def refuse_empty(rows: Sequence[Row], options: Options) -> None:
    """Refuse rows of which none is for training, or none for validation."""
    counts = Counter(row.set for row in rows)
    for name in ("train", "val"):
        if not counts[name]:
            raise UserError(
                f"{len(rows)} images, none of them in the {name} set. Name others: --val 0.2, "
                f"--val_by or --val_dir (found --val {options.val:g}, --val_by "
                f"{options.val_by or 'none'}, --val_dir {options.val_dir or 'none'})."
            )


def _by_name(rows: Sequence[Row], files: Files, options: Options) -> list[Row]:
    """Return rows whose validation set is a folder, a beginning of the paths, or in a table."""
    if options.val_dir:
        folder = options.val_dir.resolve()
        chosen = {row.image for row in rows if Path(row.image).resolve().is_relative_to(folder)}
        reason = f"in {options.val_dir}"
        expected = f"a folder of images in {files.root}"
    elif "=" in options.val_by:
        column, _, value = options.val_by.partition("=")
        chosen = {image for image, v in _column(rows, files, column).items() if v == value}
        reason, expected = f"{column} is {value}", f"images listed in {METADATA}"
    else:
        chosen = {
            row.image
            for row in rows
            if files.relative(Path(row.image)).startswith(options.val_by)
            or PurePath(row.image).name.startswith(options.val_by)
        }
        reason, expected = f"begins with {options.val_by}", "the beginning of names or paths"
    if not chosen:
        flag = f"--val_dir {options.val_dir}" if options.val_dir else f"--val_by {options.val_by}"
        raise UserError(f"{flag}: fits none of {len(rows)} images, expected {expected}.")
    return [
        replace(row, set="val", reason=reason)
        if row.image in chosen
        else replace(row, set="test" if row.set == "test" else "train", reason="the rest")
        for row in rows
    ]


def _column(rows: Sequence[Row], files: Files, column: str) -> dict[str, str]:
    """Return the value of each image in a column of `metadata.csv`, of those that it lists.

    Its first column names the images: by path, name or stem.

    Raises:
        UserError: no such file or column.
    """
    path = files.root / METADATA
    table = list(csv.DictReader(io.StringIO(read_list_text(path).decode())))
    if not table or column not in table[0]:
        known = ", ".join(table[0]) if table else "none"
        raise UserError(f"{path}: has no column '{column}', it has {known}.")
    by_name = {next(iter(line.values())): line[column] or "" for line in table}
    found = {}
    for row in rows:
        image = PurePath(row.image)
        names = (files.relative(Path(row.image)), image.name, image.stem)
        if name := next((name for name in names if name in by_name), None):
            found[row.image] = by_name[name]
    return found


def _by_column(rows: Sequence[Row], files: Files, column: str) -> dict[str, str]:
    """Return the value of each image in a column that `--val_by` names; nothing if it names none.

    Raises:
        UserError: an image is not listed, or all have one value.
    """
    path = files.root / METADATA
    header = read_list_text(path).decode().partition("\n")[0] if path.is_file() else ""
    if column not in next(csv.reader([header]), [])[1:]:
        return {}
    values = _column(rows, files, column)
    if missing := [row.image for row in rows if row.image not in values]:
        raise UserError(f"{path}: has no line of {missing[0]}, expected one of each image.")
    if len({*values.values()}) < 2:
        only = next(iter(values.values()))
        raise UserError(f"--val_by {column}: is '{only}' in all of {path}, expected two values.")
    return values


def _drawn(
    rows: Sequence[Row],
    files: Files,
    num_pixels: np.ndarray,
    hashes: Mapping[str, int],
    options: Options,
    values: Mapping[str, str],
) -> tuple[list[Row], list[str]]:
    """Return rows with a validation set drawn by groups, balanced in the classes.

    Args:
        values: Of each image, by its path: those of one value stay together; empty: by `_groups`.
    """
    if not 0 < options.val < 1:
        raise UserError(f"--val: found {options.val:g}, expected a share between 0 and 1.")
    free = [index for index, row in enumerate(rows) if row.set != "test"]
    if len(free) < 2:
        raise UserError(f"{files.root}: {len(free)} images, expected two or more to split.")
    paths = [rows[index].image for index in free]
    if not 0 <= options.test < 1 - options.val:
        raise UserError(
            f"--test: found {options.test:g}, expected a share from 0 to below {1 - options.val:g}."
        )
    warnings: list[str] = []
    groups, reasons = values, dict.fromkeys(values.values(), f"the same {options.val_by}")
    if not values:
        known = {path: hashes[path] for path in paths if path in hashes}
        groups, reasons, warnings = _groups(paths, known, options)
    members: defaultdict[str, list[int]] = defaultdict(list)
    for index, path in zip(free, paths, strict=True):
        members[groups[path]].append(index)
    has_class = num_pixels > 0
    val = _balanced(members, has_class, options.val, options.seed)
    rest = {name: members[name] for name in members if name not in val}
    test = (
        _balanced(rest, has_class, options.test / (1 - options.val), options.seed)
        if options.test and len(rest) > 1
        else set()
    )
    drawn = f"drawn, seed {options.seed}"
    result = list(rows)
    for name, indices in members.items():
        set_name = "val" if name in val else "test" if name in test else "train"
        others = f"{len(indices) - 1} others ({reasons[name]})" if name in reasons else ""
        reason = drawn + (f", together with {others}" if others else "")
        for index in indices:
            result[index] = replace(rows[index], set=set_name, group=name, reason=reason)
    return result, warnings


def _groups(
    paths: Sequence[str], hashes: Mapping[str, int], options: Options
) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Return the group of each image, why groups of several are kept together, and warnings.

    Tiles of one scene form a group, and so do neighbours in a video and images that nearly equal.
    A group that is larger than either set can be is cut into pieces of neighbours.
    """
    parents = {path: path for path in paths}

    def root(path: str) -> str:
        while parents[path] != path:
            parents[path] = parents[parents[path]]
            path = parents[path]
        return path

    causes: defaultdict[str, set[str]] = defaultdict(set)
    videos = find_videos(hashes)
    frames = {path for group in videos for path in group}
    tiles = (g for g in _tiles(paths) if 2 * len(frames.intersection(g)) <= len(g))
    linked = [
        *(("tiles of one scene", group) for group in tiles),
        *(("frames of one video", group) for group in videos),
        *(("near-duplicates", group) for group in find_pairs(hashes)),
    ]
    for cause, group in linked:
        for path in group:
            causes[path].add(cause)
            first, other = sorted((root(group[0]), root(path)))
            parents[other] = first
    members: defaultdict[str, list[str]] = defaultdict(list)
    for path in sorted(paths):
        members[root(path)].append(path)
    groups: dict[str, str] = {}
    reasons: dict[str, str] = {}
    warnings = []
    most = max(1, int(min(options.val, 1 - options.val) * len(paths)))
    for first, group in members.items():
        cause = " and ".join(sorted({cause for path in group for cause in causes[path]}))
        pieces = 1
        if len(group) > max(most, 1) and len(group) > len(paths) // 2:
            pieces = min(max(round(1 / min(options.val, 1 - options.val)), 2), len(group))
            warnings.append(
                f"{len(group)} of {len(paths)} images belong together ({cause}), such as {first}: "
                f"they were cut into {pieces} pieces of neighbours, so that scores will flatter. "
                "Name a validation set of its own: --val_dir or --val_by"
            )
        for number, piece in enumerate(np.array_split(np.array(group, object), pieces)):
            name = PurePath(piece[0]).stem if pieces == 1 else f"{PurePath(first).stem}:{number}"
            name = name if name not in reasons and name not in groups.values() else str(piece[0])
            groups |= dict.fromkeys(piece.tolist(), name)
            if len(piece) > 1:
                reasons[name] = cause
    return groups, reasons, warnings


def _tiles(paths: Sequence[str]) -> list[list[str]]:
    """Return the groups of images whose names end in two numbers that fill at least half a grid."""
    scenes: defaultdict[tuple[str, str], list[tuple[str, str, str]]] = defaultdict(list)
    for path in paths:
        if match := TILE.match(PurePath(path).stem):
            scenes[str(PurePath(path).parent), match[1]].append((path, match[2], match[3]))
    found = []
    for tiles in scenes.values():
        rows, columns = {row for _, row, _ in tiles}, {column for _, _, column in tiles}
        if min(len(rows), len(columns)) > 1 and len(rows) * len(columns) <= 2 * len(tiles):
            found.append([path for path, _, _ in tiles])
    return found


def _balanced(
    members: Mapping[str, Sequence[int]], has_class: np.ndarray, share: float, seed: int
) -> set[str]:
    """Return groups that hold about `share` of the images of each class, rare classes first.

    At least one group is chosen, and at least one is not.

    Args:
        members: Indices of the samples in each group.
        has_class: (N, K), of all samples.

    Source: Sechidis et al., "On the Stratification of Multi-Label Data", 2011, with groups in
    place of samples.
    """
    names = np.random.default_rng(seed).permutation(sorted(members)).tolist()
    counts = {name: has_class[list(members[name])].sum(axis=0) for name in names}
    total = np.sum(list(counts.values()), axis=0)
    num_samples = sum(len(members[name]) for name in names)
    least = np.where(total > 1, np.maximum(share * total, 1), share * total)
    wanted = {True: least, False: total - least}  # images of each class
    room = {True: share * num_samples, False: (1 - share) * num_samples}
    chosen: dict[str, bool] = {}
    left = names
    while left:
        holders = np.sum([counts[name] > 0 for name in left], axis=0)
        if holders.any():
            rare = int(np.argmin(np.where(holders > 0, holders, len(names) + 1)))
            batch = [name for name in left if counts[name][rare]]
            batch.sort(key=lambda name: -counts[name][rare])
        else:  # images without any class
            rare, batch = None, left
        for name in batch:
            is_in = max(
                (False, True),
                key=lambda side: (0 if rare is None else wanted[side][rare], room[side]),
            )
            chosen[name] = is_in
            wanted[is_in] = wanted[is_in] - counts[name]
            room[is_in] -= len(members[name])
        left = [name for name in left if name not in chosen]
    found = {name for name in names if chosen[name]}
    if not found or len(found) == len(names):  # as of very few groups
        smallest = min(names, key=lambda name: len(members[name]))
        found = {smallest} if not found else found - {smallest}
    return found


def format_rows(rows: Sequence[Row]) -> str:
    """Return rows as the text of `split.csv`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((row.image, row.label, row.set, row.group, row.reason) for row in rows)
    return text.getvalue()


def read_rows(path: Path) -> list[Row]:
    """Read `split.csv`, which a person may have edited.

    Raises:
        UserError: other columns, or a set that is none of `SETS`; the line is named.
    """
    table = csv.DictReader(io.StringIO(read_list_text(path).decode()))
    rows = []
    for number, line in enumerate(table, 2):
        if any(line.get(name) is None for name in COLUMNS[:3]):
            raise UserError(f"{path}, line {number}: expected the columns {', '.join(COLUMNS)}.")
        if line["set"] not in SETS:
            raise UserError(
                f"{path}, line {number}: found the set {line['set']!r}, expected one of "
                f"{', '.join(SETS)}."
            )
        rows.append(Row(*(line.get(name) or "" for name in COLUMNS)))
    return rows
