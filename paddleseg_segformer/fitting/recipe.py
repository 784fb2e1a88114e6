"""From the fingerprint of a data set and the machine at hand to a training config.

Every choice has a reason, which stands in the config as a comment. After Isensee et al., "nnU-Net:
a self-configuring method for deep learning-based biomedical image segmentation", 2021, with rules
for SegFormer and Segmenter: the numbers are those of the published recipes where these apply, and
of the recipes in `configs/` that were measured from random weights.
"""

from __future__ import annotations

import copy
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from paddleseg_segformer.config.schema import Config, config_from
from paddleseg_segformer.data.normalize import IMAGENET_MEAN, IMAGENET_STD
from paddleseg_segformer.fitting.fingerprint import Fingerprint
from paddleseg_segformer.fitting.options import MIN_SIDE_PX, FitOptions
from paddleseg_segformer.fitting.start_weights import StartWeights
from paddleseg_segformer.yaml_files import dump_yaml, parse_yaml

MAX_CROP_PX = {"cpu": 256, "gpu": 512}
BATCH_SIZE = {"cpu": 4, "gpu": 16}
CONTEXT = 4  # sides of a typical object in a crop
MIN_CROP_PX = 128  # where images have that size
IMBALANCE = 10.0  # largest share of a class / the least, from which classes are weighted
MIN_WEIGHT, MAX_WEIGHT = 0.25, 4.0
RARE_SHARE, BALANCED_SHARE = 0.1, 0.5  # of the images with a class; of the samples then
LARGE_IMAGE_PX = 4 << 20  # above it, images are evaluated in windows
WINDOW_PX, STRIDE_PX = 1024, 768
SIDED = re.compile(r"\b(left|right)\b", re.IGNORECASE)  # classes that a mirror exchanges

PASSES, MIN_ITERS, MAX_ITERS = 100, 1000, 40_000  # unless told otherwise
MINUTES_CPU = 60.0  # the most, unless told otherwise
MIN_TIMED_ITERS = 20  # of a run that --minutes leaves no time for
EVALUATION_SHARE, MAX_EVALUATIONS = 0.1, 20  # of the time of training
SLOW_DATA_SHARE = 0.15  # of a step, from which processes of their own load the data


class Choice(NamedTuple):
    """One choice of a recipe.

    Args:
        key: Section of the config that it is written into.
        what: Name and value, as a person says it.
        why: The reason.
    """

    key: str
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}"


class Trial(NamedTuple):
    """What real steps and evaluations of a config took, in seconds.

    Args:
        step_s: One optimizer step, with loading its data.
        data_s: Of it, waiting for data.
        image_s: Evaluation of one image.
    """

    step_s: float
    data_s: float
    image_s: float


@dataclass
class Recipe:
    """A config in the making.

    Args:
        content: The config as plain data.
        choices: In the order they were made.
        run: Fields of `RunOptions`.
    """

    content: dict[str, Any] = field(default_factory=dict)
    choices: list[Choice] = field(default_factory=list)
    run: dict[str, Any] = field(default_factory=dict)

    def choose(self, key: str, what: str, why: str) -> None:
        """Note a choice."""
        self.choices.append(Choice(key, what, why))

    def config(self, opts: Sequence[str] = ()) -> Config:
        """Return the config, with `a.b=value` overrides."""
        return config_from(copy.deepcopy(self.content), "recipe", opts)

    def to_yaml(self, header: str, opts: Sequence[str] = ()) -> str:
        """Return the config as YAML, each section under the reasons of its choices."""
        parts = [_comment(header)]
        for key, value in parse_yaml(self.config(opts).to_yaml(skip_defaults=True), "").items():
            reasons = [_comment(str(choice)) for choice in self.choices if choice.key == key]
            parts.append("".join(reasons) + dump_yaml({key: value}, is_compact=True))
        return "\n".join(parts)


def _comment(text: str) -> str:
    """Return a text as lines of a comment."""
    lines = textwrap.wrap(text, 96, break_on_hyphens=False, break_long_words=False)  # of commands
    return "# " + "\n#   ".join(lines) + "\n"


