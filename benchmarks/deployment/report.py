"""The matrix as a Markdown table and as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.deployment.deployments import MIN_AGREEMENT, TIMERS
from benchmarks.deployment.material import Images
from benchmarks.deployment.matrix import Row
from paddleseg_segformer.files import write_text

COLUMNS = (
    "deployment",
    "runs in",
    "precision",
    "timed",
    "ms per image",
    "network alone",
    "peak MiB",
    "equal labels",
    "worst image",
    "mIoU",
)


def markdown(rows: Sequence[Row], images: Images, machine: dict[str, Any], threads: int) -> str:
    """Return the table, and below it what its columns mean and which deployments gave nothing."""
    tried = [row for row in rows if row.outcome is not None]
    cells = [COLUMNS, *(_cells(row, tried[0]) for row in tried)]
    if images.labels is None:
        cells = [line[:-1] for line in cells]
    lines = _aligned(cells)
    sizes = f"{len(images.paths)} image{'s' * (len(images.paths) > 1)}"
    reference = tried[0].name if tried else "none"
    lines += [
        "",
        f"{sizes}, {threads} thread{'s' * (threads > 1)}, {machine['processor']}, "
        f"{machine['cores']} cores. Times are medians; equal labels: share of all pixels that have "
        f"the label of `{reference}` (exact deployments: at least {MIN_AGREEMENT:.2%}), and of the "
        "image that agrees least; peak: the most memory the process ever held.",
        "",
    ]
    used = dict.fromkeys(row.deployment.timer for row in tried)
    lines += [f"- timed `{timer}`: {TIMERS[timer]}" for timer in used]
    lines += [f"- `{row.name}` not run: {row.missing}" for row in rows if row.missing]
    lines += [f"- `{row.name}` failed: {row.error}" for row in rows if row.error]
    engines = [f"`{row.name}` {row.outcome.engine}" for row in tried if row.outcome]
    lines.append(f"- engines: {'; '.join(engines) or 'none'}")
    return "\n".join(lines) + "\n"


def _cells(row: Row, reference: Row) -> tuple[str, ...]:
    outcome, deployment = row.outcome, row.deployment
    assert outcome is not None
    return (
        f"{deployment.title} `{row.name}`",
        deployment.platform,
        deployment.precision,
        deployment.timer,
        f"{outcome.ms:.1f}",
        "-" if outcome.network_ms is None else f"{outcome.network_ms:.1f}",
        f"{outcome.peak_mib:.0f}",
        _percent(row.agreement),
        _percent(row.worst_agreement),
        _miou(row.miou, reference.miou),
    )


def _percent(share: float | None) -> str:
    """Return a share in per cent; "100" for all of it alone, however few pixels are missing."""
    if share is None:
        return "-"
    return "100 %" if share == 1 else f"{min(1e2 * share, 99.99999):.5f} %"


def _miou(miou: float | None, reference: float | None) -> str:
    if miou is None:
        return "-"
    text = f"{100 * miou:.2f}"
    if reference is None or abs(miou - reference) < 5e-5:
        return text
    return f"{text} ({100 * (miou - reference):+.2f})"


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table that can be read as text, too."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * width for width in widths]
    lines = [cells[0], rule, *cells[1:]]
    return [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    ]


def write_json(
    path: str | os.PathLike[str],
    rows: Sequence[Row],
    images: Images,
    machine: dict[str, Any],
    threads: int,
    command: str,
) -> None:
    """Write everything that was found."""
    found = [{**asdict(row), "fault": row.fault} for row in rows]
    for fields in found:
        fields["way"] = fields.pop("deployment")  # a key of the file from before
    report = {
        "command": command,
        "machine": machine,
        "threads": threads,
        "images": images.sources,
        "min_agreement": MIN_AGREEMENT,
        "timers": TIMERS,
        "ways": found,
    }
    write_text(path, json.dumps(report, indent=1, allow_nan=False))
