"""The `variant.yml` beside rstrudel/segmenter's weights: reading and writing it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paddleseg_segformer.data.normalize import IMAGENET_MEAN, IMAGENET_STD
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import write_text
from paddleseg_segformer.weights.architectures.sizes import Section, full_backbone
from paddleseg_segformer.weights.formats.naming import Format
from paddleseg_segformer.yaml_files import dump_yaml, read_yaml

FILE_NAME = "variant.yml"
# By data set: the largest ratio of an image's sides in evaluation.
MAX_RATIOS = {"ade20k": 4, "cityscapes": 2, "pascal_context": 8}
NORMALIZATIONS = {
    "vit": {"mean": [0.5], "std": [0.5]},
    "deit": {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)},
}
_HEAD_WIDTH = 64  # channels per attention head of its mask transformer


def read_variant(path: Path, format: Format) -> dict[str, Any]:
    """Return the `model`, `transforms` and `test_config` that a `variant.yml` states.

    Raises:
        UserError: not readable, or without the network's sizes.
    """
    content = read_yaml(path, ignored_tag="!!python/tuple")
    try:
        net = content["net_kwargs"]
        return {
            "model": _model(net, format),
            "transforms": _transforms(net, content),
            "test_config": _test_config(content.get("inference_kwargs")),
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{path}: not a variant.yml of {format.title} ({type(error).__name__}: {error}). "
            "Expected net_kwargs with the network's sizes."
        ) from None


def _model(net: Mapping[str, Any], format: Format) -> Section:
    height, width = (int(side) for side in net["image_size"])
    backbone: Section = {
        "type": "VisionTransformer",
        "img_size": height if height == width else [width, height],
        "patch_size": net["patch_size"],
        "embed_dim": net["d_model"],
        "depth": net["n_layers"],
        "num_heads": net["n_heads"],
        "qkv_bias": True,
        "drop_rate": net.get("dropout", 0.0),
        "drop_path_rate": net.get("drop_path_rate", 0.0),
        "final_norm": True,
        **format.backbone,
        **(format.epsilons or {}),
    }
    model = {"num_classes": net["n_cls"], "backbone": backbone}
    decoder = net["decoder"]
    if decoder["name"] == "mask_transformer":
        model["h_depth"] = decoder["n_layers"]
        model["h_num_heads"] = net["d_model"] // _HEAD_WIDTH
        model["h_drop_rate"] = decoder.get("dropout", 0.0)
        model["h_drop_path_rate"] = decoder.get("drop_path_rate", 0.0)
    return model


def _transforms(net: Mapping[str, Any], content: Mapping[str, Any]) -> list[dict[str, Any]]:
    normalize = {"type": "Normalize", **NORMALIZATIONS[net["normalization"]]}
    data, inference = content.get("dataset_kwargs") or {}, content.get("inference_kwargs") or {}
    ratio, short = MAX_RATIOS.get(data.get("dataset", "")), inference.get("im_size")
    if not ratio or not short:
        return [normalize]
    return [{"type": "ResizeKeepRatio", "scale": [ratio * short, short]}, normalize]


def _test_config(inference: Mapping[str, Any] | None) -> dict[str, Any]:
    average = {"average": "softmax", "scale_mode": "source"}
    if not inference:
        return average
    window, stride = int(inference["window_size"]), int(inference["window_stride"])
    return {"is_slide": True, "crop_size": [window] * 2, "stride": [stride] * 2, **average}


def write_variant(folder: Path, model: Section, test_config: Mapping[str, Any]) -> Path:
    """Write the file from which rstrudel/segmenter builds a network; return its path.

    Args:
        model: a Segmenter's section.
        test_config: of the evaluation.

    Raises:
        UserError: it cannot build a network of these sizes.
    """
    backbone = full_backbone(model["backbone"])
    dim, heads, is_mask = backbone["embed_dim"], backbone["num_heads"], "h_depth" in model
    expected = {"mlp_ratio": 4, "in_channels": 3, "qk_scale": None, "final_norm": True}
    wrong = [f"{key} {backbone[key]}" for key, value in expected.items() if backbone[key] != value]
    if is_mask:
        sizes = {"h_embed_dim": dim, "h_num_heads": dim // _HEAD_WIDTH, "h_mlp_ratio": 4}
        wrong += [f"{key} {model[key]}" for key, value in sizes.items() if model[key] != value]
    if wrong:
        raise UserError(
            f"{folder}: rstrudel/segmenter cannot build this network ({', '.join(wrong)}). Name a "
            ".pth file to write the weights alone."
        )
    img_size = backbone["img_size"]
    width, height = (img_size, img_size) if isinstance(img_size, int) else img_size
    decoder: dict[str, Any] = {"name": "linear"}
    if is_mask:
        decoder = {
            "name": "mask_transformer",
            "n_layers": model["h_depth"],
            "dropout": model.get("h_drop_rate", 0.0),
            "drop_path_rate": model.get("h_drop_path_rate", 0.0),
        }
    crop = test_config.get("crop_size") or [max(width, height)]
    stride = test_config.get("stride") or crop
    content = {
        "net_kwargs": {
            "backbone": f"vit_{dim}_patch{backbone['patch_size']}_{height}",
            "image_size": [height, width],
            "patch_size": backbone["patch_size"],
            "d_model": dim,
            "n_heads": heads,
            "n_layers": backbone["depth"],
            "normalization": "vit",
            "distilled": False,
            "dropout": backbone["drop_rate"],
            "drop_path_rate": backbone["drop_path_rate"],
            "n_cls": model["num_classes"],
            "decoder": decoder,
        },
        "inference_kwargs": {
            "im_size": min(height, width),
            "window_size": crop[0],
            "window_stride": stride[0],
        },
    }
    path = folder / FILE_NAME
    write_text(path, dump_yaml(content))
    return path
