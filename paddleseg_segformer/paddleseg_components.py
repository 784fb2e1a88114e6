"""PaddleSeg's components, adapted to this package's contracts.

This is the only module that imports `paddleseg`; `paddleseg_bridge` does the reverse.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

import paddle
from paddle import Tensor, nn

from paddleseg_segformer.data import SegmentationDataset
from paddleseg_segformer.data.datasets import EDGE_IGNORED
from paddleseg_segformer.data.labels import generic_label_set
from paddleseg_segformer.dependencies import REMEDIES, MissingDependency
from paddleseg_segformer.errors import UserError, one_line

logger = logging.getLogger(__name__)

Component = Callable[..., Any]
PACKAGES = ("transforms", "models", "optimizers", "datasets")  # their import fills the manager
LOSS_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
OWN_SAMPLES = (
    "this data set of PaddleSeg's makes its samples with code of its own, which does not run here. "
    "List its files with `type: Dataset`, or derive a data set from "
    "paddleseg_segformer.data.SegmentationDataset."
)
MAX_REASON = 200  # characters
CHANNELS = ("in_channels", "in_chans", "in_ch")  # as backbones spell the argument


def load_manager() -> Any:
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


def paddleseg_components(table: str) -> Mapping[str, Component]:
    """Return one table of PaddleSeg's manager, users' classes included.

    Raises:
        MissingDependency: PaddleSeg is not installed.
    """
    components = _table(table)
    adapt = ADAPTERS.get(table)
    return {name: adapt(item) for name, item in components.items()} if adapt else components


@functools.cache
def _table(table: str) -> Mapping[str, Component]:
    manager = load_manager()
    for package in PACKAGES:
        importlib.import_module(f"paddleseg.{package}")
    components: dict[str, Component] = getattr(manager, table).components_dict
    return components


def _backbone(component: Component) -> Component:
    """Return a factory of a PaddleSeg backbone that has `in_channels`."""

    @functools.wraps(component)
    def build(**arguments: Any) -> nn.Layer:
        return _with_channels(component(**arguments), component, arguments)

    return build


def _with_channels(layer: Any, component: Component, arguments: Mapping[str, Any]) -> Any:
    if not hasattr(layer, "in_channels"):
        given = {**_defaults(component), **arguments}
        layer.in_channels = next((given[name] for name in CHANNELS if name in given), 3)
    return layer


def _defaults(component: Component) -> dict[str, Any]:
    parameters = inspect.signature(component).parameters.values()
    return {item.name: item.default for item in parameters if item.default is not item.empty}


class OneOutput:
    """Mixin: this package's contract, over a PaddleSeg model: one map of logits.

    PaddleSeg's models return a list of maps at the input's size. In evaluation the first one is
    taken, as in PaddleSeg; in training there may be only one.
    """

    logits_stride = 1
    theirs: Callable[..., Any]  # the model's own forward
    training: bool

    def forward(self: Any, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H, W).

        Raises:
            UserError: several outputs in training, or none at the input's size.
        """
        outputs = self.theirs(x)
        name = type(self).__name__
        count = len(outputs) if isinstance(outputs, (list, tuple)) else 0
        if count != 1 and (self.training or not count):
            raise UserError(
                f"model {name}: gives {count} maps of logits in training, expected a list of one. "
                "Switch its other outputs off, or train it with PaddleSeg."
            )
        if self.training and hasattr(self, "loss_computation"):
            raise UserError(
                f"model {name}: computes a loss of its own, which is not used here. Train it with "
                "PaddleSeg."
            )
        logits: Tensor = outputs[0]
        if paddle.in_dynamic_mode() and logits.shape[2:] != x.shape[2:]:
            raise UserError(
                f"model {name}: gives logits of {logits.shape[2:]} px for an input of "
                f"{x.shape[2:]} px, expected the input's size, as PaddleSeg's models give."
            )
        return logits


