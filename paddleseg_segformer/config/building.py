"""Components from a config, each checked against its constructor's signature first."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from paddle import nn

from paddleseg_segformer.components import Component, is_own, resolve, stated_of_dataset
from paddleseg_segformer.config.schema import Config
from paddleseg_segformer.contracts import CONTRACTS, check
from paddleseg_segformer.errors import UserError, did_you_mean

logger = logging.getLogger(__name__)

MAX_MODEL_NUMBER = 100_000  # of layers, channels, classes
MAX_REASON = 300  # characters
NESTED_KINDS = {"backbone": "backbone", "transforms": "transform", "losses": "loss"}


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
    try:
        component = resolve(kind, section["type"])
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    arguments = {key: value for key, value in section.items() if key != "type"}
    _check_arguments(component, {**arguments, **given}, section["type"], name)
    for key, nested_kind in NESTED_KINDS.items():
        if key in arguments:
            arguments[key] = _build_nested(nested_kind, arguments[key], f"{name}.{key}")
    title = f"{name} ({section['type']})"
    with _mistakes_named(title):
        built = component(**arguments, **given)
    if not is_own(kind, section["type"]):
        check(built, CONTRACTS[kind], title)
    return built


@contextmanager
def _mistakes_named(name: str) -> Iterator[None]:
    """Turn what a constructor says of its arguments into one line that names the section.

    Paddle's and PaddleSeg's constructors check little, and fail in any way.
    """
    try:
        yield
    except (UserError, ImportError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
        raise UserError(f"{name}: {reason}") from error


def _build_nested(kind: str, value: Any, name: str) -> Any:
    if isinstance(value, list):
        return [build_component(kind, item, f"{name}.{i}") for i, item in enumerate(value)]
    return build_component(kind, value, name) if isinstance(value, dict) else value


def _check_arguments(
    component: Component, arguments: dict[str, Any], type_name: str, name: str
) -> None:
    parameters = inspect.signature(component).parameters
    if any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters.values()):
        return
    for key in arguments:
        if key not in parameters:
            raise UserError(
                f"{name}: {type_name} has no key '{key}'.{did_you_mean(key, parameters)}"
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


def build_model(config: Config) -> nn.Layer:
    """Build the model with initial weights; `pretrained` keys are left to `model_folder`."""
    section = {key: value for key, value in config.model.items() if key != "pretrained"}
    _check_numbers(section, "model")
    if isinstance(section.get("backbone"), dict):
        backbone = section["backbone"]
        section["backbone"] = {key: backbone[key] for key in backbone if key != "pretrained"}
    model = build_component("model", section, "model")
    _check_num_classes(config, model.num_classes)
    return model


def _check_numbers(value: Any, name: str) -> None:
    """Refuse counts and sizes that no machine could build."""
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check_numbers(item, f"{name}.{key}")
    elif isinstance(value, (int, float)) and not abs(value) <= MAX_MODEL_NUMBER:
        raise UserError(f"{name}: found {value}, expected at most {MAX_MODEL_NUMBER}.")


def _check_num_classes(config: Config, num_classes: int) -> None:
    """Compare the model's class count with what the data sets have."""
    for name in ("train_dataset", "val_dataset"):
        section = getattr(config, name)
        if section is None:
            continue
        resolve("dataset", section["type"])
        label_set = stated_of_dataset(section, "label_set")
        expected = section.get("num_classes", len(label_set.classes) if label_set else num_classes)
        if expected != num_classes:
            raise UserError(
                f"model.num_classes is {num_classes}, but {name} ({section['type']}) has "
                f"{expected} classes. "
                "Make them equal."
            )


def build_dataset(section: dict[str, Any], name: str = "dataset") -> Any:
    """Build a data set with its transforms."""
    section = dict(section)
    section.setdefault("transforms", [])
    return build_component("dataset", section, name)


def build_transforms(sections: list[dict[str, Any]], name: str = "transforms") -> list[Component]:
    """Build a list of transforms."""
    return _build_nested("transform", sections, name)


def build_loss(section: dict[str, Any], ignore_index: int = 255) -> tuple[Component, float]:
    """Build the loss of the model's one output and its coefficient.

    Raises:
        UserError: not exactly one type and one coefficient, or its ignore_index is not the data's.
    """
    types, coefficients = section.get("types"), section.get("coef")
    unknown = set(section) - {"types", "coef"}
    if unknown or not isinstance(types, list) or not isinstance(coefficients, list):
        raise UserError(f"loss: found keys {sorted(section)}, expected lists `types` and `coef`.")
    if len(types) != 1 or len(coefficients) != 1:
        raise UserError(
            f"loss: found {len(types)} types and {len(coefficients)} coef, expected one "
            "each: these models "
            "have one output. Combine losses with `type: MixedLoss`."
        )
    loss_section = _with_ignore_index(types[0], ignore_index, "loss.types.0")
    if type(coefficients[0]) not in (int, float):
        raise UserError(f"loss.coef: found {coefficients[0]!r}, expected a number.")
    return build_component("loss", loss_section, "loss.types.0"), float(coefficients[0])


def _with_ignore_index(section: dict[str, Any], ignore_index: int, name: str) -> dict[str, Any]:
    if not isinstance(section, dict):
        raise UserError(f"loss: found {section!r}, expected keys with a `type`.")
    section = dict(section)
    if isinstance(section.get("losses"), list):
        section["losses"] = [
            _with_ignore_index(item, ignore_index, f"{name}.losses.{index}")
            for index, item in enumerate(section["losses"])
        ]
        return section
    if isinstance(section.get("type"), str):
        loss = resolve("loss", section["type"])
        if not {"ignore_index", "kwargs"} & set(inspect.signature(loss).parameters):
            raise UserError(
                f"{name}: {section['type']} takes no `ignore_index`, the label of pixels that do "
                "not count. Add it to its constructor."
            )
    found = section.setdefault("ignore_index", ignore_index)
    if found != ignore_index:
        raise UserError(
            f"loss: ignore_index is {found}, but the data set's is {ignore_index}. Make them equal."
        )
    return section


def build_hooks(sections: list[dict[str, Any]] | None) -> list[Any]:
    """Build the hooks that a config adds to a run."""
    return _build_nested("hook", sections or [], "hooks")


def build_optimizer(section: dict[str, Any], model: nn.Layer, learning_rate: Any) -> Any:
    """Build the optimizer over the model's trainable parameters.

    Args:
        learning_rate: a number or a `paddle.optimizer.lr.LRScheduler`.
    """
    section = dict(section)
    if section.get("type") in ("sgd", "SGD"):  # PaddleSeg's spellings
        section["type"] = "Momentum" if "momentum" in section else "SGD"
    elif section.get("type") == "adam":
        section["type"] = "Adam"
    build = build_component("optimizer", section, "optimizer")
    with _mistakes_named(f"optimizer ({section['type']})"):
        return build(model, learning_rate)
