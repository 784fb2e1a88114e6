"""The older name of `weights`; it goes with the next version."""

from paddleseg_segformer.weights import (
    Checkpoint,
    LoadReport,
    load_pretrained,
    load_weights,
    open_checkpoint,
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
