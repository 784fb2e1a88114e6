"""Writers of small data sets."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from paddleseg_segformer.data.io import write_label


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an RGB image (H, W, 3) in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imencode(path.suffix, image[:, :, ::-1])[1].tofile(path)


def write_cityscapes(
    root: Path, names: list[str], size_hw: tuple[int, int] = (24, 40), split: str = "train"
) -> Path:
    """Write a data set in the layout of Cityscapes; the first pixels of image i hold i."""
    rng = np.random.default_rng(0)
    for index, name in enumerate(names):
        image = rng.integers(0, 256, (*size_hw, 3), dtype=np.uint8)
        label = rng.integers(0, 19, size_hw, dtype=np.uint8)
        image[0], label[0] = index, index % 19
        write_image(root / f"leftImg8bit/{split}/{name}_leftImg8bit.png", image)
        write_label(root / f"gtFine/{split}/{name}_gtFine_labelTrainIds.png", label)
    return root
