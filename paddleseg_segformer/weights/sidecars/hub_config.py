"""`config.json` of a Hugging Face folder: a network's sizes and its classes."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import json
import logging
import numbers
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from paddleseg_segformer.errors import UserError, did_you_mean
from paddleseg_segformer.files import write_text
from paddleseg_segformer.models.mix_transformer import PATCH_KERNELS, PATCH_STRIDES
from paddleseg_segformer.weights.files.download import NO_HUB
from paddleseg_segformer.weights.formats import HUGGINGFACE

logger = logging.getLogger(__name__)

Config = TypeVar("Config", bound="HubConfig")
Stored = TypeVar("Stored", bound="JsonFile")

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

DOWNLOAD_ARGUMENTS = (  # of `from_pretrained` there; without effect on a folder that is here
    "attn_implementation",  # all of theirs give the same numbers
    *("cache_dir", "force_download", "local_files_only", "token", "use_auth_token", "revision"),
    *("proxies", "resume_download", "trust_remote_code", "use_safetensors", "low_cpu_mem_usage"),
)


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
    write_text(path, _json_text(content))


def _json_text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def without_download(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a `from_pretrained` that are not about a download."""
    return {key: value for key, value in arguments.items() if key not in DOWNLOAD_ARGUMENTS}


class JsonFile:
    """Plain data that is kept in JSON files."""

    def to_dict(self) -> dict[str, Any]:
        """Return the plain data."""
        raise NotImplementedError

    @classmethod
    def from_dict(cls: type[Stored], content: Mapping[str, Any], **overrides: Any) -> Stored:
        """Return what such plain data stands for, with fields replaced by `overrides`."""
        raise NotImplementedError

    def to_json_string(self) -> str:
        """Return the text of a JSON file."""
        return _json_text(self.to_dict())

    def to_json_file(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file."""
        write_json(Path(path), self.to_dict())

    @classmethod
    def from_json_file(cls: type[Stored], path: str | os.PathLike[str]) -> Stored:
        """Read a JSON file.

        Raises:
            UserError: no such file, or not such data.
        """
        return cls.from_dict(read_json(Path(path)))


@dataclass(init=False)
class HubConfig(JsonFile):
    """Sizes, rates and class names; see transformers' class of this name for the fields.

    Args:
        num_labels: Number of classes K, 2 by default; without `id2label` they are LABEL_0, ...
        id2label: Name of each class id; it states K too.
        label2id: The reverse of `id2label`, which it follows from.
        initializer_range: Standard deviation of new weights.
        layer_norm_eps: Has no effect, as in transformers: every LayerNorm has 1e-5.
        problem_type: Of a classifier's loss; see `classification_loss`.
        reshape_last_stage: Whether stage 4's state is given as a map, not as tokens.
        output_hidden_states, output_attentions, return_dict: Of calls that do not say.
        others: Kept as attributes and in files, without effect.

    Raises:
        UserError: values that contradict each other, or that no network here has.
    """

    model_type: ClassVar[str] = "segformer"

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
    output_hidden_states: bool = False
    output_attentions: bool = False
    return_dict: bool = True
    id2label: Mapping[int, str] = dataclasses.field(default_factory=dict)

    def __init__(self, **values: Any) -> None:
        num_labels, id2label = (values.pop(key, None) for key in ("num_labels", "id2label"))
        label2id = values.pop("label2id", None)
        self.id2label = {} if id2label is None else id2label
        if id2label is None:
            self.num_labels = 2 if num_labels is None else num_labels
        elif num_labels not in (None, self.num_labels):
            raise UserError(
                f"num_labels is {num_labels}, but id2label names {self.num_labels} classes."
            )
        if label2id not in (None, self.label2id):
            logger.warning("config: label2id differs from id2label, which it follows from")
        fields = [item for item in dataclasses.fields(self) if item.name != "id2label"]
        known = {item.name: item.default for item in fields}
        for name in values.keys() - known.keys():
            if difflib.get_close_matches(name, known, 1, 0.8):
                logger.warning("config: %s has no effect.%s", name, did_you_mean(name, known))
        self.update({**known, **values})

    def __setattr__(self, name: str, value: Any) -> None:
        expected = FIXED.get(name, value)
        if (tuple(value) if isinstance(expected, tuple) else value) != expected:
            raise UserError(f"{name}: found {value}, expected {expected}, as published.")
        if name == "id2label":
            if not isinstance(value, Mapping):
                raise UserError(f"id2label: found {value!r}, expected a name for each class id.")
            try:
                value = {int(index): str(label) for index, label in value.items()}
            except (TypeError, ValueError):
                raise UserError(f"id2label: found {value!r:.80}, expected class ids.") from None
        if isinstance(value, tuple) and name in self.__dataclass_fields__:
            value = list(value)  # as files give it
        super().__setattr__(name, value)

    def update(self, values: Mapping[str, Any]) -> None:
        """Set several fields."""
        for name, value in values.items():
            if name != "model_type":
                setattr(self, name, value)

    @property
    def num_labels(self) -> int:
        """Return the number of classes; another one that is set makes them LABEL_0, ..."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, count: Any) -> None:
        if not isinstance(count, numbers.Integral):
            raise UserError(f"num_labels: found {count!r}, expected a whole number.")
        if count != self.num_labels:
            self.id2label = {index: f"LABEL_{index}" for index in range(count)}

    @property
    def label2id(self) -> dict[str, int]:
        """Return the class id of each name, the last one where several have it."""
        return {name: index for index, name in sorted(self.id2label.items())}

    @label2id.setter
    def label2id(self, ids: Mapping[str, int]) -> None:
        if ids != self.label2id:
            raise UserError("label2id: differs from id2label, which it follows from. Set id2label.")

    @property
    def classes(self) -> list[str]:
        """Return the names of the network's outputs.

        There are as many outputs as `id2label` has entries, whatever its ids are; an output whose
        id has no name is LABEL_0, LABEL_1, ...
        """
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
        """Return the config of plain data such as `config.json` holds.

        Args:
            overrides: Fields that replace those of the data.

        Raises:
            UserError: unknown fields that are to be replaced, and as the constructor.
        """
        cls._check_overrides(overrides, content)
        values = dict(content)
        if "num_labels" in overrides or "id2label" in overrides:
            values = {key: values[key] for key in values if key not in LABEL_KEYS}
        return cls(**{**values, **overrides})

    @classmethod
    def from_pretrained(
        cls: type[Config],
        folder: str | os.PathLike[str],
        subfolder: str = "",
        **overrides: Any,
    ) -> Config:
        """Read `config.json` of a folder, or a file.

        Raises:
            UserError: no such file, or not the config of a SegFormer.
        """
        path = Path(folder, subfolder)
        path = path if path.is_file() else path / CONFIG_FILE
        content, overrides = read_json(path), without_download(overrides)
        cls._check_overrides(overrides, content)
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
        values = copy.deepcopy(vars(self))
        values = {key: list(x) if isinstance(x, tuple) else x for key, x in values.items()}
        return {**values, "label2id": self.label2id, "model_type": self.model_type}

    @classmethod
    def _check_overrides(cls, overrides: Mapping[str, Any], content: Mapping[str, Any]) -> None:
        """Raise a `UserError` where a field is to be replaced that there is not."""
        fields = [*(field.name for field in dataclasses.fields(cls)), *LABEL_KEYS]
        for name in overrides:
            if name not in fields and name not in content:
                raise UserError(f"unknown argument '{name}'.{did_you_mean(name, fields)}")
