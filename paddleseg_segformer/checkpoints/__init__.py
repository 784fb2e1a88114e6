"""Weight files: reading, strict loading, saving."""

from paddleseg_segformer.checkpoints.loading import (
    LoadReport,
    load_pretrained,
    load_weights,
    save_weights,
)

__all__ = ["LoadReport", "load_pretrained", "load_weights", "save_weights"]
