"""Random models of peers that are installed for the test: their files here, and ours there.

Each peer runs in a process of its own, with its packages in a folder of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import pytest
from random_weights import relative_difference

from paddleseg_segformer import Predictor
from paddleseg_segformer.converting import prepare, write
from paddleseg_segformer.huggingface import SegformerImageProcessor
from paddleseg_segformer.huggingface.outputs import LogitsOutput

pytestmark = pytest.mark.slow
pytest.importorskip("torch")

HERE = Path(__file__).resolve().parent
PACKAGES = {  # without their dependencies, most of which these models do not use
    "transformers4": ["transformers==4.57.1", "huggingface_hub<1", "tokenizers>=0.22,<0.23.1"],
    "smp": ["segmentation-models-pytorch", "timm", "torchvision==0.28.0"],
    "mmseg": [
        *("mmsegmentation==1.2.2", "mmcv-lite==2.1.0", "mmengine==0.10.4"),
        *("addict", "yapf", "rich", "termcolor", "prettytable", "wcwidth", "platformdirs", "ftfy"),
        *("pygments", "markdown-it-py", "mdurl"),
    ],
}
SIZES_HW = {
    "transformers4": [(64, 64), (97, 131), (512, 512)],
    "smp": [(64, 64), (128, 160)],  # its head takes multiples of 32
    "mmseg": [(64, 64), (97, 131), (128, 160)],
}
THEIRS = {"transformers4": "theirs", "smp": "theirs.pth", "mmseg": "theirs.pth"}
OURS = {"transformers4": ("hf", "ours"), "smp": ("smp", "ours.pth"), "mmseg": ("mmseg", "ours.pth")}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the folder of a peer's packages."""
    folders: dict[str, Path] = {}

    def folder_of(peer: str) -> Path:
        if peer not in folders:
            folders[peer] = tmp_path_factory.mktemp(peer)
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
            command += ["--target", str(folders[peer]), *PACKAGES[peer]]
            subprocess.run(command, check=True)
        return folders[peer]

    return folder_of


def run_peer(peer: str, packages: Path, job: str, folder: Path, variant: str) -> dict:
    """Run a peer's job; return its outputs."""
    run_script(f"{peer}_peer.py", packages, folder, job, folder, variant)
    return dict(np.load(folder / f"{job}.npz"))


def run_script(name: str, packages: Path, folder: Path, *arguments: str | Path) -> None:
    """Run a script of `peers` with a peer's packages in the way."""
    path = os.pathsep.join(map(str, (packages, HERE / "peers", HERE)))
    done = subprocess.run(
        [sys.executable, HERE / "peers" / name, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("variant", ["B0", "B2"])
@pytest.mark.parametrize("peer", PACKAGES)
def test_outputs_are_theirs_both_ways(
    peer: str, variant: str, installed: Callable[[str], Path], tmp_path: Path, capsys
) -> None:
    rng = np.random.default_rng(0)
    inputs = {f"{h}x{w}": rng.standard_normal((1, 3, h, w), np.float32) for h, w in SIZES_HW[peer]}
    np.savez(tmp_path / "inputs.npz", **inputs)
    expected = run_peer(peer, installed(peer), "write", tmp_path, variant)
    predictor = Predictor.from_pretrained(tmp_path / THEIRS[peer])
    network = predictor.pipeline.network
    if peer == "mmseg":
        assert predictor.label_set.classes == tuple(f"kind {index}" for index in range(19))
        assert predictor.label_set.palette[3] == (3, 6, 252)
    differences = {}
    with paddle.no_grad():
        for size, x in inputs.items():
            features = network.backbone(paddle.to_tensor(x))
            found = {f"c{stage}": item for stage, item in enumerate(features, start=1)}
            found["logits"] = network(paddle.to_tensor(x))
            for name in (key for key in found if f"{size} {key}" in expected):
                key = f"{size} {name}"
                differences[key] = relative_difference(found[name].numpy(), expected[key])
    with capsys.disabled():
        print(f"\n{peer} {variant}: {max(differences.values()):.1e}")
    assert {key for key, value in differences.items() if not value < 1e-5} == set()
    assert len(differences) == len(expected)
    format, name = OURS[peer]
    write(prepare(tmp_path / THEIRS[peer], format), tmp_path / name)
    back = run_peer(peer, installed(peer), "read", tmp_path, variant)
    for key, value in back.items():
        np.testing.assert_array_equal(value, expected[key])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"size": {"height": 70, "width": 33}, "resample": 3, "do_reduce_labels": True},
        {"do_resize": False, "image_mean": [0.5, 0.4, 0.3], "rescale_factor": 1 / 127.5},
    ],
)
def test_image_processor_of_version_4(
    settings: dict, installed: Callable[[str], Path], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (97, 131, 3), dtype=np.uint8)
    label = rng.integers(0, 256, (97, 131), dtype=np.uint8)
    logits = rng.standard_normal((1, 19, 16, 24), np.float32)
    inputs = {"image": image, "label": label, "logits": logits, "target_size": (131, 77)}
    np.savez(tmp_path / "inputs.npz", **inputs)
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    script = "transformers4_processor.py"
    run_script(script, installed("transformers4"), tmp_path, tmp_path)
    expected = np.load(tmp_path / "outputs.npz")
    processor = SegformerImageProcessor(**settings)
    found = processor(image, label, return_tensors="np")
    np.testing.assert_allclose(found["pixel_values"], expected["pixel_values"], atol=2e-6)
    np.testing.assert_array_equal(found["labels"], expected["labels"])
    outputs = LogitsOutput(logits=paddle.to_tensor(logits))
    (own,) = processor.post_process_semantic_segmentation(outputs, [(131, 77)])
    assert (own.numpy() != expected["map"]).mean() < 2e-4
