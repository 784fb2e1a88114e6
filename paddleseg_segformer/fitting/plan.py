"""The first half of `fit`: data of any form, audited, to a config with its reasons."""

from __future__ import annotations

import inspect
import logging
import os
import time
from dataclasses import dataclass
from typing import Any

import paddle

from paddleseg_segformer.components import find
from paddleseg_segformer.config.building import build_dataset
from paddleseg_segformer.data.audit import (
    AuditReport,
    audit,
    audit_split,
    audit_training,
    audit_transforms,
)
from paddleseg_segformer.data.audit_text import format_findings, format_report
from paddleseg_segformer.data.findings import Findings
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.fitting.fingerprint import Fingerprint, fingerprint
from paddleseg_segformer.fitting.options import FitOptions
from paddleseg_segformer.fitting.recipe import (
    BATCH_SIZE,
    MIN_TIMED_ITERS,
    MINUTES_CPU,
    SLOW_DATA_SHARE,
    Recipe,
    Trial,
    plan_batch,
    plan_data,
    plan_length,
)
from paddleseg_segformer.fitting.start_weights import StartWeights, put_into, start_weights
from paddleseg_segformer.fitting.trial import measure_memory, measure_time
from paddleseg_segformer.inference.memory_plan import free_mib

logger = logging.getLogger(__name__)

MAX_THREADS, MAX_LOADERS = 8, 4  # threads of the audit, processes of the training
CLOSING_S = 20.0  # of report and export, whatever the data, on a machine without other work
CLOSING_IMAGES = 1.5  # of the report, in evaluations of the validation set
MAX_CLOSING_SHARE = 1 / 3  # of the time of the whole run
UNIMPORTANT = ("normalize-far", "image-small")  # what the recipe takes care of
Sections = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """All that is concluded before the training.

    Args:
        recipe: The config, and how to run it.
        fingerprint: Of the training set.
        num_val: Images of the validation set.
        closing_s: What comes after the training, as estimated.
    """

    recipe: Recipe
    fingerprint: Fingerprint
    num_val: int
    closing_s: float


def audited(sections: Sections) -> dict[str, AuditReport]:
    """Read every file once and log what was found; errors end it.

    Raises:
        UserError: training would stop or be meaningless.
    """
    findings = Findings()
    normalize = {"type": "Normalize"}  # by which values that are not of 0..255 are told
    datasets = {
        name: build_dataset({**section, "transforms": [normalize]}, name)
        for name, section in sections.items()
    }
    threads = min(os.cpu_count() or 1, MAX_THREADS)
    reports = {name: audit(dataset, threads, True, name) for name, dataset in datasets.items()}
    audit_training(reports["train_dataset"], "train_dataset")
    for name, report in reports.items():
        logger.info(format_report(name, report, has_weights=False).rstrip())
        findings.update(report.findings)
    findings.update(audit_split(reports, datasets))
    found = [item for item in findings.to_list() if item["kind"] not in UNIMPORTANT]
    logger.info(format_findings(found))
    refuse_errors(found)
    return reports


def refuse_errors(found: list[dict[str, Any]]) -> None:
    """Raise the errors among the findings of an audit, if there are any."""
    errors = [
        f"{item['kind']} ({item['count']}): {item['sentence']} {item['examples'][0]}"
        for item in found
        if item["severity"] == "error"
    ]
    if errors:
        raise UserError(" ".join(errors))


