"""Corrupted images: the 16 corruptions of the robustness benchmark Cityscapes-C.

The images are those of the package `imagecorruptions` (its maintained fork imagecorruptions-imaug),
drawn from a seed of the image's name, so that a run makes the same ones whatever its order.

Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
    Perturbations", 2019; Kamann and Rother, "Benchmarking the Robustness of Semantic Segmentation
    Models", 2020; Xie et al., "SegFormer", 2021, section 4.4, table 5 and appendix D.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from paddleseg_segformer.data.datasets import RawSample, SegmentationDataset, seeded
from paddleseg_segformer.dependencies import REMEDIES, explained
from paddleseg_segformer.errors import UserError

DISTRIBUTION = "imagecorruptions-imaug"
MIN_SIDE_PX = 32  # of the library
MAX_SEVERITY, NOISE_SEVERITIES = 5, 3  # noise is evaluated up to 3
GROUPS = {  # in the order of the paper's table 5
    "blur": ("motion_blur", "defocus_blur", "glass_blur", "gaussian_blur"),
    "noise": ("gaussian_noise", "impulse_noise", "shot_noise", "speckle_noise"),
    "digital": ("brightness", "contrast", "saturate", "jpeg_compression"),
    "weather": ("snow", "spatter", "fog", "frost"),
}
CORRUPTIONS = {name: group for group, names in GROUPS.items() for name in names}


def library() -> dict[str, Callable[..., object]]:
    """Return the library's corruptions by name.

    Raises:
        MissingDependency: it, or what it imports, is not installed.
        UserError: its unmaintained ancestor of the same name is.
    """
    with explained():
        from imagecorruptions import corruption_dict
    try:
        version(DISTRIBUTION)
    except PackageNotFoundError:
        raise UserError(
            f"imagecorruptions is of another distribution than {DISTRIBUTION}. Run: pip uninstall "
            f"imagecorruptions && {REMEDIES['imagecorruptions']}"
        ) from None
    return dict(corruption_dict)


def seed_of(image_path: str, corruption: str, severity: int) -> int:
    """Return the seed of a corrupted image: a function of the file's name, not of its folder."""
    text = f"{Path(image_path).name}\0{corruption}\0{severity}"
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=4).digest(), "big"
    )


def corrupt(image: np.ndarray, corruption: str, severity: int, seed: int) -> np.ndarray:
    """Return a corrupted copy of an image.

    Args:
        image: (H, W, 3) RGB uint8.
        corruption: One of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: Of what is random in it.

    Raises:
        MissingDependency: as of `library`.
        UserError: another image than of 8-bit RGB and 32 px or more, or one that the library
            cannot corrupt.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(
            f"found {image.dtype} of shape {image.shape}; corruptions are defined on 8-bit RGB "
            "images (uint8, 3 channels). Convert the images."
        )
    if min(image.shape[:2]) < MIN_SIDE_PX:
        raise UserError(
            f"found {image.shape[0]}x{image.shape[1]} px; corruptions need {MIN_SIDE_PX} px or "
            "more per side. Leave the image out."
        )
    takes_seed = "seed" in inspect.signature(library()[corruption]).parameters
    from imagecorruptions import corrupt as corrupt_image

    try:
        with seeded(seed), np.errstate(invalid="raise"):
            corrupted: np.ndarray = corrupt_image(
                image,
                severity,
                corruption_name=corruption,
                **({"seed": seed} if takes_seed else {}),
            )
    except (ArithmeticError, ValueError, IndexError) as error:
        raise UserError(
            f"{corruption} of severity {severity} cannot be made of it ({error}). Leave it out."
        ) from error
    return corrupted


class CorruptedImages(SegmentationDataset):
    """A data set whose images are corrupted when they are read for evaluation.

    Args:
        dataset: The images and labels.
        corruption, severity: As of `corrupt`.
        executor: Processes that corrupt, each an image at a time; what the library draws is drawn
            by a generator of the whole process, so threads cannot.
    """

    def __init__(
        self, dataset: SegmentationDataset, corruption: str, severity: int, executor: Executor
    ) -> None:
        vars(self).update(vars(dataset))
        self.dataset = dataset
        self.corruption = corruption
        self.severity = severity
        self.executor = executor

    def read(self, index: int) -> RawSample:
        sample = self.dataset.read(index)
        seed = seed_of(sample.image_path, self.corruption, self.severity)
        try:
            done = self.executor.submit(corrupt, sample.image, self.corruption, self.severity, seed)
            return sample._replace(image=done.result())
        except UserError as error:
            raise UserError(f"{sample.image_path}: {error}") from None
        except BrokenProcessPool:
            raise UserError(
                "a process that corrupts images was killed, most often for lack of memory. Lower "
                "num_workers."
            ) from None
