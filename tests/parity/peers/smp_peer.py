"""segmentation_models_pytorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

try:
    import torchvision  # noqa: F401  timm needs it
except RuntimeError:  # its compiled operators do not load beside a CPU build of torch
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):  # declared, never called
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import segmentation_models_pytorch as smp
from peer_job import Outputs, run
from random_weights import VARIANTS


def build(variant: str) -> Any:
    return smp.Segformer(
        f"mit_{variant.lower()}",
        encoder_weights=None,
        decoder_segmentation_channels=VARIANTS[variant][2],
        classes=19,
    )


def load(model: Any, folder: Path) -> Any:
    model.load_state_dict(torch.load(folder / "ours.pth", weights_only=True), strict=True)
    return model


def outputs_of(model: Any, x: torch.Tensor) -> Outputs:
    """Return the logits before the last upsampling, which aligns corners there."""
    return {"logits": model.segmentation_head[0](model.decoder(model.encoder(x)))}


run(
    build,
    lambda model, folder: torch.save(model.state_dict(), folder / "theirs.pth"),
    load,
    outputs_of,
)
