"""Small models whose weights are spread out, one export that the tests share, and a bound."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import paddle
import pytest
from paddle import Tensor, nn
from small_models import small_mit, small_segformer, spread

from paddleseg_segformer.data.labels import LABEL_SETS
from paddleseg_segformer.export import export_model
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.models import SegFormer, SegFormerMM
from paddleseg_segformer.runtimes.deploy_config import DeployConfig

NUM_CLASSES = 19
NORMALIZE = {"type": "Normalize", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
SIZES = {"num_classes": 5, "embedding_dim": 16}
HEADS = {"SegFormer": SegFormer, "SegFormerMM": SegFormerMM}


NOISE = 256  # how much larger than rounding: it must stand out from it, and stay in proportion


def rounding_bound(model: nn.Layer, x: Tensor) -> float:
    """Return how far two float32 computations of `model(x)` may lie apart by rounding.

    Engines and instruction sets add up the n products of a sum in different orders. Each addition
    is rounded to half a unit in the last place, and independent errors grow with the square root
    of their number, so that a sum is off by sqrt(n) units (`eps`) of its size or less. Weights
    that are off by as much, each at random, do the same to it. So that is done to all weights at
    once, `NOISE` times as strongly, and the largest change of the result, divided by `NOISE`, is
    what one such computation does: it takes in how layers pass errors on, which is most where a
    norm follows on values that are close to one another. The bound is three times that.

    Source: Higham, "Accuracy and Stability of Numerical Algorithms", 2002, sections 2.8 and 4.2.
    """
    rng = np.random.default_rng(0)
    before = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    with paddle.no_grad():
        expected = model(x)
        for name, tensor in model.state_dict().items():
            if tensor.ndim > 1:
                terms = np.prod(tensor.shape[1:]) if tensor.ndim == 4 else tensor.shape[-2]
                noise = (
                    NOISE
                    * np.finfo(np.float32).eps
                    * terms**0.5
                    * rng.standard_normal(tensor.shape)
                )
                tensor.set_value((before[name] * (1 + noise)).astype(np.float32))
        difference = float((model(x) - expected).abs().max())
    model.set_state_dict(before)
    return 3 * difference / NOISE


@pytest.fixture(scope="session")
def rounding() -> Callable[[nn.Layer, Tensor], float]:
    """Return `rounding_bound`."""
    return rounding_bound


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
    """Return a narrow SegFormer, exported for any size with the normalisation of `NORMALIZE`."""
    paddle.seed(7)
    model = spread(small_segformer(NUM_CLASSES, width=64))
    folder = tmp_path_factory.mktemp("export") / "Modell ü"
    deploy = export_model(
        model,
        folder,
        preprocess=Preprocess.from_transforms([NORMALIZE]),
        settings=InferenceSettings(window_batch=3),
        label_set=LABEL_SETS["cityscapes"],
    )
    return Exported(model, folder, deploy)
