"""The machine: what it is, and how fast it multiplies and copies."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

PACKAGES = (
    "paddleseg_segformer",
    "paddlepaddle",
    "paddleseg",
    "numpy",
    "onnxruntime",
    "openvino",
    "torch",
    "transformers",
)
MATRIX_SIDE = 2048
COPY_MIB = 256


def describe() -> dict[str, object]:
    """Return processor, cores and versions."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": _cores(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def counters() -> dict[str, float]:
    """Return processor time and what was taken of it since the system started, s.

    `steal` is what the host gave to other machines, `throttled` how long this container had to wait
    for its quota; `busy` is of all processes here. What the system does not count is missing.
    """
    found: dict[str, float] = {}
    stat, quota = Path("/proc/stat"), Path("/sys/fs/cgroup/cpu.stat")
    if stat.exists():
        ticks = [int(item) for item in stat.read_text().split("\n", 1)[0].split()[1:9]]
        user, nice, system, idle, waiting, irq, soft_irq, steal = ticks
        seconds = 1 / os.sysconf("SC_CLK_TCK")
        found |= {
            "all": sum(ticks) * seconds,
            "busy": (user + nice + system + irq + soft_irq) * seconds,
            "steal": steal * seconds,
        }
    if quota.exists():
        values = dict(line.split() for line in quota.read_text().splitlines())
        if "throttled_usec" in values:
            found["throttled"] = int(values["throttled_usec"]) / 1e6
    return found


def disturbance(
    before: dict[str, float], after: dict[str, float], own_s: float
) -> dict[str, float]:
    """Return the shares of the processors' time that others had between two `counters`.

    Args:
        own_s: Processor time of the run itself.

    Returns:
        `steal`, `other_processes` as shares in 0..1, and `throttled_s`.
    """
    spent = {name: after[name] - before[name] for name in after if name in before}
    found = {}
    if spent.get("all"):
        found["steal"] = spent["steal"] / spent["all"]
        found["other_processes"] = max(0.0, spent["busy"] - own_s) / spent["all"]
    if "throttled" in spent:
        found["throttled_s"] = spent["throttled"]
    return {name: round(value, 4) for name, value in found.items()}


def _cores() -> int | None:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        lines = (line.partition(":") for line in path.read_text().splitlines())
        facts = {key.strip(): value.strip() for key, _, value in lines}
        instructions = [
            name
            for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")
            if name in facts.get("flags", "").split()
        ]
        if "model name" in facts:
            return f"{facts['model name']} ({', '.join(instructions) or 'no AVX2'})"
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    path = Path("/proc/meminfo")
    if not path.exists():
        return None
    return round(int(path.read_text().split()[1]) / 2**20, 1)


class Floor:
    """A large matrix product by NumPy's library (OpenBLAS), and a large copy, on all threads.

    Paddle's library takes two to four times as long for it on processors that are not Intel's, and
    the engines are faster than that.
    """

    def __init__(self, threads: int) -> None:
        rng = np.random.default_rng(0)
        self._a, self._b = rng.standard_normal((2, MATRIX_SIDE, MATRIX_SIDE), dtype=np.float32)
        count = COPY_MIB * 2**18  # float32
        self._source = np.ones((threads, count // threads), np.float32)
        self._target = np.empty_like(self._source)
        self._pool = ThreadPoolExecutor(threads)
        self.measure()  # the first time waits for the system's memory

    def measure(self) -> tuple[float, float]:
        """Return GFLOP/s of the product, and GB copied per second (each read and written)."""
        start = time.perf_counter()
        np.matmul(self._a, self._b)
        product_s = time.perf_counter() - start
        start = time.perf_counter()
        list(self._pool.map(np.copyto, self._target, self._source))
        copy_s = time.perf_counter() - start
        return 2 * MATRIX_SIDE**3 / product_s / 1e9, self._source.nbytes / copy_s / 1e9
