"""Batch norm over the batches of all processes, from differentiable sums: for devices without one.

Paddle's fused `nn.SyncBatchNorm` has kernels for GPUs only.
"""

from __future__ import annotations

from typing import Any

import paddle
import paddle.distributed as dist
from paddle import Tensor, nn
from paddle.autograd import PyLayer


class _SumOverProcesses(PyLayer):
    """y = the sum of every process's x; the gradient of x is the sum of the gradients of y."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class SumSyncBatchNorm2D(nn.BatchNorm2D):
    """A `BatchNorm2D` whose training statistics are over the batches of all processes.

    The batches may differ in size. Parameters and statistics are those of `source`.
    """

    def __init__(self, source: nn.BatchNorm2D) -> None:
        super().__init__(
            source._num_features,
            source._momentum,
            source._epsilon,
            source._weight_attr,
            source._bias_attr,
            source._data_format,
        )
        for name in ("weight", "bias", "_mean", "_variance"):
            setattr(self, name, getattr(source, name))
        self.training = source.training

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        if not self.training:
            return super().forward(x)
        pixels = paddle.full([1], x.size // x.shape[1], dtype=x.dtype)
        sums = _SumOverProcesses.apply(paddle.concat([x.sum(axis=[0, 2, 3]), pixels]))
        mean, count = sums[:-1] / sums[-1], sums[-1]
        centred = x - mean.reshape([1, -1, 1, 1])
        # from the centred values: a difference of large sums would lose digits
        variance = _SumOverProcesses.apply(centred.square().sum(axis=[0, 2, 3])) / count
        self._update_statistics(mean, variance)
        scale = self.weight * paddle.rsqrt(variance + self._epsilon)
        return centred * scale.reshape([1, -1, 1, 1]) + self.bias.reshape([1, -1, 1, 1])

    @paddle.no_grad()
    def _update_statistics(self, mean: Tensor, variance: Tensor) -> None:
        for average, value in ((self._mean, mean), (self._variance, variance)):
            average.set_value(average * self._momentum + value * (1 - self._momentum))


def synchronise_batch_norm(model: nn.Layer) -> None:
    """Put a `SumSyncBatchNorm2D` in the place of each `BatchNorm2D` below `model`."""
    for parent in model.sublayers(include_self=True):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2D):
                parent.add_sublayer(name, SumSyncBatchNorm2D(child))
