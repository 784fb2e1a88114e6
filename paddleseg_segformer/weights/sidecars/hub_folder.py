"""The configs beside the weights in Hugging Face's folders: reading and writing them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from paddleseg_segformer.huggingface.configuration import CONFIG_FILE, SegformerConfig
from paddleseg_segformer.huggingface.image_processing import (
    PROCESSOR_FILE,
    SegformerImageProcessor,
)
from paddleseg_segformer.weights.architectures.known import full_backbone
from paddleseg_segformer.weights.sidecars.json_files import write_json
from paddleseg_segformer.weights.weight_file import Checkpoint

ARCHITECTURES = {  # our model types -> theirs
    "": "SegformerModel",
    "SegFormer": "SegformerForSemanticSegmentation",
    "MixVisionTransformerClassifier": "SegformerForImageClassification",
}


def read_configs(path: Path) -> tuple[SegformerConfig, SegformerImageProcessor]:
    """Read a `config.json` and, where there is one, the image processor's settings beside it.

    Raises:
        UserError: not valid, or of another model.
    """
    config = SegformerConfig.from_pretrained(path.parent)
    has_processor = path.with_name(PROCESSOR_FILE).is_file()
    processor = SegformerImageProcessor
    return config, processor.from_pretrained(path.parent) if has_processor else processor()


def transforms_of(processor: SegformerImageProcessor) -> list[dict[str, Any]]:
    """Return an image processor's settings as the `transforms` of a config."""
    transforms: list[dict[str, Any]] = []
    if processor.do_resize:
        assert not isinstance(processor.size, int)
        size = [processor.size["width"], processor.size["height"]]
        name = Image.Resampling(processor.resample).name
        transforms.append({"type": "AntialiasResize", "target_size": size, "resample": name})
    # (x * factor - mean) / std of theirs is (x / 255 - mean / unit) / (std / unit) of ours
    factor = processor.rescale_factor if processor.do_rescale else 1.0
    unit = 1.0 if abs(255 * factor - 1) < 1e-6 else 255 * factor
    mean, std = processor.image_mean, processor.image_std
    if not processor.do_normalize:
        mean, std = 0.0, 1.0
    constants = {
        name: [item / unit for item in ([values] if isinstance(values, (int, float)) else values)]
        for name, values in (("mean", mean), ("std", std))
    }
    return [*transforms, {"type": "Normalize", **constants}]


def write_configs(folder: Path, checkpoint: Checkpoint, is_backbone: bool) -> list[Path]:
    """Write `config.json` and `preprocessor_config.json`; return their paths."""
    model = checkpoint.model
    kind = "" if is_backbone else model["type"]
    backbone = full_backbone(model.get("backbone", model))
    classes = checkpoint.classes
    if not checkpoint.is_backbone and not classes:
        classes = [f"LABEL_{index}" for index in range(model["num_classes"])]
    others = {"id2label": dict(enumerate(classes))} if classes else {}
    config = SegformerConfig.from_section({**model, "backbone": backbone}, **others)
    content = {"architectures": [ARCHITECTURES[kind]], **config.to_dict()}
    write_json(folder / CONFIG_FILE, content)
    _processor_for(checkpoint).save_pretrained(folder)
    return [folder / CONFIG_FILE, folder / PROCESSOR_FILE]


def hub_notes(checkpoint: Checkpoint) -> list[str]:
    """Say what an image processor there cannot do, or what is not known for it."""
    if checkpoint.transforms is None:
        return ["no preprocessing is known for these weights; ImageNet's constants are written"]
    rules = [item["type"] for item in checkpoint.transforms if item["type"] != "Normalize"]
    others = [name for name in rules if name not in _RESIZING]
    return [
        f"Hugging Face's image processor knows no {name}; it resizes to a fixed size"
        for name in others
    ]


_RESIZING = ("Resize", "AntialiasResize")


def _processor_for(checkpoint: Checkpoint) -> SegformerImageProcessor:
    """Return the image processor nearest to a checkpoint's transforms."""
    processor = SegformerImageProcessor(do_reduce_labels=checkpoint.reduces_labels)
    if checkpoint.transforms is None:
        return processor
    processor.do_resize = len(checkpoint.transforms) > 1
    for item in checkpoint.transforms:
        if item["type"] in _RESIZING:
            width, height = item.get("target_size", (512, 512))
            processor.size = {"height": height, "width": width}
            processor.resample = int(Image.Resampling[item.get("resample", "BILINEAR")])
        elif item["type"] == "Normalize":
            processor.image_mean, processor.image_std = (
                list(item.get(key, [0.5])) * (3 if len(item.get(key, [0.5])) == 1 else 1)
                for key in ("mean", "std")
            )
    return processor
