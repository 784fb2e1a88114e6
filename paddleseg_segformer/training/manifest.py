"""A folder's manifest: size and checksum of each of its files, and facts about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import sha256, write_text

NAME = "manifest.json"


def write_manifest(folder: Path, **facts: Any) -> None:
    """Write the manifest of the files in `folder`; the last file that is written there."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.iterdir())
        if path.name != NAME
    }
    write_text(folder / NAME, json.dumps({**facts, "files": files}, indent=2) + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of `folder` without looking at the files.

    Raises:
        UserError: there is none, or it is not one.
    """
    path = folder / NAME
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, expected the list of the folder's files.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise UserError(f"{path}: found no `files`, expected the list of the folder's files.")
    return manifest


def verify_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of `folder` after comparing each file with it.

    Raises:
        UserError: there is no manifest, or a file is missing or not the one that was written.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: no such file, but {NAME} lists it.")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise UserError(f"{path}: found {size} bytes, expected {expected['bytes']}.")
        if sha256(path) != expected["sha256"]:
            raise UserError(f"{path}: damaged; its checksum is not the one in {NAME}.")
    return manifest
