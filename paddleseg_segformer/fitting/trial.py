"""A few real steps of a config, to know what time and memory it takes on this machine."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from paddleseg_segformer.config import Config
from paddleseg_segformer.config.building import build_training, build_val_dataset
from paddleseg_segformer.cpu import prepare_cpu
from paddleseg_segformer.fitting.recipe import Trial
from paddleseg_segformer.inference.memory_plan import FREE_SHARE, MIB, PeakMemory, free_mib
from paddleseg_segformer.inference.pipeline import predict_label
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.training.options import RunOptions
from paddleseg_segformer.training.run import make_trainer
from paddleseg_segformer.training.trainer import Hook, Trainer

NUM_STEPS, NUM_IMAGES = 5, 2  # timed, each after one that warms up
WEIGHT_BYTES, STATE_BYTES = 4, 16  # of a parameter; and its gradient and AdamW's two moments
ALLOWANCE = 1.2  # for workspaces that are not counted


class _Records(Hook):
    """The figures of each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []

    def after_step(self, trainer: Trainer) -> None:
        self.steps.append(dict(trainer.step_record))


class Memory(NamedTuple):
    """What a training step takes, in MiB."""

    state_mib: float  # weights, gradients, the optimizer's state
    image_mib: float  # what is kept of each image for the gradients

    def num_images(self) -> int:
        """Return how many images fit into what is free now."""
        return int((FREE_SHARE * free_mib() - self.state_mib) / (ALLOWANCE * self.image_mib))


def measure_memory(config: Config) -> Memory:
    """Return what a step takes, by one step of two images."""
    memory = PeakMemory()
    trainer = _train(replace(config, batch_size=2, iters=1), _Records(), RunOptions())
    num_weights = sum(int(tensor.size) for tensor in trainer.network.parameters())
    # at the peak, the end of the forward pass, there are neither gradients nor moments
    kept_mib = memory.mib - WEIGHT_BYTES * num_weights / MIB
    return Memory(STATE_BYTES * num_weights / MIB, max(kept_mib / 2, 1.0))


def measure_time(config: Config, num_workers: int) -> Trial:
    """Return what a step, and the evaluation of an image, take in seconds."""
    records = _Records()
    options = RunOptions(num_workers=num_workers)
    trainer = _train(replace(config, iters=NUM_STEPS + 1), records, options)
    dataset = build_val_dataset(config)
    preprocess, settings = Preprocess.from_config(config), config.test_config.inference_settings()
    trainer.network.eval()
    image_s = []
    for index in np.linspace(0, len(dataset) - 1, NUM_IMAGES + 1).astype(int):
        start = time.perf_counter()
        predict_label(trainer.network, dataset.read(int(index)).image, preprocess, settings)
        image_s.append(time.perf_counter() - start)
    timed = [(step["step_s"], step["data_s"]) for step in records.steps[1:]]
    step_s, data_s = np.median(timed, axis=0).tolist()
    return Trial(step_s, data_s, float(np.median(image_s[1:])))


def _train(config: Config, records: _Records, options: RunOptions) -> Trainer:
    """Train all iterations of a config from its start weights; return the trainer."""
    config = replace(config, class_balanced_sampling=0.0)  # it reads all labels first
    parts = build_training(config)
    prepare_cpu(parts.model)
    trainer = make_trainer(config, options, parts, seed=0, rank=0, world_size=1)
    trainer.hooks = [records]
    trainer.train()
    return trainer
