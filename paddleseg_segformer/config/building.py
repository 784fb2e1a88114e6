"""Components of a config, each checked against its constructor's signature before it is built."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from paddleseg_segformer.components import (
    Component,
    find,
    img_channels_of,
    is_own,
    resolve,
    stated_of_dataset,
)
from paddleseg_segformer.contracts import CONTRACTS, check
from paddleseg_segformer.data.labels import IGNORE_INDEX
from paddleseg_segformer.errors import Mistakes, UserError, did_you_mean, only_warned
from paddleseg_segformer.inference.preprocess import Preprocess

if TYPE_CHECKING:
    from paddle import Tensor, nn
    from paddle.optimizer.lr import LRScheduler

    from paddleseg_segformer.config.schema import Config
    from paddleseg_segformer.data import SegmentationDataset

logger = logging.getLogger(__name__)

MAX_MODEL_NUMBER = 100_000  # of layers, channels, classes
NO_SCORE = "this run ends without a score"
MAX_REASON = 300  # characters
IGNORED_KEYS = ("ignore_index", "label_padding_value")  # of transforms: pixels without a class
PADDLESEG_KEYS = {"dataset": ("shuffle",), "optimizer": ("lazy_mode",), "loss": ("data_format",)}
NESTED_KINDS = {"backbone": "backbone", "transforms": "transform", "losses": "loss"}


class TrainingParts(NamedTuple):
    """All that a config describes of a training run; see `contracts` for the parts.

    Args:
        val_dataset: None where there is none, or without `do_eval` a wrong one.
        loss: (logits (N, K, H, W), label (N, H, W) int64) -> scalar, with its coefficient.
        distill_loss: the same with the teacher's logits in between; None where there is none.
        optimizer_of: Returns the optimizer of a layer's trainable parameters.
        frozen: names of the layers and parameters of the model that stay as they are.
    """

    dataset: SegmentationDataset
    val_dataset: SegmentationDataset | None
    model: nn.Layer
    loss: Callable[[Tensor, Tensor], Tensor]
    distill_loss: Callable[[Tensor, Tensor, Tensor], Tensor] | None
    schedule: LRScheduler
    optimizer_of: Callable[[nn.Layer], Any]
    hooks: list[Any]
    frozen: Sequence[str] = ()


def build_training(config: Config, do_eval: bool = False) -> TrainingParts:
    """Build all parts of a training run, the model with initial weights.

    Args:
        do_eval: the run evaluates on its way; else only its last score needs a `val_dataset`, and
            one that is wrong is left out with a warning.

    Raises:
        UserError: a data set is missing, or sections are wrong, all of them at once; see
            `build_component`.
    """
    from paddleseg_segformer.losses import ScaledLoss
    from paddleseg_segformer.models.stages import freeze_stages
    from paddleseg_segformer.optimizers import build_lr_schedule

    mistakes = Mistakes()
    if config.train_dataset is None:
        mistakes.add("the config has no train_dataset, which training needs. Add one.")
    if do_eval and config.val_dataset is None:
        mistakes.add("--do_eval: the config has no val_dataset. Add one, or leave --do_eval out.")
    dataset: Any = None
    val_dataset = schedule = model = None
    with mistakes:
        dataset = _build_known(build_dataset, config.train_dataset, "train_dataset")
    with mistakes if do_eval else only_warned(NO_SCORE):
        val_dataset = build_val_dataset(config)
    ignore_index = dataset.ignore_index if dataset else ignored_id(config.train_dataset or {})
    distill_loss = None
    with mistakes:
        loss = build_loss(config.loss, ignore_index)
    if config.distill is not None:
        with mistakes:
            distill_loss = build_loss(
                config.distill.loss, ignore_index, "distill.loss", "distill_loss"
            )
    with mistakes:
        schedule = _build_known(build_lr_schedule, config.lr_scheduler, config.iters)
    with mistakes:
        hooks = build_components("hook", config.hooks or [], "hooks")
    with mistakes:
        optimizer_of = _build_known(_optimizer_maker, config.optimizer)
    with mistakes:
        model = build_model(config) if config.model["type"] else None
        frozen = freeze_stages(model, config.freeze_stages) if model else []
    if model and model.num_classes == 1:
        mistakes.add(
            "model.num_classes is 1, but the softmax of one logit is always 1. For a binary model "
            "set num_classes to 2, and one_logit: true for a sigmoid of one logit."
        )
    mistakes.raise_all()
    return TrainingParts(
        dataset,
        val_dataset,
        model,
        ScaledLoss(*loss),
        distill_loss and ScaledLoss(*distill_loss),
        schedule,
        lambda layer: optimizer_of(layer, schedule),
        hooks,
        frozen,
    )


def build_evaluation(config: Config) -> tuple[SegmentationDataset, nn.Layer]:
    """Build the data set of an evaluation, and the model with initial weights.

    Raises:
        UserError: as `build_training`.
    """
    mistakes = Mistakes()
    with mistakes:
        dataset = build_val_dataset(config)
    with mistakes:
        model = build_model(config) if config.model["type"] else None
    mistakes.raise_all()
    return dataset, model


def _build_known(build: Callable[..., Any], section: dict[str, Any] | None, *args: Any) -> Any:
    """Build a section, but one that is missing, or that `load_config` has found wrong."""
    return build(section, *args) if section and section["type"] else None


def build_val_dataset(config: Config) -> Any:
    """Build the data set of an evaluation, and see that the evaluation can be done.

    Raises:
        UserError: wrong sections, transforms that evaluation does not know, wrong settings.
    """
    mistakes, dataset = Mistakes(), None
    with mistakes:
        dataset = _build_known(build_dataset, config.val_dataset, "val_dataset")
        if dataset:
            Preprocess.from_transforms((config.val_dataset or {}).get("transforms"))
    with mistakes:
        config.test_config.inference_settings()
    mistakes.raise_all()
    return dataset


def build_component(kind: str, section: dict[str, Any], name: str, **given: Any) -> Any:
    """Build the component that `section` describes.

    Args:
        kind: a kind of `components.KINDS`.
        section: `type` and constructor arguments; nested sections are built first.
        name: the section's name in the config, for messages.
        given: arguments that the program supplies.

    Raises:
        UserError: an unknown type or unknown keys (with suggestions), missing ones, mistakes of
            nested sections, all of them at once; or a component that lacks a part of its contract.
    """
    component = _component(kind, section, name)
    section = _with_effect(kind, component, section, name)
    arguments = {key: value for key, value in section.items() if key != "type"} | given
    mistakes = Mistakes()
    _check_arguments(component, section, arguments, name, mistakes)
    for key, nested_kind in NESTED_KINDS.items():
        if key in arguments and key not in given:
            with mistakes:
                arguments[key] = build_components(nested_kind, arguments[key], f"{name}.{key}")
    mistakes.raise_all()
    title = f"{name} ({section['type']})"
    with _constructor_errors_named(title):
        built = component(**arguments)
    if not is_own(kind, section["type"]):
        check(built, CONTRACTS[kind], title)
    return built


def check_component(kind: str, section: dict[str, Any], name: str) -> None:
    """Refuse the types and keys that `build_component` would refuse, without building anything."""
    component, mistakes = _component(kind, section, name), Mistakes()
    arguments = {key: value for key, value in section.items() if key != "type"}
    _check_arguments(component, section, arguments, name, mistakes)
    for key, nested_kind in NESTED_KINDS.items():
        if isinstance(section.get(key), dict):
            with mistakes:
                check_component(nested_kind, section[key], f"{name}.{key}")
    mistakes.raise_all()


def _component(kind: str, section: dict[str, Any], name: str) -> Component:
    """Return the component of a section; an error names the section."""
    if not isinstance(section, dict) or not isinstance(section.get("type"), str):
        raise UserError(f"{name}: found {section!r}, expected keys with a `type`.")
    try:
        return resolve(kind, section["type"])
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _parameters(kind: str, section: dict[str, Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a section's component, none where it is unknown."""
    component = find(kind, str(section.get("type")))
    return inspect.signature(component).parameters if component else {}


