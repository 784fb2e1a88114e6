"""The top level of a config as typed dataclasses: a wrong key or kind of value stops here."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from paddleseg_segformer.components import note_needed
from paddleseg_segformer.config.loading import apply_overrides, find_config, load_yaml
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.typed import from_plain
from paddleseg_segformer.yaml_files import dump_yaml

if TYPE_CHECKING:
    from paddleseg_segformer.inference.settings import InferenceSettings


@dataclass(frozen=True)
class TestConfig:
    """How to evaluate. Sizes are (width, height), as in PaddleSeg's files."""

    __test__ = False  # not a test class, whatever pytest reads into the name

    is_slide: bool = False  # sliding window instead of the whole image
    crop_size: list[int] | None = None  # size of the window, (width, height) in px
    stride: list[int] | None = None  # step between windows, (width, height) in px
    aug_eval: bool = False  # switches scales and flips on
    scales: list[float] | float = 1.0  # factors of the image's size, each with each flip
    flip_horizontal: bool = False  # also the mirrored image
    flip_vertical: bool = False  # also the image upside down
    average: str = (
        "logits"  # over scales and flips: "logits" (PaddleSeg) or "softmax" (NVlabs, mmseg)
    )
    scale_mode: str = (
        "transformed"  # scale the transformed image (PaddleSeg) or the "source" (NVlabs)
    )
    is_one_step: bool = False  # resize logits straight to the image's size (Hugging Face)
    absent_class: str | int = (
        "nan"  # IoU of a class neither labelled nor predicted: "nan" (left out), 0, 1
    )

    def inference_settings(self) -> InferenceSettings:
        """Return the same as the inference pipeline's settings, sizes as (height, width)."""
        from paddleseg_segformer.inference.settings import InferenceSettings

        scales = self.scales if isinstance(self.scales, list) else [self.scales]
        return InferenceSettings(
            is_slide=self.is_slide,
            crop_size_hw=_hw(self.crop_size, "crop_size"),
            stride_hw=_hw(self.stride, "stride"),
            scales=tuple(float(scale) for scale in scales) if self.aug_eval else (1.0,),
            flip_horizontal=self.aug_eval and self.flip_horizontal,
            flip_vertical=self.aug_eval and self.flip_vertical,
            average=self.average,
            scale_mode=self.scale_mode,
            is_one_step=self.is_one_step,
        )


@dataclass(frozen=True)
class Config:
    """One run, or one model with its preprocessing and classes, which needs no data sets.

    Components stay dictionaries with a `type`; checked where built.
    """

    model: dict[str, Any]  # the network
    train_dataset: dict[str, Any] | None = None  # images and labels to train on
    val_dataset: dict[str, Any] | None = None  # images and labels to evaluate on
    optimizer: dict[str, Any] = field(
        default_factory=lambda: {"type": "AdamW"}  # rule that changes the weights
    )
    lr_scheduler: dict[str, Any] = field(  # learning rate over the steps
        default_factory=lambda: {"type": "PolynomialDecay", "learning_rate": 6.0e-5, "power": 1.0}
    )
    loss: dict[str, Any] = field(  # lists `types` and `coef`, of one entry each
        default_factory=lambda: {"types": [{"type": "CrossEntropyLoss"}], "coef": [1]}
    )
    batch_size: int = 2  # images per process and step
    iters: int = 160000  # optimizer steps
    accumulation_steps: int = 1  # batches per optimizer step
    ema_decay: float = 0.999  # of the weight average, where it is switched on
    test_config: TestConfig = field(default_factory=TestConfig)  # how to evaluate
    to_static_training: bool = False  # train the compiled static graph instead of dygraph
    hooks: list[dict[str, Any]] | None = None  # of one's own, called after each step of training
    needs_import: list[str] | None = None  # modules the run imported: a note, never acted upon

    def __post_init__(self) -> None:
        for name in ("batch_size", "iters", "accumulation_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}: found {getattr(self, name)}, expected 1 or more.")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"ema_decay: found {self.ema_decay}, expected a number in [0, 1).")
        for name in ("model", "train_dataset", "val_dataset", "optimizer", "lr_scheduler"):
            section = getattr(self, name)
            if section is not None and not isinstance(section.get("type"), str):
                raise UserError(f"{name}: no `type`, expected the name of a component.")
        for index, section in enumerate(self.hooks or ()):
            if not isinstance(section.get("type"), str):
                raise UserError(f"hooks.{index}: no `type`, expected the name of a component.")

    def to_dict(self) -> dict[str, Any]:
        """Return the config as plain data, readable by `load_config` again."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}

    def to_yaml(self, skip_defaults: bool = False) -> str:
        """Return `to_dict` as YAML text, with `skip_defaults` only what differs from a default."""
        content = self.to_dict()
        if skip_defaults:
            content = _difference(content, Config(model={"type": ""}).to_dict())
        return dump_yaml(content)


def load_config(path_or_name: str | os.PathLike[str], opts: Iterable[str] | None = None) -> Config:
    """Read a YAML file, or the packaged config of that name, with `a.b=value` overrides.

    Raises:
        UserError: no such config, an unknown key (with a suggestion), or a value of the wrong kind.
    """
    path = find_config(path_or_name)
    return config_from(load_yaml(path), path.name, opts)


def config_from(content: dict[str, Any], name: str, opts: Iterable[str] | None = None) -> Config:
    """Return the config of plain data, with `a.b=value` overrides.

    Args:
        name: what messages call it.

    Raises:
        UserError: as `load_config`.
    """
    content = apply_overrides(content, opts or ())
    try:
        config = from_plain(Config, content)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    note_needed(config.needs_import or ())
    return config


def _difference(content: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the entries that differ; of the test settings, those that differ inside."""
    changed = {key: value for key, value in content.items() if value != defaults.get(key)}
    if "test_config" in changed:
        changed["test_config"] = _difference(changed["test_config"], defaults["test_config"])
    return changed


def _hw(size_wh: list[int] | None, name: str) -> tuple[int, int] | None:
    """Turn a config's (width, height) into (height, width)."""
    if size_wh is None:
        return None
    if len(size_wh) != 2:
        raise UserError(f"test_config.{name}: found {size_wh}, expected [width, height].")
    return size_wh[1], size_wh[0]
