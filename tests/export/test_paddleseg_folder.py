"""The folder for PaddleSeg's programs: its reader of `deploy.yaml` prepares images as we do.

PaddleX is not installed: its description is compared with what its predictor reads by name.
`test_paddle_programs.py` runs the programs themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
import yaml
from small_models import small_mit, spread

from paddleseg_segformer.cli import main
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export import export_model
from paddleseg_segformer.export.folder import _explicit
from paddleseg_segformer.export.paddleseg_folder import (
    PADDLEX_NAME,
    paddlex_name,
    write_paddleseg_folder,
)
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.models import BACKBONES, SegFormer, SegFormerMM
from paddleseg_segformer.runtimes.deploy_config import FIXTURE_FILES, DeployConfig
from paddleseg_segformer.runtimes.engine_network import EngineOptions, load_network

NORMALIZE = {"type": "Normalize", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
RULES = [
    {"type": "Resize", "target_size": [96, 64]},
    {"type": "Resize", "target_size": [96, 64], "keep_ratio": True, "size_divisor": 32},
    {"type": "ResizeByShort", "short_size": 48},
    {"type": "ResizeByLong", "long_size": 70},
    {"type": "LimitLong", "max_long": 64},
    {"type": "Padding", "target_size": [96, 96], "im_padding_value": 7},
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an export without size rules."""
    folder = tmp_path_factory.mktemp("exported") / "export"
    model = spread(SegFormer(5, small_mit(), 16))
    export_model(model, folder, output_op="argmax", is_verified=False)
    return folder


@pytest.fixture
def export(exported: Path) -> Callable[..., Path]:
    """Return a function that gives the export other transforms and settings."""

    def make(*sections: dict, settings: InferenceSettings | None = None) -> Path:
        preprocess = _explicit(Preprocess.from_transforms([*sections, NORMALIZE]))
        inference = (settings or InferenceSettings()).to_dict()
        deploy = DeployConfig.load(exported)
        replace(deploy, preprocess=preprocess, inference=inference).save(exported)
        return exported

    return make


@pytest.mark.parametrize("rules", [[], *([rule] for rule in RULES), RULES[2:]])
def test_paddlesegs_reader_gives_the_labels_of_ours(rules, export, tmp_path: Path) -> None:
    infer = pytest.importorskip("paddleseg.deploy.infer", reason="PaddleSeg is not installed")
    source = export(*rules)
    write_paddleseg_folder(source, tmp_path / "theirs", PADDLEX_NAME)
    config = infer.DeployConfig(str(tmp_path / "theirs" / "deploy.yaml"))
    image = np.random.default_rng(0).integers(0, 256, (59, 83, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "image.png"), image[:, :, ::-1])
    x = config.transforms({"img": str(tmp_path / "image.png")})["img"]
    preprocess = Preprocess.from_transforms([*rules, NORMALIZE])
    resized = preprocess.resize(image)[0].astype(np.float32)
    mean, std = np.float32(NORMALIZE["mean"]), np.float32(NORMALIZE["std"])
    np.testing.assert_allclose(x, ((resized / 255 - mean) / std).transpose(2, 0, 1), atol=1e-4)
    assert Path(config.params).is_file()
    labels = [
        paddle.jit.load(path.removesuffix(".json"))(paddle.to_tensor(x[None])).numpy()
        for path in (config.model, str(source / "model.json"))
    ]
    np.testing.assert_array_equal(*labels)


def test_paddlex_finds_what_its_predictor_reads(export, tmp_path: Path) -> None:
    files = write_paddleseg_folder(export(RULES[0]), tmp_path / "theirs", "SegFormer-B0")
    names = {"deploy.yaml", "inference.json", "inference.pdiparams", "inference.yml"}
    assert names == {path.name for path in files} - set(FIXTURE_FILES)
    content = yaml.safe_load((tmp_path / "theirs" / "inference.yml").read_text())
    assert content["Global"] == {"model_name": "SegFormer-B0"}
    # PaddleX's own defaults keep the ratio and round up to 32 px
    resize = {**RULES[0], "keep_ratio": False, "size_divisor": None, "interp": "LINEAR"}
    assert content["Deploy"]["transforms"] == [resize, NORMALIZE]
    files = write_paddleseg_folder(export(RULES[2]), tmp_path / "theirs", "SegFormer-B0")
    assert "inference.yml" not in [path.name for path in files]  # PaddleX would skip the rule


def test_probabilities_are_for_paddleseg_alone(export, tmp_path: Path) -> None:
    source = export()
    deploy = DeployConfig.load(source, check_files=False)
    output = replace(deploy.output, op="softmax", dtype="float32")
    replace(deploy, output=output).save(source)
    files = write_paddleseg_folder(source, tmp_path / "theirs", PADDLEX_NAME)
    deploy.save(source)
    assert "inference.yml" not in [path.name for path in files]
    content = yaml.safe_load((tmp_path / "theirs" / "deploy.yaml").read_text())
    assert content["Deploy"]["output_op"] == "softmax"


def test_our_readers_read_the_folder_too(export, tmp_path: Path) -> None:
    source = export()
    write_paddleseg_folder(source, tmp_path / "theirs", PADDLEX_NAME)
    x = np.random.default_rng(0).normal(size=(1, 3, 59, 83)).astype(np.float32)
    options = EngineOptions(backend="paddle", output_op="argmax")
    labels = [load_network(folder, options)(x) for folder in (source, tmp_path / "theirs")]
    np.testing.assert_array_equal(*labels)
    assert DeployConfig.load(tmp_path / "theirs").fixture == DeployConfig.load(source).fixture


@pytest.mark.usefixtures("zero_weights")
@pytest.mark.parametrize("variant", ["B0", "B1", "B5"])
def test_names_are_paddlexs(variant: str) -> None:
    backbone = BACKBONES[f"MixVisionTransformer_{variant}"]()
    assert paddlex_name(SegFormer(3, backbone, 8)) == f"SegFormer-{variant}"
    assert paddlex_name(SegFormerMM(3, backbone, 8)) == PADDLEX_NAME


def test_what_paddleseg_lacks_is_refused(export, exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="PaddleSeg has no transform AlignedResize"):
        write_paddleseg_folder(export({"type": "AlignedResize"}), tmp_path / "theirs", PADDLEX_NAME)
    padding = {"type": "Padding", "target_size": [96, 96], "im_padding_value": [1, 2, 3]}
    with pytest.raises(UserError, match="takes one im_padding_value"):
        write_paddleseg_folder(export(padding), tmp_path / "theirs", PADDLEX_NAME)
    flipped = export(settings=InferenceSettings(flip_horizontal=True))
    with pytest.raises(UserError, match="no windows, scales and flips"):
        write_paddleseg_folder(flipped, tmp_path / "theirs", PADDLEX_NAME)
    with pytest.raises(UserError, match="holds other files"):
        write_paddleseg_folder(export(), exported, PADDLEX_NAME)


def test_output_op_is_checked_before_the_export(tmp_path: Path, capsys) -> None:
    flags = ["--config", "segformer_b0_camvid_480x360", "--save_dir", str(tmp_path / "export")]
    assert main(["export", *flags, "--paddleseg_dir", str(tmp_path / "theirs")]) == 1
    assert "found --output_op none, expected argmax or softmax" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
