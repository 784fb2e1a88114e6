"""Data-parallel processes, started by `python -m paddle.distributed.launch`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from paddleseg_segformer.errors import UserError


def init_distributed() -> tuple[int, int]:
    """Join the process group if there is one; return (rank, world size)."""
    if dist.get_world_size() > 1 and not dist.is_initialized():
        dist.init_parallel_env()
    return dist.get_rank(), dist.get_world_size()


def unwrapped(model: nn.Layer) -> nn.Layer:
    """Return a model without its data-parallel wrapper."""
    return model._layers if isinstance(model, paddle.DataParallel) else model


def data_parallel(model: nn.Layer) -> nn.Layer:
    """Wrap the model: batch norm sees the batches of all processes, gradients are averaged."""
    if dist.get_world_size() == 1 or not model.parameters():
        return model
    if getattr(model, "quantizers", None) is not None:  # its batch norm has fixed statistics
        return paddle.DataParallel(model)
    if paddle.get_device().startswith("gpu"):
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    else:
        synchronise_batch_norm(model)
    return paddle.DataParallel(model)


def sum_over_processes(array: np.ndarray) -> np.ndarray:
    """Return the element-wise sum of every process's integer array, exactly."""
    if dist.get_world_size() == 1:
        return array
    tensor = paddle.to_tensor(array.astype(np.int64))
    dist.all_reduce(tensor)
    return tensor.numpy()


def of_first_process(number: float) -> float:
    """Return the first process's number, exactly."""
    bits = np.array([number], np.float64).view(np.int64)
    return float(sum_over_processes(bits * (dist.get_rank() == 0)).view(np.float64)[0])


def mean_over_processes(value: float) -> float:
    """Return the mean of every process's value."""
    if dist.get_world_size() == 1:
        return value
    tensor = paddle.to_tensor(value, dtype="float64")
    dist.all_reduce(tensor)
    return tensor.item() / dist.get_world_size()


def any_process(condition: bool) -> bool:
    """Tell whether the condition holds in any process; all get the same answer."""
    return bool(sum_over_processes(np.array([condition]))[0])


def check_same_in_all(name: str, number: int) -> None:
    """Refuse a number that differs between the processes.

    Raises:
        UserError: in every process, with all the numbers.
    """
    own = np.zeros(dist.get_world_size(), np.int64)
    own[dist.get_rank()] = number
    numbers = sum_over_processes(own).tolist()
    if len(set(numbers)) > 1:
        raise UserError(
            f"{name}: found {numbers} in processes 0 to {len(numbers) - 1}, expected one number. "
            "Give every machine the same data and the same configuration."
        )


@contextmanager
def lost_peers_explained() -> Iterator[None]:
    """Say in one line that another process of the run has ended.

    Raises:
        UserError: in place of what the communication library raises.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if dist.get_world_size() == 1 or not any(name in str(error) for name in ("gloo", "NCCL")):
            raise
        raise UserError(
            f"process {dist.get_rank()} of {dist.get_world_size()}: another process of this run "
            "has ended. The last lines of its log (log/workerlog.N, see --log_dir of "
            "paddle.distributed.launch) say why."
        ) from error


def synchronise_batch_norm(model: nn.Layer) -> None:
    """Replace each `BatchNorm2D` below `model` by a `SumSyncBatchNorm2D`."""
    for parent in model.sublayers(include_self=True):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2D):
                parent.add_sublayer(name, SumSyncBatchNorm2D(child))


class SumSyncBatchNorm2D(nn.BatchNorm2D):
    """A `BatchNorm2D` whose training statistics are over the batches of all processes.

    It is for devices without Paddle's fused `nn.SyncBatchNorm`, which has kernels for GPUs only.
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
        with paddle.no_grad():
            for average, value in ((self._mean, mean), (self._variance, variance)):
                average.set_value(average * self._momentum + value * (1 - self._momentum))
        scale = self.weight * paddle.rsqrt(variance + self._epsilon)
        return centred * scale.reshape([1, -1, 1, 1]) + self.bias.reshape([1, -1, 1, 1])


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
