"""Configs: a YAML file, its bases and its overrides, as typed and checked dataclasses.

The conventions of the files are PaddleSeg's, so its own are read unchanged: inheritance (`_base_`,
`_inherited_`), environment variables, overrides such as `optimizer.weight_decay=0.05`.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddleseg_segformer.components import note_needed
from paddleseg_segformer.errors import Mistakes, UserError, did_you_mean, mistakes_in
from paddleseg_segformer.typed import from_plain, plain_values
from paddleseg_segformer.yaml_files import dump_yaml, parse_yaml, read_yaml
from paddleseg_segformer.zoo import find_model

if TYPE_CHECKING:
    from paddleseg_segformer.inference.settings import InferenceSettings

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parents[1]
CONFIG_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")  # installed, checkout
MAX_BASES = 50  # in a row
SECTIONS = ("model", "train_dataset", "val_dataset", "optimizer", "lr_scheduler")
# keys of PaddleSeg's configs that have no effect here, or are flags of a job
PADDLESEG_KEYS = (
    *("export", "print_mem_info", "log_ranks", "uniform_output_enabled"),
    *("pdx_model_name", "hpi_config_path", "num_workers", "test_dataset"),
)
PADDLESEG_TEST_KEYS = ("auc_roc", "use_multilabel", "custom_color", "aug_pred")
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


@dataclass(frozen=True)
class TestConfig:
    """How to evaluate. Sizes are (width, height), as in PaddleSeg's files."""

    __test__ = False  # not a test class, whatever pytest reads into the name

    is_slide: bool = False  # sliding window instead of the whole image
    crop_size: list[int] | None = None  # size of the window, (width, height) in px
    stride: list[int] | None = None  # step between windows, (width, height) in px
    blend: str = "average"  # of windows where they overlap: none, average, cosine, gaussian
    aug_eval: bool = False  # switches scales and flips on
    scales: list[float] | float = 1.0  # factors of the image's size, each with each flip
    flip_horizontal: bool = False  # also the mirrored image
    flip_vertical: bool = False  # also the image upside down
    average: str = "logits"  # over scales, flips: "logits" (PaddleSeg), "softmax" (NVlabs, mmseg)
    scale_mode: str = "transformed"  # scale "transformed" (PaddleSeg) or "source" images (NVlabs)
    is_one_step: bool = False  # resize logits directly to the image's size (Hugging Face)
    align_corners: bool = False  # lay corner pixels on each other where logits are resized (smp)
    temperatures: list[float] | None = None  # calibrate confidence: one number, or one a class
    absent_class: str | int = "nan"  # IoU of a class that does not occur: "nan" (left out), 0 or 1

    def inference_settings(self) -> InferenceSettings:
        """Return the settings of the inference pipeline, whose sizes are (height, width)."""
        from paddleseg_segformer.inference.settings import InferenceSettings

        scales = self.scales if isinstance(self.scales, list) else [self.scales]
        return InferenceSettings(
            is_slide=self.is_slide,
            crop_size_hw=_hw(self.crop_size, "crop_size"),
            stride_hw=_hw(self.stride, "stride"),
            blend=self.blend,
            scales=tuple(float(scale) for scale in scales) if self.aug_eval else (1.0,),
            flip_horizontal=self.aug_eval and self.flip_horizontal,
            flip_vertical=self.aug_eval and self.flip_vertical,
            average=self.average,
            scale_mode=self.scale_mode,
            is_one_step=self.is_one_step,
            align_corners=self.align_corners,
            temperatures=tuple(self.temperatures or ()),
        )


@dataclass(frozen=True)
class DistillConfig:
    """What the model learns from a trained one, its teacher, beside the labels."""

    teacher: str  # its weights, of any code base, or a config whose `model.pretrained` names them
    loss: dict[str, Any] = field(  # between the logits of both: `types` and `coef`, as in `loss`
        default_factory=lambda: {"types": [{"type": "KLLoss"}], "coef": [1]}
    )
    feature_coef: float = 0.0  # factor of the loss between their features; 0 for none
    layers: list[list[str]] | None = None  # compared [of the model, of the teacher]; or backbones


