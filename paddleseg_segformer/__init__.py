"""SegFormer and Segmenter for PaddlePaddle.

Importing the package imports neither paddle nor paddleseg and registers nothing: the public names
below are loaded when they are first used, and `register()` is called by whoever wants PaddleSeg's
own tools to build these models.
"""

from __future__ import annotations

import os
import sys
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if sys.version_info < (3, 10):  # noqa: UP036  run from a clone: nothing else says it in one line
    raise SystemExit(
        f"error: found Python {sys.version.split()[0]}, expected 3.10 or newer: run a newer one."
    )

from paddleseg_segformer.dependencies import explained

if TYPE_CHECKING:
    from paddleseg_segformer.components import register_component
    from paddleseg_segformer.config import load_config
    from paddleseg_segformer.errors import UserError
    from paddleseg_segformer.fitting.run import fit
    from paddleseg_segformer.model_folder import build_model, load_model
    from paddleseg_segformer.models import (
        LinearSegmenter,
        MaskSegmenter,
        MixVisionTransformer,
        SegFormer,
        SegFormerMM,
        VisionTransformer,
    )
    from paddleseg_segformer.paddleseg_bridge import register
    from paddleseg_segformer.predictor import Predictor
    from paddleseg_segformer.zoo import list_models

__version__ = "0.1.0"

# From 1.32 on ONNX Runtime tells its maker of its use, unless this is set before its import
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Paddle says so on import; ccache matters to those who compile operators.
warnings.filterwarnings("ignore", message="No ccache found")

__all__ = [
    "LinearSegmenter",
    "MaskSegmenter",
    "MixVisionTransformer",
    "Predictor",
    "SegFormer",
    "SegFormerMM",
    "UserError",
    "VisionTransformer",
    "build_model",
    "fit",
    "list_models",
    "load_config",
    "load_model",
    "register",
    "register_component",
]

_HOMES = {
    "LinearSegmenter": "models",
    "MaskSegmenter": "models",
    "MixVisionTransformer": "models",
    "Predictor": "predictor",
    "SegFormer": "models",
    "SegFormerMM": "models",
    "UserError": "errors",
    "VisionTransformer": "models",
    "build_model": "model_folder",
    "fit": "fitting.run",
    "list_models": "zoo",
    "load_config": "config",
    "load_model": "model_folder",
    "register": "paddleseg_bridge",
    "register_component": "components",
}


def __getattr__(name: str) -> Any:
    """Import a public name's module when the name is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    with explained():
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
