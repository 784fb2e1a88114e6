"""`SegformerConfig`: a network's sizes and its classes under Hugging Face's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from paddle import nn

from paddleseg_segformer.config.building import build_component
from paddleseg_segformer.weights.sidecars.hub_config import HubConfig


@dataclass
class SegformerConfig(HubConfig):
    """Sizes, rates and class names; see `HubConfig` for the fields, which are transformers'."""

    def build(self, model_type: str, epsilons: Mapping[str, float] | None = None) -> nn.Layer:
        """Return a network with initial weights; see `section`."""
        kind = "model" if model_type else "backbone"
        return build_component(kind, self.section(model_type, epsilons), "config")
