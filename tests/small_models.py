"""Networks small enough for tests, each in one place."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn

from paddleseg_segformer.models import MixVisionTransformer, SegFormer, VisionTransformer

IS_PADDLE_2 = paddle.__version__.startswith("2.")
MIT: dict[str, Any] = {"embed_dims": (8, 16, 20, 32), "depths": (1, 1, 1, 1)}
# every head is equally wide, as in published files
NARROW_MIT: dict[str, Any] = {**MIT, "embed_dims": (8, 16, 40, 64)}
VIT: dict[str, Any] = {"img_size": 64, "embed_dim": 24, "depth": 2, "num_heads": 3}
# of a config of transformers' classes
HUB_SIZES = {"hidden_sizes": (8, 16, 20, 32), "depths": (1, 2, 1, 1), "decoder_hidden_size": 16}


def small_mit(**changes: Any) -> MixVisionTransformer:
    """Return a MiT of one narrow block per stage."""
    return MixVisionTransformer(**{**MIT, **changes})


def small_vit(**changes: Any) -> VisionTransformer:
    """Return a ViT of two narrow blocks on 4x4 patches."""
    return VisionTransformer(**{**VIT, **changes})


def small_segformer(
    num_classes: int = 5, kind: type[nn.Layer] = SegFormer, *, width: int = 16, **backbone: Any
) -> nn.Layer:
    """Return a SegFormer, or another `kind` of it, on a small MiT; `width` is the head's."""
    return kind(num_classes, small_mit(**backbone), embedding_dim=width)


def spread(model: nn.Layer) -> nn.Layer:
    """Give every weight and statistic a value that matters, and switch to evaluation."""
    for name, tensor in model.state_dict().items():
        if name.endswith("_variance"):
            tensor.set_value(0.5 + paddle.rand(tensor.shape))
        elif tensor.ndim == 1:
            tensor.set_value(tensor + 0.3 * paddle.randn(tensor.shape))
        else:
            tensor.set_value(2 * tensor)
    model.eval()
    return model
