"""`SegformerConfig`: the config of transformers' models, which builds networks here."""

from __future__ import annotations

from collections.abc import Mapping

import paddle
from paddle import nn

from paddleseg_segformer.config.building import build_component
from paddleseg_segformer.weights.sidecars.hub_config import HubConfig


class SegformerConfig(HubConfig):
    """Sizes, rates and class names; see `HubConfig` for the fields, which are transformers'."""

    def build(self, model_type: str, epsilons: Mapping[str, float] | None = None) -> nn.Layer:
        """Return a network with transformers' initial weights; see `section`."""
        kind = "model" if model_type else "backbone"
        network = build_component(kind, self.section(model_type, epsilons), "config")
        return network.apply(self.init_weights)

    @paddle.no_grad()
    def init_weights(self, layer: nn.Layer) -> None:
        """Initialise a linear or a convolution: normal of std `initializer_range`, zero bias."""
        if isinstance(layer, (nn.Linear, nn.Conv2D)):
            nn.initializer.Normal(0.0, self.initializer_range or 0.02)(layer.weight)
            if layer.bias is not None:
                nn.initializer.Constant(0.0)(layer.bias)
