"""The losses that transformers' models compute from labels, with the same weight per pixel."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from paddleseg_segformer.errors import UserError, did_you_mean
from paddleseg_segformer.losses import CrossEntropyLoss
from paddleseg_segformer.models.layers import upsample

PROBLEM_TYPES = (
    "regression",
    "single_label_classification",
    "multi_label_classification",
)


def segmentation_loss(logits: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
    """Return the loss of logits (N, K, h, w), resized to the labels (N, H, W).

    K > 1: cross-entropy, the mean over the pixels with a class (0 where there are none).
    K = 1: binary cross-entropy of labels 0 and 1, the mean over all pixels; the loss of ignored and
    negative labels is 0.
    """
    logits = upsample(logits, labels.shape[-2:])
    if logits.shape[1] > 1:
        return CrossEntropyLoss(ignore_index=ignore_index)(logits, labels)
    valid = (labels >= 0) & (labels != ignore_index)
    target = paddle.where(valid, labels, paddle.zeros_like(labels)).astype("float32")
    losses = F.binary_cross_entropy_with_logits(
        logits.squeeze(1).astype("float32"), target, reduction="none"
    )
    return (losses * valid.astype("float32")).mean()


def classification_loss(logits: Tensor, labels: Tensor, problem_type: str | None) -> Tensor:
    """Return the loss of logits (N, K).

    Args:
        labels: (N,) numbers for regression of one value, (N,) class ids, or (N, K) of 0 and 1.
        problem_type: One of `PROBLEM_TYPES`; None stands for regression where K = 1, for a single
            label where labels are whole numbers, else for several.

    Raises:
        UserError: an unknown problem type.
    """
    if problem_type is None:
        is_whole = labels.dtype in (paddle.int64, paddle.int32)
        index = 0 if logits.shape[1] == 1 else 1 if is_whole else 2
        problem_type = PROBLEM_TYPES[index]
    if problem_type == "single_label_classification":
        return F.cross_entropy(logits, labels.flatten())
    if problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels.astype(logits.dtype))
    if problem_type == "regression":
        return F.mse_loss(logits, labels.astype(logits.dtype).reshape(logits.shape))
    raise UserError(
        f"problem_type: unknown '{problem_type}'.{did_you_mean(problem_type, PROBLEM_TYPES)}"
    )
