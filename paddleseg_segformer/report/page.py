"""The page of a report: one HTML file that needs nothing beside it and no network."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any, NamedTuple

from paddleseg_segformer.evaluation.calibration import METHODS
from paddleseg_segformer.evaluation.error_kinds import KINDS
from paddleseg_segformer.report.findings import ImageFigures
from paddleseg_segformer.report.pictures import PANELS

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


Sections = Mapping[str, str]  # HTML by title


class Shown(NamedTuple):
    """An image on the page."""

    figures: ImageFigures
    file: str  # its larger picture, relative to the page
    jpeg: bytes  # the panels


class Number(NamedTuple):
    """A cell that is sorted by its value; None is an empty one."""

    value: float | None
    text: str


def page_html(
    content: Mapping[str, Any],
    drawn: Mapping[str, str],
    shown: Mapping[str, Sequence[Shown]],
) -> str:
    """Return the page.

    Args:
        content: What `report.json` holds.
        drawn: Figures by name, as SVG elements.
        shown: Images: "worst" and "best".
    """
    sections = {
        "Classes": _classes(content, drawn),
        "Confusion": _confusion(content, drawn),
        "Errors": _errors(content),
        "Worst images": _images(content, shown["worst"]),
        "Best images": _images(content, shown["best"]),
        "All images": _all_images(content),
        "Calibration": _calibration(content, drawn),
        "Training": f"<figure>{drawn['curves']}</figure>" if "curves" in drawn else "",
        "Model and data": _about(content),
    }
    model, data = content["model"], content["data"]
    title = content["title"] or f"{model['type']} on {data['type']} {data['mode'] or ''}".rstrip()
    facts = (model["model_path"], f"{content['num_images']} images", content["environment"]["date"])
    return shell(title, " · ".join(facts), _tiles(content), sections)


def shell(title: str, subtitle: str, tiles: Iterable[tuple[str, str]], sections: Sections) -> str:
    """Return a page.

    Args:
        title: Plain text.
        subtitle: Plain text.
        tiles: The figures that say most, and what they are; plain text.
        sections: HTML by title; empty ones are left out.
    """
    kept = {name: body for name, body in sections.items() if body}
    ids = {name: name.lower().replace(" ", "-") for name in kept}
    links = "".join(f'<a href="#{ids[name]}">{escape(name)}</a>' for name in kept)
    body = "".join(f'<h2 id="{ids[name]}">{escape(name)}</h2>{text}' for name, text in kept.items())
    items = "".join(
        f'<div class="tile"><b>{escape(big)}</b><span>{escape(small)}</span></div>'
        for big, small in tiles
    )
    files = resources.files(__package__)
    style, script = ((files / f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>"
        f'<h1>{escape(title)}</h1><p class="soft">{escape(subtitle)}</p>'
        f'<div class="tiles">{items}</div><nav>{links}</nav>{body}'
        f"<script>{script}</script></body></html>\n"
    )


def _tiles(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the figures that say most."""
    low, high = content["mIoU_interval"]
    calibration, speed = content["calibration"], content["speed"]
    tiles = [
        (percent(content["mIoU"]), f"mIoU, 95 %: {percent(low)} to {percent(high)}"),
        (percent(content["accuracy"]), "pixel accuracy"),
        (percent(content["boundary_IoU"]), "boundary IoU"),
        (percent(content["boundary_F"]), "boundary F-score"),
    ]
    if calibration:
        before, after = (
            calibration["methods"][name]["ece"] for name in ("none", calibration["best"])
        )
        tiles.append((percent(after), f"calibration error; before: {percent(before)}"))
    tiles += [
        (f"{speed['median_ms_per_image']:.0f} ms", f"per image, median, {speed['device']}"),
        (f"{speed['parameters'] / 1e6:.2f} M", "parameters"),
    ]
    return tiles


def _classes(content: Mapping[str, Any], drawn: Mapping[str, str]) -> str:
    classes = content["classes"]
    labelled = sum(item["labelled_px"] for item in classes.values()) or 1
    keys = ("iou", "iou_low", "iou_high", "f1", "precision", "recall", "boundary_iou", "boundary_f")
    rows = (
        [
            f"{_chip(item['color'])}{escape(name)}",
            *(cell(item[key]) for key in keys),
            cell(item["labelled_px"] / labelled),
        ]
        for name, item in classes.items()
    )
    header = (
        "class",
        "IoU",
        "from",
        "to",
        "F1",
        "precision",
        "recall",
        "boundary IoU",
        "boundary F",
        "labelled",
    )
    note = (
        "In %. “from” and “to” are the ends of the 95 % confidence interval of the IoU, a "
        "bootstrap over images. It takes them as independent: frames of one video are not, and "
        "their intervals are too narrow. Boundary IoU: pixels within 2 % of the diagonal of an "
        "outline; boundary F: outlines at most 0.75 % of the diagonal apart."
    )
    return f"<p>{note}</p>{table(header, rows)}<figure>{drawn['iou']}</figure>"


