"""What a folder of images and annotations holds, in seconds and without Paddle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paddleseg_segformer.annotations.classes import ClassMap, make_class_map
from paddleseg_segformer.annotations.images import ImageFacts, look_at_images, read_header
from paddleseg_segformer.annotations.source import (
    NOTHING,
    SETS,
    Annotations,
    Color,
    Conclusion,
    Files,
    Options,
    Sample,
    spread,
)
from paddleseg_segformer.components import names_of, resolve
from paddleseg_segformer.data.values import DeclaredRange
from paddleseg_segformer.errors import UserError

MAX_NAMES = 20  # that are shown
LOOK_COVERED = 20  # labels of which the share of annotated pixels is taken


@dataclass(frozen=True)
class Detected:
    """What was concluded of a data set, of some of its files; `convert.prepare` reads them all.

    Args:
        root: Folder of the data set.
        format: Form of the annotations, a name of `annotation_format`.
        annotations: Opened in this form.
        options: That were given.
        class_map: Of the labels that were looked at.
        covered: Share of their pixels that something was drawn on.
        images: What the images have in common.
        exif_orientation: Whether labels fit images as their EXIF turns them.
        conclusions: Each with its reason, and the option that overrides it.
        warnings: What a person is to look at.
    """

    root: Path
    format: str
    annotations: Annotations
    options: Options
    class_map: ClassMap
    covered: float
    images: ImageFacts
    exif_orientation: bool
    conclusions: tuple[Conclusion, ...]
    warnings: tuple[str, ...]

    @property
    def samples(self) -> Sequence[Sample]:
        """Return the images and their annotation files."""
        return self.annotations.samples

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes; the position is the id."""
        return self.class_map.names

    @property
    def palette(self) -> tuple[Color, ...]:
        """Return the colour of each class."""
        return self.class_map.palette

    @property
    def in_channels(self) -> int:
        """Return how many bands a network is given."""
        return self.images.in_channels

    @property
    def dtype(self) -> str:
        """Return the type of the stored values, as NumPy names it."""
        return self.images.dtype

    @property
    def value_range(self) -> DeclaredRange | None:
        """Return what the values mean, as `data.Dataset` takes it."""
        return self.images.value_range

    @property
    def sizes_hw(self) -> Mapping[tuple[int, int], int]:
        """Return how many of the images that were looked at have each size."""
        return self.images.sizes_hw

    def lines(self) -> list[str]:
        """Return the conclusions and warnings as text."""
        return [str(item) for item in self.conclusions] + [f"warning: {x}" for x in self.warnings]


def detect(data: str | Path, options: Options | None = None) -> Detected:
    """Conclude what a data set holds.

    Args:
        data: Its folder, or the one annotation file that is meant.
        options: What is not to be concluded.

    Raises:
        UserError: there is no such folder, no form of annotations is recognised, or several are;
            a file is damaged; what may be read in two ways names both.
    """
    options = options or Options()
    files = Files.of(Path(data))
    is_archive = Path(data).is_file() and files.only is None
    name, reason = _format(files, options)
    annotations = _component(name)(files, options)
    if not annotations.samples:
        reasons = "; ".join(annotations.warnings) or "Check the folder"
        raise UserError(f"{data}: found no image with annotations ({name}). {reasons}.")
    warnings = list(annotations.warnings)
    used = {sample.image for sample in annotations.samples}
    unused = [path for path in files.rasters if path not in used]
    if annotations.is_drawn and unused:
        warnings.append(
            f"{len(unused)} images without annotations are left out, such as {unused[0]}"
        )
    images = look_at_images([sample.image for sample in annotations.samples], options)
    exif_orientation, conclusion = _orientation(annotations, options)
    covered = _covered(annotations, exif_orientation)
    class_map = make_class_map(annotations, options, covered)
    names = ", ".join(class_map.names[:MAX_NAMES]) + " ..." * (len(class_map.names) > MAX_NAMES)
    counts = {name: sum(s.set == name for s in annotations.samples) for name in ("", *SETS)}
    conclusions = [
        *([Conclusion(f"unpacked into {files.root}", f"{data} is an archive")] * is_archive),
        Conclusion(f"annotations are {name}", reason, "--format"),
        *annotations.conclusions,
        Conclusion(
            f"{len(class_map.names)} classes: {names}",
            "as the annotations have them" if not options.classes else str(options.classes),
            "--classes",
        ),
        *class_map.conclusions,
        *images.conclusions,
        *([conclusion] if conclusion else []),
    ]
    if counts["val"]:
        found = ", ".join(f"{count} {name}" for name, count in counts.items() if name and count)
        conclusions.append(
            Conclusion(
                f"the split of the data is kept: {found}",
                "its folders or lists",
                "--val_by or --val_dir",
            )
        )
    return Detected(
        files.root,
        name,
        annotations,
        options,
        class_map,
        covered,
        images,
        exif_orientation,
        tuple(conclusions),
        tuple(warnings),
    )


