"""Flags of jobs that evaluate models on the labelled images of a config."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from paddleseg_segformer.cli.common import (
    add_device_argument,
    add_import_argument,
    add_opts_argument,
    check_weights,
)
from paddleseg_segformer.config import load_config
from paddleseg_segformer.config.building import build_val_dataset
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import check_folder
from paddleseg_segformer.runtimes.engines import BACKENDS

if TYPE_CHECKING:
    from paddleseg_segformer.config import Config

MODEL = "a model folder, a weight file, or the folder of an export"


def add_data_arguments(parser: ArgumentParser, out: str, workers: str) -> None:
    """Add DATA and the flags that go with it.

    Args:
        out: The default folder of what is written.
        workers: What `--num_workers` counts.
    """
    add = parser.add_argument
    add("data", metavar="DATA", help="config whose val_dataset has the images: a YAML, or its name")
    add("--save_dir", default=out, help="folder of the page or picture, and of the tables")
    add_opts_argument(parser, "override values of DATA: val_dataset.dataset_root=DIR")
    add("--backend", choices=BACKENDS, default="auto", help="engine that runs exports")
    add("--num_workers", type=int, default=2, help=workers)
    add_import_argument(parser)
    add_device_argument(parser)


def load_data(args: Namespace, *models: str) -> Config:
    """Return the config of DATA, once weights, folder and data set were found to be usable.

    Raises:
        UserError: they are not.
    """
    for model in models:
        check_weights(model)
    check_folder(args.save_dir)
    config = load_config(args.data, args.opts, build_val_dataset)
    if config.val_dataset is None:
        raise UserError(f"{args.data}: has no val_dataset, on which models are evaluated. Add it.")
    return config
