"""The curves of a training run: from its `log.jsonl`, else from a VisualDL record beside it."""

from __future__ import annotations

import json
from pathlib import Path

from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError

Curves = dict[str, list[tuple[int, float]]]  # tag -> (iteration, value)


def read_curves(run_dir: Path) -> Curves:
    """Return the curves by tag (`Train/loss`, `Evaluate/mIoU` ...); none where nothing was logged.

    Raises:
        UserError: a log that is not one of a run.
    """
    log = run_dir / "log.jsonl"
    if log.is_file():
        return _from_json_lines(log)
    records = sorted(run_dir.glob("vdlrecords.*.log"))
    return _from_visualdl(records[-1]) if records else {}


def _from_json_lines(path: Path) -> Curves:
    curves: Curves = {}
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            record = json.loads(line)
            iteration = int(record["iteration"])
            for tag, value in record.items():
                if tag not in ("iteration", "time_s"):
                    curves.setdefault(tag, []).append((iteration, float(value)))
        except (ValueError, KeyError, TypeError):
            if number == len(lines):  # cut short by a kill
                break
            raise UserError(
                f"{path}, line {number}: expected an object with an iteration and numbers, as "
                "training writes them. Remove the line, or the file."
            ) from None
    return curves


def _from_visualdl(path: Path) -> Curves:
    with explained():
        from visualdl import LogReader
    reader = LogReader(file_path=str(path))
    names = {
        key.removeprefix(f"{path}/").replace("%", "/")
        for key, component in reader.tags().items()
        if component == "scalar"
    }
    return {
        tag: [(int(item.id), float(item.value)) for item in reader.get_data("scalar", tag)]
        for tag in sorted(names)
    }