def _format(files: Files, options: Options) -> tuple[str, str]:
    """Return the name of the form, and why it is this one."""
    if options.format != "auto":
        return options.format, "as was said"
    if options.labels:
        return "folders", f"--labels {options.labels}"
    found = {}
    for name in names_of("annotation_format"):
        if name != "folders" and (reason := _component(name).recognise(files)):
            found[name] = reason
    if not found:
        return "folders", "files of no other form are there"
    if len(found) > 1:
        ways = "; ".join(f"--format {name} ({reason})" for name, reason in found.items())
        raise UserError(f"{files.root}: holds annotations of several forms. Say which: {ways}.")
    return next(iter(found.items()))


def _component(name: str) -> type[Annotations]:
    component = resolve("annotation_format", name)
    if not (isinstance(component, type) and issubclass(component, Annotations)):
        raise UserError(
            f"annotation_format '{name}': found {component!r}, expected a class derived from "
            "paddleseg_segformer.annotations.Annotations."
        )
    return component


def _covered(annotations: Annotations, exif_orientation: bool) -> float:
    """Return the share of the pixels that something was drawn on, in some of the labels."""
    if not annotations.is_drawn:
        return 1.0
    total = covered = 0
    for index in spread(len(annotations.samples), LOOK_COVERED):
        header = read_header(annotations.samples[index].image)
        size_hw = header.turned_hw if exif_orientation else header.size_hw
        if annotations.size_hw(index) not in (None, size_hw):
            continue  # it is refused when all are read
        raw = annotations.label(index, size_hw)
        total += raw.size
        covered += int(np.count_nonzero(raw != NOTHING))
    return covered / max(total, 1)


def _orientation(annotations: Annotations, options: Options) -> tuple[bool, Conclusion | None]:
    """Return whether labels fit images as their EXIF turns them; both is refused."""
    if options.exif != "auto":
        if options.exif not in ("turned", "stored"):
            raise UserError(f"--exif: found {options.exif!r}, expected auto, turned or stored.")
        return options.exif == "turned", None
    turned: list[Path] = []
    stored: list[Path] = []
    unclear: list[Path] = []
    for index in spread(len(annotations.samples)):
        path = annotations.samples[index].image
        header = read_header(path)
        if header.turn == 1:
            continue
        claimed = annotations.size_hw(index)
        if header.size_hw == header.turned_hw or claimed is None:
            unclear.append(path)
        elif claimed == header.turned_hw:
            turned.append(path)
        elif claimed == header.size_hw:
            stored.append(path)
    if turned and stored:
        raise UserError(
            f"{turned[0]} is annotated as its EXIF turns it, but {stored[0]} as it is stored. Say "
            "which is meant for all: --exif turned or --exif stored."
        )
    if not (turned or stored or unclear):
        return True, None
    looked = len(turned) + len(stored) + len(unclear)
    text = "labels fit images as " + ("they are stored" if stored else "their EXIF turns them")
    reason = f"{looked} images are turned" + (
        f", of {len(unclear)} the sizes do not tell" if unclear else ""
    )
    return not stored, Conclusion(text, reason, "--exif")
