"""The report of an audit as text for people."""

from __future__ import annotations

from typing import Any

from paddleseg_segformer.data.audit import AuditReport, rgb_of
from paddleseg_segformer.data.findings import EXAMPLES

MAX_COLORS = 40  # that are listed


def format_findings(found: list[dict[str, Any]]) -> str:
    """Return the findings as text, each once."""
    lines = [f"findings: {len(found)}" if found else "nothing was found"]
    for item in found:
        lines.append(f"{item['severity']} {item['kind']} ({item['count']}): {item['sentence']}")
        lines += [f"  {example}" for example in item["examples"]]
        if item["count"] > EXAMPLES:
            lines.append(f"  ... and {item['count'] - EXAMPLES} more")
    return "\n".join(lines)


def format_report(name: str, report: AuditReport, has_weights: bool = True) -> str:
    """Return the report of one data set as text.

    Args:
        has_weights: Suggest class weights.
    """
    sizes = sorted(report.sizes_hw.items(), key=lambda item: -item[1])
    lines = [
        f"{name}: {report.num_samples} samples; height x width "
        + ", ".join(f"{size} ({count})" for size, count in sizes[:5])
        + (f" and {len(sizes) - 5} other sizes" if len(sizes) > 5 else ""),
        *_class_table(report, has_weights),
        *_color_table(report),
    ]
    return "\n".join(lines) + "\n"


def _class_table(report: AuditReport, has_weights: bool) -> list[str]:
    """Return the lines on the classes."""
    total = sum(report.num_pixels) + report.num_ignored_pixels
    if not total:
        return ["no labelled pixels"]
    lines = [f"{'id':>4}  {'class':24} {'pixels':>9} {'images':>8}"]
    rows = zip(report.classes, report.num_pixels, report.num_images, strict=True)
    for index, (name, pixels, images) in enumerate(rows):
        lines.append(f"{index:>4}  {name[:24]:24} {100 * pixels / total:>7.3f} % {images:>8}")
    ignored = f"ignored: {100 * report.num_ignored_pixels / total:.3f} % of the pixels"
    if not has_weights:
        return [*lines, ignored]
    weights = report.class_weights()
    lines[0] += f" {'weight':>8}"
    lines[1:] = [f"{line} {x:>8.3f}" for line, x in zip(lines[1:], weights, strict=True)]
    return [
        *lines,
        ignored,
        "class weights by median frequency balancing (median frequency / frequency; frequency = "
        "pixels of the class / labelled pixels of the images that hold it):",
        f"  weight: [{', '.join(f'{weight:.4g}' for weight in weights)}]",
    ]


def _color_table(report: AuditReport) -> list[str]:
    """Return the lines on the colours of labels that are colour images."""
    if not report.label_colors:
        return []
    total = sum(report.label_colors.values())
    colors = report.label_colors.most_common(MAX_COLORS)
    lines = [f"colours of the labels: {len(report.label_colors)}, the most frequent first"]
    for code, count in colors:
        lines.append(f"  {list(rgb_of(code))!s:16} {100 * count / total:>7.3f} %")
    listed = ", ".join(str(list(rgb_of(code))) for code, _ in colors)
    lines.append("to read them, in the order of the classes, then those without a class:")
    lines.append(f"  label_colors: [{listed}]")
    return lines
