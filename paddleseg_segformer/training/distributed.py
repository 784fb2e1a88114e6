"""Data-parallel processes started by `python -m paddle.distributed.launch`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import nn

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.training.sync_batch_norm import synchronise_batch_norm


def init_distributed() -> tuple[int, int]:
    """Join the process group where there is one; return (rank, world size)."""
    if dist.get_world_size() > 1 and not dist.is_initialized():
        dist.init_parallel_env()
    return dist.get_rank(), dist.get_world_size()


def data_parallel(model: nn.Layer) -> nn.Layer:
    """Wrap the model so that batch norm sees all processes' batches and gradients are averaged."""
    if dist.get_world_size() == 1:
        return model
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


def of_first_process(array: np.ndarray) -> np.ndarray:
    """Return the first process's integer array."""
    return sum_over_processes(array * (dist.get_rank() == 0))


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
    """Refuse to go on with a number that is another one in another process.

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
    """Say in one line that the connection broke because another process of the run ended.

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
