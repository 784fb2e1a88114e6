"""Segmentation losses: logits (N, K, H, W) at the label's size and labels (N, H, W) -> a scalar.

Where `resizes` is true, a loss also takes smaller logits, which it resizes bilinearly itself.

Names and arguments are PaddleSeg's. Pixels with `ignore_index` never count. The average of the
losses of data-parallel processes is the mean over the valid pixels of all processes, whatever the
share of each. Hard pixels and the Dice coefficient are of one process's batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import paddle
import paddle.distributed as dist
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models import cpu_gradients
from paddleseg_segformer.models.layers import upsample, upsample_to_input

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

    resizes = True

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
        _check_weights(self, logits)
        losses, valid = pixel_cross_entropy(logits, label, self.ignore_index)
        counted = valid  # what the sum is divided by
        if self.weight is not None:
            weights = _weights_of_pixels(self.weight, label, valid)
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
        min_kept: pixels that are harder than the one of this rank count too, whatever their
            probability; all valid pixels count if there are no more than this many, or if it is 0.
        ignore_index: label of pixels that do not count.
        weight: one factor per class; the sum over pixels is divided by their number all the same.

    Source: Shrivastava et al., "Online Hard Example Mining", 2016, as PaddleSeg applies it.
    """

    resizes = True

    def __init__(
        self,
        thresh: float = 0.7,
        min_kept: int = 10000,
        ignore_index: int = 255,
        weight: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.max_easy_loss = -paddle.log(paddle.to_tensor(float(thresh)))
        self.min_kept = min_kept
        self.ignore_index = ignore_index
        self.weight = None if weight is None else paddle.to_tensor(weight, dtype="float32")

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        _check_weights(self, logits)
        losses, valid = pixel_cross_entropy(logits, label, self.ignore_index)
        kept = valid
        if self.min_kept > 0:
            hardest = losses.flatten().topk(min(self.min_kept, losses.size))[0]
            is_hard = losses > paddle.minimum(self.max_easy_loss, hardest[-1])
            is_whole = valid.sum() <= self.min_kept
            kept = (valid * (is_whole | is_hard).astype(valid.dtype)).detach()
        if self.weight is not None:
            losses = losses * _weights_of_pixels(self.weight, label, valid)
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
        _check_weights(self, logits)
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


class MultiClassFocalLoss(nn.Layer):
    """Cross-entropy times `alpha` (1 - p) ** `gamma`, p the probability of the pixel's class.

    Args:
        alpha: factor of all pixels.
        gamma: the larger, the less pixels count that are predicted well.
        num_class: PaddleSeg 2.8 asks for it; without effect.
        ignore_index: label of pixels that do not count.

    Source: Lin et al., "Focal Loss for Dense Object Detection", 2017.
    """

    resizes = True

    def __init__(
        self,
        alpha: float = 1.0,
        gamma: float = 2.0,
        num_class: int | None = None,
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.gamma = gamma
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        losses, valid = pixel_cross_entropy(logits, label, self.ignore_index)
        focus = (1 - paddle.exp(-losses)) ** self.gamma
        return self.alpha * (focus * losses).sum() / _mean_sum(valid)


class RMILoss(nn.Layer):
    """Region mutual information of label and prediction, negated, without cross-entropy.

    Maps are scaled down by pooling; then each pixel is a vector of the region around it.

    Args:
        num_classes: of the logits.
        rmi_radius: side of the region.
        rmi_pool_way: 0 for the largest value, 1 for the mean, 2 for interpolation.
        rmi_pool_size: side of the pooled square; 1 for no pooling.
        rmi_pool_stride: the same number.
        loss_weight_lambda: PaddleSeg's; without effect.
        ignore_index: label of pixels that count as background of every class.

    Source: Zhao et al., "Region Mutual Information Loss for Semantic Segmentation", 2019, equations
        of section 3, with the constants of its code.
    """

    def __init__(
        self,
        num_classes: int = 19,
        rmi_radius: int = 3,
        rmi_pool_way: int = 0,
        rmi_pool_size: int = 3,
        rmi_pool_stride: int = 3,
        loss_weight_lambda: float = 0.5,
        ignore_index: int = 255,
    ) -> None:
        super().__init__()
        if rmi_pool_way not in (0, 1, 2):
            raise UserError(f"rmi_pool_way: found {rmi_pool_way!r}, expected 0, 1 or 2.")
        if not 1 <= rmi_radius <= 10:
            raise UserError(f"rmi_radius: found {rmi_radius!r}, expected 1 to 10.")
        if rmi_pool_size != rmi_pool_stride:
            raise UserError("rmi_pool_size and rmi_pool_stride differ. Make them equal.")
        self.num_classes = num_classes
        self.radius = rmi_radius
        self.pool_way = rmi_pool_way
        self.pool_size = rmi_pool_size
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        if logits.shape[1] != self.num_classes:
            raise UserError(
                f"RMILoss: num_classes is {self.num_classes}, but the model has {logits.shape[1]}. "
                "Make them equal."
            )
        valid = (label != self.ignore_index).astype("float32")
        target = F.one_hot(_valid_label(label, valid), self.num_classes).transpose([0, 3, 1, 2])
        mask = valid.unsqueeze(1)
        predicted = F.sigmoid(logits.astype("float32")) * mask + 1e-6
        y = self._regions(target * mask, "nearest")
        p = self._regions(predicted, "bilinear")
        noise = 5e-4 * paddle.eye(self.radius**2, dtype="float64")  # keeps the matrices regular
        y_p = paddle.matmul(y, p, transpose_y=True)
        p_p = paddle.matmul(p, p, transpose_y=True)
        explained = paddle.matmul(y_p @ paddle.linalg.inv(p_p + noise), y_p, transpose_y=True)
        unexplained = paddle.matmul(y, y, transpose_y=True) - explained
        factor = paddle.linalg.cholesky(unexplained + noise)
        half_log_det = paddle.log(factor.diagonal(axis1=-2, axis2=-1) + EPSILON).sum(-1)  # (N, K)
        return (half_log_det.mean(0).sum() / self.radius**2).astype("float32")

    def _regions(self, maps: Tensor, interpolation: str) -> Tensor:
        """(N, K, H, W) -> (N, K, radius ** 2, L), each row without its mean, float64."""
        size = self.pool_size
        if size > 1 and self.pool_way == 2:
            shrunk = [side // size for side in maps.shape[2:]]
            is_smooth = interpolation == "bilinear"
            maps = F.interpolate(maps, shrunk, mode=interpolation, align_corners=is_smooth)
        elif size > 1:
            pool = F.max_pool2d if self.pool_way == 0 else F.avg_pool2d
            maps = pool(maps, size, size, padding=size // 2)
        batch, classes, height, width = maps.shape
        if min(height, width) < self.radius:
            raise UserError(
                f"RMILoss: its regions of {self.radius} px do not fit into a map of "
                f"{height}x{width} px, which is left after pooling. Use larger crops."
            )
        rows = F.unfold(maps.reshape([-1, 1, height, width]), self.radius).astype("float64")
        rows = rows - rows.mean(-1, keepdim=True)
        return rows.reshape([batch, classes, self.radius**2, -1])


class LovaszSoftmaxLoss(nn.Layer):
    """The convex surrogate of one minus the IoU, the mean over classes, of all pixels of a batch.

    Args:
        ignore_index: label of pixels that do not count.
        classes: "present" for those in the labels, "all", or ids.

    Source: Berman et al., "The Lovász-Softmax loss", 2018, equations 8 and 9 and algorithm 1.
    """

    def __init__(self, ignore_index: int = 255, classes: str | Sequence[int] = "present") -> None:
        super().__init__()
        if isinstance(classes, str) and classes not in ("present", "all"):
            raise UserError(f"classes: found {classes!r}, expected present, all, or ids.")
        self.ignore_index = ignore_index
        self.classes = classes

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        probabilities = F.softmax(logits.astype("float32"), axis=1).transpose([0, 2, 3, 1])
        places = (label != self.ignore_index).flatten().nonzero().flatten()
        valid_label = label.flatten().gather(places)  # (P,)
        classes = range(logits.shape[1]) if self.classes == "all" else self.classes
        if self.classes == "present":
            classes = valid_label.unique().tolist()
        if not len(places) or not len(classes):
            return (probabilities * 0).sum()
        valid = probabilities.flatten(0, 2).gather(places)  # (P, K)
        losses = [_lovasz(valid[:, k], (valid_label == k).astype("float32")) for k in classes]
        return paddle.stack(losses).mean()


def _lovasz(probability: Tensor, target: Tensor) -> Tensor:
    """Return the Lovász extension of one class's Jaccard loss at its errors; both (P,)."""
    errors = (target - probability).abs()
    order = errors.detach().argsort(descending=True)
    target = target.gather(order)
    intersection = target.sum() - target.cumsum()
    jaccard = 1 - intersection / (target.sum() + (1 - target).cumsum())
    steps = paddle.concat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
    return (errors.gather(order) * steps).sum()


class BoundaryLoss(nn.Layer):
    """Probability times signed distance to the boundary of the labelled class, in pixels.

    The distance is negative inside, and 0 for classes that an image does not have, or has
    everywhere. The mean is over classes and pixels. Other losses have to come beside it
    (`MixedLoss`): alone it says nothing of images without a boundary.

    Args:
        ignore_index: label of pixels that do not count.

    Source: Kervadec et al., "Boundary loss for highly unbalanced segmentation", 2019, equation 5,
        with the distances of its code, 0 at the first pixel inside.
    """

    def __init__(self, ignore_index: int = 255) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        valid = (label != self.ignore_index).astype("float32")  # (N, H, W)
        probabilities = F.softmax(logits.astype("float32"), axis=1)
        distances = paddle.to_tensor(_signed_distances(label.numpy(), logits.shape[1]))
        total = (probabilities * distances * valid.unsqueeze(1)).sum()
        return total / (logits.shape[1] * _mean_sum(valid))


def _signed_distances(label: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the distance of each pixel to each class's boundary, (N, K, H, W) float32."""
    distances = np.zeros((len(label), num_classes, *label.shape[1:]), np.float32)
    for image, ids in enumerate(label):
        for k in np.unique(ids):
            mask = (ids == k).astype(np.uint8)
            if k < num_classes and not mask.all():
                outside, inside = (
                    cv2.distanceTransform(part, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
                    for part in (1 - mask, mask)
                )
                distances[image, k] = outside - np.maximum(inside - 1, 0)
    return distances


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
        self.resizes = all(getattr(loss, "resizes", False) for loss in losses)

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

    Computed in float32, whatever the precision of the logits, which are resized to the label's size
    if theirs is another; on a CPU one sample after the other, for less memory.
    """

    def losses_of(logits: Tensor, label: Tensor) -> Tensor:
        logits = logits.astype("float32")
        if logits.shape[2:] != label.shape[1:]:
            logits = upsample(logits, label.shape[1:])
        logits = logits.transpose([0, 2, 3, 1])  # over the last axis it is twice as fast
        return F.cross_entropy(
            logits, label.unsqueeze(-1), ignore_index=ignore_index, reduction="none"
        ).squeeze(-1)

    valid = (label != ignore_index).astype("float32")
    if cpu_gradients.is_on_cpu(logits):
        samples = [slice(i, i + 1) for i in range(len(label))]
        return paddle.concat([losses_of(logits[i], label[i]) for i in samples]), valid
    return losses_of(logits, label), valid


class ScaledLoss:
    """A loss times a coefficient."""

    def __init__(self, loss: Callable[..., Tensor], coefficient: float) -> None:
        self.loss = loss
        self.coefficient = coefficient
        self.resizes = getattr(loss, "resizes", False)

    def __call__(self, *arguments: Tensor) -> Tensor:
        return self.coefficient * self.loss(*arguments)


def loss_of_network(
    loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, label: Tensor, pad_multiple: int = 1
) -> Tensor:
    """Return the loss of a network's logits (N, K, ~H/4, ~W/4) for labels (N, H, W).

    Args:
        pad_multiple: see `upsample_to_input`.
    """
    if pad_multiple > 1 or not getattr(loss, "resizes", False):
        logits = upsample_to_input(logits, label.shape[1:], pad_multiple)
    return loss(logits, label)


def _mean_sum(weights: Tensor) -> Tensor:
    """Return the sum of the pixels' weights, averaged over the processes; above 0."""
    total = weights.sum()
    if not dist.is_initialized():
        return total.clip(min=EPSILON)
    dist.all_reduce(total)
    return total.clip(min=EPSILON) / dist.get_world_size()


def _check_weights(loss: nn.Layer, logits: Tensor) -> None:
    """Refuse weights of classes that are not as many as the logits have."""
    if loss.weight is not None and len(loss.weight) != logits.shape[1]:
        raise UserError(
            f"{type(loss).__name__}: found {len(loss.weight)} weights, expected "
            f"{logits.shape[1]}, one per class."
        )


def _weights_of_pixels(weight: Tensor, label: Tensor, valid: Tensor) -> Tensor:
    """Return the weight of each pixel's class (N, H, W), that of class 0 where ignored."""
    return F.embedding(_valid_label(label, valid), weight.unsqueeze(-1)).squeeze(-1)


def _valid_label(label: Tensor, valid: Tensor) -> Tensor:
    """Return int64 labels with 0 for the ignored ones, which are no valid index."""
    return label.astype("int64") * valid.astype("int64")


LOSSES: dict[str, Callable[..., nn.Layer]] = {
    loss.__name__: loss
    for loss in (
        CrossEntropyLoss,
        OhemCrossEntropyLoss,
        DiceLoss,
        MultiClassFocalLoss,
        RMILoss,
        LovaszSoftmaxLoss,
        BoundaryLoss,
        MixedLoss,
    )
}
DISTILL_LOSSES: dict[str, Callable[..., nn.Layer]] = {KLLoss.__name__: KLLoss}
