"""A small data set in folders, and a config of a tiny model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

MODEL = """
model:
  type: SegFormer
  embedding_dim: 16
  backbone:
    type: MixVisionTransformer_B0
    embed_dims: [8, 16, 20, 32]
    depths: [1, 1, 1, 1]
"""


def write_data(folder: Path, count: int = 10, num_classes: int = 3) -> Path:
    """Write images of 64x80 px whose brightness tells the class, and labels of ids."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        blocks = rng.integers(0, num_classes, (8, 10))
        label = np.kron(blocks, np.ones((8, 8), int)).astype(np.uint8)
        noise = rng.normal(30, 15, (*label.shape, 3))
        image = np.clip(label[..., None] * (180.0 / num_classes) + noise, 0, 255)
        Image.fromarray(image.astype(np.uint8)).save(folder / "images" / f"scene{index * 37}.png")
        Image.fromarray(label).save(folder / "labels" / f"scene{index * 37}.png")
    (folder / "names.txt").write_text("sky\nroad\ncar\n")
    return folder
