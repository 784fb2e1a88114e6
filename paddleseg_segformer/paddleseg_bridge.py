"""Our models and backbones in PaddleSeg's component manager, for its tools."""

from __future__ import annotations

import functools
import inspect
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import paddle
from paddle import Tensor, nn

from paddleseg_segformer.contracts import pad_multiple_of
from paddleseg_segformer.models import BACKBONES, MODELS, VisionTransformer
from paddleseg_segformer.models.layers import tokens_to_map, upsample_to_input
from paddleseg_segformer.paddleseg_components import load_manager
from paddleseg_segformer.weights import load_pretrained

logger = logging.getLogger(__name__)

Component = Callable[..., Any]


def register() -> None:
    """Add our models and backbones to PaddleSeg's manager, replacing its own of the same names.

    There they follow PaddleSeg's contract: a `pretrained` argument, and a list with logits at the
    input size as the model's output. The replaced entries are logged.

    Raises:
        MissingDependency: PaddleSeg is not installed.
    """
    manager = load_manager()
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


class _PaddleSegContract:
    """Mixin: PaddleSeg's contract of a model, over one of ours."""

    ours: Callable[..., Tensor]  # the model's own forward

    def __init__(self, *args: Any, pretrained: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if pretrained:
            load_pretrained(self, pretrained)

    def forward(self: Any, x: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> [(N, K, H, W)]."""
        logits = self.ours(x)  # not super(): Paddle cannot make a static graph of it
        return [upsample_to_input(logits, x.shape[2:], pad_multiple_of(self))]


def _paddleseg_models() -> Iterator[Component]:
    """Yield our segmentation models as classes with PaddleSeg's contract."""
    models: dict[str, Any] = MODELS
    for name, model_class in models.items():
        if name != "MixVisionTransformerClassifier":  # PaddleSeg has no classification models
            bases: tuple[Any, ...] = (_PaddleSegContract, model_class)
            body = {"ours": model_class.forward, "__doc__": model_class.__doc__}
            yield type(name, bases, body)


class _PaddleSegTokens:
    """Mixin: what PaddleSeg's models expect of a `VisionTransformer`, over ours."""

    def forward(self: Any, x: Tensor, as_tokens: bool = False) -> tuple[Any, Any]:
        """(N, C, H, W) -> each block's patches (N, L, C), and the shape (N, C, h, w).

        Args:
            as_tokens: return what `encode` does.
        """
        tokens, hw = self.embed(x)
        outputs = []
        for block in self.blocks:
            tokens = block(tokens)
            outputs.append(tokens)
        outputs[-1] = self.norm(outputs[-1])
        if as_tokens:
            return outputs[-1], hw
        patches = [tokens[:, 1:] for tokens in outputs]
        return patches, paddle.shape(tokens_to_map(patches[-1], hw))


def _paddleseg_backbones() -> Iterator[Component]:
    """Yield our backbone variants as functions with PaddleSeg's `pretrained` argument."""
    tokens: Any = type("VisionTransformer", (_PaddleSegTokens, VisionTransformer), {})
    for name, ours in BACKBONES.items():
        factory: Component = ours
        if getattr(ours, "func", ours) is VisionTransformer:
            factory = functools.partial(tokens, **getattr(ours, "keywords", {}))

        def build(
            *, pretrained: str | None = None, _factory: Component = factory, **kwargs: Any
        ) -> nn.Layer:
            backbone = _factory(**kwargs)
            if pretrained:
                load_pretrained(backbone, pretrained)
            return backbone

        build.__name__ = build.__qualname__ = name
        build.__doc__ = f"{name} with {inspect.signature(factory)}."
        yield build