def build_components(kind: str, value: Any, name: str) -> Any:
    """Build one section, or a list of them; what is built already is returned as it is."""
    if not isinstance(value, list):
        return build_component(kind, value, name) if isinstance(value, dict) else value
    mistakes, built = Mistakes(), []
    for index, item in enumerate(value):
        with mistakes:
            built.append(build_component(kind, item, f"{name}.{index}"))
        if mistakes.is_full:
            break
    mistakes.raise_all()
    return built


def _with_effect(
    kind: str, component: Component, section: dict[str, Any], name: str
) -> dict[str, Any]:
    """Return a section without PaddleSeg's keys that have no effect here."""
    parameters = inspect.signature(component).parameters
    ignored = {key for key in PADDLESEG_KEYS.get(kind, ()) if key in section} - set(parameters)
    for key in sorted(ignored):
        logger.warning("%s.%s: a key of PaddleSeg without effect here", name, key)
    return {key: value for key, value in section.items() if key not in ignored}


def _check_arguments(
    component: Component,
    section: dict[str, Any],
    arguments: dict[str, Any],
    name: str,
    mistakes: Mistakes,
) -> None:
    type_name, parameters = section["type"], inspect.signature(component).parameters
    if any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters.values()):
        return
    for key in arguments:
        if key in parameters or mistakes.is_full:
            continue
        if key in section:
            suggestion = did_you_mean(key, parameters)
            mistakes.add(f"{name}: {type_name} has no key '{key}'.{suggestion}")
        else:
            mistakes.add(
                f"{name}: {type_name} takes no `{key}`, which training passes. Add it to its "
                "constructor."
            )
    missing = [
        key
        for key, item in parameters.items()
        if item.default is inspect.Parameter.empty
        and item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)
        and key not in arguments
    ]
    if missing:
        mistakes.add(f"{name}: {type_name} needs {', '.join(missing)}.")


