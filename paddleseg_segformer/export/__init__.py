"""Export: a trained model for each backend with its `deploy.yaml`, verified."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paddleseg_segformer.export.checks import check_formats, check_save_dir
from paddleseg_segformer.export.quantization import Quantization, Samples

if TYPE_CHECKING:
    from paddleseg_segformer.export.folder import export_model

__all__ = ["Quantization", "Samples", "check_formats", "check_save_dir", "export_model"]


def __getattr__(name: str) -> Any:
    """Import Paddle when the export is asked for, not with the checks."""
    if name != "export_model":
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from paddleseg_segformer.export.folder import export_model

    return export_model