@dataclass(frozen=True)
class QatConfig:
    """Training for INT8: quantisation-aware training."""

    moving_rate: float = 0.99  # what the range of an input keeps of itself in a step


@dataclass(frozen=True)
class Config:
    """One training run, or one model with its preprocessing and classes.

    Components stay dictionaries with a `type`, and are checked when they are built.
    """

    model: dict[str, Any]  # the network
    train_dataset: dict[str, Any] | None = None  # images and labels to train on
    val_dataset: dict[str, Any] | None = None  # images and labels to evaluate on
    optimizer: dict[str, Any] = field(  # update rule of the weights, with parameter groups
        default_factory=lambda: {"type": "AdamW"}
    )
    lr_scheduler: dict[str, Any] = field(  # learning rate over the steps, with its warm-up
        default_factory=lambda: {"type": "PolynomialDecay", "learning_rate": 6.0e-5, "power": 1.0}
    )
    loss: dict[str, Any] = field(  # lists `types` and `coef`, of one entry each
        default_factory=lambda: {"types": [{"type": "CrossEntropyLoss"}], "coef": [1]}
    )
    batch_size: int = 2  # images per process and step
    iters: int = 160000  # optimizer steps
    accumulation_steps: int = 1  # batches per optimizer step
    ema_decay: float = 0.999  # of the averaged weights (--use_ema)
    test_config: TestConfig = field(default_factory=TestConfig)  # how to evaluate
    distill: DistillConfig | None = None  # a teacher to learn from
    qat: QatConfig | None = None  # train for INT8; `{}` for the defaults
    freeze_stages: int = 0  # stages of the backbone held fixed, counted from its input
    class_balanced_sampling: float = 0.0  # share of samples drawn by class, each class alike
    to_static_training: bool = False  # train the compiled static graph instead of dygraph
    cache: str | None = None  # keep decoded samples: "ram", or a folder
    cache_gib: float = 4.0  # the most that the cache may hold, in GiB
    early_stop_intervals: int | None = None  # evaluations without improvement before stopping
    trackers: list[str] | None = None  # visualdl, tensorboard, wandb, mlflow, or your own
    hooks: list[dict[str, Any]] | None = None  # your own, called around each training step
    needs_import: list[str] | None = None  # modules the run imported; a note, nothing imports them

    def __post_init__(self) -> None:
        mistakes = Mistakes()
        for _, mistake in _refused(vars(self)):
            mistakes.add(mistake)
        mistakes.raise_all()

    def to_dict(self) -> dict[str, Any]:
        """Return the config as plain data, readable by `load_config` again."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}

    def to_yaml(self, skip_defaults: bool = False) -> str:
        """Return `to_dict` as YAML text, with `skip_defaults` only what differs from a default."""
        content = self.to_dict()
        if skip_defaults:
            content = _difference(content, Config(model={"type": ""}).to_dict())
        return dump_yaml(content)


def _refused(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield key and mistake of each value of a config that has the right type and is wrong."""
    for name in ("batch_size", "iters", "accumulation_steps"):
        if values.get(name, 1) < 1:
            yield name, f"{name}: found {values[name]}, expected 1 or more."
    if values.get("freeze_stages", 0) < 0:
        yield (
            "freeze_stages",
            f"freeze_stages: found {values['freeze_stages']}, expected 0 or more.",
        )
    if (values.get("early_stop_intervals") or 1) < 1:
        found = values["early_stop_intervals"]
        yield "early_stop_intervals", f"early_stop_intervals: found {found}, expected 1 or more."
    if not values.get("cache_gib", 1) > 0:
        yield "cache_gib", f"cache_gib: found {values['cache_gib']}, expected more than 0."
    share = values.get("class_balanced_sampling", 0)
    if not 0 <= share <= 1:
        yield (
            "class_balanced_sampling",
            f"class_balanced_sampling: found {share}, expected a share, 0 to 1.",
        )
    if not 0 <= values.get("ema_decay", 0) < 1:
        yield "ema_decay", f"ema_decay: found {values['ema_decay']}, expected a number in [0, 1)."
    if (distill := values.get("distill")) is not None:
        if not 0 <= distill.feature_coef < math.inf:
            found = f"found {distill.feature_coef}, expected 0 or more."
            yield "distill", f"distill.feature_coef: {found}"
        if any(len(pair) != 2 for pair in distill.layers or ()):
            yield "distill", "distill.layers: expected pairs [the model's layer, the teacher's]."
    if (qat := values.get("qat")) is not None and not 0 <= qat.moving_rate < 1:
        yield "qat", f"qat.moving_rate: found {qat.moving_rate}, expected a number in [0, 1)."
    sections = [(name, name, values.get(name)) for name in SECTIONS]
    sections += [("hooks", f"hooks.{i}", hook) for i, hook in enumerate(values.get("hooks") or ())]
    for key, name, section in sections:
        if section is not None and not isinstance(section.get("type"), str):
            yield key, f"{name}: no `type`, expected the name of a component."


