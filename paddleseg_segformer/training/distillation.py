"""Distillation: a model in training, the student, learns from a trained one, its teacher.

Shapes: N batch, C channels, H W sides of the image, h w of a map, L tokens, K classes.
Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015 (logits); Romero et al.,
    "FitNets", 2015 (features, projected); the feature loss is PaddleSeg's `DistillationLoss`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_segformer.config import Config, load_config
from paddleseg_segformer.config.schema import DistillConfig
from paddleseg_segformer.contracts import input_of, pad_multiple_of
from paddleseg_segformer.errors import UserError, did_you_mean
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.model_folder import build_model, config_of, load_model
from paddleseg_segformer.models import VisionTransformer
from paddleseg_segformer.models.layers import upsample, upsample_to_input

logger = logging.getLogger(__name__)

PROBE_PX = 64  # side of the image on which the widths of features are seen


class Teacher:
    """A trained network, with the normalisation that it was trained with.

    Args:
        source: A model folder, a weight file of any known code base, or a config whose
            `model.pretrained` names the weights.

    Raises:
        UserError: no such model, no weights, or its normalisation is unknown.
    """

    def __init__(self, source: str) -> None:
        try:
            self.network, config = self._load(source)
        except UserError as error:
            raise UserError(f"distill.teacher: {error}") from None
        self.network.eval()
        self.normalize = Preprocess.from_config(config).normalize
        logger.info("teacher %s: %s", source, type(self.network).__name__)

    @staticmethod
    def _load(source: str) -> tuple[nn.Layer, Config]:
        if Path(source).suffix not in (".yml", ".yaml"):
            return load_model(source), config_of(source)
        config = load_config(source)
        if not config.model.get("pretrained"):
            raise UserError(f"{source}: no model.pretrained, expected the teacher's weights.")
        return build_model(config, load_pretrained=True), config

    @paddle.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """(N, C, H, W), as loaded -> logits (N, K, h, w)."""
        x = self.normalize.on_device(images) if self.normalize else images.astype("float32")
        logits: Tensor = self.network(x)
        return logits


class Distillation(nn.Layer):
    """The loss by which a student learns from its teacher.

    Its parameters are projections of the student's features, where they are of another width than
    the teacher's; they are trained with the student and are no part of it.

    Args:
        student: The network itself, not wrapped. In each step it runs before this layer is called.
        teacher: What it learns from; it takes images of as many channels, and has as many classes.
        config: The factor of the feature loss, and the layers that it compares.
        loss: (student's logits, teacher's logits, label) -> scalar.
        autocast: Returns the context of the teacher's pass, for mixed precision.

    Raises:
        UserError: student and teacher do not fit together, or there are no such layers.
    """

    def __init__(
        self,
        student: nn.Layer,
        teacher: Teacher,
        config: DistillConfig,
        loss: Callable[[Tensor, Tensor, Tensor], Tensor],
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> None:
        super().__init__()
        _check_fit(student, teacher.network)
        self.teacher = teacher
        self.loss = loss
        self.autocast = autocast
        self.feature_coef = config.feature_coef
        self.projections = nn.LayerList()
        if not config.feature_coef:
            return
        networks = student, teacher.network
        names = zip(*(config.layers or [[_features_of(item) for item in networks]]), strict=True)
        self.outputs = [_Outputs(*pair) for pair in zip(networks, names, strict=True)]
        _probe(*networks)
        for mine, theirs in self._pairs():
            is_narrow = mine.shape[-1] != theirs.shape[-1]
            projection = nn.Linear(mine.shape[-1], theirs.shape[-1]) if is_narrow else nn.Identity()
            self.projections.append(projection)

    def forward(self, images: Tensor, logits: Tensor, label: Tensor) -> Tensor:
        """Return the loss.

        Args:
            images: (N, C, H, W), as loaded.
            logits: (N, K, H, W) float32, the student's for them.
            label: (N, H, W) int64.
        """
        with self.autocast():
            taught = self.teacher(images)
        taught = upsample_to_input(
            taught.astype("float32"), label.shape[1:], pad_multiple_of(self.teacher.network)
        )
        total = self.loss(logits, taught, label)
        if self.feature_coef:
            total = total + self.feature_coef * self._feature_loss()
        return total

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Return the features of the last pass, the student's and the teacher's.

        Raises:
            UserError: they cannot be compared.
        """
        found = [outputs.take() for outputs in self.outputs]
        kinds = [[(x.ndim, x.shape[1] if x.ndim == 3 else 0) for x in item] for item in found]
        if kinds[0] != kinds[1]:
            shapes = [[list(x.shape) for x in item] for item in found]
            raise UserError(
                f"distill.layers: found outputs {shapes[0]} (channels last) of the model and "
                f"{shapes[1]} of the teacher, expected as many maps, or as many tokens, of both. "
                "Name other layers."
            )
        return list(zip(*found, strict=True))

    def _feature_loss(self) -> Tensor:
        """Return the squared distance of unit vectors of channels, mean over places, summed."""
        losses = []
        for projection, (mine, theirs) in zip(self.projections, self._pairs(), strict=True):
            if mine.ndim == 4 and mine.shape[1:3] != theirs.shape[1:3]:
                resized = upsample(theirs.transpose([0, 3, 1, 2]), mine.shape[1:3])
                theirs = resized.transpose([0, 2, 3, 1])
            units = [F.normalize(x, axis=-1) for x in (projection(mine), theirs)]
            losses.append((units[0] - units[1]).square().sum(axis=-1).mean())
        return paddle.add_n(losses)


