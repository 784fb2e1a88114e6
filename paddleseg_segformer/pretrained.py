"""The older name of `model_folder`, with `converting.save_model`; it goes with the next version."""

import warnings

from paddleseg_segformer.converting import save_model
from paddleseg_segformer.model_folder import config_of, load_model

warnings.warn(
    "paddleseg_segformer.pretrained is now paddleseg_segformer.model_folder",
    FutureWarning,
    stacklevel=2,
)

__all__ = ["config_of", "load_model", "save_model"]
