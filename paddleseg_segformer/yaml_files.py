"""YAML from anywhere: plain data only, and no more of it than a config needs.

Aliases let a few lines stand for billions of values; what they stand for is counted here before
anything walks through it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from paddleseg_segformer.errors import UserError

MAX_BYTES = 1 << 20
MAX_VALUES = 100_000  # with every alias written out
MAX_DEPTH = 50
MAX_DIGITS = 300  # of a number
# PyYAML converts dates, numbers and binary data without checks of its own
CONVERSION_ERRORS = (
    yaml.YAMLError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads `6e-5` as a number, as YAML 1.2 does (PyYAML reads it as text)."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Resolve `<<`; merges of merges double what is merged, so each result is bounded."""
        super().flatten_mapping(node)
        if len(node.value) > MAX_VALUES:
            raise yaml.YAMLError(f"more than {MAX_VALUES} merged keys")

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        """Return the text of a scalar; numbers of absurd length would take minutes to convert."""
        is_number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if is_number and len(node.value) > MAX_DIGITS:
            raise yaml.YAMLError(f"a number of {len(node.value)} characters")
        return super().construct_scalar(node)


EXPONENT_NUMBER = (
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver(*EXPONENT_NUMBER)


def read_yaml(path: str | os.PathLike[str], ignored_tag: str = "") -> dict[str, Any]:
    """Read a file of keys and values.

    Args:
        ignored_tag: left out of the text, such as that of Python's tuples, which are lists then.

    Raises:
        UserError: no such file, not YAML, more than the bounds above, or not keys and values.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file, expected a YAML file.")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise UserError(f"{path}: not a config: {size} bytes, expected at most {MAX_BYTES}.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid YAML: {error}.") from None
    if ignored_tag:
        text = text.replace(ignored_tag, "")
    content = parse_yaml(text, str(path))
    if not isinstance(content, dict):
        raise UserError(f"{path}: found {type(content).__name__}, expected keys and values.")
    return content


def parse_yaml(text: str, name: str) -> Any:
    """Return the plain data in a text.

    Args:
        name: where the text comes from, for messages.

    Raises:
        UserError: not YAML, or more than the bounds above.
    """
    try:
        content = yaml.load(text, Loader=_Loader)
        _count_values(content, depth=0, counts={})
    except RecursionError:
        raise UserError(f"{name}: not valid YAML: nested more than {MAX_DEPTH} deep.") from None
    except CONVERSION_ERRORS as error:
        raise UserError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from None
    return content


def _count_values(value: Any, depth: int, counts: dict[int, int]) -> int:
    """Return how many values `value` stands for, each alias counted in full."""
    if not isinstance(value, (dict, list, tuple, set)):
        return 1
    if depth > MAX_DEPTH:  # also a value that holds itself
        raise RecursionError
    if id(value) not in counts:
        items = value.values() if isinstance(value, dict) else value
        counts[id(value)] = 1 + sum(_count_values(item, depth + 1, counts) for item in items)
    if counts[id(value)] > MAX_VALUES:
        raise yaml.YAMLError(f"it stands for more than {MAX_VALUES} values")
    return counts[id(value)]
