"""Two small models, an export of one, and labelled images for them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
from small_models import small_segformer, spread

from paddleseg_segformer.export import export_model
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.weights import save_weights

MODEL = """
model:
  type: SegFormer
  num_classes: 3
  embedding_dim: 16
  backbone: {type: MixVisionTransformer_B0, embed_dims: [8, 16, 20, 32], depths: [1, 1, 1, 1]}
"""
DATA = """
val_dataset:
  type: Dataset
  dataset_root: ROOT
  num_classes: 3
  mode: val
  val_path: ROOT/list.txt
  transforms: [{type: Normalize}]
"""


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """Return a folder with data.yml, six images, the models a and b, and exp, an export of a."""
    root = tmp_path_factory.mktemp("compare")
    rng = np.random.default_rng(0)
    lines = []
    for index in range(6):
        label = np.kron(rng.integers(0, 3, (6, 8)), np.ones((8, 8))).astype(np.uint8)
        image = np.clip(label[..., None] * 90.0 + rng.normal(30, 15, (48, 64, 3)), 0, 255)
        label[:3] = 255
        cv2.imwrite(str(root / f"{index}.png"), image.astype(np.uint8))
        cv2.imwrite(str(root / f"{index}_label.png"), label)
        lines.append(f"{index}.png {index}_label.png\n")
    (root / "list.txt").write_text("".join(lines))
    (root / "data.yml").write_text((MODEL + DATA).replace("ROOT", str(root)))
    for seed, name in enumerate(("a", "b")):
        paddle.seed(seed)
        model = spread(small_segformer(3))
        (root / name).mkdir()
        save_weights(model, root / name / "model.pdparams")
        (root / name / "config.yml").write_text((root / "data.yml").read_text())
        if name == "a":
            preprocess = Preprocess.from_transforms([{"type": "Normalize"}])
            export_model(model, root / "exp", preprocess=preprocess)
    return root