@contextmanager
def _constructor_errors_named(name: str) -> Iterator[None]:
    """Turn whatever a constructor raises into one line that names the section.

    Paddle's and PaddleSeg's constructors check little, and raise errors of any type.
    """
    try:
        yield
    except UserError as error:
        error.key = error.key or name
        raise
    except ImportError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
        raise UserError(f"{name}: {reason}") from error


def build_dataset(section: dict[str, Any], name: str = "dataset") -> Any:
    """Build a data set with its transforms, which take over its `ignore_index`.

    Raises:
        UserError: as `build_component`, or a transform has another `ignore_index`.
    """
    mistakes, transforms = Mistakes(), section.get("transforms", [])
    if isinstance(transforms, list):
        ignore_index, transforms = ignored_id(section), list(transforms)
        for index, item in enumerate(transforms):
            with mistakes:
                transforms[index] = _ignoring(item, ignore_index, f"{name}.transforms.{index}")
    dataset = None
    with mistakes:
        dataset = build_component("dataset", {**section, "transforms": transforms}, name)
    if dataset is None:  # mistakes of the transforms hide those of the data set
        with mistakes:
            build_component("dataset", {**section, "transforms": []}, name)
    elif dataset.normalize:  # has it a constant for each channel?
        with _constructor_errors_named(f"{name}.transforms"):
            dataset.normalize.apply(np.zeros((1, 1, dataset.img_channels), np.float32))
    mistakes.raise_all()
    return dataset


def ignored_id(section: dict[str, Any]) -> int:
    """Return the id that the labels of a data set's section have for pixels without a class."""
    label_set = stated_of_dataset(section, "label_set")
    found: int = section.get("ignore_index", getattr(label_set, "ignore_index", IGNORE_INDEX))
    return found


def _ignoring(transform: Any, ignore_index: int, name: str) -> Any:
    """Return a transform's section with the ignored id, where it takes one."""
    if not isinstance(transform, dict):
        return transform
    parameters = _parameters("transform", transform)
    for key in IGNORED_KEYS:
        found = transform.get(key, ignore_index)
        if found != ignore_index:
            raise UserError(
                f"{name}: {key} is {found}, but the data set's ignore_index is {ignore_index}. "
                f"Leave {key} out."
            )
    return {**{key: ignore_index for key in IGNORED_KEYS if key in parameters}, **transform}


def build_model(config: Config) -> nn.Layer:
    """Build the model with initial weights; `pretrained` keys are left to `model_folder`.

    What it does not say of classes and channels is as in the data sets.

    Raises:
        UserError: as `build_component`, a number that no machine could build, or other numbers of
            classes or channels than the data sets have.
    """
    mistakes, section = Mistakes(), _without_pretrained(config.model)
    owner, kind, name = section, "model", "model"
    if isinstance(section.get("backbone"), dict):
        owner = section["backbone"] = _without_pretrained(section["backbone"])
        kind, name = "backbone", "model.backbone"
    classes, channels = _classes_and_channels(config, mistakes)
    _take_over(section, "num_classes", classes, "model", mistakes)
    if "in_channels" in _parameters(kind, owner):
        _take_over(owner, "in_channels", channels, name, mistakes)
    _check_numbers(section, "model", mistakes)
    with mistakes:
        check_component("model", section, "model")
    mistakes.raise_all()
    model = build_component("model", section, "model")
    _take_over({"num_classes": model.num_classes}, "num_classes", classes, "model", mistakes)
    mistakes.raise_all()
    if config.qat is not None:
        from paddleseg_segformer.models.quantized import quantize

        quantize(model, config.qat.moving_rate)
    return model


def _without_pretrained(section: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key != "pretrained"}


