"""SegFormer's models as Hugging Face's users call them, over this package's networks.

Each class holds one network of the package as `model`; what differs is how it is called, loaded and
saved. Shapes: N batch, C channels, H W input pixels, K classes, L queries and S keys of a block.
"""

from __future__ import annotations

import logging
from typing import ClassVar, TypeVar

from paddle import Tensor, nn

from paddleseg_segformer.huggingface.configuration import SegformerConfig
from paddleseg_segformer.huggingface.losses import classification_loss, segmentation_loss
from paddleseg_segformer.huggingface.outputs import EncoderOutput, LogitsOutput
from paddleseg_segformer.models import MixVisionTransformer

logger = logging.getLogger(__name__)

Pretrained = TypeVar("Pretrained", bound="_Pretrained")


class _Pretrained(nn.Layer):
    """One network and its config.

    Args:
        config: The network's sizes, and the names of its classes.
        model: The network; without it one with initial weights is made.
    """

    model_type: ClassVar[str]  # of a config's `model` section

    def __init__(self, config: SegformerConfig, model: nn.Layer | None = None) -> None:
        super().__init__()
        self.config = config
        self.model = config.build(self.model_type) if model is None else model

    @property
    def backbone(self) -> MixVisionTransformer:
        """Return the encoder."""
        return self.model.backbone

    def _encode(
        self, pixel_values: Tensor, with_attentions: bool
    ) -> tuple[list[Tensor], tuple[Tensor, ...] | None]:
        """Return the four maps and, where asked for, the attention weights of each block."""
        if not with_attentions:
            return self.backbone(pixel_values), None
        features, attentions = self.backbone.forward_with_attentions(pixel_values)
        return features, tuple(attentions)

    def _last_state(self, last: Tensor) -> Tensor:
        """Return stage 4's map, or its tokens (N, L, C4) where the config wants those."""
        return last if self.config.reshape_last_stage else last.flatten(2).transpose([0, 2, 1])


class SegformerModel(_Pretrained):
    """The encoder alone."""

    model_type = ""

    @property
    def backbone(self) -> MixVisionTransformer:
        """Return the encoder."""
        return self.model

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> EncoderOutput:
        """(N, C, H, W) normalised image -> stage 4's map, and what else is asked for."""
        features, attentions = self._encode(pixel_values, output_attentions)
        last = self._last_state(features[-1])
        states = (*features[:-1], last) if output_hidden_states else None
        return EncoderOutput(last, states, attentions)


class SegformerForSemanticSegmentation(_Pretrained):
    """The encoder and the all-MLP head."""

    model_type = "SegFormer"

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> LogitsOutput:
        """(N, C, H, W) normalised image -> logits (N, K, ceil(H / 4), ceil(W / 4)).

        Args:
            labels: (N, H, W) class ids, for the loss; see `segmentation_loss`.
            output_hidden_states: Also the four maps of the encoder, always as maps.
            output_attentions: Also each block's attention weights, held whole.
        """
        features, attentions = self._encode(pixel_values, output_attentions)
        logits = self.model.decode(features)
        loss = None
        if labels is not None:
            loss = segmentation_loss(logits, labels, self.config.semantic_loss_ignore_index)
        states = tuple(features) if output_hidden_states else None
        return LogitsOutput(loss, logits, states, attentions)


class SegformerForImageClassification(_Pretrained):
    """The encoder and a linear classifier of the mean over stage 4."""

    model_type = "MixVisionTransformerClassifier"

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> LogitsOutput:
        """(N, C, H, W) normalised image -> logits (N, K).

        Args:
            labels: For the loss; see `classification_loss`.
            output_hidden_states: Also the four states of the encoder.
            output_attentions: Also each block's attention weights, held whole.
        """
        features, attentions = self._encode(pixel_values, output_attentions)
        logits = self.model.head(features[-1].mean(axis=[2, 3]))
        loss = None
        if labels is not None:
            loss = classification_loss(logits, labels, self.config.problem_type)
        states = None
        if output_hidden_states:
            states = (*features[:-1], self._last_state(features[-1]))
        return LogitsOutput(loss, logits, states, attentions)
