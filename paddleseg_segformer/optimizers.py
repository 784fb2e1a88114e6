"""Optimizers with parameter groups, and learning-rate schedules with warm-up.

Names and arguments are PaddleSeg's. Source of the recipes: NVlabs' and PaddleSeg's configs.
"""

from __future__ import annotations

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import paddle
from paddle import Tensor, nn
from paddle.optimizer.lr import LinearWarmup, LRScheduler

from paddleseg_segformer.errors import Mistakes, UserError, did_you_mean
from paddleseg_segformer.models.stages import is_part_of, stages_of


def parameter_groups(
    model: nn.Layer,
    rules: Sequence[dict[str, Any]],
    weight_decay: float | None,
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Split the trainable parameters: each goes to the first rule whose `name` its name contains.

    Args:
        rules: each with `name`, and optionally `lr_mult` and `weight_decay_mult`.
        weight_decay: of the optimizer, scaled by `weight_decay_mult`.
        layer_decay: factor of the learning rate from each depth of the backbone to the one before;
            the head keeps the whole rate.

    Raises:
        UserError: a rule has an unknown key, or matches no parameter; or `layer_decay` is not in
            (0, 1].

    Source of `layer_decay`: Clark et al., "ELECTRA", 2020; Bao et al., "BEiT", 2022.
    """
    groups: list[dict[str, Any]] = []
    for rule in [*rules, {"name": ""}]:  # the empty name matches the rest
        unknown = set(rule) - {"name", "lr_mult", "weight_decay_mult"}
        if unknown or "name" not in rule:
            raise UserError(f"custom_cfg: found {rule}, expected name, lr_mult, weight_decay_mult.")
        group: dict[str, Any] = {"params": [], "learning_rate": float(rule.get("lr_mult", 1.0))}
        if weight_decay is not None:
            group["weight_decay"] = weight_decay * float(rule.get("weight_decay_mult", 1.0))
        groups.append(group)
    names = [rule["name"] for rule in rules] + [""]
    for parameter_name, parameter in model.named_parameters():
        if not parameter.stop_gradient:
            first = next(i for i, name in enumerate(names) if name in parameter_name)
            groups[first]["params"].append(parameter)
    for name, group in zip(names[:-1], groups, strict=False):
        if not group["params"]:
            raise UserError(
                f"custom_cfg: no trainable parameter's name contains '{name}' (or an earlier "
                "rule took it)."
            )
    groups = [group for group in groups if group["params"]]
    if layer_decay is None:
        return groups
    if type(layer_decay) not in (int, float) or not 0 < layer_decay <= 1:
        raise UserError(f"layer_decay: found {layer_decay!r}, expected a factor in (0, 1].")
    return _by_depth(model, groups, layer_decay)


def _by_depth(
    model: nn.Layer, groups: Sequence[dict[str, Any]], layer_decay: float
) -> list[dict[str, Any]]:
    """Split each group by depth in the backbone, and scale the learning rates."""
    depths = [depth for stage in stages_of(model, "layer_decay") for depth in stage]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    split = []
    for group in groups:
        by_depth: dict[int, list[Tensor]] = defaultdict(list)
        for parameter in group["params"]:
            is_at = (is_part_of(names[id(parameter)], depth) for depth in depths)
            by_depth[next((i for i, found in enumerate(is_at) if found), len(depths))] += [
                parameter
            ]
        for depth, parameters in sorted(by_depth.items()):
            rate = group["learning_rate"] * layer_decay ** (len(depths) - depth)
            split.append({**group, "params": parameters, "learning_rate": rate})
    return split


Decay = float | None
Clip = dict[str, Any] | None
Rules = Sequence[dict[str, Any]] | None
Build = Callable[[nn.Layer, float | LRScheduler], paddle.optimizer.Optimizer]


def _build(
    optimizer_class: type,
    weight_decay: Decay,
    grad_clip_cfg: Clip,
    custom_cfg: Rules,
    layer_decay: Decay,
    model: nn.Layer,
    learning_rate: float | LRScheduler,
    **arguments: Any,
) -> paddle.optimizer.Optimizer:
    decay = None if weight_decay is None else float(weight_decay)
    if decay is not None:
        arguments["weight_decay"] = decay
    return optimizer_class(
        learning_rate=learning_rate,
        parameters=parameter_groups(model, custom_cfg or (), decay, layer_decay),
        grad_clip=_grad_clip(grad_clip_cfg),
        **arguments,
    )


def _grad_clip(section: Clip) -> Any:
    if not section:
        return None
    arguments = dict(section)
    name = arguments.pop("name", None)
    known = ("ClipGradByGlobalNorm", "ClipGradByNorm", "ClipGradByValue")
    if name not in known:
        raise UserError(f"grad_clip_cfg.name: found {name}.{did_you_mean(str(name), known)}")
    try:
        return getattr(nn, name)(**arguments)
    except TypeError as error:
        raise UserError(f"grad_clip_cfg ({name}): {error}") from None


def sgd(
    weight_decay: Decay = None,
    grad_clip_cfg: Clip = None,
    custom_cfg: Rules = None,
    layer_decay: Decay = None,
) -> Build:
    """Stochastic gradient descent.

    Args:
        weight_decay: factor of the decay; None for none.
        grad_clip_cfg: `name`, a `paddle.nn` class such as ClipGradByGlobalNorm, and its arguments.
        custom_cfg: rules for groups of parameters; see `parameter_groups`.
        layer_decay: factor of the learning rate from each block of the backbone to the one before,
            in (0, 1]; None for none.
    """
    return partial(
        _build, paddle.optimizer.SGD, weight_decay, grad_clip_cfg, custom_cfg, layer_decay
    )


def momentum(
    momentum: float = 0.9,
    use_nesterov: bool = False,
    weight_decay: Decay = None,
    grad_clip_cfg: Clip = None,
    custom_cfg: Rules = None,
    layer_decay: Decay = None,
) -> Build:
    """SGD with momentum.

    Args:
        momentum: factor of the sum of past gradients.
        use_nesterov: Nesterov momentum.
        weight_decay: factor of the decay; None for none.
        grad_clip_cfg: `name`, a `paddle.nn` class such as ClipGradByGlobalNorm, and its arguments.
        custom_cfg: rules for groups of parameters; see `parameter_groups`.
        layer_decay: factor of the learning rate from each block of the backbone to the one before,
            in (0, 1]; None for none.
    """
    return partial(
        _build,
        paddle.optimizer.Momentum,
        weight_decay,
        grad_clip_cfg,
        custom_cfg,
        layer_decay,
        momentum=momentum,
        use_nesterov=use_nesterov,
    )


def _adam(
    optimizer_class: type,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    weight_decay: Decay = None,
    grad_clip_cfg: Clip = None,
    custom_cfg: Rules = None,
    layer_decay: Decay = None,
) -> Build:
    """Adam; in AdamW the decay acts on the weights, not on the gradient.

    Args:
        beta1: decay rate of the mean of the gradients.
        beta2: decay rate of the mean of their squares.
        epsilon: added to the divisor.
        weight_decay: factor of the decay; None for none.
        grad_clip_cfg: `name`, a `paddle.nn` class such as ClipGradByGlobalNorm, and its arguments.
        custom_cfg: rules for groups of parameters; see `parameter_groups`.
        layer_decay: factor of the learning rate from each block of the backbone to the one before,
            in (0, 1]; None for none.
    """
    return partial(
        _build,
        optimizer_class,
        weight_decay,
        grad_clip_cfg,
        custom_cfg,
        layer_decay,
        beta1=beta1,
        beta2=beta2,
        epsilon=epsilon,
    )


OPTIMIZERS: dict[str, Callable[..., Build]] = {
    "SGD": sgd,
    "Momentum": momentum,
    "Adam": partial(_adam, paddle.optimizer.Adam),
    "AdamW": partial(_adam, paddle.optimizer.AdamW, weight_decay=0.01),
}


class RatioWarmup(LRScheduler):
    """A schedule times a factor that rises linearly from `ratio` to 1 during the warm-up.

    At iteration t < warmup_iters the rate is r(t) * (1 - (1 - t / warmup_iters) * (1 - ratio)),
    where r is the wrapped schedule, which runs from iteration 0. Source: mmcv's `warmup="linear"`,
    used by NVlabs.
    """

    def __init__(self, schedule: LRScheduler, warmup_iters: int, ratio: float) -> None:
        self.schedule = schedule
        self.warmup_iters = warmup_iters
        self.ratio = ratio
        super().__init__(schedule.base_lr)

    def get_lr(self) -> float:
        self.schedule.step(self.last_epoch)
        missing = max(1 - self.last_epoch / self.warmup_iters, 0.0)
        return self.schedule.last_lr * (1 - missing * (1 - self.ratio))


def build_lr_schedule(section: dict[str, Any], iters: int) -> LRScheduler:
    """Build a learning-rate schedule over `iters` steps.

    Args:
        section: `type`, a class of `paddle.optimizer.lr`, and its arguments. A warm-up is
            `warmup_iters` with either `warmup_start_lr` (PaddleSeg: the rate rises linearly from
            it, and the schedule starts after the warm-up) or `warmup_ratio` (mmcv: see
            `RatioWarmup`).

    Raises:
        UserError: an unknown type or key.
    """
    arguments = dict(section)
    name = arguments.pop("type")
    warmup_iters = arguments.pop("warmup_iters", 0)
    start_lr = arguments.pop("warmup_start_lr", None)
    ratio = arguments.pop("warmup_ratio", None)
    _check_warmup(warmup_iters, start_lr, ratio)
    if warmup_iters and (start_lr is None) == (ratio is None):
        raise UserError("lr_scheduler: warmup_iters needs one of warmup_start_lr and warmup_ratio.")
    rate = arguments.get("learning_rate")
    if isinstance(rate, (int, float)) and not 0 <= rate < math.inf:
        raise UserError(f"lr_scheduler: learning_rate is {rate}, expected a number of 0 or more.")
    if name == "PolynomialDecay":
        arguments.setdefault("decay_steps", max(iters - (warmup_iters if ratio is None else 0), 1))
        end_lr = arguments.setdefault("end_lr", 0.0)  # as PaddleSeg; Paddle's default is 1e-4
        if isinstance(rate, (int, float)) and isinstance(end_lr, (int, float)) and end_lr > rate:
            raise UserError(
                f"lr_scheduler: end_lr {end_lr:g} is above learning_rate {rate:g}, so the rate "
                "would rise. Lower end_lr."
            )
    schedule = _paddle_schedule(name, arguments)
    if not warmup_iters:
        return schedule
    if ratio is not None:
        return RatioWarmup(schedule, warmup_iters, ratio)
    peak_lr = arguments.get("learning_rate", schedule.base_lr)
    return LinearWarmup(schedule, warmup_iters, start_lr, peak_lr)


def _check_warmup(warmup_iters: Any, start_lr: Any, ratio: Any) -> None:
    if type(warmup_iters) is not int or warmup_iters < 0:
        raise UserError(f"lr_scheduler: warmup_iters is {warmup_iters!r}, expected 0 or more.")
    for key, value in (("warmup_start_lr", start_lr), ("warmup_ratio", ratio)):
        if value is not None and (type(value) not in (int, float) or not 0 <= value < math.inf):
            raise UserError(f"lr_scheduler: {key} is {value!r}, expected a number of 0 or more.")


def _paddle_schedule(name: str, arguments: dict[str, Any]) -> LRScheduler:
    known = {
        key
        for key, item in vars(paddle.optimizer.lr).items()
        if inspect.isclass(item) and issubclass(item, LRScheduler) and item is not LRScheduler
    }
    if name not in known:
        raise UserError(f"lr_scheduler: unknown type '{name}'.{did_you_mean(name, known)}")
    if name == "ReduceOnPlateau":
        raise UserError(
            "lr_scheduler: ReduceOnPlateau follows the losses seen, but rates here depend on the "
            "iteration alone, so that runs can be resumed. Use PolynomialDecay or StepDecay."
        )
    schedule_class = getattr(paddle.optimizer.lr, name)
    parameters = inspect.signature(schedule_class).parameters
    mistakes = Mistakes()
    for key in arguments:
        if key not in parameters and not mistakes.is_full:
            mistakes.add(f"lr_scheduler: {name} has no key '{key}'.{did_you_mean(key, parameters)}")
    mistakes.raise_all()
    try:
        return schedule_class(**arguments)
    except Exception as error:  # Paddle's schedules check little, and raise errors of any type
        reason = " ".join(str(error).split())
        raise UserError(f"lr_scheduler ({name}): {reason or type(error).__name__}") from error