def plan_data(
    sections: dict[str, dict[str, Any]],
    fingerprint: Fingerprint,
    options: FitOptions,
    weights: StartWeights,
    device: str,
) -> Recipe:
    """Return a recipe with all that follows from the data: transforms, model, loss.

    Args:
        sections: `train_dataset` and `val_dataset` without transforms.
        weights: Where the model starts.
        device: "cpu" or "gpu".
    """
    recipe, train, pretrained = Recipe(), sections["train_dataset"], weights.source
    if options.imports:
        recipe.content["needs_import"] = list(options.imports)
    largest_px = options.size or MAX_CROP_PX[device]
    resize, seen = _resize(recipe, fingerprint, largest_px)
    crop_px = _crop(recipe, seen, options, largest_px)
    normalize = _normalize(recipe, fingerprint, weights)
    changes = _augmentation(recipe, seen, crop_px, train)
    recipe.content["model"] = _model(recipe, options, pretrained, crop_px)
    _optimizer(recipe, pretrained)
    recipe.content["lr_scheduler"] = {  # until `plan_length`
        "type": "PolynomialDecay",
        "learning_rate": 1.0e-4,
    }
    transforms = {"train_dataset": [*resize, *changes, normalize]}
    for name, section in sections.items():
        section = {**section, "transforms": transforms.get(name, [*resize, normalize])}
        recipe.content[name] = section
    weight = _class_weights(recipe, fingerprint, train["classes"])
    loss = {"type": "CrossEntropyLoss"} | ({"weight": weight} if weight else {})
    recipe.content["loss"] = {"types": [loss], "coef": [1]}
    _sampling(recipe, fingerprint, train["classes"])
    _windows(recipe, seen, crop_px)
    return recipe


def _resize(
    recipe: Recipe, fingerprint: Fingerprint, largest_px: int
) -> tuple[list[dict[str, Any]], Fingerprint]:
    """Shrink images whose objects no crop could hold; return the transform and the sizes after."""
    short_px, object_px = min(fingerprint.size_hw), fingerprint.object_px
    if min(object_px, short_px) <= largest_px:
        return [], fingerprint
    target_px = max(largest_px, round(short_px * largest_px / 2 / object_px))
    factor = target_px / short_px
    recipe.choose(
        "train_dataset",
        f"short side {target_px} px (of {short_px})",
        f"a typical object has {object_px:.0f} px, and a crop at most {largest_px}.",
    )
    height, width = fingerprint.size_hw
    size_hw = round(height * factor), round(width * factor)
    seen = replace(fingerprint, size_hw=size_hw, object_px=object_px * factor)
    return [{"type": "ResizeByShort", "short_size": target_px}], seen


