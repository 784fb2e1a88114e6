"""ImageNet classifier on a MiT encoder: the network whose weights initialise SegFormer."""

from __future__ import annotations

from paddle import Tensor, nn

from paddleseg_segformer.models.init import init_mit_weights
from paddleseg_segformer.models.mix_transformer import MixVisionTransformer


class MixVisionTransformerClassifier(nn.Layer):
    """Mean of stage 4's normalised tokens, then a linear classifier.

    Args:
        backbone: a `MixVisionTransformer`.
        num_classes: K, number of classes.
    """

    def __init__(self, backbone: MixVisionTransformer, num_classes: int = 1000) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.head = nn.Linear(backbone.feat_channels[-1], num_classes)
        init_mit_weights(self.head)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) normalised image -> (N, num_classes) logits."""
        return self.head(self.backbone(x)[-1].mean(axis=[2, 3]))
