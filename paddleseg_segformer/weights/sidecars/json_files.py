"""The JSON files of a Hugging Face folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import write_text

NO_HUB = "Models on the hub are downloaded first: hf download {0} --local-dir FOLDER"


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of keys and values.

    Raises:
        UserError: no such file, or not such a file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{path}: no such file. {NO_HUB.format(path.parent)}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: found {type(content).__name__}, expected keys and values.")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file of keys and values, sorted as transformers sorts them."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
