"""Flags and setup shared by several jobs."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import sys
import warnings
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from paddleseg_segformer.errors import UserError, printable
from paddleseg_segformer.files import check_folder
from paddleseg_segformer.zoo import find_model

if TYPE_CHECKING:
    from paddleseg_segformer.config import Config


def add_config_arguments(parser: ArgumentParser, required: bool = True) -> None:
    """Add `--config`, `--opts`, `--import` and `--device`."""
    parser.add_argument(
        "--config",
        required=required,
        help="YAML file, or the name of a packaged config such as "
        "segformer_b2_cityscapes_1024x1024_160k"
        + ("" if required else "; by default the one of the weights"),
    )
    add_opts_argument(
        parser,
        "override config values: train_dataset.dataset_root=DIR "
        "train_dataset.transforms.0.prob=0.3",
    )
    add_import_argument(parser)
    add_device_argument(parser)


def add_opts_argument(parser: ArgumentParser, help: str) -> None:
    """Add `--opts`, values that replace some of a config's."""
    parser.add_argument(
        "--opts", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=help
    )


def check_numbers(args: Namespace, **least: int) -> None:
    """Refuse flags below their least value.

    Raises:
        UserError: one is; it is named.
    """
    for name, minimum in least.items():
        values = getattr(args, name)
        for found in values if isinstance(values, list) else [values]:
            if found < minimum:
                raise UserError(f"--{name}: found {found}, expected {minimum} or more.")


def add_import_argument(parser: ArgumentParser) -> None:
    """Add `--import`, which `cli.main` handles before the job."""
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="module or .py file of yours that registers components (see docs/extending.md); "
        "repeatable",
    )


def add_device_argument(parser: ArgumentParser) -> None:
    """Add `--device`."""
    parser.add_argument(
        "--device",
        help="cpu, gpu, gpu:1, xpu ...; by default the GPU if Paddle has one, or the CPU",
    )


def add_model_path_argument(parser: ArgumentParser, more: str = "") -> None:
    """Add `--model_path`."""
    parser.add_argument(
        "--model_path",
        help="weights: .pdparams, a model folder, a Hugging Face folder, .pth or .safetensors of "
        f"another code base, or a name of list_models{more}",
    )


def check_weights(source: str | None) -> None:
    """Refuse weights that are not there, before Paddle is imported; URLs are left for later.

    Raises:
        UserError: no such file or folder.
    """
    if source and "://" not in source and not os.path.exists(source) and not find_model(source):
        raise UserError(
            f"{source}: no such weight file. Name a file, a folder, a URL, which is downloaded "
            "into $PADDLESEG_SEGFORMER_HOME or ~/.cache/paddleseg_segformer, or a model that "
            "list_models knows."
        )


def check_outputs(*files: str | None) -> None:
    """Refuse files that could not be written when all has been computed."""
    for file in files:
        if file and os.path.isdir(file):
            raise UserError(f"{file}: expected a file, found a folder. Choose another name.")
        if file:
            check_folder(Path(file).absolute().parent)


def load_config_from(
    args: Namespace, check_parts: Callable[[Config], object] | None = None
) -> Config:
    """Load the config of `--config`, or the one of `--model_path`, with `--opts`.

    Args:
        check_parts: as of `load_config`.

    Raises:
        UserError: neither flag, no such config or weights, or the config's mistakes.
    """
    from paddleseg_segformer.config import load_config

    check_weights(getattr(args, "model_path", None))
    if args.config:
        config = load_config(args.config, args.opts, check_parts)
    elif args.model_path:
        from paddleseg_segformer.model_folder import config_of

        config = config_of(args.model_path, args.opts)
    else:
        raise UserError("--config is missing. Only weights with a config beside them need none.")
    return with_imports(config, args.imports)


def with_imports(config: Config, imports: list[str]) -> Config:
    """Return the config with the modules of `--import` noted in it."""
    needed = dict.fromkeys([*(config.needs_import or ()), *imports])
    return dataclasses.replace(config, needs_import=list(needed) or None)


def set_device(device: str | None) -> str:
    """Select Paddle's device; return its name.

    Raises:
        UserError: this Paddle has no such device.
    """
    import paddle

    if device is None:
        return paddle.get_device()
    try:
        return paddle.set_device(device)
    except (ValueError, RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"--device {device}: not available ({reason}). This Paddle offers "
            f"{paddle.get_device()}."
        ) from None


class _Console(logging.StreamHandler):  # subscripted from Python 3.11 on
    """Standard output, beside bars of tqdm; what a bar shows is left to it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(record, "is_in_bar", False)

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        with tqdm.external_write_mode(self.stream):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Go on where messages cannot be written; the end of the job tells."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def set_up_logging() -> None:
    """Log this package's messages to standard output, one time-stamped line each."""
    warnings.filterwarnings("ignore", "When training, we now always track global mean")  # Paddle's
    warnings.filterwarnings("ignore", module="PIL")  # damaged files are reported by their names
    handler = _Console(sys.stdout)
    handler.setFormatter(_Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
    package = logging.getLogger("paddleseg_segformer")
    package.handlers = [handler]
    package.setLevel(
        logging.INFO if os.environ.get("PADDLE_TRAINER_ID", "0") == "0" else logging.WARNING
    )
    package.propagate = False


def size_hw(text: str) -> tuple[int, int]:
    """Return (height, width) of `512` or `512x1024`."""
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text)
    if not match:
        raise ArgumentTypeError(f"found {text!r}, expected a side or HEIGHTxWIDTH in px")
    return int(match[1]), int(match[2] or match[1])


def true_or_false(text: str) -> bool:
    """Return what `True` or `False` says, as PaddleSeg's flags have it."""
    if text.lower() not in ("true", "false"):
        raise ArgumentTypeError(f"found {text!r}, expected True or False")
    return text.lower() == "true"
