"""SegFormer's models and config under transformers' names and signatures.

Each class holds one network of this package as `model`, and differs in how it is called, loaded and
saved. Shapes: N batch, C channels, H W input pixels, K classes, L queries and S keys of a block.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from paddle import Tensor, nn

from paddleseg_segformer.config.building import build_component
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.huggingface.losses import classification_loss, segmentation_loss
from paddleseg_segformer.huggingface.outputs import EncoderOutput, LogitsOutput
from paddleseg_segformer.models import MixVisionTransformer, SegFormer
from paddleseg_segformer.weights import (
    Checkpoint,
    load_pretrained,
    load_weights,
    open_checkpoint,
)
from paddleseg_segformer.weights.architectures.sizes import full_backbone
from paddleseg_segformer.weights.files.containers import write_tensors
from paddleseg_segformer.weights.files.download import is_url
from paddleseg_segformer.weights.formats import HUGGINGFACE
from paddleseg_segformer.weights.formats.naming import export_state
from paddleseg_segformer.weights.sidecars.hub_config import (
    CONFIG_FILE,
    EPSILONS,
    NO_HUB,
    HubConfig,
    write_json,
)

WEIGHTS_FILE = "model.safetensors"

logger = logging.getLogger(__name__)

Pretrained = TypeVar("Pretrained", bound="_Pretrained")


@dataclass
class SegformerConfig(HubConfig):
    """Sizes, rates and class names; see `HubConfig` for the fields, which are transformers'."""

    def build(self, model_type: str, epsilons: Mapping[str, float] | None = None) -> nn.Layer:
        """Return a network with initial weights; see `section`."""
        kind = "model" if model_type else "backbone"
        return build_component(kind, self.section(model_type, epsilons), "config")


class _Pretrained(nn.Layer):
    """One network and its config.

    Args:
        config: The network's sizes, and the names of its classes.
        model: The network; by default one with initial weights.
    """

    model_type: ClassVar[str]  # of a config's `model` section

    def __init__(self, config: SegformerConfig, model: nn.Layer | None = None) -> None:
        super().__init__()
        self.config = config
        self.model = config.build(self.model_type) if model is None else model

    @classmethod
    def from_pretrained(
        cls: type[Pretrained],
        source: str | os.PathLike[str],
        ignore_mismatched_sizes: bool = False,
        **overrides: Any,
    ) -> Pretrained:
        """Load a folder of `save_pretrained`, transformers' or this one, or any weight file.

        The network gets the LayerNorm epsilons of the code base that the weights come from. Where
        the source has no such head, as an ImageNet classifier, the head keeps its initial weights,
        which is logged. The model is in evaluation mode, as in transformers.

        Args:
            source: A Hugging Face folder, or what `open_checkpoint` reads.
            ignore_mismatched_sizes: Accept a source with another number of classes; the classifier
                then keeps its initial weights.
            overrides: Fields of the config that replace the source's, such as `id2label`.

        Raises:
            UserError: no such file, weights that do not fit, or an unknown field.
        """
        if not is_url(str(source)) and not Path(source).exists():
            raise UserError(f"{source}: no such file or folder. {NO_HUB.format(source)}")
        checkpoint = open_checkpoint(source)
        config = _config_of(Path(source), checkpoint, overrides)
        backbone = full_backbone(checkpoint.model.get("backbone", checkpoint.model))
        model = config.build(cls.model_type, {key: backbone[key] for key in EPSILONS})
        _load(model, source, checkpoint, ignore_mismatched_sizes)
        loaded = cls(config, model)
        loaded.eval()
        return loaded

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write a folder for transformers: `config.json` and `model.safetensors`."""
        prefix = "" if self.model_type else "backbone."
        state = {
            prefix + key: item.astype("float32").numpy()
            for key, item in self.model.state_dict().items()
        }
        format = HUGGINGFACE if self.model_type else HUGGINGFACE.bare()
        tensors = export_state(format, state, self.config.num_labels)
        write_tensors(tensors, Path(folder) / WEIGHTS_FILE, is_torch=True)
        architectures = {"architectures": [type(self).__name__]}
        write_json(Path(folder) / CONFIG_FILE, {**self.config.to_dict(), **architectures})

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
        """(N, C, H, W) normalised image -> stage 4's map, and the outputs asked for."""
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


def _config_of(source: Path, checkpoint: Checkpoint, overrides: dict[str, Any]) -> SegformerConfig:
    """Return the config beside the weights, or one with the sizes that the weights show."""
    if (source / CONFIG_FILE).is_file():
        return SegformerConfig.from_pretrained(source, **overrides)
    section = checkpoint.model
    backbone = full_backbone(section.get("backbone", section))
    known = SegformerConfig.from_section({**section, "backbone": backbone}).to_dict()
    if checkpoint.classes:
        known["id2label"] = dict(enumerate(checkpoint.classes))
    elif "num_classes" in section:
        known["id2label"] = {index: f"LABEL_{index}" for index in range(section["num_classes"])}
    return SegformerConfig.from_dict(known, **overrides)


def _load(
    model: nn.Layer,
    source: str | os.PathLike[str],
    checkpoint: Checkpoint,
    ignore_mismatched_sizes: bool,
) -> None:
    """Load the whole model where the source has one, else its backbone."""
    section = checkpoint.model
    if section.get("type") == type(model).__name__:
        if section["num_classes"] == model.num_classes:
            load_weights(model, source)
        elif ignore_mismatched_sizes:
            load_pretrained(model, str(source))
        else:
            raise UserError(
                f"{source}: has {section['num_classes']} classes, the model is to have "
                f"{model.num_classes}. To keep the classifier's initial weights: "
                "ignore_mismatched_sizes=True"
            )
    elif section.get("type") == "SegFormerMM" and isinstance(model, SegFormer):
        raise UserError(
            f"{source}: has mmsegmentation's head, which transformers' classes lack. Load it with "
            "paddleseg_segformer.load_model."
        )
    else:
        if hasattr(model, "backbone"):
            logger.warning("%s: has no such head; it keeps its initial weights", source)
        load_pretrained(getattr(model, "backbone", model), str(source))