def _model(component: Component) -> Component:
    """Return a factory of a PaddleSeg model with this package's contract."""

    @functools.wraps(component)
    def build(**arguments: Any) -> nn.Layer:
        model = component(**arguments)
        _derive(model, OneOutput)
        if not hasattr(model, "num_classes"):
            model.num_classes = {**_defaults(component), **arguments}.get("num_classes")
        if not hasattr(model, "backbone"):
            _with_channels(model, component, arguments).min_input_px = 1
        return model

    return build


class ExplainedLoss:
    """Mixin: a PaddleSeg loss whose failures are one line."""

    theirs: Callable[..., Any]  # the loss's own forward

    def forward(self, *arguments: Any) -> Tensor:
        """Return the loss.

        Raises:
            UserError: it does not take logits and labels alone, or not on this Paddle.
        """
        try:
            loss: Tensor = self.theirs(*arguments)
        except LOSS_ERRORS as error:
            raise UserError(
                f"loss {type(self).__name__}: PaddleSeg's code fails here "
                f"({one_line(error)[:MAX_REASON]}). It needs an older Paddle, or more than logits "
                "and labels. Choose another loss."
            ) from error
        return loss


def _loss(component: Component) -> Component:
    """Return a factory of a PaddleSeg loss that explains its failures."""

    @functools.wraps(component)
    def build(**arguments: Any) -> nn.Layer:
        loss: nn.Layer = component(**arguments)
        _derive(loss, ExplainedLoss)
        return loss

    return build


def _derive(layer: Any, mixin: type) -> None:
    """Put a mixin before a layer's class; the class's own forward is `theirs`."""
    own = type(layer)
    body = {"theirs": own.forward, "__doc__": own.__doc__, "__module__": own.__module__}
    object.__setattr__(layer, "__class__", type(own.__name__, (mixin, own), body))


def _dataset(component: Component) -> Component:
    """Return a factory of this package's data set with the samples of PaddleSeg's."""
    from paddleseg.datasets import Dataset

    if getattr(component, "__getitem__", Dataset.__getitem__) is not Dataset.__getitem__:

        def refuse(**arguments: Any) -> SegmentationDataset:
            raise UserError(f"{component.__name__}: {OWN_SAMPLES}")

        return refuse

    @functools.wraps(component)
    def build(transforms: list[Any], **arguments: Any) -> SegmentationDataset:
        if arguments.pop("edge", False):
            logger.warning("%s: %s", component.__name__, EDGE_IGNORED)
        theirs = component(transforms=[], **arguments)
        _check_lists_files(theirs)
        return SegmentationDataset(
            [(image, label) for image, label in theirs.file_list],
            transforms,
            generic_label_set(theirs.num_classes, theirs.ignore_index),
            mode=theirs.mode,
            img_channels=getattr(theirs, "img_channels", 3),
        )

    num_classes = getattr(component, "NUM_CLASSES", None)
    if isinstance(num_classes, int):
        build.label_set = generic_label_set(  # type: ignore[attr-defined]
            num_classes, getattr(component, "IGNORE_INDEX", 255)
        )
    return build


def _check_lists_files(dataset: Any) -> None:
    """Refuse a PaddleSeg data set that is more than a list of files with ids as stored."""
    from paddleseg.datasets import Dataset
    from paddleseg.transforms import Compose

    reads_itself = getattr(type(dataset), "__getitem__", None) is not Dataset.__getitem__
    transforms: Any = getattr(dataset, "transforms", None)
    if reads_itself or type(transforms) is not Compose or not transforms.to_rgb:
        raise UserError(f"{type(dataset).__name__}: {OWN_SAMPLES}")


def _optimizer(component: Component) -> Component:
    """Return the component, but for one that fails at its first step, whatever the model."""
    if component.__name__ != "AdamWDL":
        return component

    def refuse(**arguments: Any) -> None:
        raise UserError(
            "AdamWDL: PaddleSeg's code fails at the first step. Use AdamW; its `custom_cfg` has a "
            "factor of the rate for each group of layers."
        )

    return refuse


ADAPTERS: dict[str, Callable[[Component], Component]] = {  # by table of the manager
    "MODELS": _model,
    "BACKBONES": _backbone,
    "DATASETS": _dataset,
    "LOSSES": _loss,
    "OPTIMIZERS": _optimizer,
}
