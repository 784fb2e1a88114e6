"""What the process of a deployment is given, and what it gives back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from paddleseg_segformer.contracts import pad_multiple_of


class NotHere(Exception):
    """A deployment cannot be tried on this machine; the message says what is missing."""


@dataclass(frozen=True)
class Job:
    """One deployment's work.

    Args:
        run: `module:function`, as of `Deployment`.
        options: as of `Deployment`.
        reads: as of `Deployment`.
        precision: of the computation.
        export_dir: folder of the export.
        model_path: the weights, where they are known.
        images_dir: folder of the images, PNG files.
        threads: on the CPU.
        warmup: passes of each image size before the timing begins.
        cpp_dir: where the C++ programs were built.
        gradio_python: an interpreter that has Gradio.
        results: folder for the label maps.
    """

    run: str
    options: dict[str, str]
    reads: Sequence[str]
    precision: str
    export_dir: str
    model_path: str | None
    images_dir: str
    threads: int
    warmup: int
    cpp_dir: str
    gradio_python: str
    results: str

    @property
    def images(self) -> list[str]:
        """Return the paths of the images, in order."""
        return [str(path) for path in sorted(Path(self.images_dir).glob("*.png"))]

    def save(self, index: int, label: np.ndarray) -> None:
        """Keep the label map (H, W) of an image."""
        np.save(label_path(self.results, index), label)


def label_path(results: str | Path, index: int) -> Path:
    """Return the file of an image's label map."""
    return Path(results) / f"{index}.npy"


@dataclass(frozen=True)
class Outcome:
    """What a deployment took; its label maps are in the job's folder.

    Args:
        ms: median time per image.
        network_ms: that of the network alone, where it is known.
        peak_mib: most memory its process ever held.
        engine: what ran, with its version.
    """

    ms: float
    network_ms: float | None
    peak_mib: float
    engine: str


@dataclass
class Clock:
    """Times of a network that is called within something else.

    Args:
        network: a callable; `pad_multiple` and `takes_numpy` are handed on.
    """

    network: Callable[[Any], Any]
    ms: float = 0.0  # since the last `take`
    pad_multiple: int = field(init=False)
    takes_numpy: bool = field(init=False)

    def __post_init__(self) -> None:
        self.pad_multiple = pad_multiple_of(self.network)
        self.takes_numpy = getattr(self.network, "takes_numpy", False)

    def __call__(self, x: Any) -> Any:
        start = time.perf_counter()
        result = self.network(x)
        self.ms += 1e3 * (time.perf_counter() - start)
        return result

    def take(self) -> float:
        """Return the time so far, and begin anew."""
        ms, self.ms = self.ms, 0.0
        return ms


def time_images(
    job: Job,
    label_of: Callable[[Any], Any],
    network_ms: Callable[[], float | None],
    read: Callable[[str], Any] | None = None,
    decode: Callable[[Any], np.ndarray] | None = None,
) -> tuple[float, float | None]:
    """Keep every image's label map; return the medians of the whole and of the network.

    Args:
        label_of: What is timed: what `read` gives -> label map (H, W), or what `decode` takes.
        network_ms: Time of the network since it was last asked for, or None.
        read: Path -> what `label_of` takes; by default the RGB array (H, W, 3).
        decode: Result of `label_of` -> label map; not timed.
    """
    from paddleseg_segformer.data.io import read_image

    read = read or read_image
    seen, whole, inside = set(), [], []
    for index, path in enumerate(job.images):
        content = read(path)
        size = read_image(path).shape
        for _ in range(0 if size in seen else job.warmup):
            label_of(content)
        seen.add(size)
        network_ms()
        start = time.perf_counter()
        label = label_of(content)
        whole.append(1e3 * (time.perf_counter() - start))
        inside.append(network_ms())
        job.save(index, decode(label) if decode else label)
    known = [value for value in inside if value is not None]
    return median(whole), median(known) if known else None
