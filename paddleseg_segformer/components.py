"""Components by name: our own tables first, then what users registered, then PaddleSeg's.

A user's module registers its components when it is imported, which `--import` does:

    @register_component("backbone")
    class MyBackbone(paddle.nn.Layer): ...
"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

from paddleseg_segformer.dependencies import MissingDependency
from paddleseg_segformer.errors import UserError, did_you_mean

Component = Callable[..., Any]
Registered = TypeVar("Registered", bound=Component)


class Kind(NamedTuple):
    """Where the components of one kind are."""

    module: str | None = None  # of this package
    table: str = ""  # there: name -> class or factory
    paddleseg: str | None = None  # the same in PaddleSeg's manager


KINDS = {
    "model": Kind("paddleseg_segformer.models", "MODELS", "MODELS"),
    "backbone": Kind("paddleseg_segformer.models", "BACKBONES", "BACKBONES"),
    "dataset": Kind("paddleseg_segformer.data", "DATASETS", "DATASETS"),
    "transform": Kind("paddleseg_segformer.data", "TRANSFORMS", "TRANSFORMS"),
    "loss": Kind("paddleseg_segformer.losses", "LOSSES", "LOSSES"),
    "distill_loss": Kind("paddleseg_segformer.losses", "DISTILL_LOSSES", "LOSSES"),
    "optimizer": Kind("paddleseg_segformer.optimizers", "OPTIMIZERS", "OPTIMIZERS"),
    "hook": Kind(),
    "annotation_format": Kind("paddleseg_segformer.annotations.formats", "FORMATS"),
    "tracker": Kind("paddleseg_segformer.training.writers", "TRACKERS"),
}

_registered: dict[str, dict[str, Component]] = {kind: {} for kind in KINDS}
_imported: set[str] = set()  # users' modules, as `import_components` names them
_noted: set[str] = set()  # those that configs note, for messages


@overload
def register_component(
    kind: str, name: str | None = None
) -> Callable[[Registered], Registered]: ...


@overload
def register_component(kind: str, name: str | None, component: Registered) -> Registered: ...


def register_component(kind: str, name: str | None = None, component: Any = None) -> Any:
    """Register a class or function, which configs then name as `type: NAME`.

    Args:
        kind: model, backbone, dataset, transform, loss, distill_loss, optimizer, hook, tracker or
            annotation_format; its contract (`contracts.CONTRACTS`) holds for what is built.
        name: by default the component's own.
        component: the class or function; without it, what is returned is a decorator of it.

    Raises:
        UserError: an unknown kind, or the name is taken.
    """
    if kind not in KINDS:
        raise UserError(f"register_component: no kind '{kind}'.{did_you_mean(kind, KINDS)}")
    if component is None:
        return lambda decorated: register_component(kind, name, decorated)
    name = name or getattr(component, "__name__", None)
    if name is None or not callable(component):
        raise UserError(f"register_component: found {component!r}, expected a class or function.")
    if name in _own(kind):
        raise UserError(
            f"register_component: this package has a {kind} '{name}' itself. Choose another name."
        )
    earlier = _registered[kind].get(name, component)
    if _origin(earlier) != _origin(component):  # else the same module, imported again
        raise UserError(
            f"register_component: the {kind} '{name}' is registered already, by "
            f"{'.'.join(_origin(earlier))}. Choose another name."
        )
    _registered[kind][name] = component
    return component


def resolve(kind: str, name: str) -> Component:
    """Return the component called `name`: ours, else a user's, else PaddleSeg's.

    Args:
        kind: a key of `KINDS`.

    Raises:
        UserError: no component of that kind has this name.
    """
    component = find(kind, name)
    if component is None:
        theirs, absence = _theirs(kind)
        guess = did_you_mean(name, {*_own(kind), *_registered[kind]}, others=theirs)
        raise UserError(f"unknown {kind} type '{name}'.{guess}{absence}{_missing_import()}")
    return component


def find(kind: str, name: str) -> Component | None:
    """Return the component as `resolve` does, or None."""
    for table in (_own(kind), _registered[kind]):
        if name in table:
            return table[name]
    return _theirs(kind)[0].get(name)  # PaddleSeg is imported last, if at all


def names_of(kind: str) -> list[str]:
    """Return the names of our components of a kind, then of users'; PaddleSeg's are left out."""
    return [*_own(kind), *_registered[kind]]


def stated_of_dataset(section: Mapping[str, Any], attribute: str) -> Any:
    """Return a class attribute of a section's type of data set, such as its `label_set`, or None.

    Data sets have such attributes where they do not depend on the files.
    """
    name = section.get("type")
    return getattr(find("dataset", name), attribute, None) if name else None


def img_channels_of(section: Mapping[str, Any]) -> int | None:
    """Return how many channels a data set's images have, as its section or its type says."""
    component = find("dataset", section["type"]) if section.get("type") else None
    default = getattr(component, "IMG_CHANNELS", None)
    if component is not None and default is None:
        parameter = inspect.signature(component).parameters.get("img_channels")
        default = parameter and parameter.default
    channels = section.get("img_channels", default)
    return channels if type(channels) is int else None


