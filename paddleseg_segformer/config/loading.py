"""YAML files: inheritance (`_base_`, `_inherited_`), environment variables, and `--opts` overrides.

The conventions are PaddleSeg's, so its config files are read unchanged.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from paddleseg_segformer.errors import UserError, did_you_mean
from paddleseg_segformer.yaml_files import parse_yaml, read_yaml

_PACKAGE = Path(__file__).resolve().parents[1]
CONFIG_FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")  # installed, checkout
MAX_BASES = 50  # in a row
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


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
    """Read one YAML file with its bases merged under it and its environment variables replaced."""
    return _expand(_load_with_bases(path, seen=(), loaded={}))


def _load_with_bases(
    path: Path, seen: tuple[Path, ...], loaded: dict[Path, dict[str, Any]]
) -> dict[str, Any]:
    """Return what a file and its bases say; each is read once, however many name it.

    Args:
        seen: the files whose bases lead here.
        loaded: what was read before, by path.
    """
    if path.resolve() in seen:
        raise UserError(f"{path}: `_base_` leads back to itself. Remove the circle.")
    place = path.parent.resolve() / path.name
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
    merged: dict[str, Any] = {}
    for base in bases:
        found = _find_base(path, base)
        merged = _merge(_load_with_bases(found, (*seen, path.resolve()), loaded), merged)
    loaded[place] = _merge(content, merged)
    return loaded[place]


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
    """Replace `${NAME}` and `${NAME:-default}` in every string."""
    if isinstance(value, dict):
        return {key: _expand(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item) for item in value]
    return _VARIABLE.sub(_variable, value) if isinstance(value, str) else value


def _variable(match: re.Match[str]) -> str:
    name, default = match.groups()
    found = os.environ.get(name) or default
    if found is None:
        raise UserError(
            f"${{{name}}}: the environment variable is not set. Set it, or write "
            f"${{{name}:-default}}."
        )
    return found


def apply_overrides(content: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return `content` with `a.b=value` overrides; list items go by index, values are YAML.

    A section or last key that does not exist yet is added: the checks after loading refuse what is
    unknown.
    """
    for override in overrides:
        keys, separator, text = override.partition("=")
        if not separator or not keys:
            raise UserError(
                f"--opts {override}: expected KEY=VALUE, such as optimizer.weight_decay=0.05"
            )
        value = _expand(parse_yaml(text, f"--opts {override}"))
        _set(content, keys.split("."), value, override)
    return content


def _set(content: Any, keys: list[str], value: Any, override: str) -> None:
    *parents, last = keys
    if parents and isinstance(content, dict):
        content.setdefault(parents[0], {})
    for key in parents:
        content = _step(content, key, override, parents)
    if isinstance(content, list):
        content[_index(content, last, override)] = value
    elif isinstance(content, dict):
        content[last] = value
    else:
        raise UserError(
            f"--opts {override}: '{'.'.join(parents)}' is {content!r}, which has no keys."
        )


def _step(content: Any, key: str, override: str, keys: list[str]) -> Any:
    if isinstance(content, list):
        return content[_index(content, key, override)]
    if isinstance(content, dict) and key not in content:
        raise UserError(f"--opts {override}: no key '{key}'.{did_you_mean(key, content)}")
    if not isinstance(content, dict):
        raise UserError(f"--opts {override}: '{'.'.join(keys)}' is not a section.")
    return content[key]


def _index(content: list[Any], key: str, override: str) -> int:
    if not key.isdigit() or int(key) >= len(content):
        raise UserError(
            f"--opts {override}: found '{key}', expected an index from 0 to {len(content) - 1}."
        )
    return int(key)
