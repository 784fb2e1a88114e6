"""Components of a config, each checked against its constructor's signature before it is built."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from paddle import Tensor, nn
from paddle.optimizer.lr import LRScheduler

from paddleseg_segformer.components import Component, is_own, resolve
from paddleseg_segformer.config.schema import Config
from paddleseg_segformer.contracts import CONTRACTS, check
from paddleseg_segformer.data import SegmentationDataset
from paddleseg_segformer.data.labels import IGNORE_INDEX
from paddleseg_segformer.errors import UserError, did_you_mean
from paddleseg_segformer.optimizers import build_lr_schedule

logger = logging.getLogger(__name__)

MAX_MODEL_NUMBER = 100_000  # of layers, channels, classes
MAX_REASON = 300  # characters
PADDLESEG_KEYS = {"dataset": ("shuffle",), "optimizer": ("lazy_mode",), "loss": ("data_format",)}
NESTED_KINDS = {"backbone": "backbone", "transforms": "transform", "losses": "loss"}


class TrainingParts(NamedTuple):
    """All that a config describes of a training run; see `contracts` for the parts.

    Args:
        val_dataset: None where the run does not evaluate.
        loss: (logits (N, K, H, W), label (N, H, W) int64) -> scalar, with its coefficient.
    """

    dataset: SegmentationDataset
    val_dataset: SegmentationDataset | None
    model: nn.Layer
    loss: Callable[[Tensor, Tensor], Tensor]
    schedule: LRScheduler
    optimizer: Any
    hooks: list[Any]


def build_training(config: Config, do_eval: bool = False) -> TrainingParts:
    """Build all parts of a training run, the model with initial weights.

    Raises:
        UserError: a data set is missing, or a section is wrong; see `build_component`.
    """
    if config.train_dataset is None:
        raise UserError("the config has no train_dataset, which training needs. Add one.")
    if do_eval and config.val_dataset is None:
        raise UserError(
            "--do_eval: the config has no val_dataset. Add one, or leave --do_eval out."
        )
    dataset = build_dataset(config.train_dataset, "train_dataset")
    val_dataset = None
    if do_eval and config.val_dataset:
        val_dataset = build_dataset(config.val_dataset, "val_dataset")
    model = build_model(config)
    loss, coefficient = build_loss(config.loss, dataset.ignore_index)
    schedule = build_lr_schedule(config.lr_scheduler, config.iters)
    return TrainingParts(
        dataset,
        val_dataset,
        model,
        lambda logits, label: coefficient * loss(logits, label),
        schedule,
        build_optimizer(config.optimizer, model, schedule),
        build_components("hook", config.hooks or [], "hooks"),
    )


def build_component(kind: str, section: dict[str, Any], name: str, **given: Any) -> Any:
    """Build the component that `section` describes.

    Args:
        kind: a kind of `components.KINDS`.
        section: `type` and constructor arguments; nested sections are built first.
        name: the section's name in the config, for messages.
        given: arguments that the program supplies.

    Raises:
        UserError: an unknown type or key (with a suggestion), a missing one, or a component that
            lacks a part of its contract.
    """
    if not isinstance(section, dict) or not isinstance(section.get("type"), str):
        raise UserError(f"{name}: found {section!r}, expected keys with a `type`.")
    type_name = section["type"]
    try:
        component = resolve(kind, type_name)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    section = _with_effect(kind, component, section, name)
    arguments = {key: value for key, value in section.items() if key != "type"} | given
    _check_arguments(component, section, arguments, name)
    for key, nested_kind in NESTED_KINDS.items():
        if key in arguments and key not in given:
            arguments[key] = build_components(nested_kind, arguments[key], f"{name}.{key}")
    title = f"{name} ({type_name})"
    with _constructor_errors_named(title):
        built = component(**arguments)
    if not is_own(kind, type_name):
        check(built, CONTRACTS[kind], title)
    return built


def build_components(kind: str, value: Any, name: str) -> Any:
    """Build one section, or a list of them; what is built already is returned as it is."""
    if isinstance(value, list):
        return [build_component(kind, item, f"{name}.{i}") for i, item in enumerate(value)]
    return build_component(kind, value, name) if isinstance(value, dict) else value


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
    component: Component, section: dict[str, Any], arguments: dict[str, Any], name: str
) -> None:
    type_name, parameters = section["type"], inspect.signature(component).parameters
    if any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters.values()):
        return
    for key in arguments:
        if key in parameters:
            continue
        if key in section:
            suggestion = did_you_mean(key, parameters)
            raise UserError(f"{name}: {type_name} has no key '{key}'.{suggestion}")
        raise UserError(
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
        raise UserError(f"{name}: {type_name} needs {', '.join(missing)}.")


@contextmanager
def _constructor_errors_named(name: str) -> Iterator[None]:
    """Turn whatever a constructor raises into one line that names the section.

    Paddle's and PaddleSeg's constructors check little, and raise errors of any type.
    """
    try:
        yield
    except (UserError, ImportError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
        raise UserError(f"{name}: {reason}") from error


def build_dataset(section: dict[str, Any], name: str = "dataset") -> Any:
    """Build a data set with its transforms, which take over its `ignore_index`."""
    transforms = section.get("transforms", [])
    ignore_index = section.get("ignore_index", IGNORE_INDEX)
    if ignore_index != IGNORE_INDEX and isinstance(transforms, list):
        transforms = [_ignoring(item, ignore_index) for item in transforms]
    return build_component("dataset", {**section, "transforms": transforms}, name)


def _ignoring(transform: Any, ignore_index: int) -> Any:
    """Return a transform's section with the ignored id, where it takes one and names none."""
    if not isinstance(transform, dict) or "type" not in transform:
        return transform
    parameters = inspect.signature(resolve("transform", transform["type"])).parameters
    keys = [key for key in ("ignore_index", "label_padding_value") if key in parameters]
    return {**dict.fromkeys(keys, ignore_index), **transform}


