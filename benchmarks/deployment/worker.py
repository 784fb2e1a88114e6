"""The process of a deployment: `{"do": "run"}` does all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.deployment.job import Job, NotHere
from benchmarks.processes import answer_commands
from paddleseg_segformer.dependencies import MissingDependency, explained
from paddleseg_segformer.yaml_files import read_yaml

MODULE = "benchmarks.deployment.worker"
MISSING = "missing"  # key of an answer: why the deployment cannot be tried here


def run(job: Job) -> dict[str, Any]:
    """Return a deployment's outcome as plain data, or what is missing for it."""
    module, _, function = job.run.partition(":")
    try:
        _check_artefacts(job)
        with explained():
            return asdict(getattr(import_module(module), function)(job))
    except (NotHere, MissingDependency) as error:
        return {MISSING: str(error)}


def _check_artefacts(job: Job) -> None:
    """Refuse an export that holds nothing that the deployment reads."""
    if not job.reads:
        return
    found = read_yaml(Path(job.export_dir) / "deploy.yaml")["artefacts"]
    if not set(job.reads) & set(found):
        raise NotHere(f"the export holds {', '.join(found)}, but no {' or '.join(job.reads)}")


def _commands(values: dict[str, Any]) -> dict[str, Callable[..., dict[str, Any]]]:
    return {"run": lambda: run(Job(**values))}


if __name__ == "__main__":
    answer_commands(_commands)
