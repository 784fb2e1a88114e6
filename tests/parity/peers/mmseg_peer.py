"""mmsegmentation 1 with mmcv-lite."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import torch

sys.modules["transformers"] = None  # type: ignore[assignment]  # mmengine expects an older one
operators = types.ModuleType("mmcv.ops")  # compiled operators of other heads, which lite lacks
for name in ("CrissCrossAttention", "PSAMask", "point_sample", "sigmoid_focal_loss"):
    setattr(operators, name, None)
sys.modules["mmcv.ops"] = operators

from mmengine.dataset import BaseDataset  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmengine.runner import Runner, load_checkpoint  # noqa: E402
from mmseg.models import EncoderDecoder  # noqa: E402
from peer_job import Outputs, run  # noqa: E402
from random_weights import VARIANTS  # noqa: E402

CLASSES = tuple(f"kind {index}" for index in range(19))
PALETTE = [[index, 2 * index, 255 - index] for index in range(19)]


class Named(BaseDataset):
    """A data set that is nothing but its names."""

    METAINFO = {"classes": CLASSES, "palette": PALETTE}

    def load_data_list(self) -> list[dict]:
        return [{}]


def build(variant: str) -> Any:
    width, depths, _ = VARIANTS[variant]
    init_default_scope("mmseg")
    return EncoderDecoder(
        data_preprocessor={"type": "SegDataPreProcessor"},
        backbone={
            "type": "MixVisionTransformer",
            "embed_dims": width,
            "num_layers": list(depths),
            "num_heads": [1, 2, 5, 8],
            "patch_sizes": [7, 3, 3, 3],
            "sr_ratios": [8, 4, 2, 1],
            "mlp_ratio": 4,
            "qkv_bias": True,
        },
        decode_head={
            "type": "SegformerHead",
            "in_channels": [width * heads for heads in (1, 2, 5, 8)],
            "in_index": [0, 1, 2, 3],
            "channels": 256,
            "num_classes": 19,
            "norm_cfg": {"type": "BN"},
        },
        test_cfg={"mode": "whole"},
    )


def save(model: Any, folder: Path) -> None:
    """Write what a training run writes: weights, data set's names, optimizer, message hub."""
    runner = Runner(
        model,
        work_dir=str(folder / "work"),
        train_dataloader={
            "dataset": Named(lazy_init=False, serialize_data=False),
            "sampler": {"type": "DefaultSampler", "shuffle": False},
            "batch_size": 1,
        },
        train_cfg={"by_epoch": False, "max_iters": 2},
        optim_wrapper={"optimizer": {"type": "AdamW", "lr": 1e-4}},
        default_scope="mmseg",
        experiment_name="parity",
    )
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    for step in range(3):
        runner.message_hub.update_scalar("train/loss", 1.0 / (step + 1))
    runner.save_checkpoint(str(folder), "theirs.pth", save_param_scheduler=False, by_epoch=False)


def load(model: Any, folder: Path) -> Any:
    load_checkpoint(model, str(folder / "ours.pth"), map_location="cpu", strict=True)
    return model


def outputs_of(model: Any, x: torch.Tensor) -> Outputs:
    features = model.backbone(x)
    maps = {f"c{stage}": feature for stage, feature in enumerate(features, start=1)}
    return {**maps, "logits": model.decode_head(features)}


run(build, save, load, outputs_of)
