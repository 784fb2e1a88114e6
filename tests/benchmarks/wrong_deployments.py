"""Deployments that are not as they should be, for the process of a deployment to import."""

from __future__ import annotations

import numpy as np

from benchmarks.deployment.job import Job, NotHere, Outcome
from paddleseg_segformer.data.io import read_image


def one_class(job: Job) -> Outcome:
    """Give every pixel the class of the option `label`, (H, W) or transposed."""
    for index, path in enumerate(job.images):
        label = np.full(read_image(path).shape[:2], int(job.options["label"]), np.uint8)
        job.save(index, label.T if job.options.get("is_transposed") else label)
    return Outcome(1.0, None, 2.0, "wrong 1.0")


def absent(job: Job) -> Outcome:
    """Miss something."""
    raise NotHere("a thing is not installed")


def broken(job: Job) -> Outcome:
    """Fail."""
    raise RuntimeError("first line\nthe engine broke")


def deadly(job: Job) -> Outcome:
    """End the process."""
    raise SystemExit(3)
