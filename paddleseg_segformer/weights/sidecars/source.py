"""The source of weights: model, classes, preprocessing and testing, as stated beside them.

A config beside the weights takes precedence over `metadata`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from paddleseg_segformer.components import is_own, stated_of_dataset
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.weights.architectures.sizes import EPSILONS, Section, full_backbone
from paddleseg_segformer.weights.files.containers import FOLDER_FILES, Container
from paddleseg_segformer.weights.formats.naming import Format
from paddleseg_segformer.weights.sidecars.hub_config import HubConfig
from paddleseg_segformer.weights.sidecars.hub_processor import PROCESSOR_FILE, HubProcessor
from paddleseg_segformer.weights.sidecars.metadata import Source, default_source
from paddleseg_segformer.weights.sidecars.variant_yml import read_variant


def source_of(container: Container, format: Format, found: Section, reads_config: bool) -> Source:
    """Return what is known about the source of weights whose sizes are `found`.

    Args:
        reads_config: read the config beside the weights, if there is one and they have one of the
            names of a folder's weights.

    Raises:
        UserError: the config cannot be read, or contradicts the weights.
    """
    file = container.file
    for name, read in SIDECARS.items() if reads_config and file.name in FOLDER_FILES else ():
        path = file.with_name(name)
        if path.is_file():
            source = read(path, format, found)
            _check_agreement(path, source.model, found)
            return source
    return default_source(container.meta, format, found.get("num_classes"))


def _check_agreement(path: Path, stated: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raise a `UserError` where a config states other sizes than the weights have."""
    for key, value in found.items():
        if key not in stated:
            continue
        if isinstance(value, Mapping):
            _check_agreement(path, full_backbone(stated[key]), value)
        elif stated[key] != value:
            raise UserError(
                f"{path}: says {key} {stated[key]}, but the weights beside it have {value}. Put "
                "the config of these weights there."
            )


def _own(path: Path, format: Format, found: Section) -> Source:
    """Read this package's config, of a model folder."""
    from paddleseg_segformer.config import load_config

    config = load_config(path)
    model = dict(config.model)
    backbone = model.get("backbone")
    if not isinstance(backbone, dict):
        raise UserError(f"{path}: model.backbone is {backbone!r}, expected keys with a `type`.")
    for kind, name in (("model", model.get("type")), ("backbone", backbone.get("type"))):
        if not is_own(kind, str(name)):
            raise UserError(f"{path}: the {kind} {name} is not one of this package.")
    model["backbone"] = backbone = dict(backbone)
    for section in (model, backbone):
        section.pop("pretrained", None)
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
        value_range=data.get("value_range"),
        test_config={key: value for key, value in tested.items() if value != defaults[key]},
        reduces_labels=reduces,
        epsilons=epsilons,
    )


def _hub(path: Path, format: Format, found: Section) -> Source:
    config = HubConfig.from_pretrained(path.parent)
    has_processor = path.with_name(PROCESSOR_FILE).is_file()
    processor = HubProcessor.from_pretrained(path.parent) if has_processor else HubProcessor()
    section = config.section(found.get("type", ""))
    is_unnamed = all(name == f"LABEL_{index}" for index, name in enumerate(config.classes))
    return Source(
        model=section if found.get("type") else {"backbone": section},
        classes=None if is_unnamed else config.classes,
        transforms=processor.transforms(),
        test_config={"is_one_step": True},
        reduces_labels=processor.do_reduce_labels,
        epsilons=format.epsilons,
    )


def _rstrudel(path: Path, format: Format, found: Section) -> Source:
    return Source(**read_variant(path, format), epsilons=format.epsilons)


# File name -> its reader; the first file found is read.
SIDECARS: dict[str, Callable[[Path, Format, Section], Source]] = {
    "config.yml": _own,
    "variant.yml": _rstrudel,
    "config.json": _hub,
}
