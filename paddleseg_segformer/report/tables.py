"""The figures beside a page: CSV and JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def write_csv(
    folder: Path, name: str, header: Sequence[str], rows: Iterable[Iterable[Any]]
) -> None:
    """Write a table; a cell without a number stays empty."""
    with open(folder / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            cells = [f"{x:.6g}" if isinstance(x, float) else x for x in map(plain, row)]
            writer.writerow(["" if cell is None else cell for cell in cells])


def write_json(folder: Path, name: str, content: dict[str, Any]) -> None:
    """Write plain data."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / f"{name}.json").write_text(text, encoding="utf-8")


def plain(value: Any) -> Any:
    """Return arrays and NumPy's numbers as plain data for JSON; NaN becomes None."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return plain(value.tolist())
    return None if isinstance(value, float) and np.isnan(value) else value
