"""Small models whose weights are spread out, and one export of B0 that the tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import paddle
import pytest
from paddle import nn
from small_models import small_mit, spread

from paddleseg_segformer.data.labels import LABEL_SETS
from paddleseg_segformer.export import export_model
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.models import BACKBONES, SegFormer, SegFormerMM
from paddleseg_segformer.runtimes.deploy_config import DeployConfig

NUM_CLASSES = 19
NORMALIZE = {"type": "Normalize", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
SIZES = {"num_classes": 5, "embedding_dim": 16}
HEADS = {"SegFormer": SegFormer, "SegFormerMM": SegFormerMM}


@pytest.fixture(scope="session")
def spread_out() -> Callable[[nn.Layer], nn.Layer]:
    """Return the function that spreads a model's weights."""
    return spread


@pytest.fixture
def small_model() -> Callable[..., nn.Layer]:
    """Return a function that makes a narrow SegFormer with either head."""

    def make(head: str = "SegFormer", **arguments: object) -> nn.Layer:
        return spread(HEADS[head](backbone=small_mit(), **{**SIZES, **arguments}))

    return make


class Exported(NamedTuple):
    """An export and the model it was made from."""

    model: nn.Layer
    folder: Path
    deploy: DeployConfig


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Return SegFormer-B0, exported for any size with the normalisation of `NORMALIZE`."""
    paddle.seed(7)
    model = spread(SegFormer(NUM_CLASSES, BACKBONES["MixVisionTransformer_B0"]()))
    folder = tmp_path_factory.mktemp("export") / "Modell ü"
    deploy = export_model(
        model,
        folder,
        preprocess=Preprocess.from_transforms([NORMALIZE]),
        settings=InferenceSettings(window_batch=3),
        label_set=LABEL_SETS["cityscapes"],
    )
    return Exported(model, folder, deploy)
