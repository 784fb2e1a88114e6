"""Published sizes and costs of SegFormer, for comparison with what is counted here.

Source: Xie et al., "SegFormer", 2021, tables 1 and 2; its "FLOPs" are multiply-accumulates. Those
of Cityscapes were counted with 150 classes, apart from the 19-class rows of table 2.
"""

from __future__ import annotations

from typing import Any

from paddle import nn

from paddleseg_segformer.models import BACKBONES, SegFormer, SegFormerMM

PARAMETERS_M = {"B0": 3.8, "B1": 13.7, "B2": 27.5, "B3": 47.3, "B4": 64.1, "B5": 84.7}

_ADE20K = {"B0": 8.4, "B1": 15.9, "B2": 62.4, "B3": 79.0, "B4": 95.7, "B5": 111.6}
_CITYSCAPES = {"B0": 125.5, "B1": 243.7, "B2": 717.1, "B3": 962.9, "B4": 1240.6, "B5": 1460.4}

# (variant, (height, width), classes) -> 1e9 multiply-accumulates
GMACS: dict[tuple[str, tuple[int, int], int], float] = {
    **{(variant, (512, 512), 150): value for variant, value in _ADE20K.items()},
    **{(variant, (1024, 2048), 150): value for variant, value in _CITYSCAPES.items()},
    ("B5", (640, 640), 150): 183.3,
    ("B5", (1024, 2048), 19): 1447.6,
    ("B0", (768, 1536), 19): 51.7,
    ("B0", (640, 1280), 19): 31.5,
    ("B0", (512, 1024), 19): 17.7,
}


def build_published(variant: str, num_classes: int, is_mm: bool = False) -> nn.Layer:
    """Return SegFormer B0 to B5 of the published widths.

    Args:
        is_mm: with mmsegmentation's head instead of the paper's.
    """
    make_backbone: Any = BACKBONES[f"MixVisionTransformer_{variant}"]
    backbone = make_backbone()
    if is_mm:
        return SegFormerMM(num_classes, backbone, 256)
    return SegFormer(num_classes, backbone, 256 if variant in ("B0", "B1") else 768)
