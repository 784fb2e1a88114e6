"""Backbones, heads and models, independent of data, configs and PaddleSeg."""

from collections.abc import Callable

from paddle import nn

from paddleseg_segformer.models import mix_transformer, resnet, vision_transformer
from paddleseg_segformer.models.cpu_gradients import exact_rewrites
from paddleseg_segformer.models.mix_transformer import (
    MixVisionTransformer,
    MixVisionTransformerClassifier,
)
from paddleseg_segformer.models.resnet import ResNet
from paddleseg_segformer.models.segformer import SegFormer, SegFormerLastStage, SegFormerMM
from paddleseg_segformer.models.segmenter import LinearSegmenter, MaskSegmenter
from paddleseg_segformer.models.vision_transformer import VisionTransformer

BACKBONES: dict[str, Callable[..., nn.Layer]] = {
    **mix_transformer.BACKBONES,
    **vision_transformer.BACKBONES,
    **resnet.BACKBONES,
}

MODELS = {
    "SegFormer": SegFormer,
    "SegFormerMM": SegFormerMM,
    "SegFormerLastStage": SegFormerLastStage,
    "LinearSegmenter": LinearSegmenter,
    "MaskSegmenter": MaskSegmenter,
    "MixVisionTransformerClassifier": MixVisionTransformerClassifier,
}

__all__ = [
    "BACKBONES",
    "MODELS",
    "LinearSegmenter",
    "MaskSegmenter",
    "MixVisionTransformer",
    "MixVisionTransformerClassifier",
    "ResNet",
    "SegFormer",
    "SegFormerLastStage",
    "SegFormerMM",
    "VisionTransformer",
    "exact_rewrites",
]