def is_own(kind: str, name: str) -> bool:
    """Tell whether `name` is a component of this package."""
    return name in _own(kind)


def import_components(source: str) -> str:
    """Import a user's module, which registers its components.

    Its folder is added to the import path, as Python does with that of a script, so that worker
    processes find the module too.

    Args:
        source: path of a .py file, or name of a module that is installed or in the current folder.

    Returns:
        The module's name, by which configs note it.

    Raises:
        UserError: there is none, or importing it failed; the place is named.
    """
    path = Path(source)
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise UserError(f"--import {source}: no such file.")
    folder = str(path.resolve().parent if is_file else Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    name = path.stem if is_file else source
    try:
        module = importlib.import_module(name)
    except Exception as error:
        raise UserError(f"--import {source}: {_import_failure(name, error)}") from error
    found = getattr(module, "__file__", None)
    if is_file and (found is None or Path(found).resolve() != path.resolve()):
        raise UserError(
            f"--import {source}: there is another module '{name}' ({found or 'built in'}). Rename "
            "the file."
        )
    _imported.add(name)
    return name


def note_needed(modules: Iterable[str]) -> None:
    """Remember the modules that a config notes, for the message about an unknown type."""
    _noted.update(modules)


def _own(kind: str) -> Mapping[str, Component]:
    module, table, _ = KINDS[kind]
    return getattr(importlib.import_module(module), table) if module else {}


def _theirs(kind: str) -> tuple[Mapping[str, Component], str]:
    """Return PaddleSeg's components; without PaddleSeg none, and the reason."""
    table = KINDS[kind].paddleseg
    if table is None:
        return {}, ""
    from paddleseg_segformer.paddleseg_components import paddleseg_components

    try:
        return paddleseg_components(table), ""
    except MissingDependency as error:
        return {}, f" Or is it PaddleSeg's? {error}"


def _origin(component: Any) -> tuple[str, str]:
    """Return the module and name of a component's definition; of a partial, its function's."""
    component = getattr(component, "func", component)
    return component.__module__, getattr(component, "__qualname__", type(component).__qualname__)


def _missing_import() -> str:
    missing = sorted(_noted - _imported)
    if not missing:
        return ""
    flags = " ".join(f"--import {name}" for name in missing)
    return f" The config was made with {flags}, which may be missing here."


def _import_failure(name: str, error: Exception) -> str:
    """Say in one line why a module could not be imported."""
    if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
        return "neither a module nor the path of a .py file."
    if isinstance(error, UserError):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = "" if isinstance(error, SyntaxError) else f" ({place.filename}, line {place.lineno})"
    return f"{type(error).__name__}: {error}{where}"