def _confusion(content: Mapping[str, Any], drawn: Mapping[str, str]) -> str:
    rows = (
        [
            escape(item["labelled"]),
            escape(item["predicted"]),
            cell(item["share_of_errors"]),
            cell(item["share_of_class"]),
        ]
        for item in content["confusions"]
    )
    header = ("labelled", "predicted", "% of all errors", "% of the labelled class")
    pairs = table(header, rows, num_text=2)
    return f"<figure>{drawn['confusion']}</figure><h3>Most confused</h3>{pairs}"


def _errors(content: Mapping[str, Any]) -> str:
    kinds = content["error_kinds"]
    total = sum(kinds.values())
    pixels = sum(map(sum, content["confusion"])) or 1
    rows = (
        [name, escape(KINDS[name]), cell(count / total if total else None), cell(count / pixels)]
        for name, count in kinds.items()
    )
    objects = (
        [
            size,
            number(item["labelled"]),
            cell(_share(item["found"], item["labelled"])),
            cell(_share(item["right_pixels"], item["pixels"])),
        ]
        for size, item in content["objects"].items()
    )
    sizes = table(
        ("share of the image", "labelled objects", "% found", "% of their pixels right"), objects
    )
    header = ("kind", "wrong pixels", "% of errors", "% of labelled pixels")
    return (
        f"{table(header, rows, num_text=2)}<h3>Objects by size</h3>"
        "<p>An object is a connected region of one class; it is found where at least half of it is "
        f"right.</p>{sizes}"
    )


def _images(content: Mapping[str, Any], shown: Sequence[Shown]) -> str:
    colors = {name: item["color"] for name, item in content["classes"].items()}
    start = _folder(content)
    captions = (
        f"{item.figures.path.removeprefix(start)} · mIoU {percent(item.figures.miou)} · "
        f"accuracy {percent(item.figures.accuracy)} · "
        f"mostly {max(zip(item.figures.error_kinds, KINDS, strict=True))[1]}"
        for item in shown
    )
    strips = [Strip(text, item.file, item.jpeg) for text, item in zip(captions, shown, strict=True)]
    return strips_html(colors, PANELS, strips)


class Strip(NamedTuple):
    """Panels of an image beside each other."""

    caption: str
    file: str  # the larger picture, relative to the page
    jpeg: bytes


def strips_html(
    colors: Mapping[str, Sequence[int]], panels: Sequence[str], strips: Sequence[Strip]
) -> str:
    """Return images below a legend of the classes' colours; nothing without images."""
    if not strips:
        return ""
    legend = "".join(f"<span>{_chip(color)}{escape(name)}</span>" for name, color in colors.items())
    names = "".join(f"<span>{escape(name)}</span>" for name in panels)
    columns = f"grid-template-columns:repeat({len(panels)},1fr)"
    figures = "".join(
        f"<figure><figcaption>{escape(strip.caption)}</figcaption>"
        f'<a href="{escape(strip.file)}"><img class="strip" alt="{escape(", ".join(panels))}" '
        f'src="data:image/jpeg;base64,{base64.b64encode(strip.jpeg).decode()}"></a></figure>'
        for strip in strips
    )
    return (
        f'<div class="legend">{legend}</div>'
        f'<div class="panels" style="{columns}">{names}</div>{figures}'
    )


def _folder(content: Mapping[str, Any]) -> str:
    """Return the folder that all images lie in, where they are not in the data set's own."""
    folders = {os.path.dirname(item["path"]) for item in content["images"]}
    if not all(map(os.path.isabs, folders)):
        return ""
    try:
        return os.path.join(os.path.commonpath(folders), "")
    except ValueError:  # drives of Windows
        return ""