class Learners(nn.Layer):
    """Student and projections as one layer, whose parameters the optimizer gets.

    The student's keep their names, by which rules of the optimizer and checkpoints know them.
    """

    def __init__(self, student: nn.Layer, distillation: Distillation) -> None:
        super().__init__()
        self.student = student
        self.distillation = distillation

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in super().named_parameters(*args, **kwargs):
            yield name.removeprefix("student."), parameter


class _Outputs:
    """What some layers of a network gave in its last pass, channels last, in float32."""

    def __init__(self, network: nn.Layer, names: Sequence[str]) -> None:
        self.found: dict[str, list[Tensor]] = {name: [] for name in names}
        layers = dict(network.named_sublayers())
        for name in self.found:
            if name not in layers:
                guess = did_you_mean(name, layers)
                raise UserError(
                    f"distill.layers: {type(network).__name__} has no layer '{name}'.{guess}"
                )
            layers[name].register_forward_post_hook(partial(self._keep, name))

    def _keep(self, name: str, layer: nn.Layer, inputs: Any, output: Any) -> None:
        items = output if isinstance(output, (list, tuple)) else [output]
        self.found[name] = [
            (x.transpose([0, 2, 3, 1]) if x.ndim == 4 else x).astype("float32")
            for x in items
            if isinstance(x, Tensor) and x.ndim in (3, 4)
        ]

    def take(self) -> list[Tensor]:
        """Return them, (N, h, w, C) or (N, L, C), and forget them.

        Raises:
            UserError: a layer gave none.
        """
        for name, found in self.found.items():
            if not found:
                raise UserError(
                    f"distill.layers: '{name}' gives no map (N, C, h, w) and no tokens (N, L, C). "
                    "Name another layer."
                )
        taken = [x for found in self.found.values() for x in found]
        self.found = {name: [] for name in self.found}
        return taken


def _check_fit(student: nn.Layer, teacher: nn.Layer) -> None:
    """Refuse a teacher of other classes or images than the student's."""
    for name, mine, theirs in (
        ("classes", student.num_classes, getattr(teacher, "num_classes", 0)),
        ("channels", input_of(student).in_channels, input_of(teacher).in_channels),
    ):
        if mine != theirs:
            raise UserError(
                f"distill.teacher: {type(teacher).__name__} has {theirs} {name}, the model {mine}; "
                "expected as many. Take a teacher that was trained on the same data."
            )


def _features_of(network: nn.Layer) -> str:
    """Return the name of the layer that gives the features of a network's backbone."""
    is_vit = isinstance(getattr(network, "backbone", None), VisionTransformer)
    return "backbone.norm" if is_vit else "backbone"  # its tokens, after the last block


@paddle.no_grad()
def _probe(*networks: nn.Layer) -> None:
    """Run networks on a small image; the student is in evaluation mode then."""
    for network in networks:
        source = input_of(network)
        side = max(PROBE_PX, *(input_of(item).min_input_px for item in networks))
        network.eval()
        network(paddle.zeros([1, source.in_channels, side, side]))
