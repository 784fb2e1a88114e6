"""Images and label images in folders: which label belongs to which image, and what it holds."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from paddleseg_segformer.annotations.classes import read_table
from paddleseg_segformer.annotations.images import read_header
from paddleseg_segformer.annotations.label_values import LabelValues, is_color
from paddleseg_segformer.annotations.source import (
    LOOK,
    SETS,
    Annotations,
    Color,
    Conclusion,
    Files,
    Options,
    Sample,
    spread,
)
from paddleseg_segformer.components import names_of
from paddleseg_segformer.data.headers import JPEG_START, open_image
from paddleseg_segformer.data.io import color_codes, read_file
from paddleseg_segformer.data.labels import (
    class_names,
)
from paddleseg_segformer.data.lists import read_list_text, split_items
from paddleseg_segformer.errors import UserError

NAMES = "classes.txt"  # of the ids, beside the labels
TABLES = ("label_colors.txt", "labelmap.txt", "class_dict.csv")  # of colours, beside the labels
LABEL_WORDS = (
    "labels?|masks?|annotations?|annots?|ann|gt|ground[-_ ]?truths?|seg|segmentations?|targets?|"
    "trimaps?|mattes?|segmentationclass|pngmasks"
)
IMAGE_WORDS = "images?|imgs?|jpegimages|photos?|pictures?|frames?|inputs?|rgb|sat|jpgs?"
SET_WORDS = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "valset"), "val"),
    **dict.fromkeys(("test", "testing", "testset"), "test"),
}
IN_LABEL_FOLDER = re.compile(rf"(?:^|[-_. ])({LABEL_WORDS})(?=$|[-_. ])|(?<=[a-z])(annot)$", re.I)
IN_IMAGE_FOLDER = re.compile(rf"(?:^|[-_. ])({IMAGE_WORDS})(?=$|[-_. ])", re.I)
LABEL_NAME = re.compile(rf"[-_. ]({LABEL_WORDS})$|(?-i:_L)$|^({LABEL_WORDS})[-_. ]", re.I)
IMAGE_NAME = re.compile(rf"[-_. ]({IMAGE_WORDS})$|^({IMAGE_WORDS})[-_. ]", re.I)

Pair = tuple[Path, Path]


class Folders(Annotations):
    """Images, and label images of ids, of colours, or of 0 and 255, with names alike."""

    @classmethod
    def recognise(cls, files: Files) -> str:
        return ""  # it is what is left

    def __init__(self, files: Files, options: Options) -> None:
        pairs, self.warnings, conclusion = _paired(files, options)
        if not pairs:
            raise UserError(
                f"{files.root}: recognised no annotations among {len(files.all)} files, "
                f"{len(files.rasters)} of them images. Known forms: "
                f"{', '.join(names_of('annotation_format'))}. Say the form by --format, or how "
                "label images are called: --labels '{stem}_mask.png'."
            )
        sets = _listed_sets(files)
        samples = [
            Sample(image, label, _set_of(files.relative(image), sets)) for image, label in pairs
        ]
        table = read_table(options.classes)
        conclusions = [conclusion]
        if not options.classes and any(is_color(label) for _, label in pairs[:LOOK]):
            for beside in (files.root / name for name in TABLES):
                if beside.is_file() and (named := read_table(beside)).colors:
                    table = named
                    conclusions.append(
                        Conclusion("classes by their colours", str(beside), "--classes")
                    )
                    break
        self.open(samples, options.label_values, table.colors)
        names = files.root / NAMES
        if self.holds_ids and names.is_file() and not options.classes:
            self.classes = {**self.classes, **dict(enumerate(class_names(str(names))))}
            conclusions.append(Conclusion("classes by their ids", str(names), "--classes"))
        self.conclusions = [*conclusions, *self.conclusions]

    def open(
        self,
        samples: Sequence[Sample],
        label_values: str | Sequence[int],
        colors: Mapping[str, Color],
        may_be_levels: bool = True,
    ) -> None:
        """Set the samples, and look at what their labels hold.

        Args:
            label_values: As of `Options`.
            colors: Of the classes, where they are known.
            may_be_levels: Whether labels may hold grey levels, such as 0 and 255, for classes.
        """
        self.samples = samples
        labels = [sample.annotation for sample in samples if sample.annotation]
        self._values = LabelValues(labels, label_values, colors, may_be_levels)
        self.classes, self.palette = self._values.classes, self._values.palette
        self.is_open = self._values.is_open
        self.holds_ids = self._values.kind == "ids"
        self.conclusions = [self._values.conclusion]

    def size_hw(self, index: int) -> tuple[int, int] | None:
        path = self.samples[index].annotation
        return read_header(path).size_hw if path else None

    def label(self, index: int, size_hw: tuple[int, int]) -> np.ndarray:
        path = self.samples[index].annotation
        assert path is not None
        return self._values.raw_ids(path)

    def name_of(self, raw_id: int) -> str:
        return f"color_{raw_id:06x}" if self._values.kind == "colors" else f"class_{raw_id}"


# --- pairs


def _paired(files: Files, options: Options) -> tuple[list[Pair], list[str], Conclusion]:
    """Return the pairs of image and label, warnings about orphans, and how they were found.

    Raises:
        UserError: an image with two labels, or a label with two images; both are named.
    """
    if options.labels:
        pattern = _template(options.labels)
        label_files = [path for path in files.rasters if pattern.search(files.relative(path))]
        reason = f"--labels {options.labels}"
    else:
        listed = _listed_pairs(files)
        if listed:
            reason = "lists of images and labels"
            return (
                listed,
                [],
                Conclusion(f"{len(listed)} pairs of image and label", reason, "--labels"),
            )
        label_files, reason = _label_files(files)
    chosen = set(label_files)
    others = [path for path in files.rasters if path not in chosen]
    if options.labels:  # else they are by other signs
        others = [path for path in others if not _is_named_label(files, path)] or others
    images = _by_key(files, others)
    labels = _by_key(files, label_files, options.labels)
    if not images.keys() & labels.keys():  # folders differ in more than their kind
        images, labels = _by_stem(images), _by_stem(labels)
    for key in sorted(images.keys() & labels.keys()):
        _refuse_two(files, images[key], labels[key])
    by_stem: defaultdict[str, list[str]] = defaultdict(list)
    for key in images.keys() & labels.keys():
        by_stem[key.rpartition("/")[2]].append(key)
    for key in sorted(labels.keys() - images.keys()):  # of a second folder of labels
        *folders, stem = key.split("/")
        for other in by_stem[stem]:
            if {*other.split("/")[:-1]} <= {*folders}:
                _refuse_two(files, images[other], [*labels[other], *labels[key]])
    pairs = sorted((images[key][0], labels[key][0]) for key in images.keys() & labels.keys())
    warnings = []
    for kind, found, partners in (("image", images, labels), ("label", labels, images)):
        alone = sorted(path for key in found.keys() - partners.keys() for path in found[key])
        if alone and pairs:
            other = "label" if kind == "image" else "image"
            warnings.append(
                f"{len(alone)} {kind}s without {other} are left out, such as {alone[0]}"
            )
    example = " with ".join(map(files.relative, pairs[0])) if pairs else ""
    text = f"{len(pairs)} pairs of image and label, such as {example}"
    return pairs, warnings, Conclusion(text, reason, "--labels")


def _label_files(files: Files) -> tuple[list[Path], str]:
    """Return the files that are labels by their folder, their name, or else what they hold."""
    named = [path for path in files.rasters if _is_named_label(files, path)]
    if named and len(named) < len(files.rasters):
        return named, "by their names"
    stems: defaultdict[str, list[Path]] = defaultdict(list)
    for path in files.rasters:
        stems[path.stem].append(path)
    twins = [paths for paths in stems.values() if len(paths) == 2]
    if len(twins) * 2 < len(files.rasters) or not twins:
        return [], ""
    looked = [twins[index] for index in spread(len(twins), 5)]
    by_kind = {  # folder and suffix -> whether it looks like a label
        (path.parent, path.suffix): _looks_like_label(path) for pair in looked for path in pair
    }
    found = [
        path for pair in twins for path in pair if by_kind.get((path.parent, path.suffix), False)
    ]
    if len(found) != len(twins):
        one, other = looked[0]
        raise UserError(
            f"{one} and {other}: either may be the label. Say which: --labels "
            f"'{files.relative(other.with_name('{stem}' + other.suffix))}'."
        )
    return found, "by the few values in them"


def _is_named_label(files: Files, path: Path) -> bool:
    """Tell whether a file's folder or name says that it is a label."""
    for part in reversed(files.relative(path).split("/")[:-1]):
        if IN_IMAGE_FOLDER.search(part):
            break
        if IN_LABEL_FOLDER.search(part):
            return True
    return bool(LABEL_NAME.search(path.stem))


