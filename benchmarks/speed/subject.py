"""What an engine gives the worker that times it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Subject:
    """One pass, and what came out of it.

    Args:
        run: one pass; its result is given to the other two.
        labels: the label maps (N, H, W) of a result, int; not timed.
        logits: the logits (N, K, h, w) of a result, float32, where it has them; not timed.
    """

    run: Callable[[], Any]
    labels: Callable[[Any], np.ndarray]
    logits: Callable[[Any], np.ndarray] | None = None


def to_array(tensor: Any) -> np.ndarray:
    """Return a Paddle or PyTorch tensor as an array."""
    return tensor.numpy()


def labels_of_logits(logits: np.ndarray, image_hw: tuple[int, int]) -> np.ndarray:
    """(N, K, h, w) -> (N, H, W) class ids of the logits resized to `image_hw`."""
    import paddle

    from paddleseg_segformer.inference.upsample_argmax import upsampled_labels

    return np.stack([upsampled_labels(paddle.to_tensor(each), image_hw) for each in logits])
