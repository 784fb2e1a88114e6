"""`convert_weights`: write weights as another code base's files."""

from __future__ import annotations

import logging
from argparse import ArgumentParser, Namespace
from pathlib import Path

from paddleseg_segformer.cli.common import add_import_argument, check_weights, set_up_logging
from paddleseg_segformer.errors import printable
from paddleseg_segformer.files import check_folder

logger = logging.getLogger(__name__)

TARGETS = ("paddleseg", "nvlabs", "mmseg", "hf", "smp", "rstrudel")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job's flags."""
    add = parser.add_argument
    add("source", metavar="SOURCE", help="weights of any known code base, a file or a folder")
    add(
        "dest",
        metavar="DEST",
        help="file to write, its container by the suffix (.pdparams, .safetensors, .pth, .bin), or "
        "a folder for hf, rstrudel and paddleseg",
    )
    add("--to", choices=TARGETS, required=True, help="code base whose names the weights get")
    add("--backbone_only", action="store_true", help="leave the head out")
    add_import_argument(parser)
    add("--dry_run", action="store_true", help="print what would become of each tensor, and stop")


def run(args: Namespace) -> None:
    """Convert."""
    set_up_logging()
    check_weights(args.source)
    check_folder(Path(args.dest).absolute().parent)
    from paddleseg_segformer.converting import check_written, prepare, write

    conversion = prepare(args.source, args.to, args.backbone_only)
    if args.dry_run:
        print(printable("\n".join(conversion.table())))
    logger.info("%s", conversion.summary())
    for note in conversion.notes:
        logger.warning("%s", note)
    if args.dry_run:
        return
    written = write(conversion, args.dest)
    check_written(conversion, written[0])
    for path in written:
        logger.info("%s  %.1f MiB", path, path.stat().st_size / 2**20)
