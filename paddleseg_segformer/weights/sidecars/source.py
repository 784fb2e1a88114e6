"""What goes with weights: the model's sizes as stated beside them, classes, preprocessing, testing.

A file beside the weights is authoritative; without one, what the code base does by default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paddleseg_segformer.components import is_own, stated_of_dataset
from paddleseg_segformer.data.normalize import IMAGENET_MEAN, IMAGENET_STD
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.weights.architectures.known import EPSILONS, full_backbone
from paddleseg_segformer.weights.architectures.sizes import Section
from paddleseg_segformer.weights.files.containers import Container
from paddleseg_segformer.weights.formats.naming import Format
from paddleseg_segformer.weights.sidecars.hub_folder import read_configs, transforms_of
from paddleseg_segformer.weights.sidecars.mm_config import evaluation_settings
from paddleseg_segformer.weights.sidecars.variant_yml import read_variant

Transforms = list[dict[str, Any]]


@dataclass(frozen=True)
class Source:
    """See `Checkpoint` for the fields; `model` holds what is stated about it."""

    model: Section = field(default_factory=dict)
    classes: list[str] | None = None
    palette: list[list[int]] | None = None
    transforms: Transforms | None = None
    test_config: dict[str, Any] = field(default_factory=dict)
    reduces_labels: bool = False
    epsilons: Mapping[str, float] | None = None


def source_of(
    container: Container, format: Format, found: Section, is_stated: bool = True
) -> Source:
    """Return what is known about the source of weights whose sizes are `found`.

    Args:
        is_stated: read the config beside the weights, where there is one.

    Raises:
        UserError: a file beside the weights cannot be read, or says something else than they do.
    """
    for name, read in SIDECARS.items():
        path = container.beside(name)
        if path is not None and is_stated:
            source = read(path, format, found)
            check_agreement(path, source.model, found)
            return source
    return _by_default(container, format, found.get("num_classes"))


def _by_default(container: Container, format: Format, num_classes: int | None) -> Source:
    """Return what the metadata in the file say, and else what the code base publishes."""
    table = DEFAULTS.get(format.name, {None: (None, {})})
    transforms, test_config = table.get(num_classes, table[None])
    meta = container.meta.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    text = meta.get("config") or meta.get("cfg")  # of 0.x, of 1.x
    if isinstance(text, str):
        stated, windows = evaluation_settings(text)
        if stated is not None:
            transforms, test_config = stated, {**_SOFTMAX, **windows}
    classes, palette = _classes_of(meta, num_classes)
    return Source(
        classes=classes,
        palette=palette,
        transforms=transforms,
        test_config=test_config,
        reduces_labels=num_classes == 150 and format.name in ("nvlabs", "mmseg", "rstrudel"),
        epsilons=format.epsilons,
    )


_IMAGENET = {"type": "Normalize", "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
_HALF = {"type": "Normalize", "mean": [0.5], "std": [0.5]}
_SOFTMAX = {"average": "softmax", "scale_mode": "source"}
_CITYSCAPES = {"is_slide": True, "crop_size": [1024, 1024], "stride": [768, 768], **_SOFTMAX}


def _windows(side: int, stride: int) -> dict[str, Any]:
    return {"is_slide": True, "crop_size": [side] * 2, "stride": [stride] * 2, **_SOFTMAX}


# By code base and number of classes (None: any other): the published evaluation on ADE20K (150)
# and Cityscapes (19).
DEFAULTS: dict[str, dict[int | None, tuple[Transforms | None, dict[str, Any]]]] = {
    "nvlabs": {
        150: ([{"type": "AlignedResize", "scale": [2048, 512]}, _IMAGENET], _SOFTMAX),
        19: ([_IMAGENET], _CITYSCAPES),
        None: ([_IMAGENET], _SOFTMAX),
    },
    "mmseg": {
        150: ([{"type": "ResizeKeepRatio", "scale": [2048, 512]}, _IMAGENET], _SOFTMAX),
        19: ([_IMAGENET], _CITYSCAPES),
        None: ([_IMAGENET], _SOFTMAX),
    },
    "hf": {
        None: (
            [{"type": "AntialiasResize", "target_size": [512, 512]}, _IMAGENET],
            {"is_one_step": True},
        )
    },
    "smp": {None: ([_IMAGENET], {})},
    "rstrudel": {
        150: ([{"type": "ResizeKeepRatio", "scale": [2048, 512]}, _HALF], _windows(512, 512)),
        19: ([{"type": "ResizeKeepRatio", "scale": [2048, 1024]}, _HALF], _windows(768, 512)),
        None: ([_HALF], _SOFTMAX),
    },
    "timm": {None: ([_HALF], {})},
}


def check_agreement(path: Path, stated: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raise a `UserError` where a config states another size than the weights have."""
    for key, value in found.items():
        if key not in stated:
            continue
        if isinstance(value, Mapping):
            check_agreement(path, full_backbone(stated[key]), value)
        elif _listed(stated[key]) != _listed(value):
            raise UserError(
                f"{path}: says {key} {stated[key]}, but the weights beside it have {value}. Put "
                "the file there that belongs to the weights."
            )


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _classes_of(
    meta: Mapping[str, Any], num_classes: int | None
) -> tuple[list[str] | None, list[list[int]] | None]:
    """Return class names and palette that mmcv or mmengine saved, where they are of K classes."""
    data = meta.get("dataset_meta")
    data = data if isinstance(data, Mapping) else {}
    classes = meta.get("CLASSES") or data.get("classes")
    palette = meta.get("PALETTE") or data.get("palette")
    return (
        classes if _is_list_of(classes, num_classes, lambda item: isinstance(item, str)) else None,
        palette if _is_list_of(palette, num_classes, _is_color) else None,
    )


