"""Where the weights, graphs and images of a run are; `make.py` makes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed.cases import MEAN, STD

NAMES = {  # kind -> file or folder
    "weights": "model.pdparams",
    "export": "export",
    "export_onnx": "export_onnx",
    "export_int8": "export_int8",
    "export_merged": "export_merged",
    "export_merged_int8": "export_merged_int8",
    "export_int8_onnx": "export_int8_onnx",
    "export_merged_int8_onnx": "export_merged_int8_onnx",
    "paddleseg_graph": "paddleseg",
    "paddleseg_onnx": "paddleseg.onnx",
    "paddleseg_label_graph": "paddleseg_labels",
    "paddleseg_label_onnx": "paddleseg_labels.onnx",
    "transformers": "transformers",
    "transformers_onnx": "transformers.onnx",
}


@dataclass(frozen=True)
class Files:
    """Where the files of one model are."""

    root: Path
    variant: str
    num_classes: int

    @property
    def folder(self) -> Path:
        """Return the model's folder."""
        return self.root / f"{self.variant}_{self.num_classes}_classes"

    def path(self, kind: str) -> Path:
        """Return a file or folder by kind; `make.py` writes it."""
        return self.folder / NAMES[kind]

    def images_path(self, image_hw: tuple[int, int], batch: int) -> Path:
        """Return the file of the input images (N, H, W, 3) uint8."""
        return self.root / "images_{}x{}_{}.npy".format(*image_hw, batch)

    def logits_path(self, image_hw: tuple[int, int], batch: int) -> Path:
        """Return the file of our network's logits (N, K, H / 4, W / 4) of the input images."""
        return self.folder / "logits_{}x{}_{}.npy".format(*image_hw, batch)

    def images(self, image_hw: tuple[int, int], batch: int) -> np.ndarray:
        """Return the input images (N, H, W, 3) uint8."""
        return np.load(self.images_path(image_hw, batch))


def build_model(files: Files) -> Any:
    """Return our model with the run's weights."""
    from paddleseg_segformer.weights import load_weights

    model = fresh_model(files)
    load_weights(model, files.path("weights"))
    model.eval()
    return model


def fresh_model(files: Files) -> Any:
    """Return our model with initial weights."""
    from paddleseg_segformer.analysis.complexity import build_published

    return build_published(files.variant, files.num_classes)


def normalized(images: np.ndarray) -> np.ndarray:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float32."""
    from paddleseg_segformer.data.normalize import Normalize

    apply = Normalize(MEAN, STD).apply
    return np.ascontiguousarray(np.stack([apply(image) for image in images]).transpose(0, 3, 1, 2))
