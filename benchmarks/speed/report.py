"""What was measured, as a table, as JSON and as a picture."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import lru_cache
from statistics import median
from typing import Any

import numpy as np

from benchmarks.speed.cases import ENGINES, TASKS, Setting
from benchmarks.speed.runner import Group, Measurement, Plan
from paddleseg_segformer.files import atomic_path, write_text

TRAINING_PASSES = 3  # one forward, and about two in the backward pass
OURS = "ours"  # how the names of our engines begin

COLUMNS = (
    "engine",
    "median ms",
    "min",
    "quartiles",
    "cpu ms",
    "speed",
    "x floor",
    "peak MiB",
    "beyond empty",
    "labels",
    "max |d logit|",
)


def base_of(group: Group, base: str) -> Measurement | None:
    """Return the float32 case of the engine that the others are compared with."""
    return next(
        (
            item
            for item in group.measurements
            if item.case.engine == base and item.case.precision == "fp32" and not item.error
        ),
        None,
    )


def speed(measurement: Measurement, base: Measurement) -> float:
    """Return how many times as fast as the base: the median over the rounds of the ratio of both.

    The two passes of a round are a moment apart, so that a change of the machine's load touches
    both.
    """
    pairs = zip(base.ms, measurement.ms, strict=True)
    return median(base_ms / own_ms for base_ms, own_ms in pairs)


@lru_cache
def gmacs(setting: Setting) -> float:
    """Return the multiply-accumulates of one pass of our network, 1e9.

    For the tail: two for each class and pixel, as resizing one axis takes.
    """
    from paddleseg_segformer.analysis.complexity import build_published, count_macs

    if setting.task == "tail":
        return 2 * setting.batch * setting.num_classes * float(np.prod(setting.image_hw)) / 1e9
    model = build_published(setting.variant, setting.num_classes)
    passes = setting.num_passes * (TRAINING_PASSES if setting.task == "train" else 1)
    return passes * count_macs(model, setting.size_hw).total() / 1e9


def floor_ms(group: Group) -> float:
    """Return the time of these multiply-accumulates at the rate of the large matrix product."""
    return 2e3 * gmacs(group.setting) / max(group.gflop_s)


@lru_cache
def traffic_gb(setting: Setting) -> float | None:
    """Return the activations of one pass of our network, 1e9 bytes; only where it is the network's.

    Each is written once and read once, as the large copy does (see `analysis.complexity`).
    """
    from paddleseg_segformer.analysis.complexity import activation_bytes, build_published

    if setting.task in ("train", "tail"):
        return None
    model = build_published(setting.variant, setting.num_classes)
    return setting.num_passes * sum(activation_bytes(model, setting.size_hw).values()) / 1e9


def traffic_ms(group: Group) -> float | None:
    """Return the time of that traffic at the rate of the large copy."""
    traffic = traffic_gb(group.setting)
    return None if traffic is None else 1e3 * traffic / max(group.copy_gb_s)


def best_of(group: Group, is_ours: bool, precision: str) -> Measurement | None:
    """Return the case with the least median among our engines, or among the others."""
    items = [
        item
        for item in group.measurements
        if not item.error
        and item.case.engine.startswith(OURS) == is_ours
        and item.case.precision == precision
    ]
    return min(items, key=lambda item: median(item.ms), default=None)


def comparisons(group: Group) -> dict[str, float]:
    """Return our best engine in each precision against the best float32 one of the others.

    And ours against PaddleSeg's model, engine by engine. All are quotients of medians.
    """
    best_peer = best_of(group, False, "fp32")
    found: dict[str, float] = {}
    for precision in dict.fromkeys(item.case.precision for item in group.measurements):
        best = best_of(group, True, precision)
        if best and best_peer:
            found[_against(best, best_peer)] = median(best_peer.ms) / median(best.ms)
    for own in group.measurements:
        twin = base_of(group, own.case.engine.replace(OURS, "paddleseg", 1))
        if own.case.engine.startswith(OURS) and twin and not own.error:
            found[_against(own, twin)] = median(twin.ms) / median(own.ms)
    return found


def ladder(groups: Sequence[Group]) -> str:
    """Return how many times as fast ours is as the best float32 case of the others, by setting.

    By least times, with the quotient of medians in brackets; engines of windows each against its
    own as well.
    """
    precisions = list(
        dict.fromkeys(item.case.precision for group in groups for item in group.measurements)
    )
    rows = [("", "best of the others", "ms", *precisions)]
    for group in groups:
        peer = best_of(group, False, "fp32")
        if peer is None:
            continue
        ours = [best_of(group, True, precision) for precision in precisions]
        rows.append(_ladder_row(str(group.setting).partition("  batch")[0], peer, ours))
        for engine in dict.fromkeys(item.case.engine for item in group.measurements):
            twin = base_of(group, engine.replace(OURS, "paddleseg", 1))
            if group.setting.task == "slide" and engine.startswith(OURS) and twin:
                by_precision = {
                    item.case.precision: item
                    for item in group.measurements
                    if item.case.engine == engine and not item.error
                }
                title = f"  {ENGINES[engine].title}"
                rows.append(_ladder_row(title, twin, [by_precision.get(p) for p in precisions]))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _ladder_row(
    title: str, peer: Measurement, ours: Sequence[Measurement | None]
) -> tuple[str, ...]:
    cells = [
        f"{min(peer.ms) / min(item.ms):.2f} ({median(peer.ms) / median(item.ms):.2f})"
        if item
        else "-"
        for item in ours
    ]
    return (title, peer.case.title, f"{min(peer.ms):.0f}", *cells)


def _against(own: Measurement, other: Measurement) -> str:
    return f"{own.case.title} against {other.case.title}"


def to_dict(group: Group, base: str) -> list[dict[str, Any]]:
    """Return one plain record per case."""
    against = base_of(group, base)
    return [_record(group, item, against) for item in group.measurements]


def _record(group: Group, item: Measurement, against: Measurement | None) -> dict[str, Any]:
    record: dict[str, Any] = {
        **item.case.to_dict(),
        "title": item.case.title,
        "output": ENGINES[item.case.engine].output,
        "gmacs_rewritten": gmacs(group.setting),
        "machine_gflop_s": max(group.gflop_s, default=None),
        "machine_copy_gb_s": max(group.copy_gb_s, default=None),
        "traffic_ms": traffic_ms(group) if group.copy_gb_s else None,
        "error": item.error,
    }
    if item.error is not None:
        return record
    first, middle, third = np.percentile(item.ms, (25, 50, 75))
    return {
        **record,
        "ms": item.ms,
        "median_ms": middle,
        "min_ms": min(item.ms),
        "quartiles_ms": [first, third],
        "median_cpu_ms": median(item.cpu_ms),
        "speed_vs_base": speed(item, against) if against else None,
        "floor_ms": floor_ms(group),
        "times_floor": middle / floor_ms(group),
        "load_s": item.load_s,
        "peak_mib": item.peak_mib,
        "beyond_empty_mib": item.beyond_empty_mib,
        "label_agreement": item.label_agreement,
        "max_logit_difference": item.max_logit_difference,
    }


def write_json(
    path: str | os.PathLike[str],
    groups: Sequence[Group],
    base: str,
    plan: Plan,
    machine: dict[str, object],
    command: str,
) -> None:
    """Write everything that was measured."""
    report = {
        "command": command,
        "machine": machine,
        "tasks": {name: TASKS[name] for name in dict.fromkeys(g.setting.task for g in groups)},
        "base": base,
        "comparisons": {str(group.setting): comparisons(group) for group in groups},
        "repeats": plan.repeats,
        "warmup": plan.warmup,
        "cases": [record for group in groups for record in to_dict(group, base)],
    }
    write_text(path, json.dumps(report, indent=1, allow_nan=False))


def table(group: Group, base: str) -> str:
    """Return one setting's figures as text."""
    lines = [f"\n{group.setting}\n  {TASKS[group.setting.task]}"]
    if group.gflop_s:
        traffic = traffic_ms(group)
        lines.append(
            f"  machine: {max(group.gflop_s):.0f} GFLOP/s (matrix product), "
            f"{max(group.copy_gb_s):.1f} GB/s (copy); floor: {gmacs(group.setting):.2f} GMACs = "
            f"{floor_ms(group):.1f} ms; "
            + (f"activations copied once: {traffic:.1f} ms; " if traffic else "")
            + f"speed: against {ENGINES[base].title}"
        )
    records = to_dict(group, base)
    rows = [COLUMNS, *(_cells(record) for record in records if record["error"] is None)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  " + "  ".join([row[0].ljust(widths[0]), *cells]))
    lines += [f"  {r['title']}: failed: {r['error']}" for r in records if r["error"] is not None]
    lines += [f"  {ratio:.2f} times: {names}" for names, ratio in comparisons(group).items()]
    return "\n".join(lines)


def _cells(record: dict[str, Any]) -> tuple[str, ...]:
    low, high = record["quartiles_ms"]
    agreement, difference = record["label_agreement"], record["max_logit_difference"]
    return (
        record["title"],
        f"{record['median_ms']:.1f}",
        f"{record['min_ms']:.1f}",
        f"{low:.1f}..{high:.1f}",
        f"{record['median_cpu_ms']:.1f}",
        "-" if record["speed_vs_base"] is None else f"{record['speed_vs_base']:.2f}",
        f"{record['times_floor']:.1f}",
        f"{record['peak_mib']:.0f}",
        f"{record['beyond_empty_mib']:.0f}",
        "-" if agreement is None else f"{agreement:.4%}",
        "-" if difference is None else f"{difference:.1e}",
    )


def write_plot(path: str | os.PathLike[str], groups: Sequence[Group]) -> None:
    """Draw the medians, quartiles as whiskers, one panel per setting."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        len(groups),
        figsize=(9, sum(1.2 + 0.32 * len(group.measurements) for group in groups)),
        squeeze=False,
        layout="constrained",
    )
    for panel, group in zip(panels[:, 0], groups, strict=True):
        items = [item for item in group.measurements if not item.error][::-1]
        medians = [median(item.ms) for item in items]
        quartiles = np.array([np.percentile(item.ms, (25, 75)) for item in items]).reshape(-1, 2)
        whiskers = np.abs(quartiles.T - np.array(medians))
        colors = ["#1f6f8b" if i.case.engine.startswith("ours") else "#b0b7bd" for i in items]
        names = [item.case.title for item in items]
        bars = panel.barh(names, medians, xerr=whiskers, color=colors)
        panel.bar_label(bars, [f"{value:.0f}" for value in medians], padding=3)
        if group.gflop_s:
            panel.axvline(floor_ms(group), color="#c0392b", linewidth=1, linestyle="--")
        panel.set_title(str(group.setting), fontsize=9, loc="left")
        panel.set_xlabel("ms; dashed: its arithmetic at a large matrix product's rate", fontsize=8)
        panel.margins(x=0.12)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)
