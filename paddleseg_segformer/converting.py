"""Weights of one code base as another's files, where that is possible exactly."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from paddle import nn
from PIL import Image

from paddleseg_segformer.config import Config
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import atomic_files, check_folder, write_text
from paddleseg_segformer.model_folder import CONFIG, WEIGHTS, config_of
from paddleseg_segformer.weights import save_weights
from paddleseg_segformer.weights.architectures.sizes import full_backbone, is_vit
from paddleseg_segformer.weights.files.containers import FOLDER_FILES, SUFFIXES, write_tensors
from paddleseg_segformer.weights.formats import FORMATS, HUGGINGFACE, PADDLESEG, SMP
from paddleseg_segformer.weights.formats.naming import Format, Rule, export_state, with_biases
from paddleseg_segformer.weights.sidecars.hub_config import CONFIG_FILE, HubConfig, write_json
from paddleseg_segformer.weights.sidecars.hub_processor import PROCESSOR_FILE, HubProcessor
from paddleseg_segformer.weights.sidecars.source import SIDECARS
from paddleseg_segformer.weights.sidecars.variant_yml import write_variant
from paddleseg_segformer.weights.weight_file import Checkpoint, open_checkpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conversion:
    """Weights under a code base's names, ready to be written.

    Args:
        source: file or folder that they come from.
        checkpoint: the same, opened.
        format: the code base whose names they get.
        state: the canonical weights to convert.
        tensors: the same under the format's names, and what its strict loaders expect besides.
        notes: differences that the weights alone do not carry over, one line each.
    """

    source: str | os.PathLike[str]
    checkpoint: Checkpoint
    format: Format
    state: Mapping[str, np.ndarray]
    tensors: Mapping[str, np.ndarray]
    notes: list[str]

    @property
    def is_backbone(self) -> bool:
        """Return whether only a backbone is converted."""
        return all(key.startswith("backbone.") for key in self.state)

    def table(self) -> list[str]:
        """Return one line per canonical weight: its name, the file's, the operation, the shape."""
        lines = []
        for key, array in self.state.items():
            rule, names = self.format.find(key) or (Rule(key, key), (key,))
            shape = "x".join(map(str, array.shape))
            lines.append(f"{key} -> {' + '.join(names)} ({_operation(rule, array)}, {shape})")
        return lines

    def summary(self) -> str:
        """Return the model, and how many tensors and numbers are converted."""
        size = sum(array.size for array in self.state.values())
        return (
            f"{self.checkpoint.describe()}: {len(self.state)} tensors of {size:,} numbers -> "
            f"{len(self.tensors)} tensors by {self.format.title}"
        )


def save_model(
    model: nn.Layer, config: Config, path: str | os.PathLike[str], format: str = "paddleseg"
) -> None:
    """Write a model folder, or the files of another code base.

    Args:
        config: Builds the model; only what differs from the defaults is written.
        path: A folder; for other formats than "hf" and "paddleseg", a weight file.
        format: "paddleseg" for a model folder, "hf" for Hugging Face's folder, or another key of
            `FORMATS`.

    Raises:
        UserError: the model has no exact counterpart in that format.
    """
    if format == "paddleseg":
        folder = _folder_without(path, {*FOLDER_FILES} - {WEIGHTS})
        with atomic_files(folder) as temporary:
            save_weights(model, temporary / WEIGHTS)
            write_text(temporary / CONFIG, config.to_yaml(skip_defaults=True))
        return
    with tempfile.TemporaryDirectory() as folder_name:
        save_model(model, config, folder_name)
        conversion = prepare(folder_name, format)
        write(conversion, path)
    for note in conversion.notes:
        logger.warning("%s: %s", path, note)


def prepare(source: str | os.PathLike[str], to: str, backbone_only: bool = False) -> Conversion:
    """Convert the weights of a file in memory.

    Args:
        source: a file or folder of any known code base.
        to: a key of `FORMATS`.
        backbone_only: leave the head out.

    Raises:
        UserError: the file is incomplete, or its model has no exact counterpart there.
    """
    format = FORMATS[to]
    checkpoint = open_checkpoint(source)
    is_backbone = backbone_only or checkpoint.is_backbone
    ignored = checkpoint.other_head if backbone_only else []
    unexpected = [key for key in checkpoint.unexpected if key not in ignored]
    for problem, keys in (("missing", checkpoint.missing), ("unexpected", unexpected)):
        if keys:
            raise UserError(
                f"{source}: cannot be converted, because weights are {problem}: "
                f"{', '.join(keys[:3])} ({len(keys)} in all). Take the complete file of one model."
            )
    _check_convertible(checkpoint, format, source, is_backbone)
    state = {
        key: array
        for key, array in checkpoint.state.items()
        if key.startswith("backbone.") or not is_backbone
    }
    state = with_biases(format, state)
    if is_backbone or checkpoint.model["type"] in format.bare_models:
        tensors = export_state(format.bare(), state, None)
    else:
        tensors = export_state(format, state, checkpoint.model["num_classes"])
    return Conversion(source, checkpoint, format, state, tensors, _notes(checkpoint, format))


