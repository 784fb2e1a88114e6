"""Weight files: reading, strict loading, saving."""

from paddleseg_segformer.weights.loading import (
    LoadReport,
    load_pretrained,
    load_weights,
    save_weights,
)
from paddleseg_segformer.weights.weight_file import Checkpoint, open_checkpoint

__all__ = [
    "Checkpoint",
    "LoadReport",
    "load_pretrained",
    "load_weights",
    "open_checkpoint",
    "save_weights",
]
