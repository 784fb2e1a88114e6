"""Weight files: reading, strict loading, saving."""

from paddleseg_segformer.checkpoints.checkpoint import Checkpoint, open_checkpoint
from paddleseg_segformer.checkpoints.loading import (
    LoadReport,
    load_pretrained,
    load_weights,
    save_weights,
)

__all__ = [
    "Checkpoint",
    "LoadReport",
    "load_pretrained",
    "load_weights",
    "open_checkpoint",
    "save_weights",
]