def _is_list_of(value: Any, length: int | None, is_item: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and len(value) == length and all(map(is_item, value))


def _is_color(value: Any) -> bool:
    return _is_list_of(value, 3, lambda item: type(item) is int and 0 <= item <= 255)


def _own(path: Path, format: Format, found: Section) -> Source:
    """Read the config of a model folder of this package."""
    from paddleseg_segformer.config import load_config

    config = load_config(path)
    model = {key: value for key, value in config.model.items() if key != "pretrained"}
    backbone = model.get("backbone")
    if not isinstance(backbone, dict):
        raise UserError(f"{path}: model.backbone is {backbone!r}, expected keys with a `type`.")
    for kind, name in (("model", model.get("type")), ("backbone", backbone.get("type"))):
        if not is_own(kind, str(name)):
            raise UserError(f"{path}: the {kind} {name} is a component that only its maker knows.")
    model["backbone"] = backbone = {k: v for k, v in backbone.items() if k != "pretrained"}
    data = config.val_dataset or config.train_dataset or {}
    label_set = stated_of_dataset(data, "label_set")
    reduces = data.get("reduce_zero_label", stated_of_dataset(data, "reduce_zero_label") or False)
    full = full_backbone(backbone)
    epsilons = {key: full[key] for key in EPSILONS if key in full}
    defaults = dataclasses.asdict(type(config.test_config)())
    tested = dataclasses.asdict(config.test_config)
    return Source(
        model=model,
        classes=data.get("classes") or (list(label_set.classes) if label_set else None),
        palette=data.get("palette")
        or ([list(map(int, color)) for color in label_set.palette] if label_set else None),
        transforms=data.get("transforms"),
        test_config={key: value for key, value in tested.items() if value != defaults[key]},
        reduces_labels=reduces,
        epsilons=epsilons,
    )


def _hub(path: Path, format: Format, found: Section) -> Source:
    config, processor = read_configs(path)
    section = config.section(found.get("type", ""))
    is_unnamed = all(name == f"LABEL_{index}" for index, name in enumerate(config.classes))
    return Source(
        model=section if found.get("type") else {"backbone": section},
        classes=None if is_unnamed else config.classes,
        transforms=transforms_of(processor),
        test_config={"is_one_step": True},
        reduces_labels=processor.do_reduce_labels,
        epsilons=format.epsilons,
    )


def _rstrudel(path: Path, format: Format, found: Section) -> Source:
    return Source(**read_variant(path, format), epsilons=format.epsilons)


# File name -> its reader; the first that is there is read.
SIDECARS: dict[str, Callable[[Path, Format, Section], Source]] = {
    "config.yml": _own,
    "variant.yml": _rstrudel,
    "config.json": _hub,
}
