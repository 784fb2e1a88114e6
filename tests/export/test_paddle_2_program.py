"""Exports as Paddle 2 writes them, `model.pdmodel`; Paddle 3 does so on request, for few layers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from paddleseg_segformer import Predictor
from paddleseg_segformer.runtimes.deploy_config import DeployConfig

WRITE = """
import json, sys
from pathlib import Path

import numpy as np
import paddle

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export import export_model
from paddleseg_segformer.export.paddleseg_folder import write_paddleseg_folder

class Network(paddle.nn.Layer):
    in_channels, num_classes, logits_stride, min_input_px = 3, 4, 1, 1

    def __init__(self):
        super().__init__()
        self.norm = paddle.nn.LayerNorm(3, epsilon=1e-3)
        self.conv = paddle.nn.Conv2D(3, 4, 1)

    def forward(self, x):
        return self.conv(self.norm(x.transpose([0, 2, 3, 1])).transpose([0, 3, 1, 2]))

root = Path(sys.argv[1])
paddle.seed(0)
network = Network()
export_model(network, root / "none")
export_model(network, root / "softmax", output_op="softmax")
write_paddleseg_folder(root / "softmax", root / "theirs", "SegFormer-B0")
np.savez(root / "weights.npz", weight=network.conv.weight.numpy(), bias=network.conv.bias.numpy())
try:
    export_model(network, root / "onnx", formats=["onnx"])
except UserError as error:
    print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the folder of three exports, and what was said of a fourth, as ONNX."""
    root = tmp_path_factory.mktemp("paddle-2")
    (root / "write.py").write_text(WRITE)  # Paddle reads the source of what it makes a graph of
    run = subprocess.run(
        [sys.executable, root / "write.py", root],
        env=os.environ | {"FLAGS_enable_pir_api": "0", "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        capture_output=True,
        text=True,
    )
    return root, json.loads(run.stdout.splitlines()[-1])


def test_folder_holds_the_program_and_is_verified(written) -> None:
    folder = written[0] / "none"
    names = ["deploy.yaml", "fixture.png", "fixture_labels.png", "model.pdiparams", "model.pdmodel"]
    assert sorted(path.name for path in folder.iterdir()) == names
    [verified] = DeployConfig.load(folder).artefacts["paddle"].verified
    assert verified.engine == f"Paddle Inference {paddle.__version__}, cpu"
    assert verified.layer_norm_epsilons == {"0.001": 1}


def test_labels_are_those_of_the_layers(written, tmp_path: Path) -> None:
    root, _ = written
    pixels = np.random.default_rng(1).integers(0, 256, (9, 12, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    x = pixels.astype(np.float64)
    normed = (x - x.mean(2, keepdims=True)) / np.sqrt(x.var(2, keepdims=True) + 1e-3)
    conv = np.load(root / "weights.npz")
    logits = normed @ conv["weight"][:, :, 0, 0].T + conv["bias"]
    for name in ("none", "softmax", "theirs"):
        label = Predictor.from_export(root / name)(tmp_path / "image.png").label
        np.testing.assert_array_equal(label, logits.argmax(2))
    assert {"inference.pdmodel", "inference.pdiparams"} < {
        p.name for p in (root / "theirs").iterdir()
    }


def test_onnx_is_refused(written) -> None:
    root, message = written
    assert message.startswith("format: found model.pdmodel, as Paddle")
    assert message.endswith("with Paddle 3: pip install 'paddlepaddle>=3.0'")
    assert not (root / "onnx").exists()
