"""transformers 4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peer_job import Outputs, run
from random_weights import VARIANTS
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers import __version__ as version

assert version.startswith("4."), version


def build(variant: str) -> Any:
    width, depths, head_width = VARIANTS[variant]
    config = SegformerConfig(
        hidden_sizes=[width * heads for heads in (1, 2, 5, 8)],
        depths=list(depths),
        decoder_hidden_size=head_width,
        num_labels=19,
    )
    return SegformerForSemanticSegmentation(config)


def load(_: Any, folder: Path) -> Any:
    model, loading = SegformerForSemanticSegmentation.from_pretrained(
        folder / "ours", output_loading_info=True
    )
    assert not any(loading.values()), loading
    return model


def outputs_of(model: Any, x: torch.Tensor) -> Outputs:
    return {"logits": model(x).logits}


run(build, lambda model, folder: model.save_pretrained(folder / "theirs"), load, outputs_of)
