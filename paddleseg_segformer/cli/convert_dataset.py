"""`convert_dataset`: own data in any form, as labels and lists, or as VOC's or COCO's files."""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser, Namespace
from pathlib import Path

from tqdm import tqdm

from paddleseg_segformer.annotations import Detected, Prepared, detect, prepare
from paddleseg_segformer.annotations.convert import CLASSES, SECTIONS, SPLIT
from paddleseg_segformer.annotations.source import spread
from paddleseg_segformer.annotations.split import read_rows
from paddleseg_segformer.annotations.writers import WRITERS, write_as
from paddleseg_segformer.cli.annotation_flags import add_annotation_arguments, annotation_options
from paddleseg_segformer.cli.common import add_import_argument
from paddleseg_segformer.data.datasets import Dataset
from paddleseg_segformer.errors import UserError, printable
from paddleseg_segformer.files import check_folder, cut_name
from paddleseg_segformer.inference.overlay import displayable, overlay, write_image

PREVIEW = "preview"


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags."""
    add = parser.add_argument
    add("data", metavar="DATA", help="folder of your images and annotations, or annotation file")
    add("--out", metavar="DIR", help="folder of its own for what is written")
    add(
        "--to",
        choices=("folders", *WRITERS),
        default="folders",
        help="folders: labels, lists and a config's sections, beside the images where they are; "
        "voc, coco: their files, with copies of the images",
    )
    add_annotation_arguments(parser)
    add("--test", type=float, default=0.0, metavar="SHARE", help="of the images, kept for a test")
    add("--seed", type=int, default=0, help="of the split")
    add(
        "--copy_labels",
        action="store_true",
        help="write label images that hold the class ids already too, with a palette to look at",
    )
    add(
        "--preview",
        type=int,
        default=0,
        metavar="N",
        help=f"also draw N labels over their images, into {PREVIEW}/",
    )
    add("--num_workers", type=int, default=2, help="threads that read files")
    add("--dry_run", action="store_true", help="print what is concluded, and write nothing")
    add_import_argument(parser)


def run(args: Namespace) -> None:
    """Print what was concluded, and convert."""
    if not args.dry_run and not args.out:
        raise UserError("--out is missing. Name a folder, or see what is concluded: --dry_run.")
    if args.to != "folders" and (args.preview or args.bands):
        raise UserError(f"--to {args.to}: excludes --preview and --bands. Leave them out.")
    if args.out:
        check_folder(args.out)
    detected = detect(args.data, annotation_options(args))
    print(printable("\n".join(detected.lines())))
    if args.dry_run:
        return
    if args.to == "folders":
        prepared = _prepared(detected, Path(args.out), args)
        _draw(prepared, args.preview)
        written = f"{SPLIT} (edit it, and run again), {CLASSES}, and for configs {SECTIONS}"
    else:
        with tempfile.TemporaryDirectory() as folder:
            prepared = _prepared(detected, Path(folder) / "data", args)
            write_as(prepared, args.to, Path(args.out))
        written = "copies of the images"
    for text in prepared.warnings[len(detected.warnings) :]:
        print(printable(f"warning: {text}"))
    counts = ", ".join(f"{count} {name}" for name, count in prepared.num_samples.items())
    print(printable(f"{args.out}: {counts}; {len(prepared.classes)} classes; {written}"))


def _prepared(detected: Detected, folder: Path, args: Namespace) -> Prepared:
    return prepare(
        detected,
        folder,
        copy_labels=args.copy_labels,
        num_threads=max(1, args.num_workers),
        show_progress=True,
    )


def _draw(prepared: Prepared, count: int) -> None:
    """Draw some labels over their images; pixels that do not count are black."""
    rows = [row for row in read_rows(prepared.root / SPLIT) if row.set != "test"]
    datasets = {
        mode: Dataset(
            transforms=[],
            **{key: value for key, value in prepared.section(mode).items() if key != "type"},
        )
        for mode in (("train", "val") if count else ())
    }
    for index in tqdm(spread(len(rows), count), unit="picture", disable=not count):
        row = rows[index]
        dataset = datasets[row.set]
        sample = dataset.read_files(str(prepared.root / row.image), str(prepared.root / row.label))
        assert sample.label is not None
        picture = overlay(displayable(sample.image), sample.label, dataset.label_set)
        picture[sample.label == dataset.ignore_index] = 0
        name = f"{index:06d}_{cut_name(Path(row.image).stem)}.jpg"
        write_image(prepared.root / PREVIEW / name, picture)