def build_model(config: Config) -> nn.Layer:
    """Build the model with initial weights; `pretrained` keys are left to `model_folder`.

    Without `num_classes` it has as many as the data set, as in PaddleSeg.

    Raises:
        UserError: as `build_component`, a number that no machine could build, or another number of
            classes than the data sets have.
    """
    section = {key: value for key, value in config.model.items() if key != "pretrained"}
    counts = {}  # of the data sets' classes
    for name in ("train_dataset", "val_dataset"):
        if data := getattr(config, name):
            label_set = getattr(resolve("dataset", data["type"]), "label_set", None)
            counts[name] = data.get("num_classes", label_set and label_set.num_classes)
    if found := next(filter(None, counts.values()), None):
        section.setdefault("num_classes", found)
    _check_numbers(section, "model")
    if isinstance(section.get("backbone"), dict):
        backbone = section["backbone"]
        section["backbone"] = {key: backbone[key] for key in backbone if key != "pretrained"}
    model = build_component("model", section, "model")
    for name, count in counts.items():
        if count not in (None, model.num_classes):
            raise UserError(
                f"model.num_classes is {model.num_classes}, but {name} "
                f"({getattr(config, name)['type']}) has {count} classes. Make them equal."
            )
    return model


def _check_numbers(value: Any, name: str) -> None:
    """Refuse counts and sizes that no machine could build."""
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check_numbers(item, f"{name}.{key}")
    elif isinstance(value, (int, float)) and not abs(value) <= MAX_MODEL_NUMBER:
        raise UserError(f"{name}: found {value}, expected at most {MAX_MODEL_NUMBER}.")


def build_loss(section: dict[str, Any], ignore_index: int = 255) -> tuple[Component, float]:
    """Build the loss of the model's one output; return it and its coefficient.

    Args:
        section: lists `types` and `coef`, of one entry each.
        ignore_index: of the data set; the loss, and each part of a `MixedLoss`, gets it.

    Raises:
        UserError: not exactly one type and one coefficient, or another `ignore_index`.
    """
    types, coefficients = section.get("types"), section.get("coef")
    unknown = set(section) - {"types", "coef"}
    if unknown or not isinstance(types, list) or not isinstance(coefficients, list):
        raise UserError(f"loss: found keys {sorted(section)}, expected lists `types` and `coef`.")
    if len(types) != 1 or len(coefficients) != 1:
        raise UserError(
            f"loss: found {len(types)} types and {len(coefficients)} coef, expected one each: "
            "these models have one output. Combine losses with `type: MixedLoss`."
        )
    if type(coefficients[0]) not in (int, float):
        raise UserError(f"loss.coef: found {coefficients[0]!r}, expected a number.")
    return _build_loss(types[0], ignore_index, "loss.types.0"), float(coefficients[0])


def _build_loss(section: Any, ignore_index: int, name: str) -> Component:
    if not isinstance(section, dict):
        raise UserError(f"loss: found {section!r}, expected keys with a `type`.")
    if isinstance(section.get("losses"), list):
        parts = [
            _build_loss(item, ignore_index, f"{name}.losses.{index}")
            for index, item in enumerate(section["losses"])
        ]
        return build_component("loss", section, name, losses=parts)
    found = section.get("ignore_index", ignore_index)
    if found != ignore_index:
        raise UserError(
            f"loss: ignore_index is {found}, but the data set's is {ignore_index}. Make them equal."
        )
    return build_component("loss", section, name, ignore_index=ignore_index)


def build_optimizer(
    section: dict[str, Any], model: nn.Layer, learning_rate: float | LRScheduler
) -> Any:
    """Build the optimizer of the model's trainable parameters."""
    section = dict(section)
    if section.get("type") in ("sgd", "SGD"):  # PaddleSeg's spellings
        section["type"] = "Momentum" if "momentum" in section else "SGD"
    elif section.get("type") == "adam":
        section["type"] = "Adam"
    build = build_component("optimizer", section, "optimizer")
    with _constructor_errors_named(f"optimizer ({section['type']})"):
        return build(model, learning_rate)
