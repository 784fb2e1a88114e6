"""Flags of windows, scales and flips, shared by `val` and `predict`; PaddleSeg's names."""

from __future__ import annotations

import dataclasses
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import TYPE_CHECKING, Any

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.settings import AVERAGES, InferenceSettings
from paddleseg_segformer.inference.windows import BLENDS, stride_of

if TYPE_CHECKING:
    from paddleseg_segformer.config import TestConfig

WINDOW_FLAGS = ("crop_size", "stride")
AUGMENTATION_FLAGS = ("scales", "flip_horizontal", "flip_vertical")


def add_inference_arguments(parser: ArgumentParser, aug_flag: str | None) -> None:
    """Add the flags.

    Args:
        aug_flag: aug_eval or aug_pred, without which scales and flips have no effect; None: they
            have, and the network is an engine's, which keeps its own memory.
    """
    add = parser.add_argument
    if aug_flag:
        add(
            f"--{aug_flag}",
            action="store_true",
            help="average over scales and flips: those of the flags below, else of the config",
        )
        add(
            "--memory_budget_mib",
            type=float,
            help="most memory for windows and their logits, in MiB; by default 80 %% of what is "
            "free",
        )
    add("--scales", nargs="+", type=float, help="factors of multi-scale inference")
    add("--flip_horizontal", action="store_true", help="also the mirrored image")
    add("--flip_vertical", action="store_true", help="also the image upside down")
    add("--average", choices=AVERAGES, help="what is averaged; without it: as in the config")
    add("--is_slide", action="store_true", help="sliding window instead of the whole image")
    for name, text in (("crop_size", "width and height in px"), ("stride", "step in px")):
        add(f"--{name}", nargs=2, type=int, metavar=("W", "H"), help=f"sliding window: {text}")
    add("--blend", choices=BLENDS, help="of windows where they overlap; default: the config's")
    add(
        "--overlap",
        type=_overlap,
        metavar="SHARE|auto",
        help="in the place of --stride: share of a window that the next one covers too, 0 to 0.9"
        + (
            "; auto, for pictures that are predicted in strips: the least that gives nearly the "
            "labels of whole samples, measured"
            if aug_flag != "aug_eval"
            else ""
        ),
    )
    add(
        "--window_batch",
        type=int,
        help="most windows that go through the network together; by default 4 on a GPU, 1 on the "
        "CPU, where more take longer",
    )


def _overlap(text: str) -> float | str:
    try:
        share = 0.0 if text == "auto" else float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 0.9:
        raise ArgumentTypeError(f"found {text!r}, expected a share from 0 to 0.9, or auto")
    return "auto" if text == "auto" else share


def settings_from_config(
    args: Namespace, test_config: TestConfig, aug_flag: str
) -> InferenceSettings:
    """Return the config's settings with the flags on top.

    `predict` takes over the config's windows, but augments only if asked to.
    """
    is_augmented = getattr(args, aug_flag) or (aug_flag == "aug_eval" and test_config.aug_eval)
    base = dataclasses.replace(test_config, aug_eval=is_augmented).inference_settings()
    return settings_with_flags(args, base, aug_flag, is_augmented)


def settings_with_flags(
    args: Namespace, base: InferenceSettings, aug_flag: str, is_augmented: bool
) -> InferenceSettings:
    """Return `base` with the flags on top.

    Raises:
        UserError: a flag that would have no effect, or values that do not go together.
    """
    given = [name for name in AUGMENTATION_FLAGS if getattr(args, name)]
    if given and not is_augmented:
        raise UserError(f"--{given[0]} has no effect without --{aug_flag}. Add --{aug_flag}.")
    is_slide = args.is_slide or base.is_slide
    is_eval = aug_flag == "aug_eval"  # `predict` may choose windows itself
    names = (*WINDOW_FLAGS, "blend", "overlap") if is_eval else WINDOW_FLAGS
    given_sizes = [name for name in names if getattr(args, name) is not None]
    if given_sizes and not is_slide:
        raise UserError(f"--{given_sizes[0]} has no effect without --is_slide. Add --is_slide.")
    if args.stride and args.overlap is not None:
        raise UserError("--stride and --overlap say the same thing: give one of them.")
    if is_eval and args.overlap == "auto":
        raise UserError("--overlap auto is of predict and infer, which choose it for each picture.")
    changes: dict[str, Any] = {"is_slide": is_slide}
    if args.crop_size:
        changes["crop_size_hw"] = tuple(reversed(args.crop_size))
    if args.stride:
        changes["stride_hw"] = tuple(reversed(args.stride))
    elif args.overlap is not None and (crop_hw := changes.get("crop_size_hw", base.crop_size_hw)):
        changes["stride_hw"] = stride_of(crop_hw, 0.0 if args.overlap == "auto" else args.overlap)
    elif args.crop_size and not base.is_slide:
        changes["stride_hw"] = None  # a stride left over in the config belongs to another window
    changes |= {name: getattr(args, name) for name in given if name != "scales"}
    if args.scales:
        changes["scales"] = tuple(args.scales)
    changes |= {
        name: getattr(args, name)
        for name in ("average", "window_batch", "blend")
        if getattr(args, name)
    }
    return dataclasses.replace(base, **changes)
