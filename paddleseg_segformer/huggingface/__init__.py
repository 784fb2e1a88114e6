"""Drop-in replacements for transformers' SegFormer classes, on this package's models.

`from_pretrained` and `save_pretrained` read and write the same folders as transformers. Tensors are
Paddle's.
"""

from paddleseg_segformer.huggingface.config import SegformerConfig
from paddleseg_segformer.huggingface.image_processing import SegformerImageProcessor
from paddleseg_segformer.huggingface.models import (
    SegformerDecodeHead,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
)

SegformerFeatureExtractor = SegformerImageProcessor  # its name before version 5

__all__ = [
    "SegformerConfig",
    "SegformerDecodeHead",
    "SegformerFeatureExtractor",
    "SegformerForImageClassification",
    "SegformerForSemanticSegmentation",
    "SegformerImageProcessor",
    "SegformerModel",
]
