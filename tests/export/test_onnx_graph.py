"""ONNX and OpenVINO files as an export writes them."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn
from small_models import IS_PADDLE_2, small_segformer

from paddleseg_segformer.cli import main
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export import export_model, folder, onnx_graph, paddle_to_onnx
from paddleseg_segformer.export.epsilons import READERS, check_epsilons
from paddleseg_segformer.runtimes.deploy_config import ARTEFACT_FILES, DeployConfig
from paddleseg_segformer.runtimes.engine_network import load_network
from paddleseg_segformer.runtimes.engines import EngineOptions

pytestmark = pytest.mark.skipif(IS_PADDLE_2, reason="ONNX is made with Paddle 3")

FIXTURE = ("fixture.png", "fixture_labels.png")


@pytest.fixture(scope="module")
def onnx_alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Layer, Path, DeployConfig]:
    """Return a narrow SegFormer and its export as ONNX alone."""
    paddle.seed(3)
    model = small_segformer()
    model.eval()
    folder = tmp_path_factory.mktemp("onnx") / "out"
    return model, folder, export_model(model, folder, formats=["onnx"])


@pytest.mark.check
def test_onnx_alone(onnx_alone) -> None:
    _, save_dir, deploy = onnx_alone
    names = ["deploy.yaml", *FIXTURE, "model.onnx"]
    assert sorted(path.name for path in save_dir.iterdir()) == names
    engines = [item.engine for item in deploy.artefacts["onnx"].verified]
    assert [name.split(" ")[0] for name in engines] == ["OpenVINO", "ONNX"]
    assert set(deploy.made_with) == {"paddleseg_segformer", "paddlepaddle", "onnx"}
    assert deploy.artefacts["onnx"].verified[0].layer_norm_epsilons == {"1e-05": 7, "1e-06": 12}
    assert load_network(save_dir, EngineOptions(device="cpu")).name == "openvino"


def test_onnx_file_describes_itself(onnx_alone) -> None:
    model = onnx.load(onnx_alone[1] / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    versions = {item.domain: item.version for item in model.opset_import}
    assert versions == {"": 17, "com.microsoft": 1}
    assert model.producer_name == "paddleseg_segformer"
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "x": ["batch", 3, "height", "width"],
        "logits": ["batch", 5, "output_height", "output_width"],
    }


def test_attention_is_one_operator_or_standard_ones(onnx_alone, rounding, tmp_path) -> None:
    model, save_dir, _ = onnx_alone
    standard = tmp_path / "out"
    export_model(model, standard, formats=["onnx"], is_standard_onnx=True, is_verified=False)
    kinds = {}
    for name, path in (("fused", save_dir), ("standard", standard)):
        graph = onnx.load(path / "model.onnx")
        kinds[name] = Counter(node.op_type for node in graph.graph.node)
    assert kinds["fused"]["MultiHeadAttention"] == kinds["standard"]["Softmax"] == 4
    assert kinds["fused"]["Softmax"] == kinds["standard"]["MultiHeadAttention"] == 0
    assert [(item.domain, item.version) for item in graph.opset_import] == [("", 17)]
    for backend in ("onnxruntime", "openvino"):
        networks = [
            load_network(path, EngineOptions(backend, "cpu")) for path in (save_dir, standard)
        ]
        for shape in ([2, 3, 64, 96], [1, 3, 97, 131]):
            x = paddle.randn(shape)
            found, expected = (network(x).numpy() for network in networks)
            assert np.abs(found - expected).max() <= rounding(model, x)


@pytest.mark.parametrize(
    ("output_op", "input_shape", "name"),
    [("argmax", None, "labels"), ("softmax", [2, 3, 45, 64], "probabilities")],
)
def test_output_at_the_input_size(small_model, tmp_path, output_op, input_shape, name) -> None:
    model = small_model("SegFormerMM")
    export_model(
        model,
        tmp_path / "out",
        output_op=output_op,
        input_shape=input_shape,
        formats=["onnx"],
        is_verified=False,
    )
    x = paddle.randn([2, 3, 45, 64])
    with paddle.no_grad():
        logits = F.interpolate(model(x), size=[45, 64], mode="bilinear")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    assert [item.name for item in session.get_outputs()] == [name]
    for backend in ("onnxruntime", "openvino"):
        found = load_network(tmp_path / "out", EngineOptions(backend, "cpu", output_op=output_op))(
            x
        ).numpy()
        if output_op == "argmax":
            assert found.dtype == np.int32
            assert (found == logits.argmax(axis=1).numpy()).mean() > 0.9999
        else:
            np.testing.assert_allclose(found, F.softmax(logits, axis=1).numpy(), atol=1e-5)


def test_wrong_epsilons_are_noticed(onnx_alone, tmp_path) -> None:
    model, save_dir, _ = onnx_alone
    damaged = onnx.load(save_dir / "model.onnx")
    node = next(n for n in damaged.graph.node if n.op_type == "LayerNormalization")
    next(a for a in node.attribute if a.name == "epsilon").f = 1e-3
    onnx.save(damaged, tmp_path / "model.onnx")
    with pytest.raises(
        UserError, match=r"epsilons of the saved graph are .*'0.001': 1.* in model.onnx"
    ):
        check_epsilons(model, tmp_path, "onnx")


def test_openvino_epsilons_are_read(onnx_alone, tmp_path) -> None:
    model, save_dir, _ = onnx_alone
    onnx_graph.save_openvino(save_dir / "model.onnx", tmp_path / "openvino_model.xml")
    assert check_epsilons(model, tmp_path, "openvino") == check_epsilons(model, save_dir, "onnx")
    text = (tmp_path / "openvino_model.xml").read_text()
    assert str(save_dir) not in text
    epsilon = next(READERS["openvino"](tmp_path / "openvino_model.xml"))
    assert epsilon == pytest.approx(1e-5)


def test_failed_conversion_is_one_line_and_leaves_nothing(
    onnx_alone, tmp_path, monkeypatch
) -> None:
    monkeypatch.delitem(paddle_to_onnx.WRITERS, "gelu")
    with pytest.raises(UserError, match="^Paddle's operator gelu in .*cannot be written as ONNX"):
        export_model(onnx_alone[0], tmp_path / "out", formats=["onnx"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("formats", [[], ["onxx"], ["paddle", "tensorrt"]])
def test_unknown_formats_are_refused(onnx_alone, tmp_path, formats) -> None:
    with pytest.raises(UserError, match="format: found"):
        export_model(onnx_alone[0], tmp_path / "out", formats=formats)


def test_missing_converter_is_one_line_before_any_work(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    flags = ["--config", "segformer_b0_camvid_480x360", "--save_dir", str(tmp_path / "out")]
    assert main(["export", *flags, "--format", "paddle,onnx"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: onnx is not installed. Run: pip install ")
    assert not list(tmp_path.iterdir())


def test_formats_of_an_earlier_export_are_gone(onnx_alone, tmp_path, monkeypatch) -> None:
    def write(model: nn.Layer, path: Path, formats: list[str], *arguments: object) -> None:
        for name in (name for format in formats for name in ARTEFACT_FILES[format]):
            (path / name).write_bytes(b"")

    monkeypatch.setattr(folder, "_save_artefacts", write)
    model, save_dir = onnx_alone[0], tmp_path / "out"
    export_model(model, save_dir, formats=["openvino"], is_verified=False)
    names = ["deploy.yaml", *FIXTURE, "openvino_model.bin", "openvino_model.xml"]
    assert sorted(path.name for path in save_dir.iterdir()) == names
    export_model(model, save_dir, is_verified=False)
    names = ["deploy.yaml", *FIXTURE, "model.json", "model.pdiparams"]
    assert sorted(path.name for path in save_dir.iterdir()) == names
    assert list(DeployConfig.load(save_dir).artefacts) == ["paddle"]