def _looks_like_label(path: Path) -> bool:
    """Tell whether an image is without loss and holds few values, in areas."""
    content = read_file(path)
    if path.suffix.lower() == ".npy" or content.startswith(JPEG_START):
        return False
    with open_image(content) as file:
        if file.mode in ("P", "1"):
            return True
        pixels = np.asarray(file.convert("RGB"))
    return len(np.unique(color_codes(pixels))) <= 64


def _by_key(files: Files, paths: Iterable[Path], template: str = "") -> dict[str, list[Path]]:
    """Return files by their path without what tells images from labels."""
    pattern = _template(template) if template else None
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for path in paths:
        *folders, _ = files.relative(path).split("/")
        kept = [_stripped(part, IN_LABEL_FOLDER, IN_IMAGE_FOLDER) for part in folders]
        if pattern and (match := pattern.search(files.relative(path))):
            stem = match["stem"]
        else:
            stem = _stripped(path.stem, LABEL_NAME, IMAGE_NAME)
        found["/".join([*(part for part in kept if part), stem])].append(path)
    return dict(found)


def _by_stem(keyed: Mapping[str, list[Path]]) -> dict[str, list[Path]]:
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for key, paths in keyed.items():
        found[key.rpartition("/")[2]] += paths
    return dict(found)


