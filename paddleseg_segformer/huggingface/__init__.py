"""Hugging Face's SegFormer classes over this package's models, for code that is written for them.

`from_pretrained` and `save_pretrained` take folders as transformers writes and reads them. Tensors
are Paddle's.
"""

from paddleseg_segformer.huggingface.image_processing import SegformerImageProcessor
from paddleseg_segformer.huggingface.models import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
)

__all__ = [
    "SegformerConfig",
    "SegformerForImageClassification",
    "SegformerForSemanticSegmentation",
    "SegformerImageProcessor",
    "SegformerModel",
]
