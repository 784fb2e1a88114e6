"""Images per second as SegFormer's authors timed them.

One image at a time goes from memory to its label map in memory: normalisation, the network, logits
at the image's size, their largest, and the copy to the host are timed; reading files is not. The
first images do not count.

Source: `tools/benchmark.py` of the published code: 200 images, the first five of which are skipped.
"""

from __future__ import annotations

import time

import numpy as np

from paddleseg_segformer.data.normalize import Normalize
from paddleseg_segformer.inference.arrays import Network
from paddleseg_segformer.inference.pipeline import Pipeline
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings

NUM_IMAGES, NUM_SKIPPED = 200, 5


def images_per_second(
    network: Network,
    hw: tuple[int, int],
    num_images: int = NUM_IMAGES,
    settings: InferenceSettings | None = None,
) -> float:
    """Time whole images of random pixels, or windows of them.

    Args:
        network: As of `Pipeline`; a layer in evaluation mode.
        hw: Sides of the images in px.
        num_images: More than `NUM_SKIPPED`.
        settings: Windows, scales and flips.
    """
    pipeline = Pipeline(network, Preprocess(normalize=Normalize()), settings)
    image = np.random.default_rng(0).integers(0, 256, (*hw, 3), np.uint8)
    start = time.perf_counter()
    for index in range(num_images):
        if index == NUM_SKIPPED:
            start = time.perf_counter()
        pipeline(image).labels()
    return (num_images - NUM_SKIPPED) / (time.perf_counter() - start)
