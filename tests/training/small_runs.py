"""Whole runs of the `train` job on the tiny data set of `folder`, and what they leave."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from paddleseg_segformer.cli import main
from paddleseg_segformer.weights.files.pickles import read_pickle


def train(folder: Path, out: str, *flags: str) -> int:
    arguments = ["train", "--config", str(folder / "tiny.yml"), "--save_dir", str(folder / out)]
    return main([*arguments, "--seed", "3", "--log_iters", "1", *flags])


def log(folder: Path, out: str) -> list[dict]:
    return [json.loads(line) for line in (folder / out / "log.jsonl").read_text().splitlines()]


def train_log(folder: Path, out: str) -> list[dict]:
    """Return the log's lines on training."""
    return [line for line in log(folder, out) if "Train/loss" in line]


def weights(folder: Path, out: str, checkpoint: str) -> dict[str, np.ndarray]:
    return read_pickle(folder / out / checkpoint / "model.pdparams")


def assert_equal_weights(folder: Path, left: str, right: str, checkpoint: str) -> None:
    a, b = weights(folder, left, checkpoint), weights(folder, right, checkpoint)
    assert a.keys() == b.keys() and a
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], err_msg=name)


def poison(folder: Path, name: str = "train2") -> None:
    """Make one training image a float image that overflows when it is normalised."""
    image = np.full((40, 56, 3), 100, np.float32)
    image[::4] = 3e38
    np.save(folder / f"{name}.npy", image)
    lines = (folder / "train.txt").read_text().replace(f"{name}.png", f"{name}.npy")
    (folder / "train.txt").write_text(lines)
    config = (folder / "tiny.yml").read_text()
    strong = "- {type: Normalize, mean: [0.0], std: [0.0001]}"  # the values times 39
    (folder / "tiny.yml").write_text(config.replace("- type: Normalize", strong, 1))
