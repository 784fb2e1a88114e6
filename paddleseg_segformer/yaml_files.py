"""YAML from untrusted input: plain data only, within bounds that configs never reach.

By aliases and merges (`<<`), a few lines can stand for billions of values. Both are counted while a
text is composed, so time and memory are bounded with every release of PyYAML. Merges are resolved
here as well: where a list of merges repeats a key, PyYAML 6.0.4 takes another value than earlier
releases.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from paddleseg_segformer.errors import UserError

MAX_BYTES = 1 << 19
MAX_NODES = 30_000  # as written: keys, values and aliases
MAX_VALUES = 100_000  # with every alias written out; and keys copied by merges
MAX_DEPTH = 50
MAX_DIGITS = 300  # of a number
MAX_INT_KEY = 1 << 60  # larger ones can be chosen to share one hash
# What PyYAML raises while it converts dates, numbers and binary data, which it does not check
CONVERSION_ERRORS = (
    yaml.YAMLError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)
EXPONENT_NUMBER = (
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)
_STR, _INT, _FLOAT, _MERGE, _VALUE = (
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "merge", "value")
)
_MERGE_KEY = object()  # the key `<<`
_Pairs = dict[Any, tuple[yaml.Node, yaml.Node]]  # key and value nodes by key


class Dumper(yaml.SafeDumper):
    """Quotes text that looks like `6e-5`, which `_Loader` would read as a number."""


class CompactDumper(Dumper):
    """Writes a list of numbers or texts on one line."""

    def represent_sequence(
        self, tag: str, sequence: Any, flow_style: bool | None = None
    ) -> yaml.SequenceNode:
        """Return the node of a list."""
        node = super().represent_sequence(tag, sequence, flow_style)
        node.flow_style = all(isinstance(item, yaml.ScalarNode) for item in node.value)
        return node


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads `6e-5` as a number, as YAML 1.2 does (PyYAML reads it as text)."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.num_nodes = 0
        self.num_merged = 0
        self.sizes: dict[yaml.Node, tuple[int, int]] = {}  # (values, levels) of complete nodes
        self.pairs: dict[yaml.Node, _Pairs] = {}  # of complete mappings, what they merge included

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        """Compose one value and its content; an alias becomes the node that it names."""
        event = self.peek_event()
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES:
            raise _error(event, f"more than {MAX_NODES} keys and values")
        if self.depth > MAX_DEPTH:
            raise _error(event, f"nested more than {MAX_DEPTH} deep")
        self.depth += 1
        node: Any = super().compose_node(parent, index)
        self.depth -= 1
        if not isinstance(event, yaml.AliasEvent):
            self._complete(node)
        elif node not in self.sizes:
            raise _error(event, f"nested more than {MAX_DEPTH} deep: *{event.anchor} holds itself")
        return node

    def _complete(self, node: yaml.Node) -> None:
        """Check the keys of a composed node, resolve its merges, count its values."""
        parts = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            self.pairs[node] = self._merged_pairs(node)
            node.value = list(self.pairs[node].values())
            parts = [value for _, value in node.value]
        values = 1 + sum(self.sizes[part][0] for part in parts)
        levels = 1 + max((self.sizes[part][1] for part in parts), default=0)
        self.sizes[node] = values, levels
        if self.depth == 0 and values > MAX_VALUES:
            raise yaml.YAMLError(f"it stands for more than {MAX_VALUES} values")
        if self.depth == 0 and levels > MAX_DEPTH:
            raise yaml.YAMLError(f"nested more than {MAX_DEPTH} deep")

    def _merged_pairs(self, node: yaml.MappingNode) -> _Pairs:
        """Return a mapping's pairs; its own override merged ones, of which the first win."""
        own: _Pairs = {}
        for pair in node.value:
            key = self._key(pair[0])
            if key in own:
                first = own[key][0].start_mark.line + 1
                name = pair[0].value[:40]
                raise _error(pair[0], f"the key {name!r} stands in line {first} already")
            own[key] = pair
        if _MERGE_KEY not in own:
            return own
        _, merged = own.pop(_MERGE_KEY)
        sources: list[Any] = merged.value if isinstance(merged, yaml.SequenceNode) else [merged]
        pairs: _Pairs = {}
        for source in reversed(list(dict.fromkeys(sources))):
            if source not in self.pairs:
                raise _error(node, f"found a {source.id} to merge, expected keys and values")
            self.num_merged += len(self.pairs[source])
            if self.num_merged > MAX_VALUES:
                raise _error(node, f"more than {MAX_VALUES} merged keys")
            pairs.update(self.pairs[source])
        return {**pairs, **own}

    def _key(self, node: Any) -> Any:
        """Return a key's value."""
        if node.tag == _MERGE:
            return _MERGE_KEY
        if not isinstance(node, yaml.ScalarNode):
            raise _error(node, f"found a {node.id} as a key, expected text or a number")
        if node.tag == _VALUE:  # `=`, of no meaning among keys
            node.tag = _STR
        key = self.construct_object(node)
        if isinstance(key, int) and abs(key) > MAX_INT_KEY:
            raise _error(node, f"a number above {MAX_INT_KEY} as a key")
        return key

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        """Return a scalar's text; very long numbers would take minutes to convert."""
        text = super().construct_scalar(node)
        if node.tag in (_INT, _FLOAT) and len(text) > MAX_DIGITS:
            raise _error(node, f"a number of {len(text)} characters")
        return text


for _side in (_Loader, Dumper):
    _side.add_implicit_resolver(*EXPONENT_NUMBER)


def _error(place: Any, problem: str) -> yaml.YAMLError:
    return yaml.YAMLError(f"line {place.start_mark.line + 1}: {problem}")


def read_yaml(path: str | os.PathLike[str], ignored_tag: str = "") -> dict[str, Any]:
    """Read a YAML mapping from a file.

    Args:
        ignored_tag: removed from the text, such as that of Python's tuples, which become lists.

    Raises:
        UserError: no such file, not a YAML mapping, or more than the bounds above.
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
        UserError: not YAML, a key twice in a mapping, or more than the bounds above.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except CONVERSION_ERRORS as error:
        raise UserError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from None


def dump_yaml(content: Any, is_compact: bool = False) -> str:
    """Return plain data as YAML that `parse_yaml` reads back.

    Args:
        is_compact: Write a list of numbers or texts on one line.
    """
    dumper, width = (CompactDumper, 98) if is_compact else (Dumper, 80)
    return yaml.dump(content, Dumper=dumper, sort_keys=False, allow_unicode=True, width=width)


def dotted(value: Any, key: str = "") -> dict[str, Any]:
    """Return the values of nested mappings, and of lists of them, by their dotted keys."""
    if isinstance(value, dict) and value:
        items: Any = value.items()
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = enumerate(value)
    else:
        return {key: value}
    found: dict[str, Any] = {}
    for name, item in items:
        found |= dotted(item, f"{key}.{name}" if key else str(name))
    return found
