"""What components must offer: the contracts of backbones, models, data sets, losses, hooks ...

Components of this package and of its users keep them alike; `docs/extending.md` shows one of each.
A member that has a value here may be left out, and then has that value. This module imports nothing
of what it describes, so that every part of the package can read it, also without Paddle.

Shapes: N batch, C channels of the image, H W its sides, K classes, h w the sides of the logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from paddleseg_segformer.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from paddle import Tensor, nn

    from paddleseg_segformer.data.datasets import RawSample, SamplePaths
    from paddleseg_segformer.data.labels import LabelSet
    from paddleseg_segformer.data.normalize import Normalize
    from paddleseg_segformer.training.trainer import Trainer


class Backbone(Protocol):
    """What a network takes; what it gives is between the backbone and its model."""

    in_channels: int  # C
    min_input_px: int = 1  # shortest side of an image
    min_portable_px: int = 0  # shortest side that all engines agree on; 0: as min_input_px


class PyramidBackbone(Backbone, Protocol):
    """A `paddle.nn.Layer` that can stand under SegFormer's heads."""

    feat_channels: Sequence[int]  # C_1 to C_4

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        """(N, C, H, W) -> four maps (N, C_i, h_i, w_i), sides of H / 4 to H / 32, rounded up."""


class TokenBackbone(Backbone, Protocol):
    """A `paddle.nn.Layer` that can stand under Segmenter's heads."""

    embed_dim: int  # D, channels of a token
    patch_size: int  # side of a patch in pixels
    pad_multiple: int = 1  # it pads its input to a multiple of so many pixels

    def encode(self, x: Tensor) -> tuple[Tensor, Sequence[Any]]:
        """(N, C, H, W) -> tokens (N, 1 + L, D), a class token first, and their grid's (h, w)."""


class SegmentationModel(Protocol):
    """A `paddle.nn.Layer` that gives logits of each class.

    Its `backbone` says what images it takes; a model without one says it as a `Backbone` does.
    """

    num_classes: int  # K
    logits_stride: int  # pixels of the input per logit, along an axis
    pad_multiple: int = 1  # its logits stand for the input padded to a multiple of so many pixels

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, H, W) normalised image -> logits (N, K, h, w)."""


@runtime_checkable
class Reshaping(Protocol):
    """A layer that can start from weights of another shape, such as position embeddings."""

    def reshape_pretrained(self, name: str, array: np.ndarray) -> np.ndarray | None:
        """Return the weight `name` in the layer's own shape, or None where that is not possible."""


class Data(Protocol):
    """A data set; subclasses of `data.SegmentationDataset` have all of it."""

    samples: SamplePaths  # paths of image and label
    transforms: Sequence[Transform]
    normalize: Normalize | None  # what is left to the device
    label_set: LabelSet
    num_classes: int
    ignore_index: int
    img_channels: int

    def __len__(self) -> int: ...

    def read(self, index: int) -> RawSample:
        """Return a sample as it is stored, its label with training ids, for evaluation."""

    def make_sample(
        self, image_path: str, label_path: str | None, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return image (C, h, w) and label (h, w) for training, a function of the arguments."""

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, int]:
        """Return image, label and index of the sample `key`, (index, seed)."""


class Transform(Protocol):
    """A transform of PaddleSeg's contract: it changes and returns the dictionary of one sample.

    `img` is (H, W, C) RGB; the maps that `gt_fields` names, such as `label` (H, W), move with it.
    """

    keeps_uint8: bool = False  # takes images as uint8; without it they come as float32

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]: ...


class Loss(Protocol):
    """A loss; its constructor takes `ignore_index`, the label of pixels that do not count."""

    def __call__(self, logits: Tensor, label: Tensor) -> Tensor:
        """Logits (N, K, H, W) float32 and labels (N, H, W) int64 -> a scalar."""


class MakesOptimizer(Protocol):
    """What an optimizer's section builds: it is called once the model is there."""

    def __call__(self, model: nn.Layer, learning_rate: Any) -> Any:
        """Return a `paddle.optimizer.Optimizer` of the model's parameters."""


class RunHook(Protocol):
    """Something that happens around the steps; subclasses of `training.trainer.Hook` have it."""

    def before_train(self, trainer: Trainer) -> None:
        """Run once, before the first step."""

    def after_step(self, trainer: Trainer) -> None:
        """Run after each optimizer step."""

    def after_train(self, trainer: Trainer) -> None:
        """Run once, after the last step."""

    def close(self) -> None:
        """Run once at the very end, also after an error."""


CONTRACTS: dict[str, type] = {  # by kind of component
    "model": SegmentationModel,
    "backbone": Backbone,
    "dataset": Data,
    "transform": Transform,
    "loss": Loss,
    "optimizer": MakesOptimizer,
    "hook": RunHook,
}
REMEDIES = {
    "Data": "Derive it from paddleseg_segformer.data.SegmentationDataset.",
    "RunHook": "Derive it from paddleseg_segformer.training.trainer.Hook.",
    "MakesOptimizer": "Register a function whose result, called with (model, learning_rate), "
    "returns the optimizer.",
}


def check(component: Any, contract: type, name: str) -> None:
    """Refuse a component that lacks a member of its contract; add the values that it left out.

    Args:
        name: what messages call it.

    Raises:
        UserError: a member is missing; it is named.
    """
    missing = []
    for member in _members(contract):
        if hasattr(component, member):
            continue
        if hasattr(contract, member) and not callable(getattr(contract, member)):
            setattr(component, member, getattr(contract, member))
        else:
            missing.append(member)
    if missing:
        remedy = REMEDIES.get(contract.__name__, "Add what is missing.")
        raise UserError(
            f"{name}: lacks {', '.join(missing)}, expected all of "
            f"paddleseg_segformer.contracts.{contract.__name__}. {remedy}"
        )


def pad_multiple_of(network: object) -> int:
    """Return the `pad_multiple` of a network of any kind: a model, an engine's, a function."""
    return getattr(network, "pad_multiple", SegmentationModel.pad_multiple)


def input_of(model: Any) -> Any:
    """Return what says which images a model takes (see `Backbone`): its backbone, or itself."""
    return getattr(model, "backbone", model)


def _members(contract: type) -> list[str]:
    """Return the names of a contract's members, those of the contracts it extends included."""
    names: dict[str, None] = {}
    for part in reversed(contract.__mro__):
        if getattr(part, "_is_protocol", False) and part is not Protocol:
            own = [*vars(part).get("__annotations__", {}), *vars(part)]
            names |= dict.fromkeys(
                name
                for name in own
                if not name.startswith("_") or name in ("__call__", "__len__", "__getitem__")
            )
    return list(names)
