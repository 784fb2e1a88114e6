"""How much memory a network needs for windows of a size, measured on small ones; and what is free.

Without gradients the memory of these networks grows in proportion to the pixels: attention takes
its queries in blocks of bounded size. So two small inputs tell what any input needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import paddle
from paddle import nn

from paddleseg_segformer.cpu import free_memory_mib
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models.attention import BLOCK_SCORES

FREE_SHARE = 0.8  # of the free memory, if no budget is given
PROBE_SIDES_PX = (128, 256)
ALLOWANCE = 1.1  # for the workspace of single operators, which is not counted
BLOCKS_MIB = 2 * 4 * BLOCK_SCORES / 2**20  # scores and their softmax, of full size in no probe
MIB = 2**20


@dataclass(frozen=True)
class MemoryPlan:
    """What windows need, and what there is.

    Args:
        budget_mib: The most that windows and their logits may take, beyond weights and images.
        fixed_mib: What a call needs at any size.
        mib_per_megapixel: What it needs for each 2^20 px of its input.
        num_classes: K.
        stride: Input pixels per logit, along an axis.
    """

    budget_mib: float
    fixed_mib: float
    mib_per_megapixel: float
    num_classes: int
    stride: int

    def peak_mib(self, count: int, size_hw: tuple[int, int]) -> float:
        """Return the most memory that a call with `count` windows of a size takes."""
        megapixels = count * size_hw[0] * size_hw[1] / MIB
        return ALLOWANCE * (self.fixed_mib + self.mib_per_megapixel * megapixels) + BLOCKS_MIB

    def logits_mib(self, size_hw: tuple[int, int]) -> float:
        """Return the memory of a window's logits and of their best classes."""
        height, width = (-(-side // self.stride) for side in size_hw)
        return 4 * (self.num_classes + 1) * height * width / MIB

    def window_batch(self, wanted: int, size_hw: tuple[int, int], held_mib: float) -> int:
        """Return how many windows of a size may go through the network together.

        Args:
            wanted: The most that are asked for.
            size_hw: Of the windows.
            held_mib: Logits of other windows that are kept meanwhile.

        Raises:
            UserError: not even one.
        """
        for count in range(wanted, 0, -1):
            if self.peak_mib(count, size_hw) + held_mib <= self.budget_mib:
                return count
        height, width = size_hw
        raise UserError(
            f"memory: the network needs about {self.peak_mib(1, size_hw):.0f} MiB for "
            f"{height}x{width} px, and {held_mib:.0f} MiB are for logits, but the budget is "
            f"{self.budget_mib:.0f} MiB. Use smaller windows (--is_slide --crop_size W H), or "
            "raise --memory_budget_mib."
        )


def plan_memory(
    network: nn.Layer, budget_mib: float | None = None, num_channels: int = 3
) -> MemoryPlan:
    """Measure a network in evaluation mode on Paddle's current device; weights are not counted.

    Args:
        network: (N, C, h, w) -> (N, K, about h / stride, about w / stride).
        budget_mib: By default `FREE_SHARE` of the free memory.
        num_channels: C.
    """
    if budget_mib is not None and budget_mib <= 0:
        raise UserError(f"--memory_budget_mib: found {budget_mib:g}, expected a number above 0.")
    budget_mib = FREE_SHARE * free_mib() if budget_mib is None else budget_mib
    was_training = network.training
    network.eval()
    found = [_probe(network, num_channels, side) for side in PROBE_SIDES_PX]
    if was_training:
        network.train()
    megapixels = [side * side / MIB for side in PROBE_SIDES_PX]
    slope = (found[1][0] - found[0][0]) / (megapixels[1] - megapixels[0])
    _, num_classes, height, _ = found[1][1]
    stride = max(1, round(PROBE_SIDES_PX[1] / height))
    fixed_mib = max(0.0, found[1][0] - slope * megapixels[1])
    return MemoryPlan(budget_mib, fixed_mib, max(0.0, slope), num_classes, stride)


def _probe(network: nn.Layer, num_channels: int, side_px: int) -> tuple[float, list[int]]:
    """Return the peak of a call in MiB with its input and output, and the output's shape."""
    memory = PeakMemory()
    with paddle.no_grad():
        shape = network(paddle.zeros([1, num_channels, side_px, side_px])).shape
    return memory.mib, shape


class PeakMemory:
    """The most that tensors on Paddle's current device take above what they take at first.

    Paddle 2 cannot forget its peak: there an empty tensor first lifts what is taken to it.
    """

    def __init__(self) -> None:
        core, cuda = paddle.base.core, paddle.device.cuda
        reset: Callable[[], None] | None
        if paddle.get_device().startswith("gpu"):
            current, self._peak = cuda.memory_allocated, cuda.max_memory_allocated
            reset = getattr(cuda, "reset_max_memory_allocated", None)
        else:
            current = partial(core.host_memory_stat_current_value, "Allocated", 0)
            self._peak = partial(core.host_memory_stat_peak_value, "Allocated", 0)
            reset_host = getattr(core, "host_memory_stat_reset_peak_value", None)
            reset = partial(reset_host, "Allocated", 0) if reset_host else None
        if reset:
            reset()
        else:
            self._ballast = paddle.empty([max(self._peak() - current(), 1)], "uint8")
        self._before: int = current()

    @property
    def mib(self) -> float:
        """Return it, up to now."""
        return (self._peak() - self._before) / MIB


def free_mib() -> float:
    """Return the memory that this process may still take on Paddle's current device."""
    if paddle.get_device().startswith("gpu"):
        cuda = paddle.device.cuda
        total: int = cuda.get_device_properties().total_memory
        return (total - cuda.memory_allocated()) / MIB
    return free_memory_mib()
