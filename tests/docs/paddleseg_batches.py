"""The inputs on which the tables of `docs/paddleseg-components.md` were measured."""

from __future__ import annotations

import random
from typing import Any

import cv2
import numpy as np
import paddle
from paddle import nn


def logits_and_label(num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (2, K, 32, 40), and labels (2, 32, 40) with ignored pixels."""
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(2, num_classes, 32, 40)).astype(np.float32) * 2
    blocks = rng.integers(0, max(num_classes, 2), (2, 8, 10))
    label = np.kron(blocks, np.ones((1, 4, 4), np.int64))
    label[0, :7, :9] = 255
    label[1, 20:, 13] = 255
    return logits, label


def sample() -> dict[str, Any]:
    """Return an image (72, 96, 3) and its label, and seed what transforms draw from."""
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 255, (9, 12, 3), np.uint8), (96, 72))
    label = np.kron(rng.integers(0, 5, (9, 12)), np.ones((8, 8))).astype(np.uint8)
    label[0, :9] = 255
    random.seed(0)
    np.random.seed(0)
    return {"img": image, "label": label, "gt_fields": ["label"], "trans_info": []}


def toy() -> nn.Layer:
    """Return a network of fixed weights whose layers are called as those of a backbone and head."""
    layers = [("norm", nn.LayerNorm(4)), ("body", nn.Linear(4, 4)), ("head", nn.Linear(4, 3))]
    model = nn.Sequential(*layers)
    rng = np.random.default_rng(1)
    for parameter in model.parameters():
        parameter.set_value(rng.normal(size=parameter.shape).astype(np.float32))
    return model


def steps(model: nn.Layer, optimizer: Any) -> float:
    """Return the sum of all weights, each times its rank, after five steps."""
    x = paddle.to_tensor(np.random.default_rng(2).normal(size=(8, 4)).astype(np.float32))
    for _ in range(5):
        (model(x) ** 2).mean().backward()
        optimizer.step()
        optimizer.clear_grad()
    flat = np.concatenate([item.numpy().ravel() for item in model.parameters()])
    return float(flat @ np.linspace(1, 2, flat.size))