def load_config(
    path_or_name: str | os.PathLike[str],
    opts: Iterable[str] | None = None,
    check_parts: Callable[[Config], object] | None = None,
) -> Config:
    """Read a YAML file, or the packaged config of that name, with `a.b=value` overrides.

    Args:
        check_parts: called where something is wrong, with what is right, so that the mistakes of
            the parts are shown too; mistakes in `opts` alone are shown without it.

    Raises:
        UserError: no such config, or all its mistakes at once: unknown keys (with a suggestion),
            values of a wrong type.
    """
    path = find_config(path_or_name)
    content = load_yaml(path)
    return config_from(content, path.name, opts, check_parts)


def config_from(
    content: dict[str, Any],
    name: str,
    opts: Iterable[str] | None = None,
    check_parts: Callable[[Config], object] | None = None,
) -> Config:
    """Return the config of plain data, with `a.b=value` overrides.

    Args:
        name: of the source, for messages.
        check_parts: as of `load_config`.

    Raises:
        UserError: as `load_config`.
    """
    of_overrides, overrides = Mistakes(), list(opts or ())
    for override in overrides:
        with of_overrides:
            _override(content, override)
    of_overrides.raise_all()
    content, mistakes = _adapted(content, name), Mistakes()
    given = {re.split("[.=]", override)[0] for override in overrides}
    with mistakes_in(name):
        plain_values(Config, {key: content[key] for key in given & set(content)}, mistakes)
        mistakes.raise_all()
        try:
            config = from_plain(Config, content)
        except UserError as error:
            mistakes.add(error)
            right = plain_values(Config, content, Mistakes())
            for key, mistake in [*_refused(right)]:
                mistakes.add(mistake)
                right.pop(key, None)
            if check_parts:
                unknown = {key: {"type": ""} for key in {*SECTIONS} & {*content, "model"}}
                with mistakes:
                    check_parts(Config(**(unknown | right)))
            mistakes.raise_all()
    note_needed(config.needs_import or ())
    return config


def _adapted(content: dict[str, Any], name: str) -> dict[str, Any]:
    """Return content without PaddleSeg's keys that have no effect here, and with lists.

    `scales` may be text, `classes` a file of names: a model folder goes where the file does not.

    Raises:
        UserError: PaddleSeg's labels of several classes a pixel are asked for.
    """
    ignored = [key for key in PADDLESEG_KEYS if key in content]
    content = {key: value for key, value in content.items() if key not in ignored}
    if "distill_loss" in content:  # PaddleSeg's key, whose teacher is named on the command line
        distill, loss = content.get("distill"), content.pop("distill_loss")
        if isinstance(distill, dict) and "loss" not in distill:
            content["distill"] = {**distill, "loss": loss}
        else:
            ignored.append("distill_loss (without a distill.teacher, or beside distill.loss)")
    for key in ("train_dataset", "val_dataset"):
        section = content.get(key)
        classes = section.get("classes") if isinstance(section, dict) else None
        if isinstance(classes, str) and os.path.isfile(classes):
            from paddleseg_segformer.data.labels import class_names

            content[key] = {**content[key], "classes": class_names(classes)}
    test_config = content.get("test_config")
    if isinstance(test_config, dict):
        if test_config.get("use_multilabel"):
            raise UserError(
                "test_config.use_multilabel: found true, but a pixel has one class here. Train one "
                "model of two classes per label."
            )
        names = [key for key in PADDLESEG_TEST_KEYS if key in test_config]
        ignored += [f"test_config.{key}" for key in names]
        test_config = {key: value for key, value in test_config.items() if key not in names}
        scales = test_config.get("scales")
        if isinstance(scales, str) and re.fullmatch(r"[\d.]+(\s*,\s*[\d.]+)*", scales):
            test_config["scales"] = [float(scale) for scale in scales.split(",")]
        content["test_config"] = test_config
    if ignored:
        logger.warning("%s: keys of PaddleSeg without effect here: %s", name, ", ".join(ignored))
    return content


