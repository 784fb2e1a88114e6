"""Training for INT8: whole runs, what they leave, and the export that computes as they did."""

from __future__ import annotations

import shutil

import numpy as np
import paddle
import pytest
from small_runs import assert_equal_weights, train, weights

from paddleseg_segformer.cli import main
from paddleseg_segformer.config import load_config
from paddleseg_segformer.data.io import read_image
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.model_folder import load_model
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.runtimes.deploy_config import DeployConfig
from paddleseg_segformer.runtimes.engine_network import load_network
from paddleseg_segformer.runtimes.engines import EngineOptions

QAT = "qat={}"


@pytest.fixture
def trained(folder):
    """Train in float, then for INT8 from these weights; return the runs' folder."""
    assert train(folder, "float") == 0
    start = f"model.pretrained={folder / 'float' / 'iter_6' / 'model.pdparams'}"
    assert train(folder, "int8", "--do_eval", "--opts", QAT, start) == 0
    return folder


@pytest.mark.check
def test_run_for_int8_resumes_bit_for_bit(folder) -> None:
    flags = ("--save_interval", "2", "--use_ema", "--opts", QAT)
    assert train(folder, "whole", *flags) == 0
    assert train(folder, "parts", *flags) == 0
    shutil.rmtree(folder / "parts" / "iter_6")
    shutil.rmtree(folder / "parts" / "iter_4")
    assert train(folder, "parts", *flags, "--resume_model", "auto") == 0
    assert_equal_weights(folder, "whole", "parts", "iter_6")
    ranges = weights(folder, "whole", "iter_6")["quantizers.ranges"]
    assert (ranges[:, 1] > ranges[:, 0]).all()


def test_weights_keep_their_names_and_say_what_they_are_of(trained, capsys) -> None:
    before, after = (weights(trained, out, "iter_6") for out in ("float", "int8"))
    assert after.keys() - before.keys() == {"quantizers.ranges"} and before.keys() < after.keys()
    image = read_image(trained / "val0.png", 3)
    one, other = (Predictor.from_pretrained(trained / out / "iter_6") for out in ("float", "int8"))
    assert one(image).label.shape == other(image).label.shape
    config = str(trained / "tiny.yml")
    path = str(trained / "int8" / "iter_6" / "model.pdparams")
    capsys.readouterr()
    assert main(["val", "--config", config, "--model_path", path]) == 1  # without qat: not these
    assert "quantizers.ranges" in capsys.readouterr().err


def test_export_computes_as_training_did(trained) -> None:
    pytest.importorskip("nncf")
    out = trained / "export"
    arguments = ["--model_path", str(trained / "int8" / "iter_6"), "--save_dir", str(out)]
    flags = ["--format", "onnx,int8", "--allow_int8_loss", "--gate_images", "2"]
    assert main(["export", *arguments, *flags]) == 0
    model = load_model(trained / "int8" / "iter_6")
    quality = DeployConfig.load(out).artefacts["int8"].quality
    assert quality["learnt_ranges"] == len(model.quantizers.ranges)
    assert "calibration_images" not in quality
    x = paddle.randn([1, 3, 40, 56])
    with paddle.no_grad():
        expected = model(x)
        model.quantizers = None
        unrounded = model(x)
    std = float(expected.std())
    for precision, near, far in (("int8", expected, unrounded), ("fp32", unrounded, expected)):
        found = load_network(out, EngineOptions("openvino", precision=precision))(x)
        errors = [float((found - logits).square().mean().sqrt()) / std for logits in (near, far)]
        assert errors[0] < 0.01 and errors[0] < errors[1] / 2, (precision, errors)


def test_export_before_training_is_refused(folder, capsys) -> None:
    pytest.importorskip("nncf")
    flags = ["--format", "int8", "--save_dir", str(folder / "export"), "--opts", QAT]
    assert main(["export", "--config", str(folder / "tiny.yml"), *flags]) == 1
    assert "qat: the model has no ranges of its inputs yet" in capsys.readouterr().err
    assert not (folder / "export").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("qat={moving_rate: 1.0}", "qat.moving_rate: found 1.0, expected a number in"),
        ("qat={bits: 4}", "unknown key 'qat.bits'"),
    ],
)
def test_wrong_section_is_refused(folder, override, message) -> None:
    with pytest.raises(UserError, match=message):
        load_config(folder / "tiny.yml", [override])


def test_static_training_is_refused(folder, capsys) -> None:
    assert train(folder, "out", "--to_static_training", "--opts", QAT) == 1
    assert "qat: trains in dygraph and float32" in capsys.readouterr().err
    assert np.all([not path.name.startswith("iter") for path in (folder / "out").iterdir()])
