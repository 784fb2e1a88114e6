"""The order of a backbone's layers: stages that are held fixed, rates that fall with the depth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from paddle import nn

from paddleseg_segformer.contracts import Staged, input_of
from paddleseg_segformer.errors import UserError

Depth = tuple[str, ...]  # names of sublayers and parameters that are equally deep


def stages_of(model: nn.Layer, wanted_by: str) -> list[list[Depth]]:
    """Return the stages of a model's backbone, as `Staged` has them, by their names in the model.

    Args:
        wanted_by: key of the config that needs them, for the message.

    Raises:
        UserError: the backbone does not say.
    """
    backbone = input_of(model)
    if not isinstance(backbone, Staged):
        raise UserError(
            f"{wanted_by}: {type(backbone).__name__} does not say the order of its layers. Give it "
            "a method `stages` (paddleseg_segformer.contracts.Staged), or leave the key out."
        )
    prefix = "" if backbone is model else "backbone."
    return [
        [tuple(prefix + name for name in depth) for depth in stage] for stage in backbone.stages()
    ]


def freeze_stages(model: nn.Layer, num_stages: int) -> list[str]:
    """Take the gradients from the first stages of a model's backbone; return what was frozen.

    Raises:
        UserError: the backbone has fewer stages, or does not say its order.
    """
    if not num_stages:
        return []
    stages = stages_of(model, "freeze_stages")
    if num_stages > len(stages):
        raise UserError(
            f"freeze_stages: found {num_stages}, expected at most {len(stages)}, all of the "
            "backbone."
        )
    frozen = [name for stage in stages[:num_stages] for depth in stage for name in depth]
    for name, parameter in model.named_parameters():
        if is_part_of(name, frozen):
            parameter.stop_gradient = True
    return frozen


def set_training(model: nn.Layer, frozen: Sequence[str] = ()) -> None:
    """Put a model into training mode, but for frozen layers: no dropout, fixed statistics there."""
    model.train()
    for name, layer in model.named_sublayers():
        if is_part_of(name, frozen):
            layer.training = False


def is_part_of(name: str, owners: Iterable[str]) -> bool:
    """Tell whether `name` is one of the layers and parameters `owners`, or lies within one."""
    return any(f"{name}.".startswith(f"{owner}.") for owner in owners)
