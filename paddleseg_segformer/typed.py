"""Plain data, as YAML gives it, into typed dataclasses; a wrong key or type is named."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from paddleseg_segformer.errors import Mistakes, UserError, did_you_mean

Made = TypeVar("Made")


def from_plain(cls: type[Made], content: Mapping[str, Any], prefix: str = "") -> Made:
    """Build dataclass `cls` from a dictionary, nested dataclasses included.

    Args:
        prefix: of the keys in messages, such as "test_config.".

    Raises:
        UserError: unknown keys (with a suggestion), missing ones, or values of a wrong type, all of
            them at once.
    """
    mistakes = Mistakes()
    values = plain_values(cls, content, mistakes, prefix)
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        has_default = item.default is not item.default_factory  # else both are MISSING
        if not has_default and item.name not in content:
            mistakes.add(f"no key '{prefix}{item.name}', which is needed.")
    mistakes.raise_all()
    return cls(**values)


def plain_values(
    cls: type, content: Mapping[str, Any], mistakes: Mistakes, prefix: str = ""
) -> dict[str, Any]:
    """Return the entries of `content` that are right, as `cls` takes them.

    Args:
        mistakes: gets what is wrong with the others.
        prefix: as of `from_plain`.
    """
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in content.items():
        if mistakes.is_full:
            break
        if key not in hints:
            mistakes.add(f"unknown key '{prefix}{key}'.{did_you_mean(key, hints)}")
            continue
        try:
            values[key] = _value(hints[key], value, f"{prefix}{key}")
        except UserError as error:
            mistakes.add(error)
    return values


def _value(hint: Any, value: Any, name: str) -> Any:
    """Return `value` as the annotated type; dictionaries become dataclasses where annotated so."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        return _one_of(arguments, value, name)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_plain(typing.cast(type, hint), value, f"{name}.")
    if origin is list and isinstance(value, list):
        return [_value(arguments[0], item, f"{name}[{i}]") for i, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {key: _value(arguments[1], item, f"{name}.{key}") for key, item in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise UserError(f"{name}: found {value!r}, expected {_spelled(hint)}.")
    return value


def _one_of(kinds: tuple[Any, ...], value: Any, name: str) -> Any:
    for kind in kinds:
        try:
            return _value(kind, value, name)
        except UserError as error:
            failure = error
    named = [kind for kind in kinds if kind is not types.NoneType]
    if len(named) == 1:  # its own message says where inside the value the mistake is
        _value(named[0], value, name)
    spelled = " or ".join(_spelled(kind) for kind in named)
    raise UserError(f"{name}: found {value!r}, expected {spelled}.") from failure


def _spelled(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