def write(conversion: Conversion, destination: str | os.PathLike[str]) -> list[Path]:
    """Write a conversion: a file, or a folder with the config that goes with the weights.

    Args:
        destination: a file, whose suffix decides on the container; or a folder, for "hf",
            "rstrudel" and "paddleseg".

    Returns:
        The paths written, the weights first.

    Raises:
        UserError: the format has no files of this suffix, or the folder holds other weights.
    """
    weights = destination = Path(destination)
    format, checkpoint = conversion.format, conversion.checkpoint
    is_folder = format.name in _FOLDERS and (destination.is_dir() or not destination.suffix)
    if is_folder:
        name, config_name, write_configs = _FOLDERS[format.name]
        _folder_without(destination, {*FOLDER_FILES, *SIDECARS} - {name, config_name})
        weights = destination / name
    allowed = SUFFIXES["torch" if format.is_torch else "paddle"]
    if weights.suffix not in allowed:
        folder = " or a folder" if format.name in _FOLDERS else ""
        raise UserError(
            f"{destination}: {format.title}'s weights are written as {', '.join(allowed)}{folder}."
        )
    key = "" if conversion.is_backbone else format.weights_key
    meta = {"CLASSES": checkpoint.classes, "PALETTE": checkpoint.palette}
    beside = {"meta": meta} if format.has_metadata else {}
    if not is_folder:
        write_tensors(conversion.tensors, weights, format.is_torch, key, beside)
        return [weights]
    with atomic_files(destination) as temporary:
        write_tensors(conversion.tensors, temporary / name, format.is_torch, key, beside)
        configs = write_configs(conversion, temporary)
    return [weights, *(destination / path.name for path in configs)]


def _folder_without(folder: str | os.PathLike[str], others: set[str]) -> Path:
    """Return the folder, provided that it holds none of the other files."""
    folder = Path(folder)
    check_folder(folder)
    for name in sorted(others):
        if (folder / name).exists():
            raise UserError(f"{folder}: holds {name} of other weights. Choose another folder.")
    return folder


def _hub_configs(conversion: Conversion, folder: Path) -> list[Path]:
    """Write `config.json` and `preprocessor_config.json`."""
    checkpoint, model = conversion.checkpoint, conversion.checkpoint.model
    classes = checkpoint.classes
    if not checkpoint.is_backbone and not classes:
        classes = [f"LABEL_{index}" for index in range(model["num_classes"])]
    others = {"id2label": dict(enumerate(classes))} if classes else {}
    backbone = full_backbone(model.get("backbone", model))
    config = HubConfig.from_section({**model, "backbone": backbone}, **others)
    name = _HUB_CLASSES["" if conversion.is_backbone else model["type"]]
    write_json(folder / CONFIG_FILE, {"architectures": [name], **config.to_dict()})
    _processor_for(checkpoint).save_pretrained(folder)
    return [folder / CONFIG_FILE, folder / PROCESSOR_FILE]


_HUB_CLASSES = {  # our model types -> transformers'
    "": "SegformerModel",
    "SegFormer": "SegformerForSemanticSegmentation",
    "MixVisionTransformerClassifier": "SegformerForImageClassification",
}


def _processor_for(checkpoint: Checkpoint) -> HubProcessor:
    """Return the image processor nearest to a checkpoint's transforms."""
    processor = HubProcessor(do_reduce_labels=checkpoint.reduces_labels)
    if checkpoint.transforms is None:
        return processor
    processor.do_resize = len(checkpoint.transforms) > 1
    for item in checkpoint.transforms:
        if item["type"] in _HUB_RESIZING:
            width, height = item.get("target_size", (512, 512))
            processor.size = {"height": height, "width": width}
            processor.resample = int(Image.Resampling[item.get("resample", "BILINEAR")])
        elif item["type"] == "AntialiasResizeByShort":
            sides = {"shortest_edge": item["short_size"], "longest_edge": item.get("max_size")}
            processor.size = {key: side for key, side in sides.items() if side}
            processor.resample = int(Image.Resampling[item.get("resample", "BILINEAR")])
        elif item["type"] == "Normalize":
            processor.image_mean, processor.image_std = (
                list(item.get(key, [0.5])) * (3 if len(item.get(key, [0.5])) == 1 else 1)
                for key in ("mean", "std")
            )
    return processor


_HUB_RESIZING = ("Resize", "AntialiasResize")


def _variant(conversion: Conversion, folder: Path) -> list[Path]:
    checkpoint = conversion.checkpoint
    if conversion.is_backbone:
        return []
    return [write_variant(folder, checkpoint.model, checkpoint.test_config)]


def _own_config(conversion: Conversion, folder: Path) -> list[Path]:
    write_text(folder / CONFIG, config_of(conversion.source).to_yaml(skip_defaults=True))
    return [folder / CONFIG]


