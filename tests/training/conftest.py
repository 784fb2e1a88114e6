"""A tiny data set and a config of a tiny SegFormer, for whole runs in seconds."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

CONFIG = """
batch_size: 2
iters: 6
model:
  type: SegFormer
  num_classes: 3
  embedding_dim: 16
  backbone:
    type: MixVisionTransformer_B0
    embed_dims: [8, 16, 20, 32]
    depths: [1, 1, 1, 1]
    drop_path_rate: 0.2
train_dataset: &data
  type: Dataset
  dataset_root: ROOT
  num_classes: 3
  mode: train
  train_path: ROOT/train.txt
  transforms:
    - type: RandomPaddingCrop
      crop_size: [48, 32]
    - type: RandomHorizontalFlip
    - type: Normalize
val_dataset:
  type: Dataset
  dataset_root: ROOT
  num_classes: 3
  mode: val
  val_path: ROOT/val.txt
  transforms: [{type: Normalize}]
optimizer: {type: AdamW, weight_decay: 0.01}
lr_scheduler:
  type: PolynomialDecay
  learning_rate: 1.0e-2
  power: 1.0
  warmup_iters: 2
  warmup_ratio: 0.1
"""


@pytest.fixture
def folder(tmp_path):
    """Seven training and two validation images of 40x56 px whose brightness tells the class."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 7), ("val", 2)):
        lines = []
        for i in range(count):
            label = np.kron(rng.integers(0, 3, (5, 7)), np.ones((8, 8))).astype(np.uint8)
            image = np.clip(label[..., None] * 90.0 + rng.normal(30, 15, (40, 56, 3)), 0, 255)
            cv2.imwrite(str(tmp_path / f"{split}{i}.png"), image.astype(np.uint8))
            label[:2] = 255
            cv2.imwrite(str(tmp_path / f"{split}{i}_label.png"), label)
            lines.append(f"{split}{i}.png {split}{i}_label.png\n")
        (tmp_path / f"{split}.txt").write_text("".join(lines))
    (tmp_path / "tiny.yml").write_text(CONFIG.replace("ROOT", str(tmp_path)))
    return tmp_path
