"""Contracts of components: what backbones, models, data sets, losses, hooks ... must offer.

They hold for the components of this package and of its users; `docs/extending.md` shows examples. A
member that has a value here is optional, and has that value by default. This module imports none of
what it describes, so that every part of the package can import it, also without Paddle.

Shapes: N batch, C channels of the image, H W its sides, K classes, h w the sides of the logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """The input of a backbone; the output is agreed between the backbone and its model."""

    in_channels: int  # C
    min_input_px: int = 1  # shortest side of an image
    min_portable_px: int = 0  # shortest side on which all backends agree; 0: min_input_px


class PyramidBackbone(Backbone, Protocol):
    """A backbone of SegFormer's heads, a `paddle.nn.Layer`."""

    feat_channels: Sequence[int]  # C_1 to C_4

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        """(N, C, H, W) -> four maps (N, C_i, h_i, w_i), sides of H / 4 to H / 32, rounded up."""


class TokenBackbone(Backbone, Protocol):
    """A backbone of Segmenter's heads, a `paddle.nn.Layer`."""

    embed_dim: int  # D, channels of a token
    patch_size: int  # side of a patch in pixels
    pad_multiple: int = 1  # it pads its input to a multiple of this number of pixels

    def encode(self, x: Tensor) -> tuple[Tensor, Sequence[Any]]:
        """(N, C, H, W) -> tokens (N, 1 + L, D), a class token first, and their grid's (h, w)."""


class SegmentationModel(Protocol):
    """A `paddle.nn.Layer` that returns logits of each class.

    Its `backbone` describes its input; a model without one has the members of `Backbone` itself.
    """

    num_classes: int  # K
    logits_stride: int  # pixels of the input per logit, along an axis
    pad_multiple: int = 1  # its logits cover the input padded to a multiple of this many pixels

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, H, W) normalised image -> logits (N, K, h, w)."""


@runtime_checkable
class Staged(Protocol):
    """A backbone that says in which order it applies its layers."""

    def stages(self) -> Sequence[Sequence[tuple[str, ...]]]:
        """Return its stages from input to output, each of names of layers that are equally deep.

        Names are those of its sublayers and parameters; every parameter lies within one of them.
        """


@runtime_checkable
class Reshaping(Protocol):
    """A layer that can start from weights of another shape, such as position embeddings."""

    def reshape_pretrained(self, name: str, array: np.ndarray) -> np.ndarray | None:
        """Return the weight `name` in the layer's own shape, or None where that is not possible."""


class Data(Protocol):
    """A data set; subclasses of `data.SegmentationDataset` fulfil it."""

    samples: SamplePaths  # paths of image and label
    transforms: Sequence[Transform]
    normalize: Normalize | None  # done on the device, after the transforms
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


class MixingTransform(Transform, Protocol):
    """A transform that uses other samples.

    It finds in `draw_other` a function that returns the dictionary of another sample, drawn at
    random, after the transforms before this one.
    """

    mixes_samples: bool = True


class Loss(Protocol):
    """A loss; its constructor takes `ignore_index`, the label of pixels that do not count."""

    def __call__(self, logits: Tensor, label: Tensor) -> Tensor:
        """Logits (N, K, H, W) float32 and labels (N, H, W) int64 -> a scalar."""


class DistillLoss(Protocol):
    """A loss of distillation; its constructor takes `ignore_index` too."""

    def __call__(self, logits: Tensor, teacher_logits: Tensor, label: Tensor) -> Tensor:
        """Two maps of logits (N, K, H, W) float32, labels (N, H, W) int64 -> a scalar."""


class MakesOptimizer(Protocol):
    """What an optimizer's section builds: it is called with the model."""

    def __call__(self, model: nn.Layer, learning_rate: Any) -> Any:
        """Return a `paddle.optimizer.Optimizer` of the model's parameters."""


class RunHook(Protocol):
    """A hook of the training loop; subclasses of `training.trainer.Hook` fulfil it."""

    def before_train(self, trainer: Trainer) -> None:
        """Run once, before the first step."""

    def after_step(self, trainer: Trainer) -> None:
        """Run after each optimizer step."""

    def after_train(self, trainer: Trainer) -> None:
        """Run once, after the last step."""

    def close(self) -> None:
        """Run once at the very end, also after an error."""


class Tracker(Protocol):
    """A log of figures; subclasses of `training.writers.Writer` fulfil it.

    It is constructed with the run's folder and the iteration that the run resumes at, or None.
    """

    package: str | None = None  # that has to be installed

    def config(self, text: str) -> None:
        """Write the config of the run, as YAML."""

    def scalars(self, iteration: int, values: Any) -> None:
        """Write scalars by tag."""

    def image(self, iteration: int, tag: str, image: np.ndarray) -> None:
        """Write a picture, RGB uint8 (H, W, 3)."""

    def close(self) -> None:
        """Flush and close."""


class ReadsAnnotations(Protocol):
    """One form of annotations; subclasses of `annotations.Annotations` fulfil it."""

    samples: Sequence[Any]  # `annotations.Sample`: an image and its annotation file
    classes: Mapping[int, str]  # name of each raw id, 0 or above

    @classmethod
    def recognise(cls, files: Any) -> str:
        """Return why files (`annotations.Files`) look like this form; empty if they do not."""

    def label(self, index: int, size_hw: tuple[int, int]) -> np.ndarray:
        """Return the raw ids (H, W) int32 of a sample; -1 nothing drawn, -2 does not count."""


CONTRACTS: dict[str, type] = {  # by kind of component
    "model": SegmentationModel,
    "backbone": Backbone,
    "dataset": Data,
    "transform": Transform,
    "loss": Loss,
    "distill_loss": DistillLoss,
    "optimizer": MakesOptimizer,
    "hook": RunHook,
    "annotation_format": ReadsAnnotations,
    "tracker": Tracker,
}
REMEDIES = {
    "Data": "Derive it from paddleseg_segformer.data.SegmentationDataset.",
    "RunHook": "Derive it from paddleseg_segformer.training.trainer.Hook.",
    "Tracker": "Derive it from paddleseg_segformer.training.writers.Writer.",
    "MakesOptimizer": "Register a function whose result, called with (model, learning_rate), "
    "returns the optimizer.",
}


def check(component: Any, contract: type, name: str) -> None:
    """Refuse a component that lacks a member of its contract; add the optional ones it lacks.

    Args:
        name: of the component, for messages.

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
    """Return the `pad_multiple` of any network: a model, an exported one, a function."""
    return getattr(network, "pad_multiple", SegmentationModel.pad_multiple)


def input_of(model: Any) -> Any:
    """Return what describes a model's input (see `Backbone`): its backbone, or the model itself."""
    return getattr(model, "backbone", model)


def _members(contract: type) -> list[str]:
    """Return the names of a contract's members, inherited ones included."""
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
