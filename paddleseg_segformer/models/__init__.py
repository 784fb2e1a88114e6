"""Backbones, heads and whole models. They know nothing of data, configs or PaddleSeg."""

from paddleseg_segformer.models.classifier import MixVisionTransformerClassifier
from paddleseg_segformer.models.mix_transformer import BACKBONES, MixVisionTransformer
from paddleseg_segformer.models.segformer import SegFormer, SegFormerMM

MODELS = {
    "SegFormer": SegFormer,
    "SegFormerMM": SegFormerMM,
    "MixVisionTransformerClassifier": MixVisionTransformerClassifier,
}

__all__ = [
    "BACKBONES",
    "MODELS",
    "MixVisionTransformer",
    "MixVisionTransformerClassifier",
    "SegFormer",
    "SegFormerMM",
]
