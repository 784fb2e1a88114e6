"""The example images of the page."""

from __future__ import annotations

import tempfile
from pathlib import Path

from paddleseg_segformer.inference.image_sources import find_images
from paddleseg_segformer.inference.overlay import write_image

MAX_EXAMPLES = 8
DRAWN_SEEDS = (3, 5, 8)
DRAWN_SIZE_HW = (256, 512)


def example_images(folder: Path | None) -> list[Path]:
    """Return the first images of a folder, or drawn street scenes where none is given.

    Raises:
        UserError: no such folder, or no image in it.
    """
    if folder is not None:
        return [image.path for image in find_images(str(folder))[:MAX_EXAMPLES]]
    from paddleseg_segformer.street_scenes.dataset import render_scene

    folder = Path(tempfile.mkdtemp(prefix="street_scenes_"))
    paths = [folder / f"street_scene_{seed}.png" for seed in DRAWN_SEEDS]
    for path, seed in zip(paths, DRAWN_SEEDS, strict=True):
        write_image(path, render_scene(seed, DRAWN_SIZE_HW)[0])
    return paths
