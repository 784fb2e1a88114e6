"""SegFormer of B0's width with both heads: every engine against dygraph."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from small_models import IS_PADDLE_2, small_segformer

from paddleseg_segformer.cli import main
from paddleseg_segformer.data.io import read_label
from paddleseg_segformer.export import export_model
from paddleseg_segformer.inference.overlay import write_image
from paddleseg_segformer.inference.pipeline import predict_label
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.models import BACKBONES, SegFormer, SegFormerMM
from paddleseg_segformer.models.folding import HEAD_WIDTH
from paddleseg_segformer.runtimes.engine_network import load_network
from paddleseg_segformer.runtimes.engines import ENGINES, EngineOptions
from paddleseg_segformer.street_scenes.dataset import render_scene

pytestmark = pytest.mark.skipif(IS_PADDLE_2, reason="ONNX is made with Paddle 3")

INFER = Path(__file__).resolve().parents[2] / "deploy" / "python" / "infer.py"
WAYS = {
    "whole": InferenceSettings(),
    "slide and flip": InferenceSettings(
        is_slide=True, crop_size_hw=(64, 72), stride_hw=(40, 48), flip_horizontal=True
    ),
}


@pytest.fixture(scope="module", params=[SegFormer, SegFormerMM])
def exported_everywhere(request, spread_out, tmp_path_factory):
    """Return a model of B0's width with weights that matter, and its export in every format."""
    paddle.seed(21)  # with labels of many classes
    # two blocks in the first stage, for what stands between blocks
    model = spread_out(request.param(19, BACKBONES["MixVisionTransformer_B0"](depths=(2, 1, 1, 1))))
    folder = tmp_path_factory.mktemp("everywhere") / "out"
    deploy = export_model(
        model,
        folder,
        preprocess=Preprocess.from_transforms([{"type": "Normalize"}]),
        formats=("paddle", "onnx", "openvino"),
        is_verified=request.param is SegFormer,
    )
    return model, folder, deploy


@pytest.mark.parametrize("backend", ENGINES)
def test_logits_and_labels_equal_those_of_the_model(exported_everywhere, rounding, backend) -> None:
    model, folder, deploy = exported_everywhere
    network = load_network(folder, EngineOptions(backend, "cpu", threads=2))
    for shape in ((1, 3, 64, 64), (2, 3, 97, 131), (1, 3, 29, 33), (2, 3, 97, 131)):
        x = paddle.randn(shape)
        with paddle.no_grad():
            expected = model(x).numpy()
        found = network(x).numpy()
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= rounding(model, x)
    image, _ = render_scene(3, (133, 201))
    preprocess = Preprocess.from_dict(deploy.preprocess)
    for settings in WAYS.values():
        expected = predict_label(model, image, preprocess, settings)
        assert len(np.unique(expected)) > 4
        found = predict_label(network, image, preprocess, settings)
        assert (found == expected).mean() >= 0.9999


@pytest.fixture(scope="module")
def merged(spread_out, tmp_path_factory):
    """Return a narrow SegFormer with merged queries, and its export in every format."""
    paddle.seed(5)
    model = spread_out(small_segformer(depths=(2, 1, 1, 1), merge=(2, 3, 2, 2)))
    folder = tmp_path_factory.mktemp("merged") / "out"
    preprocess = Preprocess.from_transforms([{"type": "Normalize"}])
    export_model(model, folder, preprocess=preprocess, formats=("paddle", "onnx", "openvino"))
    return model, folder


@pytest.mark.parametrize("backend", ENGINES)
def test_merged_queries_are_exported(merged, rounding, backend) -> None:
    model, folder = merged
    network = load_network(folder, EngineOptions(backend, "cpu", threads=2))
    for shape in ((1, 3, 64, 64), (2, 3, 97, 131), (1, 3, 29, 33)):
        x = paddle.randn(shape)
        with paddle.no_grad():
            expected = model(x).numpy()
        assert np.abs(network(x).numpy() - expected).max() <= rounding(model, x)