def _all_images(content: Mapping[str, Any]) -> str:
    start = _folder(content)
    rows = (
        [
            escape(item["path"].removeprefix(start)),
            "{}x{}".format(*item["size_hw"]),
            cell(item["miou"]),
            cell(item["accuracy"]),
            cell(item["confidence"]),
            *map(cell, item["error_kinds"]),
        ]
        for item in content["images"]
    )
    header = ("image", "size", "mIoU", "accuracy", "confidence", *KINDS)
    return (
        "<p>In %; the kinds of errors as shares of the labelled pixels. A click on a column sorts."
        f"{escape(f' Images are in {start}.') if start else ''}</p>{table(header, rows)}"
    )


def _calibration(content: Mapping[str, Any], drawn: Mapping[str, str]) -> str:
    calibration = content["calibration"]
    if not calibration:
        return ""
    best = calibration["best"]
    rows = (
        [
            f"{METHODS[name]}{' (chosen)' * (name == best)}",
            cell(item["ece"]),
            cell(item["classwise_ece"]),
            number(item["brier"], 4),
            number(item["nll"], 4),
        ]
        for name, item in calibration["methods"].items()
    )
    unknown = (
        [
            f"at most {100 * float(risk):g} %",
            *(
                map(cell, (item["threshold"], item["coverage"], item["risk"]))
                if item
                else (cell(None),) * 3
            ),
        ]
        for risk, item in calibration["unknown_below"].items()
    )
    temperatures = calibration["temperatures"][best]
    found = ", ".join(f"{value:g}" for value in temperatures) or "none needed"
    return (
        f"<p>A random sample of {calibration['num_pixels']} pixels of {calibration['num_images']} "
        "images. Temperatures were fitted on one half of the images and measured on the other, "
        "each in turn; those of all images, in <code>calibrated.yml</code>, are: "
        f"{found}.</p>"
        + table(("confidence", "ECE %", "class-wise ECE %", "Brier", "NLL"), rows)
        + f"<figure>{drawn['reliability']}</figure>"
        + "<h3>Leaving unsure pixels out</h3><p>Pixels of a lower confidence than the threshold "
        "become unknown; the risk is the share of wrong ones among the rest.</p>"
        + table(("accepted risk", "threshold %", "coverage %", "risk %"), unknown)
        + f"<figure>{drawn['risk_coverage']}</figure>"
    )


def _about(content: Mapping[str, Any]) -> str:
    speed, model = content["speed"], content["model"]
    memory = speed["peak_memory_mib"]
    facts = {
        "inference": model["inference"],
        "data": f"{content['data']['type']} {content['data']['mode'] or ''}, "
        f"{content['data']['samples']}",
        "time per image": f"{speed['median_ms_per_image']:.1f} ms, from image to class ids",
        "memory of the process": f"{memory:.0f} MiB at most" if memory else "not known",
        **content["environment"],
    }
    rows = ([escape(key), escape(value)] for key, value in facts.items())
    return (
        f"{table(('', ''), rows, num_text=2, is_sortable=False)}"
        f"<details><summary>Config</summary><pre>{escape(model['config'])}</pre></details>"
    )


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[Any]],
    num_text: int = 1,
    is_sortable: bool = True,
) -> str:
    """Return a table.

    Args:
        header: Names of the columns, plain text.
        rows: Cells: HTML, or `Number`.
        num_text: Columns of text, the first ones.
        is_sortable: By a click on a column's name.
    """
    kinds = [' class="text"' if index < num_text else "" for index in range(len(header))]
    names = [f"<button>{escape(name)}</button>" if is_sortable else escape(name) for name in header]
    head = "".join(f"<th{kind}>{name}</th>" for kind, name in zip(kinds, names, strict=True))
    lines = (
        "".join(
            f"<td{kind}>{item}</td>"
            if isinstance(item, str)
            else f'<td data-value="{"" if item.value is None else item.value}">{item.text}</td>'
            for kind, item in zip(kinds, row, strict=True)
        )
        for row in rows
    )
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    kind = ' class="sortable"' if is_sortable else ""
    return (
        f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def cell(share: float | None) -> Number:
    """Return a share as a cell in %."""
    return Number(share, "" if share is None else f"{100 * share:.2f}")


def number(value: float, digits: int = 0) -> Number:
    """Return a number as a cell."""
    return Number(value, f"{value:.{digits}f}")


def percent(share: float | None) -> str:
    """Return a share in %; a dash for none."""
    return "–" if share is None else f"{100 * share:.2f} %"


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _chip(color: Sequence[int]) -> str:
    return f'<span class="chip" style="background:rgb({",".join(map(str, color))})"></span>'
