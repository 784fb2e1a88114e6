"""How long networks take on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

WARM_UP = 3  # passes; OpenVINO compiles an input's shape at its second
MIN_ROUNDS, MAX_ROUNDS, ENOUGH_S = 5, 40, 2.0

Network = Callable[[np.ndarray], Any]


def least_s(networks: list[Network], x: np.ndarray) -> list[float]:
    """Return the least processor time of a pass of each network, in s of all threads.

    It repeats better than wall time where other work shares the machine, and passes take turns.

    Args:
        networks: Each takes (N, C, H, W) float32.
        x: The input of all.
    """
    for network in networks:
        for _ in range(WARM_UP):
            network(x)
    least, start = [float("inf")] * len(networks), time.perf_counter()
    for turn in range(MAX_ROUNDS):
        for index, network in enumerate(networks):
            before = time.process_time()
            network(x)
            least[index] = min(least[index], time.process_time() - before)
        if turn + 1 >= MIN_ROUNDS and time.perf_counter() - start > ENOUGH_S:
            break
    return least
