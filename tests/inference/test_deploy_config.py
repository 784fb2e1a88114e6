from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import yaml

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.deploy_config import (
    DeployConfig,
    InputSpec,
    ModelFile,
    OutputSpec,
    Verification,
)
from paddleseg_segformer.inference.settings import InferenceSettings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.json").write_text("{}")
    (tmp_path / "model.pdiparams").write_bytes(bytes(100))
    config = DeployConfig(
        made_with={"paddlepaddle": "3.3.1"},
        program=ModelFile.of(tmp_path / "model.json"),
        weights=ModelFile.of(tmp_path / "model.pdiparams"),
        input=InputSpec([-1, 3, -1, -1], min_side_px=29),
        output=OutputSpec("none", stride=4, num_classes=2, dtype="float32"),
        preprocess={"transforms": [{"type": "Normalize", "mean": [0.5], "std": [0.25]}]},
        inference=InferenceSettings(is_slide=True, crop_size_hw=(64, 32)).to_dict(),
        classes=["Straße", "no"],
        palette=[[1, 2, 3], [4, 5, 6]],
        verified=Verification("Paddle Inference 3.3.1, cpu", [[1, 3, 64, 64]], 1.0, 1e-6, 2.0),
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
    assert config.verified.input_shapes == [[1, 3, 64, 64]]
    assert InferenceSettings.from_dict(config.inference).stride_hw == (64, 32)
    before = (folder / "deploy.yaml").read_bytes()
    assert "Straße" in before.decode()
    config.save(folder)
    assert (folder / "deploy.yaml").read_bytes() == before


def test_label_set(folder) -> None:
    label_set = DeployConfig.load(folder).label_set
    assert label_set.classes == ("Straße", "no")
    np.testing.assert_array_equal(label_set.colors[1], [4, 5, 6])


def test_unverified_export_has_no_report(folder) -> None:
    dataclasses.replace(DeployConfig.load(folder), verified=None).save(folder)
    assert "verified" not in (folder / "deploy.yaml").read_text()
    assert DeployConfig.load(folder).verified is None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 2, "format 2, but this version reads format 1"),
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
