"""From logits to labels without the network: our tiles, and Paddle's own operators."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import Tensor

from benchmarks.speed.cases import Case
from benchmarks.speed.files import Files
from benchmarks.speed.subject import Subject
from paddleseg_segformer.inference.upsample_argmax import upsampled_labels


def build(case: Case, files: Files) -> Subject:
    """Return what to time; the logits are read from a file, so memory is theirs and the tail's."""
    image_hw = case.setting.image_hw
    logits = np.load(files.logits_path(image_hw, case.setting.batch))
    tensors = [paddle.to_tensor(each) for each in logits]
    labels_of = upsampled_labels if case.engine == "ours" else interpolated_labels
    return Subject(lambda: [labels_of(each, image_hw) for each in tensors], np.stack)


def interpolated_labels(logits: Tensor, size_hw: tuple[int, int]) -> np.ndarray:
    """(K, h, w) -> class ids (H, W) by way of the scores of all classes at full size."""
    scores = paddle.nn.functional.interpolate(logits.unsqueeze(0), size_hw, mode="bilinear")
    return scores.argmax(axis=1, dtype="int32")[0].numpy()
