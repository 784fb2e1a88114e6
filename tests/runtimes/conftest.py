"""Exports of one convolution and one bilinear resize, for tests of engines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from paddleseg_segformer.export.onnx_graph import save_onnx
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.runtimes.deploy_config import (
    ARTEFACT_FILES,
    Artefact,
    DeployConfig,
    InputSpec,
    OutputSpec,
)

NUM_CLASSES = 5


class TinyNetwork(nn.Layer):
    """Logits (N, K, ceil(h/4), ceil(w/4)), resized on the way so that the graph holds a resize."""

    def __init__(self) -> None:
        super().__init__()
        paddle.seed(5)
        self.conv = nn.Conv2D(3, NUM_CLASSES, 7, stride=4, padding=3)
        self.eval()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.conv(x)
        coarse = F.avg_pool2d(x, 2, ceil_mode=True)
        return 4 * x + F.interpolate(coarse, size=x.shape[2:], mode="bilinear")


def _export(
    folder: Path, shape: list[int], formats: Sequence[str] = ("paddle",)
) -> tuple[TinyNetwork, Path]:
    folder.mkdir()
    network = TinyNetwork()
    spec = paddle.static.InputSpec([None if n == -1 else n for n in shape], "float32", name="x")
    static = paddle.jit.to_static(TinyNetwork(), input_spec=[spec], full_graph=True)
    paddle.jit.save(static, str(folder / "model"))
    if "onnx" in formats:
        static_graph = [folder / name for name in ARTEFACT_FILES["paddle"]]
        save_onnx(static_graph, folder / "model.onnx", "none")
    DeployConfig(
        made_with={},
        artefacts={name: Artefact.of(folder, name) for name in formats},
        input=InputSpec(shape, min_side_px=16),
        output=OutputSpec("none", 4, NUM_CLASSES, "float32"),
        preprocess=Preprocess().to_dict(),
        inference=InferenceSettings().to_dict(),
        classes=[str(i) for i in range(NUM_CLASSES)],
        palette=[[i, i, i] for i in range(NUM_CLASSES)],
    ).save(folder)
    return network, folder


@pytest.fixture(scope="session")
def export_tiny() -> Callable[..., tuple[nn.Layer, Path]]:
    """Return a function that exports the network into a folder; it returns both."""
    return _export
