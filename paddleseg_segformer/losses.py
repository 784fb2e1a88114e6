"""Segmentation losses: logits (N, K, H, W) at the label's size and labels (N, H, W) -> a scalar.

Names and arguments are PaddleSeg's. Pixels with `ignore_index` never count. The average of the
losses of data-parallel processes is the mean over the valid pixels of all processes, whatever the
share of each. Hard pixels and the Dice coefficient are of one process's batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import paddle
import paddle.distributed as dist
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_segformer.errors import UserError

EPSILON = 1e-8  # in place of a sum of 0


class CrossEntropyLoss(nn.Layer):
    """Softmax cross-entropy.

    Args:
        weight: one factor per class; the sum over pixels is divided by the sum of their weights.
        ignore_index: label of pixels that do not count.
        top_k_percent_pixels: in (0, 1]; below 1 only this share of the pixels, the hardest, counts.
        avg_non_ignore: divide by the valid pixels (PaddleSeg), or by the number of all of them
            whatever their weights (NVlabs, mmsegmentation).
    """

    def __init__(
        self,
        weight: Sequence[float] | None = None,
        ignore_index: int = 255,
        top_k_percent_pixels: float = 1.0,
        avg_non_ignore: bool = True,
    ) -> None:
        super().__init__()
        if not 0 < top_k_percent_pixels <= 1:
            raise UserError(
                f"top_k_percent_pixels: found {top_k_percent_pixels}, expected in (0, 1]."
            )
        self.ignore_index = ignore_index
        self.top_k_percent_pixels = top_k_percent_pixels
        self.avg_non_ignore = avg_non_ignore
        self.weight = None if weight is None else paddle.to_tensor(weight, dtype="float32")

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        if self.weight is not None and len(self.weight) != logits.shape[1]:
            raise UserError(
                f"CrossEntropyLoss: found {len(self.weight)} weights, expected "
                f"{logits.shape[1]}, one per class."
            )
        losses, valid = pixel_cross_entropy(logits, label, self.ignore_index)
        counted = valid  # what the sum is divided by
        if self.weight is not None:
            weights = F.embedding(_valid_label(label, valid), self.weight.unsqueeze(-1)).squeeze(-1)
            losses, counted = losses * weights, weights * valid
        if self.top_k_percent_pixels < 1:
            count = max(int(self.top_k_percent_pixels * losses.size), 1)
            hardest, places = losses.flatten().topk(count, sorted=False)
            if self.weight is None:
                return hardest.mean()
            return hardest.mean() / weights.flatten().gather(places).mean().clip(min=EPSILON)
        return losses.sum() / _mean_sum(counted) if self.avg_non_ignore else losses.mean()


class OhemCrossEntropyLoss(nn.Layer):
    """Cross-entropy over hard pixels.

    Args:
        thresh: pixels are hard whose class is predicted with less than this probability.
        min_kept: lower limit of the pixels of a batch that count.
        ignore_index: label of pixels that do not count.

    Source: Shrivastava et al., "Online Hard Example Mining", 2016, as PaddleSeg and mmsegmentation
        apply it.
    """

    def __init__(self, thresh: float = 0.7, min_kept: int = 10000, ignore_index: int = 255) -> None:
        super().__init__()
        self.max_easy_loss = -paddle.log(paddle.to_tensor(float(thresh)))
        self.min_kept = min_kept
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        losses, valid = pixel_cross_entropy(logits, label, self.ignore_index)
        losses = losses.flatten()
        hardest = losses.topk(min(self.min_kept, losses.size))[0][-1]
        kept = (losses >= paddle.minimum(self.max_easy_loss, hardest)).astype(losses.dtype)
        kept = (kept * valid.flatten()).detach()
        return (losses * kept).sum() / _mean_sum(kept)


class DiceLoss(nn.Layer):
    """One minus the mean soft Dice coefficient over classes and images.

    Args:
        weight: one factor per class.
        ignore_index: label of pixels that do not count.
        smooth: added to numerator and denominator of each coefficient.

    Source: Milletari et al., "V-Net", 2016.
    """

    def __init__(
        self, weight: Sequence[float] | None = None, ignore_index: int = 255, smooth: float = 1.0
    ) -> None:
        super().__init__()
        self.weight = None if weight is None else paddle.to_tensor(weight, dtype="float32")
        self.ignore_index = ignore_index
        self.smooth = smooth

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        valid = label != self.ignore_index
        mask = valid.astype("float32").unsqueeze(1)  # (N, 1, H, W)
        target = (
            F.one_hot(_valid_label(label, valid), logits.shape[1]).transpose([0, 3, 1, 2]) * mask
        )
        probabilities = F.softmax(logits.astype("float32"), axis=1) * mask
        overlap = (probabilities * target).sum(axis=[2, 3])  # (N, K)
        total = (probabilities + target).sum(axis=[2, 3])
        losses = 1 - (2 * overlap + self.smooth) / (total + self.smooth)
        return (losses if self.weight is None else losses * self.weight).mean()


class MixedLoss(nn.Layer):
    """Weighted sum of losses.

    Args:
        losses: the terms.
        coef: one factor per term.
    """

    def __init__(self, losses: Sequence[nn.Layer], coef: Sequence[float]) -> None:
        super().__init__()
        if len(losses) != len(coef):
            raise UserError(
                f"MixedLoss: found {len(losses)} losses and {len(coef)} coef, expected as many."
            )
        self.losses = nn.LayerList(losses)
        self.coef = list(coef)

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        terms = [c * loss(logits, label) for c, loss in zip(self.coef, self.losses, strict=True)]
        return sum(terms[1:], terms[0])


class KLLoss(nn.Layer):
    """Kullback-Leibler divergence of a model's classes from a teacher's, for distillation.

    It is the mean over classes and valid pixels of T^2 p log(p / q), p and q the softmax of the
    teacher's and the model's logits over T, as in PaddleSeg; the divergence itself is the sum over
    the classes, K times as much.

    Args:
        ignore_index: label of pixels that do not count.
        temperature: T; above 1 the classes that are not the likeliest weigh more.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.
    """

    def __init__(self, ignore_index: int = 255, temperature: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise UserError(f"temperature: found {temperature}, expected a number above 0.")
        self.ignore_index = ignore_index
        self.temperature = temperature

    def forward(self, logits: Tensor, teacher_logits: Tensor, label: Tensor) -> Tensor:
        """Logits (N, K, H, W) twice, labels (N, H, W) -> a scalar."""
        # over the last axis softmax is faster
        log_q, log_p = (
            F.log_softmax(x.transpose([0, 2, 3, 1]) / self.temperature)
            for x in (logits, teacher_logits)
        )
        losses = (log_p.exp() * (log_p - log_q)).mean(axis=-1)  # (N, H, W)
        valid = (label != self.ignore_index).astype("float32")
        return self.temperature**2 * (losses * valid).sum() / _mean_sum(valid)


def pixel_cross_entropy(logits: Tensor, label: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Return each pixel's loss (0 where ignored) and the 0/1 mask of valid ones, both (N, H, W).

    Computed in float32, whatever the precision of the logits.
    """
    valid = (label != ignore_index).astype("float32")
    losses = F.cross_entropy(
        logits.astype("float32").transpose([0, 2, 3, 1]),  # over the last axis it is twice as fast
        label.unsqueeze(-1),
        ignore_index=ignore_index,
        reduction="none",
    )
    return losses.squeeze(-1), valid


def _mean_sum(weights: Tensor) -> Tensor:
    """Return the sum of the pixels' weights, averaged over the processes; above 0."""
    total = weights.sum()
    if not dist.is_initialized():
        return total.clip(min=EPSILON)
    dist.all_reduce(total)
    return total.clip(min=EPSILON) / dist.get_world_size()


def _valid_label(label: Tensor, valid: Tensor) -> Tensor:
    """Return int64 labels with 0 for the ignored ones, which are no valid index."""
    return label.astype("int64") * valid.astype("int64")


LOSSES: dict[str, Callable[..., nn.Layer]] = {
    loss.__name__: loss for loss in (CrossEntropyLoss, OhemCrossEntropyLoss, DiceLoss, MixedLoss)
}
DISTILL_LOSSES: dict[str, Callable[..., nn.Layer]] = {KLLoss.__name__: KLLoss}
