"""Data-parallel processes started by `python -m paddle.distributed.launch`."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import nn


def init_distributed() -> tuple[int, int]:
    """Join the process group where there is one; return (rank, world size)."""
    if dist.get_world_size() > 1 and not dist.is_initialized():
        dist.init_parallel_env()
    return dist.get_rank(), dist.get_world_size()


def data_parallel(model: nn.Layer) -> nn.Layer:
    """Wrap the model so that gradients are averaged over the processes.

    Batch norm is synchronised on GPU; Paddle has no CPU kernel for that, so there each process
    keeps the statistics of its own batches.
    """
    if dist.get_world_size() == 1:
        return model
    if paddle.get_device().startswith("gpu"):
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return paddle.DataParallel(model)


def sum_over_processes(array: np.ndarray) -> np.ndarray:
    """Return the element-wise sum of every process's integer array, exactly."""
    if dist.get_world_size() == 1:
        return array
    tensor = paddle.to_tensor(array.astype(np.int64))
    dist.all_reduce(tensor)
    return tensor.numpy()
