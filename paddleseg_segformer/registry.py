"""Components by name: our own tables first, then PaddleSeg's component manager.

This is the only module that imports `paddleseg`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import paddle
from paddle import Tensor

from paddleseg_segformer.dependencies import REMEDIES, MissingDependency
from paddleseg_segformer.errors import UserError, did_you_mean

logger = logging.getLogger(__name__)

Component = Callable[..., Any]

# kind -> (our module and table, PaddleSeg's manager)
KINDS = {
    "model": ("paddleseg_segformer.models", "MODELS", None),
    "backbone": ("paddleseg_segformer.models", "BACKBONES", None),
    "dataset": ("paddleseg_segformer.data", "DATASETS", None),
    "transform": ("paddleseg_segformer.data", "TRANSFORMS", "TRANSFORMS"),
    "loss": ("paddleseg_segformer.losses", "LOSSES", "LOSSES"),
    "optimizer": ("paddleseg_segformer.engine.optimizer", "OPTIMIZERS", "OPTIMIZERS"),
}


def resolve(kind: str, name: str) -> Component:
    """Return the component called `name`; ours win over PaddleSeg's.

    Args:
        kind: a key of `KINDS`.

    Raises:
        UserError: no component of that kind has this name.
    """
    ours = own_components(kind)
    if name in ours:
        return ours[name]
    theirs, hint = {}, ""
    if table := KINDS[kind][2]:
        try:
            theirs = _paddleseg_components(table)
        except MissingDependency as error:
            hint = f" Or is it PaddleSeg's? {error}"
    if name in theirs:
        return theirs[name]
    raise UserError(f"unknown {kind} type '{name}'.{did_you_mean(name, [*ours, *theirs])}{hint}")


def own_components(kind: str) -> dict[str, Component]:
    """Return our table of one kind: name -> class or factory."""
    module, table, _ = KINDS[kind]
    return getattr(importlib.import_module(module), table)


def register() -> None:
    """Put our models and backbones into PaddleSeg's manager, replacing its own of the same names.

    There they keep PaddleSeg's contract: a `pretrained` argument, and a list with logits at the
    input size as the model's output. Says once, through logging, which entries were replaced.

    Raises:
        MissingDependency: PaddleSeg is not installed.
    """
    manager = _manager()
    replaced = []
    for registered, components in (
        (manager.MODELS, _paddleseg_models()),
        (manager.BACKBONES, _paddleseg_backbones()),
    ):
        for component in components:
            if component.__name__ in registered.components_dict:
                replaced.append(component.__name__)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # "exists already": replacing is the purpose
                registered.add_component(component)
    logger.info("PaddleSeg's %s now come from paddleseg_segformer", ", ".join(replaced))


def _manager() -> Any:
    """Return PaddleSeg's component manager.

    Raises:
        MissingDependency: PaddleSeg, or a package that it imports, is not installed.
    """
    try:
        from paddleseg.cvlibs import manager
    except ImportError as error:
        raise MissingDependency(
            f"paddleseg cannot be imported ({error}). Run: {REMEDIES['paddleseg']}"
        ) from None
    return manager


@functools.cache
def _paddleseg_components(table: str) -> dict[str, Component]:
    """Return one table of PaddleSeg's manager."""
    manager = _manager()
    for package in ("transforms", "models", "optimizers"):  # their import fills the manager
        importlib.import_module(f"paddleseg.{package}")
    return getattr(manager, table).components_dict


class _PaddleSegContract:
    """What PaddleSeg's engine expects of a model, laid over one of ours."""

    def __init__(self, *args: Any, pretrained: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _load_pretrained(self, pretrained)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> [(N, K, H, W)]."""
        from paddleseg_segformer.models.layers import upsample_to_input

        logits = super().forward(x)  # type: ignore[misc]
        return [upsample_to_input(logits, x.shape[2:], getattr(self, "pad_multiple", 1))]


def _paddleseg_models() -> Iterator[Component]:
    """Yield our segmentation models as classes with PaddleSeg's contract."""
    for name, model_class in own_components("model").items():
        if name != "MixVisionTransformerClassifier":  # PaddleSeg has no classification models
            bases: tuple[Any, ...] = (_PaddleSegContract, model_class)
            yield type(name, bases, {"__doc__": model_class.__doc__})


class _PaddleSegTokens:
    """What PaddleSeg's other models expect of a `VisionTransformer`, laid over ours."""

    def forward(self: Any, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """(N, C, H, W) -> each block's patches (N, L, C), and the shape (N, C, h, w)."""
        from paddleseg_segformer.models.layers import tokens_to_map

        tokens, hw = self.embed(x)
        outputs = []
        for block in self.blocks:
            tokens = block(tokens)
            outputs.append(tokens)
        outputs[-1] = self.norm(outputs[-1])
        patches = [tokens[:, 1:] for tokens in outputs]
        return patches, paddle.shape(tokens_to_map(patches[-1], hw))


def _paddleseg_factory(factory: Component) -> Component:
    """Return a backbone's factory with PaddleSeg's contract."""
    from paddleseg_segformer.models import VisionTransformer

    if getattr(factory, "func", factory) is not VisionTransformer:
        return factory
    contract: Any = type("VisionTransformer", (_PaddleSegTokens, VisionTransformer), {})
    return functools.partial(contract, **getattr(factory, "keywords", {}))


def _paddleseg_backbones() -> Iterator[Component]:
    """Yield our backbone variants as functions with PaddleSeg's `pretrained` argument."""
    for name, ours in own_components("backbone").items():
        factory = _paddleseg_factory(ours)

        def build(
            *, pretrained: str | None = None, _factory: Component = factory, **kwargs: Any
        ) -> paddle.nn.Layer:
            backbone = _factory(**kwargs)
            _load_pretrained(backbone, pretrained)
            return backbone

        build.__name__ = build.__qualname__ = name
        build.__doc__ = f"{name} with {inspect.signature(factory)}."
        yield build


def _load_pretrained(layer: paddle.nn.Layer, pretrained: str | None) -> None:
    if pretrained:
        from paddleseg_segformer.checkpoints import load_pretrained

        load_pretrained(layer, pretrained)