def find_config(path_or_name: str | os.PathLike[str]) -> Path:
    """Return the YAML file of that path, or the packaged config of that name.

    Raises:
        UserError: neither exists.
    """
    path = Path(path_or_name)
    if os.path.isfile(path):  # Path.is_file raises for names that no file can have
        return path
    packaged = _packaged(path)
    if packaged:
        return packaged
    known = {file.stem for folder in CONFIG_FOLDERS for file in folder.glob("*.yml")}
    raise UserError(
        f"config {path_or_name}: neither a file nor the name of a packaged config."
        f"{did_you_mean(_without_suffix(path), known)}"
    )


def _packaged(path: Path) -> Path | None:
    """Return the packaged config that a name means, with or without `configs/` and `.yml`."""
    if str(path.parent) != "." and path.parent.name != "configs":
        return None
    files = (folder / f"{_without_suffix(path)}.yml" for folder in CONFIG_FOLDERS)
    return next((file for file in files if os.path.isfile(file)), None)


def _without_suffix(path: Path) -> str:
    return path.stem if path.suffix in (".yml", ".yaml") else path.name


def load_yaml(path: Path) -> dict[str, Any]:
    """Return a YAML file merged over its bases, with environment variables replaced."""
    return _expand(_load_with_bases(path, seen=(), loaded={}))