def _classes_and_channels(
    config: Config, mistakes: Mistakes
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return how many classes and image channels the data sets state, by their names."""
    classes, channels = {}, {}
    for name in ("train_dataset", "val_dataset"):
        section, component = getattr(config, name), None
        with mistakes:
            component = section and _component("dataset", section, name)
        if not component:
            continue
        title = f"{name} ({section['type']})"
        label_set = getattr(component, "label_set", None)
        classes[title] = section.get("num_classes", label_set and label_set.num_classes)
        channels[title] = img_channels_of(section)
    return classes, channels


def _take_over(
    section: dict[str, Any], key: str, stated: dict[str, Any], name: str, mistakes: Mistakes
) -> None:
    """Give a section the number that the data sets state, where it has none; refuse another one."""
    for title, number in stated.items():
        if type(number) is not int:
            continue
        if section.get(key) is None:
            section[key] = number
        elif section[key] != number:
            mistakes.add(
                f"{name}.{key} is {section[key]}, but {title} has {number} "
                f"{key.partition('_')[2]}. Make them equal."
            )
            break


def _check_numbers(value: Any, name: str, mistakes: Mistakes) -> None:
    """Refuse counts and sizes that no machine could build."""
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check_numbers(item, f"{name}.{key}", mistakes)
    elif isinstance(value, (int, float)) and not abs(value) <= MAX_MODEL_NUMBER:
        mistakes.add(f"{name}: found {value}, expected at most {MAX_MODEL_NUMBER}.")


def build_loss(
    section: dict[str, Any], ignore_index: int = 255, name: str = "loss", kind: str = "loss"
) -> tuple[Component, float]:
    """Build the loss of the model's one output; return it and its coefficient.

    Args:
        section: lists `types` and `coef`, of one entry each.
        ignore_index: of the data set; the loss, and each part of a `MixedLoss`, gets it.
        name: of the section, for messages.
        kind: `loss` or `distill_loss`.

    Raises:
        UserError: not exactly one type and one coefficient, or another `ignore_index`.
    """
    types, coefficients = section.get("types"), section.get("coef")
    unknown = set(section) - {"types", "coef"}
    if unknown or not isinstance(types, list) or not isinstance(coefficients, list):
        raise UserError(f"{name}: found keys {sorted(section)}, expected lists `types` and `coef`.")
    mistakes = Mistakes()
    if len(types) != 1 or len(coefficients) != 1:
        mistakes.add(
            f"{name}: found {len(types)} types and {len(coefficients)} coef, expected one each: "
            "these models have one output. Combine losses with `type: MixedLoss`."
        )
    for coefficient in coefficients:
        if type(coefficient) not in (int, float):
            mistakes.add(f"{name}.coef: found {coefficient!r}, expected a number.")
    for index, item in enumerate(types):
        with mistakes:
            loss = _build_loss(item, ignore_index, f"{name}.types.{index}", kind)
        if mistakes.is_full:
            break
    mistakes.raise_all()
    return loss, float(coefficients[0])


def _build_loss(section: Any, ignore_index: int, name: str, kind: str) -> Component:
    title = name.partition(".types")[0]
    if not isinstance(section, dict):
        raise UserError(f"{title}: found {section!r}, expected keys with a `type`.")
    mistakes = Mistakes()
    if isinstance(section.get("losses"), list):
        parts = []
        for index, item in enumerate(section["losses"]):
            with mistakes:
                parts.append(_build_loss(item, ignore_index, f"{name}.losses.{index}", kind))
            if mistakes.is_full:
                break
        mistakes.raise_all()
        return build_component(kind, section, name, losses=parts)
    found = section.get("ignore_index", ignore_index)
    if found != ignore_index:
        mistakes.add(
            f"{title}: ignore_index is {found}, but the data set's is {ignore_index}. Make them "
            "equal."
        )
    with mistakes:
        loss = build_component(kind, section, name, ignore_index=ignore_index)
    mistakes.raise_all()
    return loss


def build_optimizer(
    section: dict[str, Any], model: nn.Layer, learning_rate: float | LRScheduler
) -> Any:
    """Build the optimizer of the model's trainable parameters."""
    return _optimizer_maker(section)(model, learning_rate)


def _optimizer_maker(section: dict[str, Any]) -> Callable[[nn.Layer, float | LRScheduler], Any]:
    """Return what makes the optimizer once there is a model."""
    section = dict(section)
    if section.get("type") in ("sgd", "SGD"):  # PaddleSeg's spellings
        section["type"] = "Momentum" if "momentum" in section else "SGD"
    elif section.get("type") == "adam":
        section["type"] = "Adam"
    build = build_component("optimizer", section, "optimizer")

    def make(model: nn.Layer, learning_rate: float | LRScheduler) -> Any:
        with _constructor_errors_named(f"optimizer ({section['type']})"):
            return build(model, learning_rate)

    return make
