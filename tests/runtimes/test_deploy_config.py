from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.runtimes.deploy_config import (
    Artefact,
    DeployConfig,
    InputSpec,
    ModelFile,
    OutputSpec,
    Verification,
)

pytestmark = pytest.mark.check

FILES = ("model.json", "model.pdiparams")
VERIFIED = [Verification("Paddle Inference 3.3.1, cpu", [[1, 3, 64, 64]], 1.0, 1e-6, 2.0)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.json").write_text("{}")
    (tmp_path / "model.pdiparams").write_bytes(bytes(100))
    config = DeployConfig(
        made_with={"paddlepaddle": "3.3.1"},
        artefacts={"paddle": Artefact([ModelFile.of(tmp_path / name) for name in FILES], VERIFIED)},
        input=InputSpec([-1, 3, -1, -1], min_side_px=29),
        output=OutputSpec("none", stride=4, num_classes=2, dtype="float32"),
        preprocess={"transforms": [{"type": "Normalize", "mean": [0.5], "std": [0.25]}]},
        inference=InferenceSettings(is_slide=True, crop_size_hw=(64, 32)).to_dict(),
        classes=["Straße", "no"],
        palette=[[1, 2, 3], [4, 5, 6]],
    )
    config.save(tmp_path)
    return tmp_path


def edit(folder: Path, key: str, value: object) -> None:
    """Set one value of deploy.yaml; None removes the key."""
    path = folder / "deploy.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    section = content
    *parents, last = key.split(".")
    for parent in parents:
        section = section[parent]
    if value is None:
        del section[last]
    else:
        section[last] = value
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def test_saved_config_is_loaded_equal(folder) -> None:
    config = DeployConfig.load(folder)
    assert config == DeployConfig.load(folder / "deploy.yaml")
    assert config.input.num_channels == 3
    assert config.artefacts["paddle"].verified[0].input_shapes == [[1, 3, 64, 64]]
    assert InferenceSettings.from_dict(config.inference).stride_hw == (64, 32)
    before = (folder / "deploy.yaml").read_bytes()
    assert "Straße" in before.decode()
    config.save(folder)
    assert (folder / "deploy.yaml").read_bytes() == before


def test_label_set(folder) -> None:
    label_set = DeployConfig.load(folder).label_set
    assert label_set.classes == ("Straße", "no")
    np.testing.assert_array_equal(label_set.colors[1], [4, 5, 6])


@pytest.mark.parametrize("is_verified", [True, False])
def test_format_1_is_read(folder, is_verified) -> None:
    new = DeployConfig.load(folder)
    path = folder / "deploy.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    artefact = content.pop("artefacts")["paddle"]
    content |= dict(zip(("program", "weights"), artefact["files"], strict=True), format=1)
    if is_verified:
        content["verified"] = artefact["verified"][0]
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    old = DeployConfig.load(folder)
    assert old.artefacts["paddle"].verified == (VERIFIED if is_verified else [])
    assert dataclasses.replace(old, artefacts=new.artefacts) == new
    del content["weights"]
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(UserError, match="files: found 1, expected model.json and model.pdiparams"):
        DeployConfig.load(folder)


def test_format_2_is_read(folder) -> None:
    new = DeployConfig.load(folder)
    edit(folder, "format", 2)
    edit(folder, "fixture", None)
    for key in ("precision", "quality"):
        edit(folder, f"artefacts.paddle.{key}", None)
    assert DeployConfig.load(folder) == new


def test_value_range_raises_the_format(folder) -> None:
    path = folder / "deploy.yaml"
    assert "format: 3\n" in path.read_text() and "value_range" not in path.read_text()
    plain = DeployConfig.load(folder)
    preprocess = plain.preprocess | {"value_range": [0, 4095]}
    dataclasses.replace(plain, preprocess=preprocess).save(folder)
    assert "format: 4\n" in path.read_text() and "  value_range: [0, 4095]\n" in path.read_text()
    assert DeployConfig.load(folder).preprocess == preprocess


def test_aligned_corners_raise_the_format(folder) -> None:
    path = folder / "deploy.yaml"
    assert "align_corners" not in path.read_text()
    plain = DeployConfig.load(folder)
    inference = InferenceSettings(align_corners=True).to_dict()
    dataclasses.replace(plain, inference=inference).save(folder)
    assert "format: 5\n" in path.read_text() and "  align_corners: true\n" in path.read_text()
    assert DeployConfig.load(folder).inference == inference


def test_temperatures_raise_the_format(folder) -> None:
    path = folder / "deploy.yaml"
    plain = DeployConfig.load(folder)
    inference = InferenceSettings(temperatures=(0.5, 2.0), align_corners=True).to_dict()
    dataclasses.replace(plain, inference=inference).save(folder)
    assert "format: 6\n" in path.read_text() and "temperatures: [0.5, 2.0]\n" in path.read_text()
    read = DeployConfig.load(folder)
    assert InferenceSettings.from_dict(read.inference).temperatures == (0.5, 2.0)


def test_blending_raises_the_format(folder) -> None:
    plain = DeployConfig.load(folder)
    assert "blend" not in (folder / "deploy.yaml").read_text()
    dataclasses.replace(plain, inference=InferenceSettings(blend="cosine").to_dict()).save(folder)
    assert "format: 7\n" in (folder / "deploy.yaml").read_text()
    assert InferenceSettings.from_dict(DeployConfig.load(folder).inference).blend == "cosine"


def test_precision_and_quality_of_an_artefact(folder) -> None:
    quality = {"mean_iou": 0.7, "drop": [0.001, 2], "images": {"calibration": 3}}
    edit(folder, "artefacts.paddle.precision", "int8")
    edit(folder, "artefacts.paddle.quality", quality)
    artefact = DeployConfig.load(folder).artefacts["paddle"]
    assert (artefact.precision, artefact.quality) == ("int8", quality)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 8, "format 8, but this version reads formats 1 to 7"),
        ("inference.temperatures", [1, 2, 3], "temperatures: found 3, expected 1, or one for each"),
        ("inference.temperatures", [0], r"temperatures: found \[0\], expected numbers above 0"),
        ("artefacts", None, "no key 'artefacts'"),
        ("artefacts", {}, "artefacts: found none"),
        ("artefacts", {"onx": {"files": []}}, "unknown key 'onx'. Did you mean 'onnx'"),
        ("artefacts.paddle.files", [], "found 0, expected model.json and model.pdiparams"),
        (
            "artefacts.onnx",
            {"files": [{"name": "../model.onnx", "sha256": ""}]},
            "found '../model.onnx', expected a file beside deploy.yaml",
        ),
        (
            "fixture",
            {"image": {"name": "a.png", "sha256": ""}},
            "no key 'fixture.labels', which is needed",
        ),
        (
            "fixture",
            {key: {"name": "a.png", "sha256": ""} for key in ("image", "labels")}
            | {"min_agreement": 1.5},
            "min_agreement: found 1.5, expected a share above 0, up to 1",
        ),
        ("format", None, "not a deploy.yaml of this package"),
        ("classes", None, "no key 'classes'"),
        ("clases", [], "unknown key 'clases'. Did you mean 'classes'"),
        ("output.strid", 4, "unknown key 'output.strid'. Did you mean 'stride'"),
        ("output.stride", "4", "output.stride: found '4', expected int"),
        ("output.stride", True, "output.stride: found True, expected int"),
        ("output.op", "max", "output.op: found 'max', expected none or argmax or softmax"),
        ("output", [1], r"output: found \[1\], expected OutputSpec"),
        ("input.shape", [3, 64, 64], r"input.shape: found \[3, 64, 64\]"),
        ("input.shape", [-1, -1, 64, 64], "input.shape"),
        ("input.channel_order", "BGR", "found 'BGR', expected RGB"),
        ("classes", ["a"], "classes: found 1 entries, but output.num_classes is 2"),
        ("palette", [[0, 0], [0, 0]], "palette: expected three numbers"),
        ("palette", [[0, 0, 256], [0, 0, 0]], "palette: expected three numbers in 0..255"),
        ("preprocess", {"transforms": [{"type": "Crop"}]}, "'Crop' cannot be undone"),
        ("preprocess.value_range", [4095, 0], r"value_range: found LOW, HIGH \[4095, 0\]"),
        ("inference.is_slid", True, "unknown key 'is_slid'"),
    ],
)
def test_wrong_content_is_refused(folder, key, value, message) -> None:
    edit(folder, key, value)
    with pytest.raises(UserError, match=f"deploy.yaml: .*{message}"):
        DeployConfig.load(folder)


def test_text_that_is_no_yaml_is_refused(folder) -> None:
    (folder / "deploy.yaml").write_text("a: [")
    with pytest.raises(UserError, match="not valid YAML"):
        DeployConfig.load(folder)


def test_missing_export_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="deploy.yaml: no such file. Name the folder"):
        DeployConfig.load(tmp_path)


@pytest.mark.parametrize("name", ["model.json", "model.pdiparams"])
def test_damaged_and_missing_files_are_noticed(folder, name) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])
    with pytest.raises(UserError, match=f"{name}: the file is damaged or was replaced"):
        DeployConfig.load(folder)
    assert DeployConfig.load(folder, check_files=False).output.stride == 4
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}: no such file"):
        DeployConfig.load(folder)