def _crop(recipe: Recipe, seen: Fingerprint, options: FitOptions, largest_px: int) -> int:
    """Return the side of the crops: a typical object with what is around it."""
    short_px = min(seen.size_hw)
    within_px = max(short_px // MIN_SIDE_PX * MIN_SIDE_PX, MIN_SIDE_PX)
    wanted_px = max(CONTEXT * seen.object_px, MIN_CROP_PX)
    wanted_px = math.ceil(wanted_px / MIN_SIDE_PX) * MIN_SIDE_PX
    crop_px = options.size or min(wanted_px, within_px, largest_px)
    height, width = seen.size_hw
    why = (
        "--size."
        if options.size
        else f"images of {height}x{width}, a typical object of {seen.object_px:.0f} px, of which "
        f"{CONTEXT} side by side are to fit; at most {largest_px} on this device (--size)."
    )
    recipe.choose("train_dataset", f"crops of {crop_px}x{crop_px} px", why)
    return crop_px


def _normalize(recipe: Recipe, fingerprint: Fingerprint, weights: StartWeights) -> dict[str, Any]:
    """Return the transform `Normalize`: the start weights' constants, or else the data's."""
    known = weights.normalize
    if known and {len(known.mean), len(known.std)} <= {1, len(fingerprint.mean)}:
        mean, std = list(map(float, known.mean)), list(map(float, known.std))
        why = "those of the start weights."
    elif weights.source and not known and len(fingerprint.mean) == 3:
        mean, std = list(IMAGENET_MEAN), list(IMAGENET_STD)
        why = "ImageNet's, which the start weights were trained with."
    else:
        mean, std = list(fingerprint.mean), list(fingerprint.std)
        why = f"measured on {fingerprint.num_looked_at} training images, in 0..1."
    recipe.choose("train_dataset", f"mean {mean}, std {std}", why)
    return {"type": "Normalize", "mean": mean, "std": std}


def _augmentation(
    recipe: Recipe, seen: Fingerprint, crop_px: int, section: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the random transforms of training."""
    fills = 0.5 * min(seen.size_hw) >= crop_px
    low = 0.5 if fills else 0.75
    is_small = CONTEXT * seen.object_px <= crop_px
    high = 2.0 if is_small else 1.5
    reasons = "half-size images still fill a crop" if fills else "smaller ones would be padded"
    reasons += ", objects are small." if is_small else ", objects take much of a crop."
    recipe.choose("train_dataset", f"scales {low} to {high}", reasons)
    transforms: list[dict[str, Any]] = [
        {
            "type": "ResizeStepScaling",
            "min_scale_factor": low,
            "max_scale_factor": high,
            "scale_step_size": 0,
        },
        {"type": "RandomPaddingCrop", "crop_size": [crop_px, crop_px]},
    ]
    sided = [name for name in section["classes"] if SIDED.search(name)]
    if sided:
        recipe.choose("train_dataset", "no mirroring", f"it would exchange {', '.join(sided)}.")
    else:
        transforms.append({"type": "RandomHorizontalFlip"})
    if len(seen.mean) == 3:
        transforms.append({"type": "RandomDistort"} | dict.fromkeys(_COLOR_RANGES, 0.4))
    else:
        why = f"images have {len(seen.mean)} channels, not red, green and blue."
        recipe.choose("train_dataset", "no changes of colour", why)
    return transforms


_COLOR_RANGES = ("brightness_range", "contrast_range", "saturation_range")


def _model(
    recipe: Recipe, options: FitOptions, pretrained: str | None, crop_px: int
) -> dict[str, Any]:
    """Return the model's section; the number of classes is that of the data."""
    section = copy.deepcopy(options.model_section())
    for key in ("num_classes", "pretrained"):
        section.pop(key, None)
    backbone = section.get("backbone")
    why = "the smallest, which --model changes." if options.model == "b0" else "--model."
    if isinstance(backbone, dict):
        backbone.pop("pretrained", None)
        if "img_size" in backbone:
            backbone["img_size"] = crop_px
            why += " Positions are learnt for crops of that size."
        if pretrained is None and "drop_path_rate" in backbone:
            backbone["drop_path_rate"] = 0.05
    recipe.choose("model", f"model {options.model} ({section['type']})", why)
    return section


def _optimizer(recipe: Recipe, pretrained: str | None) -> None:
    """Choose the optimizer by the model and its start weights."""
    backbone = (recipe.content["model"].get("backbone") or {}).get("type", "")
    optimizer: dict[str, Any] = {"type": "AdamW", "weight_decay": 0.01}
    if backbone.startswith("MixVisionTransformer"):  # the rules are by its names
        head = {"name": "linear_"} | ({"lr_mult": 10.0} if pretrained else {})
        optimizer["custom_cfg"] = [head, {"name": "norm", "weight_decay_mult": 0.0}]
        why = "SegFormer's: AdamW without decay of the norms"
        why += ", and the head at ten times the rate." if pretrained else "."
    else:
        optimizer["grad_clip_cfg"] = {"name": "ClipGradByGlobalNorm", "clip_norm": 1.0}
        why = "AdamW with bounded gradients, which transformers start with safely."
    recipe.content["optimizer"] = optimizer
    recipe.choose("optimizer", "optimizer AdamW", why)


def _class_weights(
    recipe: Recipe, fingerprint: Fingerprint, classes: Sequence[str]
) -> list[float] | None:
    """Return a weight per class for the loss where shares differ much: the root of their ratio."""
    shares = fingerprint.shares
    present = shares > 0
    ratio = shares[present].max() / shares[present].min()
    rarest = classes[int(np.argmin(np.where(present, shares, np.inf)))]
    share = shares[present].min()
    if ratio <= IMBALANCE:
        why = f"shares of pixels differ no more than {ratio:.1f} times."
        recipe.choose("loss", "classes count alike", why)
        return None
    weights = np.ones(len(shares))
    weights[present] = np.sqrt(np.median(shares[present]) / shares[present])
    recipe.choose(
        "loss",
        f"class weights {MIN_WEIGHT} to {MAX_WEIGHT}",
        f"{rarest} has {share:.2%} of the pixels, the most frequent class {ratio:.0f} times as "
        "many; a weight is the root of (median share / share).",
    )
    return [round(float(weight), 2) for weight in weights.clip(MIN_WEIGHT, MAX_WEIGHT)]


def _sampling(recipe: Recipe, fingerprint: Fingerprint, classes: Sequence[str]) -> None:
    """Draw images by class where one occurs in few of them."""
    shares = np.asarray(fingerprint.num_images) / fingerprint.num_samples
    rarest = int(np.argmin(np.where(shares > 0, shares, np.inf)))
    if shares[rarest] < RARE_SHARE:
        recipe.content["class_balanced_sampling"] = BALANCED_SHARE
        recipe.choose(
            "class_balanced_sampling",
            f"{BALANCED_SHARE:.0%} of the samples are drawn by class",
            f"{classes[rarest]} occurs in {shares[rarest]:.1%} of the images.",
        )


def _windows(recipe: Recipe, seen: Fingerprint, crop_px: int) -> None:
    """Choose how images are evaluated and predicted: as a whole, or in windows."""
    height, width = seen.size_hw
    backbone = recipe.content["model"].get("backbone")
    if isinstance(backbone, dict) and "img_size" in backbone:
        window_px, stride_px = crop_px, max(crop_px * 3 // 4, 1)
        why = "the model has learnt positions in crops of that size."
    elif height * width > LARGE_IMAGE_PX:
        window_px, stride_px = WINDOW_PX, STRIDE_PX
        why = f"whole images of {height}x{width} px would take much memory."
    else:
        recipe.choose("val_dataset", "evaluation of whole images", "they are small enough.")
        return
    recipe.choose("test_config", f"windows of {window_px} px every {stride_px} px", why)
    recipe.content["test_config"] = {
        "is_slide": True,
        "crop_size": [window_px, window_px],
        "stride": [stride_px, stride_px],
    }


def plan_batch(recipe: Recipe, wanted: int, fitting: int, is_given: bool, image_mib: float) -> None:
    """Choose the images per batch, and the batches per step.

    Args:
        wanted: Images per step.
        fitting: Images whose gradients fit into the memory at hand.
        is_given: Whether a person said so.
        image_mib: What an image takes.
    """
    batch_size = min(wanted, fitting)
    recipe.content["batch_size"] = batch_size
    why = "--batch_size" if is_given else "usual on this device (--batch_size)"
    why += f"; an image takes {image_mib:.0f} MiB."
    recipe.choose("batch_size", f"batch of {batch_size}", why)
    if batch_size < wanted:
        recipe.content["accumulation_steps"] = math.ceil(wanted / batch_size)
        why = f"a step sees {wanted} images, and the memory at hand holds {fitting}."
        steps = recipe.content["accumulation_steps"]
        recipe.choose("accumulation_steps", f"{steps} batches per step", why)


def plan_length(
    recipe: Recipe,
    fingerprint: Fingerprint,
    options: FitOptions,
    trial: Trial,
    left_s: float | None,
    num_val: int,
    pretrained: str | None,
) -> None:
    """Choose iterations, evaluations, learning rate, warm-up and averaging of weights.

    Args:
        left_s: Seconds for training and its evaluations; None where time does not matter.
        num_val: Images of the validation set.
    """
    content = recipe.content
    batch = content["batch_size"] * content.get("accumulation_steps", 1)
    evaluation_s = num_val * trial.image_s
    iters, why = _iters(fingerprint.num_samples, batch, options, trial, left_s, evaluation_s)
    content["iters"] = iters
    passes = iters * batch / fingerprint.num_samples
    why = f"{why} That is {passes:.1f} passes over {fingerprint.num_samples} images"
    recipe.choose("iters", f"{iters} iterations", f"{why}, a step takes {trial.step_s:.2f} s.")
    affordable = int(EVALUATION_SHARE * iters * trial.step_s / max(evaluation_s, 1e-6))
    evaluations = min(max(affordable, 1), MAX_EVALUATIONS, iters)
    recipe.run["save_interval"] = math.ceil(iters / evaluations)
    recipe.choose(
        "iters",
        f"evaluation and checkpoint every {recipe.run['save_interval']} iterations",
        f"an evaluation takes {evaluation_s:.0f} s, all of them about "
        f"{EVALUATION_SHARE:.0%} of the time, one at least.",
    )
    _learning_rate(recipe, iters, batch, pretrained)
    decay = round(min(1 - 1 / max(iters / 20, 10), 0.999), 4)
    content["ema_decay"] = decay
    recipe.run["use_ema"] = True
    recipe.choose("ema_decay", f"averaged weights, decay {decay}", "a twentieth of the run.")


def _iters(
    num_samples: int,
    batch: int,
    options: FitOptions,
    trial: Trial,
    left_s: float | None,
    evaluation_s: float,
) -> tuple[int, str]:
    """Return the number of iterations, and why."""
    if options.iters:
        return options.iters, "--iters."
    if options.epochs:
        return max(1, round(options.epochs * num_samples / batch)), f"--epochs {options.epochs:g}."
    iters = min(max(round(PASSES * num_samples / batch), MIN_ITERS), MAX_ITERS)
    why = f"{PASSES} passes, within {MIN_ITERS} and {MAX_ITERS} iterations."
    if left_s is None:
        return iters, why
    steps_s = min(left_s - evaluation_s, left_s / (1 + EVALUATION_SHARE))
    timed = max(int(steps_s / trial.step_s), MIN_TIMED_ITERS)
    if options.minutes is not None:
        why = f"what --minutes {options.minutes:g} leaves for training."
        if timed * trial.step_s > steps_s:
            why = f"the least, for which --minutes {options.minutes:g} are too short here."
        return timed, why
    if timed < iters:
        return timed, f"what {MINUTES_CPU:g} minutes hold on this CPU (--minutes for more)."
    return iters, why


def _learning_rate(recipe: Recipe, iters: int, batch: int, pretrained: str | None) -> None:
    """Choose learning rate and warm-up by the start weights, batch and length."""
    rate = (1.0e-4 if pretrained else 1.0e-3) * math.sqrt(batch / 4)
    if not pretrained and iters < MIN_ITERS:
        rate *= 1.5
    rate = float(f"{rate:.1e}")
    start = "pretrained weights change little" if pretrained else "random weights have far to go"
    warmup_iters = max(1, min(1500, iters // 10))
    recipe.content["lr_scheduler"] |= {
        "type": "PolynomialDecay",
        "learning_rate": rate,
        "power": 1.0,
        "end_lr": 0.0,
        "warmup_iters": warmup_iters,
        "warmup_ratio": 1.0e-3,
    }
    why = f"{start}; with the root of the batch ({batch})."
    recipe.choose("lr_scheduler", f"learning rate {rate:.1e}", why)
    recipe.choose(
        "lr_scheduler", f"warm-up {warmup_iters} iterations", "a tenth of the run, at most 1500."
    )