@pytest.mark.parametrize("exported_everywhere", [SegFormer], indirect=True)
def test_report_names_every_engine(exported_everywhere) -> None:
    _, _, deploy = exported_everywhere
    reports = {name: artefact.verified for name, artefact in deploy.artefacts.items()}
    assert {name: [item.engine.split(" ")[0] for item in reports[name]] for name in reports} == {
        "paddle": ["Paddle"],
        "onnx": ["ONNX"],
        "openvino": ["OpenVINO"],
    }
    for [report] in reports.values():
        assert report.input_shapes == [[2, 3, 64, 64], [1, 3, 97, 131], [1, 3, 29, 33]]
        assert report.label_agreement > 0.9999
        assert 0 < report.max_abs_difference < 1e-4
        assert report.layer_norm_epsilons == {"1e-05": 8, "1e-06": 14}


def _openvino_operators(folder: Path) -> list[dict[str, str]]:
    """Return what a network for one shape is compiled to."""
    network = load_network(folder, EngineOptions("openvino", "cpu"))
    x = paddle.zeros([1, 3, 64, 96])
    network(x)
    network(x)  # compiled for this shape
    [compiled] = network._compiled.values()
    graph = compiled.network.get_runtime_model()
    return [
        {key: value.astype(str) for key, value in operator.get_rt_info().items()}
        for operator in graph.get_ops()
    ]


def test_openvino_adds_while_it_convolves_and_copies_no_map(exported_everywhere) -> None:
    operators = _openvino_operators(exported_everywhere[1])
    # channels stay last: no map is copied to change that
    assert not [
        operator
        for operator in operators
        if operator["layerType"] == "Transpose" and operator["outputLayouts"] == "acdb"
    ]
    # each part of the head: its largest map's convolution adds the others and applies ReLU
    summing = [
        operator
        for operator in operators
        if operator["layerType"] == "Convolution"
        and "Relu" in operator["originalLayersNames"]
        and "Add" in operator["originalLayersNames"]
    ]
    assert len(summing) == 256 // HEAD_WIDTH


def test_openvino_fuses_attention(exported_everywhere) -> None:
    operators = _openvino_operators(exported_everywhere[1])
    kinds = {operator["layerType"] for operator in operators}
    has_avx512 = any("avx512" in operator["primitiveType"] for operator in operators)
    if not has_avx512 and {"MatMul", "Softmax"} <= kinds:  # with AVX2 it depends on the version
        pytest.skip("without AVX-512 this OpenVINO leaves attention in pieces")
    assert "Subgraph" in kinds
    assert not {"MatMul", "Softmax"} & kinds


def test_commands_take_a_backend(exported_everywhere, tmp_path, monkeypatch, capsys) -> None:
    model, folder, deploy = exported_everywhere
    backend = "onnxruntime" if isinstance(model, SegFormer) else "openvino"
    write_image(tmp_path / "a.png", render_scene(5, (64, 96))[0])
    flags = ["--image_path", str(tmp_path / "a.png"), "--backend", backend, "--save_dir"]
    assert main(["predict", "--export_dir", str(folder), *flags, str(tmp_path / "predict")]) == 0
    monkeypatch.setattr(sys, "path", [*sys.path])
    infer = runpy.run_path(str(INFER))["main"]
    flags = ["--config", str(folder), "--benchmark", *flags, str(tmp_path / "infer")]
    assert infer(flags) == 0
    assert f"threads, {ENGINES[backend].title} " in capsys.readouterr().out
    image = render_scene(5, (64, 96))[0]
    preprocess = Preprocess.from_dict(deploy.preprocess)
    expected = predict_label(model, image, preprocess, InferenceSettings())
    for job in ("predict", "infer"):
        label = read_label(tmp_path / job / "pseudo_color_prediction" / "a.png")
        assert (label == expected).mean() >= 0.9999


def test_backend_without_an_export_is_refused(tmp_path, capsys) -> None:
    write_image(tmp_path / "a.png", render_scene(5, (64, 96))[0])
    flags = ["--config", "x.yml", "--model_path", "x", "--image_path", str(tmp_path / "a.png")]
    assert main(["predict", *flags, "--backend", "openvino"]) == 1
    assert "--backend has no effect without --export_dir" in capsys.readouterr().err
