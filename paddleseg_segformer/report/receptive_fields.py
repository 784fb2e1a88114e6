"""Effective receptive fields as a picture and a table."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from paddleseg_segformer.analysis.receptive_field import MAPS, SHARES, shown, side_of
from paddleseg_segformer.files import atomic_files
from paddleseg_segformer.report.figures import save_png
from paddleseg_segformer.report.tables import write_csv

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def fields_figure(fields: Mapping[str, np.ndarray]) -> Figure:
    """Draw a row of fields for each model, stages and head beside each other.

    Args:
        fields: (5, H, W) by the model's name.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.4 * len(MAPS), 2.5 * len(fields) + 0.2), layout="constrained")
    rows = figure.subplots(len(fields), len(MAPS), squeeze=False)
    for row, (name, of_model) in zip(rows, fields.items(), strict=True):
        for panel, field in zip(row, of_model, strict=True):
            panel.imshow(shown(field), cmap="magma", vmin=0, vmax=1)
            panel.set_xticks([])
            panel.set_yticks([])
            side = side_of(field, (0.5,))[0]
            panel.set_xlabel(f"half within {side} px" if side else "", fontsize=8)
        row[0].set_ylabel(name[-40:], fontsize=8)
    for panel, title in zip(rows[0], MAPS, strict=True):
        panel.set_title(title, fontsize=9)
    return figure


def write_fields(
    fields: Mapping[str, np.ndarray],
    singles: Mapping[str, Mapping[str, np.ndarray]],
    out: str | os.PathLike[str],
) -> str:
    """Write `erf.png`, `erf.csv` and `erf.npz`, and a picture of each single image.

    Args:
        fields: Averages (5, H, W) by the model's name.
        singles: The same by the image's name.
        out: Their folder.

    Returns:
        The table for the terminal.
    """
    out = Path(out)
    header = ["model", "map", *(f"side_{100 * share:g}_px" for share in SHARES)]
    rows = [
        [name, title, *side_of(field)]
        for name, of_model in fields.items()
        for title, field in zip(MAPS, of_model, strict=True)
    ]
    with atomic_files(out) as folder:
        save_png(fields_figure(fields), folder / "erf.png")
        write_csv(folder, "erf", header, rows)
        with open(folder / "erf.npz", "wb") as file:
            maps = np.stack(list(fields.values())).astype(np.float32)
            np.savez_compressed(file, models=list(fields), maps=list(MAPS), fields=maps)
    for name, of_image in singles.items():
        path = out / "images" / name
        with atomic_files(path.parent) as folder:
            save_png(fields_figure(of_image), folder / f"{path.name}.png")
    lines = [f"{'side in px that holds':<32}" + "".join(f"{100 * s:>7g} %" for s in SHARES)]
    for row in rows:
        cells = "".join(f"{'-' if side is None else side:>9}" for side in row[2:])
        lines.append(f"{str(row[0])[-22:]:<23}{row[1]:<9}{cells}")
    return "\n".join([*lines, f"picture: {out / 'erf.png'}"])