def make_plan(
    sections: Sections, options: FitOptions, background: int | None, begun_s: float
) -> Plan:
    """Return the plan for data that is a config's `train_dataset` and `val_dataset`.

    Args:
        sections: Without transforms.
        background: Id of the class that is no object.
        begun_s: When the run began, of `time.monotonic`.

    Raises:
        UserError: the data or the options are wrong.
    """
    device = "cpu" if paddle.get_device().startswith("cpu") else "gpu"
    reports = audited(sections)
    train_report, val_report = reports["train_dataset"], reports["val_dataset"]
    train = build_dataset({**sections["train_dataset"], "transforms": []}, "train_dataset")
    measured = fingerprint(train, train_report, background)
    weights = start_weights(options)
    recipe = plan_data(sections, measured, options, weights, device)
    _start(recipe, weights, options)
    start_s, start_cpu_s = time.monotonic(), time.process_time()
    _fit_memory(recipe, measured, options, device)
    trial = _fit_time(recipe, options)
    waiting = (time.monotonic() - start_s) / (time.process_time() - start_cpu_s)  # for a processor
    num_val = val_report.num_samples
    closing_s = CLOSING_S * max(waiting, 1.0) + CLOSING_IMAGES * num_val * trial.image_s
    minutes = options.minutes or (MINUTES_CPU if device == "cpu" else None)
    if minutes:
        closing_s = min(closing_s, MAX_CLOSING_SHARE * 60 * minutes)
    left_s = 60 * minutes - (time.monotonic() - begun_s) - closing_s if minutes else None
    plan_length(recipe, measured, options, trial, left_s, num_val, weights.source)
    _check_transforms(recipe, options, train_report)
    if options.minutes and left_s is not None:
        least_s = MIN_TIMED_ITERS * trial.step_s
        recipe.run["max_minutes"] = max(left_s - num_val * trial.image_s, least_s) / 60
    return Plan(recipe, measured, num_val, closing_s)


def _start(recipe: Recipe, weights: StartWeights, options: FitOptions) -> None:
    """Put the start weights into the recipe, and hold stages fixed where that is asked for.

    Raises:
        UserError: stages of random weights would be held fixed.
    """
    if options.freeze:
        if weights.source is None:
            raise UserError(f"--freeze needs start weights, but there are none: {weights.why}")
        recipe.content["freeze_stages"] = options.freeze
        recipe.choose("freeze_stages", f"{options.freeze} stages keep start weights", "--freeze.")
    put_into(recipe.content["model"], weights)
    recipe.choose("model", f"start weights {weights.source or 'random'}", weights.why)


def _fit_memory(recipe: Recipe, measured: Fingerprint, options: FitOptions, device: str) -> None:
    """Choose the batch, and recomputing where the memory at hand asks for it.

    Raises:
        UserError: not even one image fits.
    """
    wanted = options.batch_size or min(BATCH_SIZE[device], max(measured.num_samples, 2))
    memory = measure_memory(recipe.config(options.opts))
    backbone = recipe.content["model"].get("backbone")
    if memory.num_images() < wanted and isinstance(backbone, dict):
        component = find("backbone", backbone["type"])
        if component and "use_recompute" in inspect.signature(component).parameters:
            backbone["use_recompute"] = True
            why = f"{wanted} images do not fit into the memory at hand with all activations kept."
            recipe.choose("model", "activations are computed again for the gradients", why)
            memory = measure_memory(recipe.config(options.opts))
    fitting = memory.num_images()
    if fitting < 1:
        raise UserError(
            f"memory: weights and one image take {memory.state_mib + memory.image_mib:.0f} MiB, "
            f"and {free_mib():.0f} MiB are free. Take a smaller --model or --size."
        )
    plan_batch(recipe, wanted, fitting, options.batch_size is not None, memory.image_mib)


def _fit_time(recipe: Recipe, options: FitOptions) -> Trial:
    """Time a few steps; processes of their own load the data where steps wait for it."""
    recipe.run["num_workers"] = 0
    trial = measure_time(recipe.config(options.opts), 0)
    workers = min((os.cpu_count() or 1) - 1, MAX_LOADERS)
    share = trial.data_s / trial.step_s
    if share <= SLOW_DATA_SHARE or not workers:
        return trial
    recipe.run["num_workers"] = workers
    why = f"{share:.0%} of a step were waiting for data."
    recipe.choose("train_dataset", f"loading in {workers} processes of their own", why)
    return measure_time(recipe.config(options.opts), workers)


def _check_transforms(recipe: Recipe, options: FitOptions, report: AuditReport) -> None:
    """Refuse a recipe whose transforms fail on the images' sizes."""
    config = recipe.config(options.opts)
    assert config.train_dataset is not None
    train = build_dataset(config.train_dataset, "train_dataset")
    before = {item["kind"] for item in report.findings.to_list()}
    audit_transforms(train, report, config.batch_size, "train_dataset")
    refuse_errors([item for item in report.findings.to_list() if item["kind"] not in before])
