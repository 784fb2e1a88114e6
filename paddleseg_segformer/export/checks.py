"""What an export is asked for, checked before Paddle is imported."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path

from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError, did_you_mean
from paddleseg_segformer.runtimes.deploy_config import (
    ARTEFACT_FILES,
    FILE_NAME,
    FIXTURE_FILES,
    PADDLE_2_PROGRAM,
    SPEED_FILES,
)

INT8_FORMATS = ("int8", "int8_onnx")  # keys of `ARTEFACT_FILES`
WITH_PREPROCESS = "onnx_with_preprocess"  # key of `ARTEFACT_FILES`
CONVERTERS: dict[str, tuple[str, ...]] = {  # packages that make an artefact
    "paddle": (),
    "onnx": ("onnx",),
    "openvino": ("onnx", "openvino"),
    "int8": ("onnx", "openvino", "nncf"),
    "int8_onnx": ("onnx",),
    WITH_PREPROCESS: ("onnx",),
}
# packages that verify an artefact beside those that make it
VERIFIERS = dict.fromkeys(("onnx", "int8_onnx", WITH_PREPROCESS), ("onnxruntime",))


def check_formats(formats: Sequence[str]) -> None:
    """Refuse formats that are unknown, or whose packages are not installed.

    Raises:
        UserError: one of these.
    """
    if not formats:
        raise UserError(f"format: found none, expected some of {', '.join(ARTEFACT_FILES)}.")
    os.environ.setdefault("NNCF_CI", "1")  # without it NNCF sends usage data when imported
    for name in formats:
        if name not in ARTEFACT_FILES:
            raise UserError(f"format: found {name!r}.{did_you_mean(name, ARTEFACT_FILES)}")
        for package in (*CONVERTERS[name], *VERIFIERS.get(name, ())):
            with explained():
                importlib.import_module(package)


def check_save_dir(save_dir: str | os.PathLike[str]) -> None:
    """Refuse a destination that is a file, or a folder that holds anything but an export.

    Raises:
        UserError: it is one of these.
    """
    save_dir = Path(save_dir)
    if save_dir.exists() and not save_dir.is_dir():
        raise UserError(f"{save_dir}: expected a folder, found a file. Choose another save_dir.")
    if not save_dir.is_dir():
        return
    ours = {
        FILE_NAME,
        *FIXTURE_FILES,
        PADDLE_2_PROGRAM,
        *SPEED_FILES,
        *(name for files in ARTEFACT_FILES.values() for name in files),
    }
    others = sorted({item.name for item in save_dir.iterdir()} - ours)
    if others:
        more = ", ..." if len(others) > 3 else ""
        raise UserError(
            f"{save_dir}: holds other files ({', '.join(others[:3])}{more}), and an export takes a "
            "folder of its own. Choose another save_dir."
        )