# Formats with folders: the weights' name there, the config's, and what writes the configs.
_FOLDERS: dict[str, tuple[str, str, Callable[[Conversion, Path], list[Path]]]] = {
    "hf": ("model.safetensors", CONFIG_FILE, _hub_configs),
    "rstrudel": ("checkpoint.pth", "variant.yml", _variant),
    "paddleseg": (WEIGHTS, CONFIG, _own_config),
}


def check_written(conversion: Conversion, path: Path) -> None:
    """Read the written weights back and compare them to the bit.

    Raises:
        UserError: they differ.
    """
    again = open_checkpoint(path).state
    if set(again) != set(conversion.state) or any(
        not np.array_equal(again[key], array) for key, array in conversion.state.items()
    ):
        raise UserError(f"{path}: reads back as other weights than were written. Check the disk.")


def _check_convertible(
    checkpoint: Checkpoint, format: Format, source: Any, is_backbone: bool
) -> None:
    model = checkpoint.model["type"]
    backbone = checkpoint.model if checkpoint.is_backbone else checkpoint.model["backbone"]
    if format is PADDLESEG:
        return
    kind = "VisionTransformer" if is_vit(backbone) else "MixVisionTransformer"
    if kind != format.backbone_type:
        raise UserError(
            f"{source}: holds a {kind}, but {format.title}'s files are of a {format.backbone_type}."
        )
    if full_backbone(backbone).get("positional_encoding") == "learned":
        raise UserError(
            f"{source}: {format.title} has no MixVisionTransformer with positional_encoding "
            "learned. It stays in this package's own files."
        )
    if not full_backbone(backbone)["qkv_bias"]:
        raise UserError(f"{source}: {format.title} has no attention without qkv_bias.")
    if is_vit(backbone) and not full_backbone(backbone).get("final_norm"):
        raise UserError(f"{source}: {format.title} has no encoder without final_norm.")
    if is_backbone or model in format.models:
        return
    theirs = " and ".join(format.models)
    raise UserError(
        f"{source}: a {model} cannot be converted to {format.title} exactly, which has {theirs}: "
        f"{_REASONS.get(model, 'another model')}. The backbone alone can be: --backbone_only"
    )


_REASONS = {
    "SegFormer": "its head has no batch norm and ReLU in the branches, mmsegmentation's has",
    "SegFormerMM": "its head has batch norm and ReLU in the branches, which the others lack",
    "MixVisionTransformerClassifier": "it has a classifier of whole images in place of a head",
}


def _notes(checkpoint: Checkpoint, format: Format) -> list[str]:
    notes = []
    theirs = format.epsilons or {}
    backbone = full_backbone(checkpoint.model.get("backbone", checkpoint.model))
    ours = checkpoint.epsilons or backbone
    changed = [
        f"{key} {ours[key]:g} -> {value:g}" for key, value in theirs.items() if ours[key] != value
    ]
    if changed:
        notes.append(
            f"{format.title}'s code fixes other LayerNorm epsilons ({', '.join(changed)}): its "
            "results differ in about the fifth digit"
        )
    for key, value in format.backbone.items():
        if backbone[key] != value:
            notes.append(
                f"{format.title}'s code acts as {key}={value}, this model as {backbone[key]}"
            )
    if format is not PADDLESEG and checkpoint.model.get("align_corners"):
        notes.append(f"{format.title}'s head does not align corners, this model's does")
    if format not in (PADDLESEG, SMP) and checkpoint.test_config.get("align_corners"):
        notes.append(
            f"{format.title} resizes logits with half-pixel centres, this model with aligned "
            "corners: its labels differ at the borders of classes"
        )
    if format is HUGGINGFACE and checkpoint.transforms is None:
        notes.append(
            "no preprocessing is known for these weights; ImageNet's constants are written"
        )
    elif format is HUGGINGFACE:
        notes += [
            f"Hugging Face's image processor has no {item['type']}; it resizes to a fixed size"
            for item in checkpoint.transforms or []
            if item["type"] not in ("Normalize", "AntialiasResizeByShort", *_HUB_RESIZING)
        ]
    if format is HUGGINGFACE and checkpoint.value_range is not None:
        notes.append(
            "Hugging Face's image processor has no value_range: give it images that are mapped to "
            f"0..255 by {checkpoint.value_range}"
        )
    return [*notes, *(f"{format.title}: {note}" for note in format.notes)]


def _operation(rule: Rule, array: np.ndarray) -> str:
    words = []
    if rule.layout != "copy" and array.ndim == 2:
        words.append("transposed" if rule.layout == "linear" else "transposed, as 1x1 convolution")
    if rule.rows:
        words.append(f"rows {rule.rows[0]}/{rule.rows[2]} to {rule.rows[1]}/{rule.rows[2]}")
    if not isinstance(rule.foreign, str):
        words.append("split")
    return ", ".join(words) or "copied"