def _load_with_bases(
    path: Path, seen: tuple[str, ...], loaded: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return a file's content merged over its bases'; each file is read once.

    Args:
        seen: the files whose `_base_` leads here.
        loaded: content by path of the files that were read before.
    """
    place = os.path.join(os.path.realpath(path.parent), path.name)
    if place in seen:
        raise UserError(f"{path}: `_base_` leads back to itself. Remove the circle.")
    if place in loaded:
        return loaded[place]
    if len(seen) > MAX_BASES:
        raise UserError(f"{path}: more than {MAX_BASES} files, each the `_base_` of the next.")
    if seen and not os.path.isfile(path):
        raise UserError(f"{path}: no such file, named by `_base_` in {seen[-1]}.")
    content = read_yaml(path)
    bases = content.pop("_base_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: `_base_` is {bases!r}, expected the path of a file, or a list.")
    contents = [_load_with_bases(_find_base(path, base), (*seen, place), loaded) for base in bases]
    loaded[place] = _merge(content, _merge_all(contents))
    first_wins = _merge(content, _merge_all(contents[::-1]))  # as in PaddleSeg
    if differing := _differing_keys(loaded[place], first_wins):
        logger.warning(
            "%s: the files of `_base_` differ in %s; the last one wins, in PaddleSeg the first",
            path,
            ", ".join(differing),
        )
    return loaded[place]


def _merge_all(contents: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return contents merged in order, each on top of those before."""
    merged: dict[str, Any] = {}
    for content in contents:
        merged = _merge(content, merged)
    return merged


def _differing_keys(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the keys, as `--opts` names them, with different values in two configs."""
    keys = []
    for key in {**one, **other}:
        first, second = one.get(key), other.get(key)
        if isinstance(first, dict) and isinstance(second, dict):
            keys += [f"{key}.{inner}" for inner in _differing_keys(first, second)]
        elif first != second:
            keys.append(str(key))
    return keys


def _find_base(path: Path, base: str) -> Path:
    """Return the file that `_base_` means: one beside the config, or a packaged config by name."""
    beside, named = path.parent / base, path.parent / f"{base}.yml"
    if os.path.isfile(beside):
        return beside
    if os.path.isfile(named) and not os.path.samefile(named, path):
        return named
    return _packaged(Path(base)) or beside


def _merge(child: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with `child` on top; a section with `_inherited_: False` replaces its base."""
    child = dict(child)
    if not child.pop("_inherited_", True):
        return child
    merged = dict(base)
    for key, value in child.items():
        if isinstance(value, dict):
            below = base.get(key)
            merged[key] = _merge(value, below if isinstance(below, dict) else {})
        else:
            merged[key] = value
    return merged


def _expand(value: Any) -> Any:
    """Replace `${NAME_ROOT}` and `${NAME_ROOT:-default}` in every string.

    Other variables may hold secrets, and a URL would send them to a server.
    """
    if isinstance(value, (dict, list)):
        mistakes, expanded = Mistakes(), {}
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            with mistakes:
                expanded[key] = _expand(item)
        mistakes.raise_all()
        return expanded if isinstance(value, dict) else list(expanded.values())
    if not isinstance(value, str):
        return value
    if "://" in value and _VARIABLE.search(value):
        raise UserError(f"{value}: environment variables are not replaced in URLs.")
    return _VARIABLE.sub(_variable, value)


def _variable(match: re.Match[str]) -> str:
    name, default = match.groups()
    if not name.endswith("_ROOT") and name != "PADDLE_TRAINER_ID":
        raise UserError(
            f"${{{name}}}: only variables whose names end in _ROOT are replaced, as in "
            "${DATA_ROOT:-data}. Rename it."
        )
    value = os.environ.get(name) or default
    if value is None:
        raise UserError(
            f"${{{name}}}: the environment variable is not set. Set it, or write "
            f"${{{name}:-default}}."
        )
    return value


def _override(content: dict[str, Any], override: str) -> None:
    """Set `a.b=value` in `content`; list items go by index, the value is YAML.

    A new section at the top, or a new last key, is added: later checks refuse what is unknown.
    """
    keys, separator, text = override.partition("=")
    if not separator or not keys:
        raise UserError(
            f"--opts {override}: expected KEY=VALUE, such as optimizer.weight_decay=0.05"
        )
    *parents, last = keys.split(".")
    section: Any = content
    if parents:
        content.setdefault(parents[0], {})
    for key in parents:
        section = section[_key_in(section, key, override)]
    place = _key_in(section, last, override, may_be_new=True)
    value = parse_yaml(text, f"--opts {override}")
    value = None if value == "None" else _expand(value)  # PaddleSeg's are Python's
    is_path = last == "pretrained" and isinstance(value, str) and "://" not in value
    if is_path and not os.path.exists(str(value)) and not find_model(str(value)):
        raise UserError(
            f"--opts {override}: no such weight file, expected a path, a URL, a name that "
            "list_models knows, or null."
        )
    section[place] = value


def _key_in(section: Any, key: str, override: str, may_be_new: bool = False) -> str | int:
    """Return `key` as a key of a section, or as an index of a list."""
    if isinstance(section, list):
        if key.isdigit() and int(key) < len(section):
            return int(key)
        raise UserError(
            f"--opts {override}: found '{key}', expected an index from 0 to {len(section) - 1}."
        )
    if not isinstance(section, dict):
        raise UserError(f"--opts {override}: no '{key}' in {section!r}, which is not a section.")
    if key not in section and not may_be_new:
        raise UserError(f"--opts {override}: no key '{key}'.{did_you_mean(key, section)}")
    return key


def _difference(content: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the entries that differ; of `test_config`, its own entries that differ."""
    changed = {key: value for key, value in content.items() if value != defaults.get(key)}
    if "test_config" in changed:
        changed["test_config"] = _difference(changed["test_config"], defaults["test_config"])
    return changed


def _hw(size_wh: list[int] | None, name: str) -> tuple[int, int] | None:
    """Return (height, width) of a config's (width, height)."""
    if size_wh is None:
        return None
    if len(size_wh) != 2:
        raise UserError(f"test_config.{name}: found {size_wh}, expected [width, height].")
    return size_wh[1], size_wh[0]