def _stripped(text: str, *patterns: re.Pattern[str]) -> str:
    """Return a name without the words of the patterns; the whole name if nothing were left."""
    for pattern in patterns:
        text = pattern.sub("", text)
    return text.strip("-_. ")


def _template(text: str) -> re.Pattern[str]:
    """Return the pattern of a template such as `masks/{stem}_mask.png`.

    Raises:
        UserError: it does not hold `{stem}` once.
    """
    if text.count("{stem}") != 1:
        raise UserError(f"--labels: found {text!r}, expected {{stem}} once, as in {{stem}}_m.png.")
    before, after = (re.escape(part).replace(r"\*", "[^/]*") for part in text.split("{stem}"))
    return re.compile(rf"(?:^|/){before}(?P<stem>[^/]+){after}$")


def _refuse_two(files: Files, images: Sequence[Path], labels: Sequence[Path]) -> None:
    """Refuse an image with two labels, or a label with two images."""
    if len(labels) > 1:
        one, other = (files.relative(path) for path in labels[:2])
        stem = images[0].stem
        ways = " or ".join(f"--labels '{_as_template(path, stem)}'" for path in (one, other))
        raise UserError(
            f"{images[0]}: has {len(labels)} labels, {one} and {other}. Say which are "
            f"meant: {ways}."
        )
    if len(images) > 1:
        raise UserError(
            f"{labels[0]}: may be the label of {images[0]} and of {images[1]}. Remove one of the "
            "two, or give them different names."
        )


def _as_template(path: str, stem: str) -> str:
    folder, _, name = path.rpartition("/")
    name = name.replace(stem, "{stem}") if stem in name else "{stem}" + PurePosixPath(name).suffix
    return f"{folder.rpartition('/')[2]}/{name}".lstrip("/")


# --- sets


def _listed_pairs(files: Files) -> list[Pair]:
    """Return the pairs in the lists `train.txt`, `val.txt` and `test.txt`, if they hold pairs."""
    pairs = []
    for path in _lists(files):
        for line in read_list_text(path).decode().split("\n"):
            items = split_items(line)
            found = [files.root / item for item in items]
            if len(items) == 2 and all(item.is_file() for item in found):
                pairs.append((found[0], found[1]))
            elif items:
                return []
    return pairs


def _lists(files: Files) -> list[Path]:
    named = (files.root / f"{name}.txt" for name in SETS)
    return [path for path in named if path.is_file()]


def _listed_sets(files: Files) -> dict[str, str]:
    """Return the set of each image, by its path or stem, that is in a list of a set's name."""
    sets: dict[str, str] = {}
    for path in _lists(files):
        for line in read_list_text(path).decode().split("\n"):
            items = split_items(line)
            if items and sets.setdefault(items[0], path.stem) != path.stem:
                raise UserError(
                    f"{path}: {items[0]} is in {sets[items[0]]}.txt too. Remove one of the two."
                )
    return sets


def _set_of(relative: str, listed: Mapping[str, str]) -> str:
    """Return the set of an image, by lists if there are any, else by its folders; or nothing."""
    path = PurePosixPath(relative)
    if listed:
        names = (relative, path.name, path.stem)
        return next((listed[name] for name in names if name in listed), "")
    for part in path.parts[:-1]:
        for word in re.split(r"[-_. ]", _stripped(part, IN_LABEL_FOLDER, IN_IMAGE_FOLDER).lower()):
            name = SET_WORDS.get(re.sub(r"\d+$", "", word))
            if name:
                return name
    return ""
