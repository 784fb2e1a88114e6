"""The older name of `weights`; it goes with the next version."""

import warnings

from paddleseg_segformer.weights import (
    Checkpoint,
    LoadReport,
    load_pretrained,
    load_weights,
    open_checkpoint,
    save_weights,
)

warnings.warn(
    "paddleseg_segformer.checkpoints is now paddleseg_segformer.weights",
    FutureWarning,
    stacklevel=2,
)

__all__ = [
    "Checkpoint",
    "LoadReport",
    "load_pretrained",
    "load_weights",
    "open_checkpoint",
    "save_weights",
]
