"""Work shared by actors of Ray Data, on this machine or in a cluster."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from paddleseg_segformer.dependencies import explained
from paddleseg_segformer.errors import UserError, one_line
from paddleseg_segformer.inference.image_sources import ImageFile

logger = logging.getLogger(__name__)

IMAGES_PER_TASK = 32
MAX_RETRIES = 2  # of a task whose actor has died
OBJECT_STORE_BYTES = 100 << 20  # of a Ray of our own: names and outcomes go through it


class Worker(Protocol):
    """Predicts images and writes their results; see `prediction_worker.Worker`."""

    def __call__(self, images: Sequence[ImageFile]) -> Iterator[tuple[ImageFile, str]]:
        """Yield each image, and why it failed or ""."""


@dataclass
class _Actor:
    """A worker in a process of Ray's."""

    make_worker: Callable[[], Worker]

    def __post_init__(self) -> None:
        logging.getLogger("paddleseg_segformer").setLevel(logging.WARNING)
        self.worker = self.make_worker()
        import ray

        self.name = f"{ray.util.get_node_ip_address()}, process {os.getpid()}"

    def __call__(self, task: dict[str, np.ndarray]) -> dict[str, Any]:
        """Predict a task's images; return their outcomes, and what ends the whole run."""
        start = time.monotonic()
        images = [
            ImageFile.of(os.fsdecode(source), os.fsdecode(name))
            for source, name in zip(task["source"], task["name"], strict=True)
        ]
        errors: dict[str, str] = {}
        fatal = ""
        try:
            errors |= {image.name: error for image, error in self.worker(images)}
        except UserError as error:  # such as a full disk
            fatal = str(error)
        except Exception as error:
            for image in images:
                errors.setdefault(image.name, f"{image.path}: {one_line(repr(error))}")
        return {
            "index": [task["index"]],
            "errors": [[os.fsencode(errors.get(image.name, "")) for image in images]],
            "fatal": [fatal],
            "actor": [self.name],
            "seconds": [time.monotonic() - start],
        }


class _Caller:
    """An actor that calls functions."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function gives."""
        return function(*arguments)


class RayActors:
    """A Ray of our own, or a cluster, as a context.

    Args:
        num_actors: Actors, each with a model.
        address: Of the cluster, such as `auto` or `ray://HOST:10001`; None: Ray is started here.
        device: `--device`.

    Raises:
        MissingDependency: Ray is not installed.
        UserError: no cluster at that address, or it cannot hold the actors.
    """

    def __init__(self, num_actors: int, address: str | None, device: str | None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        with explained():
            import ray
            import ray.data
        self.ray = ray
        self.num_actors = num_actors
        own = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        modules = os.pathsep.join(filter(None, sys.path))  # also those of --import
        try:
            ray.init(
                address or "local",
                logging_level=logging.ERROR,
                runtime_env={"env_vars": {"PYTHONPATH": modules}},
                **({} if address else own),
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"--ray_address {address}: {one_line(error)[:300]}") from None
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.num_gpus = _gpus_of_actor(nodes, num_actors, device)
        cpus = [int(node.get("CPU", 0)) for node in nodes]
        fitting = range(max(cpus, default=0), 0, -1)
        self.num_cpus = next((n for n in fitting if sum(c // n for c in cpus) >= num_actors), 0)
        if not self.num_cpus:
            self.__exit__()
            raise UserError(
                f"--actors: found {num_actors}, but Ray has {sum(cpus)} processors. Give fewer."
            )
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.max_errored_blocks = -1  # they are counted below
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", "`ray_remote_args_fn`")  # nothing else bounds the retries

    def __enter__(self) -> RayActors:
        return self

    def __exit__(self, *error: object) -> None:
        self.ray.shutdown()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function gives in a process of Ray's, with the resources of an actor.

        Raises:
            UserError: as the function.
        """
        remote = self.ray.remote(num_cpus=self.num_cpus, num_gpus=self.num_gpus)
        actor = remote(_Caller).remote()
        try:
            return self.ray.get(actor.call.remote(function, *arguments))
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise
        finally:
            self.ray.kill(actor)

    def map(
        self, make_worker: Callable[[], Worker], images: Sequence[ImageFile]
    ) -> Iterator[tuple[ImageFile, str]]:
        """Yield each image once, with why it failed or "", in the order in which they are done.

        A task whose actor dies is done again by another one. Images whose tasks have failed
        nevertheless are then tried one by one, so that one which ends its process costs no other.

        Raises:
            UserError: a worker cannot go on, such as on a full disk, or none can begin.
        """
        is_left = np.ones(len(images), bool)
        num_done, seconds = Counter[str](), Counter[str]()
        fair = -(-len(images) // (4 * self.num_actors))
        for size, num_ahead in ((max(1, min(IMAGES_PER_TASK, fair)), 2), (1, 1)):
            if not is_left.any():
                break
            for row in self._rows(make_worker, images, np.flatnonzero(is_left), size, num_ahead):
                if row["fatal"]:
                    raise UserError(row["fatal"])
                indices = row["index"]
                is_left[indices] = False
                num_done[row["actor"]] += len(indices)
                seconds[row["actor"]] += row["seconds"]
                for index, error in zip(indices, row["errors"], strict=True):
                    yield images[index], os.fsdecode(error)
        for index in np.flatnonzero(is_left).tolist():
            image = images[index]
            yield image, f"{image.path}: its process ended {MAX_RETRIES + 1} times; see Ray's logs"
        for actor, count in sorted(num_done.items()):
            logger.info("%s: %d images, %.2f images/s", actor, count, count / seconds[actor])

    def _rows(
        self,
        make_worker: Callable[[], Worker],
        images: Sequence[ImageFile],
        indices: np.ndarray,
        size: int,
        num_ahead: int,
    ) -> Iterator[dict[str, Any]]:
        """Yield the outcome of each task of `size` images."""
        items = [
            {
                "index": index,
                "source": os.fsencode(images[index].source),
                "name": os.fsencode(images[index].name),
            }
            for index in indices.tolist()
        ]
        num_tasks = -(-len(items) // size)
        pool = self.ray.data.ActorPoolStrategy(
            size=min(self.num_actors, num_tasks), max_tasks_in_flight_per_actor=num_ahead
        )
        rows = self.ray.data.from_items(items, override_num_blocks=num_tasks).map_batches(
            _Actor,
            batch_size=None,
            compute=pool,
            fn_constructor_args=(make_worker,),
            num_cpus=self.num_cpus,
            num_gpus=self.num_gpus,
            ray_remote_args_fn=lambda: {"max_task_retries": MAX_RETRIES},
        )
        try:
            yield from rows.iter_rows()
        except self.ray.exceptions.RayError as error:  # such as no model on one of the machines
            last_line = str(error).strip().splitlines()[-1]
            raise UserError(f"Ray has stopped: {one_line(last_line)[:300]}") from error


def _gpus_of_actor(nodes: Sequence[dict[str, float]], num_actors: int, device: str | None) -> int:
    """Return 1 where each actor has a GPU, else 0."""
    num_gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if device and device.startswith("gpu") and num_gpus < num_actors:
        raise UserError(f"--actors: found {num_actors}, but Ray has {num_gpus} GPUs. Give fewer.")
    return int(num_gpus >= num_actors and (device is None or device.startswith("gpu")))
