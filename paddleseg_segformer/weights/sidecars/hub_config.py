"""`config.json` of a Hugging Face folder: a network's sizes and its classes."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import write_text
from paddleseg_segformer.models.mix_transformer import PATCH_KERNELS, PATCH_STRIDES
from paddleseg_segformer.weights.files.download import NO_HUB
from paddleseg_segformer.weights.formats import HUGGINGFACE

Config = TypeVar("Config", bound="HubConfig")

EPSILONS = dict(HUGGINGFACE.epsilons or {})  # of LayerNorms; `layer_norm_eps` has no effect there
BACKBONE_KEYS = {  # theirs -> ours
    "num_channels": "in_channels",
    "hidden_sizes": "embed_dims",
    "depths": "depths",
    "num_attention_heads": "num_heads",
    "sr_ratios": "sr_ratios",
    "mlp_ratios": "mlp_ratios",
    "hidden_dropout_prob": "drop_rate",
    "attention_probs_dropout_prob": "attn_drop_rate",
    "drop_path_rate": "drop_path_rate",
}
HEAD_KEYS = {"decoder_hidden_size": "embedding_dim", "classifier_dropout_prob": "dropout_rate"}
LABEL_KEYS = ("num_labels", "id2label", "label2id")
CONFIG_FILE = "config.json"
FIXED = {
    "num_encoder_blocks": 4,
    "patch_sizes": PATCH_KERNELS,
    "strides": PATCH_STRIDES,
    "hidden_act": "gelu",
}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: no such file, or not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{path}: no such file. {NO_HUB.format(path.parent)}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: found {type(content).__name__}, expected keys and values.")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with sorted keys, as transformers does."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


@dataclass
class HubConfig:
    """Sizes, rates and class names; see transformers' class of this name for the fields.

    Args:
        num_labels: Number of classes K, 2 by default; without `id2label` they are LABEL_0, ...
        id2label: Name of each class id; it states K too.
        label2id: The reverse of `id2label`, which it follows from.
        layer_norm_eps: Has no effect, as in transformers: every LayerNorm has 1e-5.
        problem_type: Of a classifier's loss; see `classification_loss`.
        reshape_last_stage: Whether stage 4's state is given as a map, not as tokens.

    Raises:
        UserError: values that contradict each other, or that no network here has.
    """

    num_channels: int = 3
    num_encoder_blocks: int = 4
    depths: Sequence[int] = (2, 2, 2, 2)
    sr_ratios: Sequence[int] = (8, 4, 2, 1)
    hidden_sizes: Sequence[int] = (32, 64, 160, 256)
    patch_sizes: Sequence[int] = PATCH_KERNELS
    strides: Sequence[int] = PATCH_STRIDES
    num_attention_heads: Sequence[int] = (1, 2, 5, 8)
    mlp_ratios: Sequence[float] = (4, 4, 4, 4)
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    classifier_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    drop_path_rate: float = 0.1
    layer_norm_eps: float = 1e-6
    decoder_hidden_size: int = 256
    semantic_loss_ignore_index: int = 255
    reshape_last_stage: bool = True
    problem_type: str | None = None
    num_labels: int | None = None
    id2label: Mapping[int, str] | None = None
    label2id: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        for key, expected in FIXED.items():
            found = getattr(self, key)
            if (tuple(found) if isinstance(expected, tuple) else found) != expected:
                raise UserError(f"{key}: found {found}, expected {expected}, as published.")
        if self.id2label is None:
            count = 2 if self.num_labels is None else self.num_labels
            self.id2label = {index: f"LABEL_{index}" for index in range(count)}
        self.id2label = {int(index): str(name) for index, name in self.id2label.items()}
        if self.num_labels not in (None, len(self.id2label)):
            raise UserError(
                f"num_labels is {self.num_labels}, but id2label names {len(self.id2label)} classes."
            )
        self.num_labels = len(self.id2label)
        self.label2id = {name: index for index, name in sorted(self.id2label.items())}

    @property
    def classes(self) -> list[str]:
        """Return the names of the network's outputs.

        There are as many outputs as `id2label` has entries, whatever its ids are; an output whose
        id has no name is LABEL_0, LABEL_1, ...
        """
        assert self.id2label is not None
        return [self.id2label.get(i, f"LABEL_{i}") for i in range(len(self.id2label))]

    def section(
        self, model_type: str, epsilons: Mapping[str, float] | None = None
    ) -> dict[str, Any]:
        """Return the `model` section of a config, or for "" the section of its backbone.

        Args:
            epsilons: Of LayerNorms, as the backbone's arguments; by default Hugging Face's.
        """
        sizes = {ours: getattr(self, theirs) for theirs, ours in BACKBONE_KEYS.items()}
        backbone = {"type": "MixVisionTransformer", **sizes, **(epsilons or EPSILONS)}
        if not model_type:
            return backbone
        section: dict[str, Any] = {"type": model_type, "num_classes": self.num_labels}
        if model_type == "SegFormer":
            section |= {ours: getattr(self, theirs) for theirs, ours in HEAD_KEYS.items()}
        return {**section, "backbone": backbone}

    @classmethod
    def from_section(cls: type[Config], section: Mapping[str, Any], **others: Any) -> Config:
        """Return the config of the network that a `model` or `backbone` section builds.

        Args:
            section: With every size spelled out.
            others: Fields that no section holds, such as `id2label`.
        """
        backbone = section.get("backbone", section)
        known = {theirs: backbone.get(ours) for theirs, ours in BACKBONE_KEYS.items()}
        known |= {theirs: section.get(ours) for theirs, ours in HEAD_KEYS.items()}
        given = {key: value for key, value in known.items() if value is not None}
        return cls(**{**given, **others})

    @classmethod
    def from_dict(cls: type[Config], content: Mapping[str, Any], **overrides: Any) -> Config:
        """Return the config of plain data such as `config.json` holds; unknown keys are ignored.

        Args:
            overrides: Fields that replace those of the data.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        values = {key: value for key, value in content.items() if key in known}
        if "num_labels" in overrides or "id2label" in overrides:
            values = {key: values[key] for key in values if key not in LABEL_KEYS}
        return cls(**{**values, **overrides})

    @classmethod
    def from_pretrained(
        cls: type[Config], folder: str | os.PathLike[str], **overrides: Any
    ) -> Config:
        """Read `config.json` of a folder.

        Raises:
            UserError: no such file, or not the config of a SegFormer.
        """
        path = Path(folder) / CONFIG_FILE
        content = read_json(path)
        model_type = content.get("model_type", "segformer")
        if model_type != "segformer":
            raise UserError(f"{path}: model_type is {model_type!r}, expected 'segformer'.")
        try:
            return cls.from_dict(content, **overrides)
        except (TypeError, ValueError, AttributeError) as error:  # UserError is a ValueError
            raise UserError(f"{path}: {error}") from None

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `config.json` into a folder."""
        write_json(Path(folder) / CONFIG_FILE, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data, as `config.json` holds them."""
        values = dataclasses.asdict(self)
        del values["num_labels"]  # the number of id2label's entries
        values = {key: list(x) if isinstance(x, tuple) else x for key, x in values.items()}
        return {"model_type": "segformer", **values}
