"""ResNet and ResNeXt as encoders of SegFormer's head, from `paddle.vision`.

Shapes: N batch, C channels, H W input pixels.
Source: He et al., "Deep Residual Learning", 2016; Xie et al., "Aggregated Residual
    Transformations", 2017; Xie et al., "SegFormer", 2021, table 1d.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from paddle import Tensor, nn
from paddle.vision.models import ResNet as VisionResNet
from paddle.vision.models.resnet import BottleneckBlock

from paddleseg_segformer.errors import UserError

DEPTHS = (50, 101, 152)


class ResNet(VisionResNet):
    """The four maps of a ResNet, before its classifier.

    Names of weights are `paddle.vision`'s, whose ImageNet weights are read as they are.

    Args:
        in_channels: channels of the input image.
        depth: 50, 101 or 152 layers.
        width: channels of a group of the first stage's 3x3 convolutions.
        groups: of the 3x3 convolutions; more than one make a ResNeXt.

    Raises:
        UserError: another depth.
    """

    min_input_px = 1

    def __init__(
        self, in_channels: int = 3, depth: int = 50, width: int = 64, groups: int = 1
    ) -> None:
        if depth not in DEPTHS:
            raise UserError(f"depth: found {depth}, expected {', '.join(map(str, DEPTHS))}.")
        super().__init__(
            BottleneckBlock, depth, width, num_classes=0, with_pool=False, groups=groups
        )
        self.in_channels = in_channels
        self.feat_channels = [256, 512, 1024, 2048]
        if in_channels != 3:
            self.conv1 = nn.Conv2D(in_channels, 64, 7, stride=2, padding=3, bias_attr=False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> four maps (N, C_i, ceil(H / s), ceil(W / s)), s = 4 ... 32."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        features = []
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
            features.append(x)
        return features

    def stages(self) -> list[list[tuple[str, ...]]]:
        """Return the four stages, each of as many depths as it has blocks; see `Staged`."""
        found: list[list[tuple[str, ...]]] = [
            [(f"layer{stage}.{index}",) for index in range(len(getattr(self, f"layer{stage}")))]
            for stage in range(1, 5)
        ]
        found[0][0] = ("conv1", "bn1", *found[0][0])
        return found


VARIANTS: dict[str, dict[str, Any]] = {
    "ResNet50": {},
    "ResNet101": {"depth": 101},
    "ResNeXt101_64x4d": {"depth": 101, "width": 4, "groups": 64},
}

BACKBONES: dict[str, Callable[..., ResNet]] = {
    "ResNet": ResNet,
    **{name: partial(ResNet, **difference) for name, difference in VARIANTS.items()},
}
