"""INT8: a tiny model quantised for real, the gate, and the engine that runs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import paddle
import pytest
from small_models import IS_PADDLE_2, small_segformer

from paddleseg_segformer.data.datasets import RawSample
from paddleseg_segformer.data.labels import make_label_set
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export import Quantization, Samples, export_model
from paddleseg_segformer.export.accuracy_gate import AccuracyGate, measure
from paddleseg_segformer.export.quantization import CalibrationInputs, verified
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.models.folded_encoder import FFN_PARTS
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.runtimes.deploy_config import DeployConfig
from paddleseg_segformer.runtimes.engine_network import load_network
from paddleseg_segformer.runtimes.engines import EngineOptions
from paddleseg_segformer.runtimes.self_check import self_check
from paddleseg_segformer.street_scenes.dataset import render_scene

pytestmark = pytest.mark.skipif(IS_PADDLE_2, reason="ONNX is made with Paddle 3")

pytest.importorskip("nncf")
openvino = pytest.importorskip("openvino")
HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
NORMALIZE = {"type": "Normalize", "mean": [0.5] * 3, "std": [0.25] * 3}
SIZE_HW = (136, 200)
HEADS = ((2, 8), (5, 4), (8, 4))  # their number and width in the stages that have several


def scene(index: int) -> RawSample:
    """Return a drawn image with labels of five classes: drawn ids modulo five."""
    image, label = render_scene([3, index], SIZE_HW)
    return RawSample(image, np.where(label == 255, 255, label % 5), f"scene {index}", None)


def unlabelled(index: int) -> RawSample:
    return scene(index)._replace(label=None)


def quantization(**gate: object) -> Quantization:
    return Quantization(Samples(unlabelled, range(3)), AccuracyGate(**gate) if gate else None)


@pytest.fixture(scope="module")
def int8(spread_out, tmp_path_factory) -> SimpleNamespace:
    """Return a narrow SegFormer's export with INT8 beside ONNX."""
    paddle.seed(3)
    model = spread_out(small_segformer())
    folder = tmp_path_factory.mktemp("int8") / "export"
    deploy = export_model(
        model,
        folder,
        preprocess=Preprocess.from_transforms([NORMALIZE]),
        formats=("int8", "onnx"),
        quantization=quantization(samples=Samples(scene, range(3, 5)), max_miou_drop=100),
    )
    return SimpleNamespace(model=model, folder=folder, deploy=deploy)


def test_deploy_yaml_says_what_int8_is_and_loses(int8) -> None:
    assert {path.name for path in int8.folder.iterdir() if path.name.startswith("model")} == {
        "model.onnx",
        "model_int8.xml",
        "model_int8.bin",
    }
    deploy = DeployConfig.load(int8.folder)
    assert deploy == int8.deploy
    artefact = deploy.artefacts["int8"]
    assert artefact.precision == "int8"
    assert artefact.quality["calibration_images"] == 3
    assert artefact.quality["gate_images"] == 2
    assert 0.8 < artefact.quality["label_agreement"] < 1
    assert {"miou_fp32", "miou_int8"} < set(artefact.quality)
    (verified,) = artefact.verified
    assert verified.input_shapes == [[1, 3, *SIZE_HW], [1, 3, 64, 64], [1, 3, 97, 131]]
    assert deploy.artefacts["onnx"].precision == "fp32"


def test_figures_of_the_gate_are_those_of_the_predictors(int8) -> None:
    samples = Samples(scene, range(3, 5))
    quality = measure(int8.folder, samples)
    labels = {}
    for precision in ("fp32", "int8"):
        predictor = Predictor.from_export(int8.folder, "cpu", precision=precision)
        labels[precision] = [predictor(item.image).label for item in samples]
    equal = np.mean(np.equal(labels["fp32"], labels["int8"]))
    assert quality["label_agreement"] == pytest.approx(equal, abs=1e-3)  # threads differ


def test_gate_takes_samples_as_they_were_read(monkeypatch) -> None:
    class Recording:
        takes_numpy = True
        inputs: list[np.ndarray] = []

        def __call__(self, x: np.ndarray) -> np.ndarray:
            self.inputs.append(x)
            return x[:, :, ::4, ::4]

    predictor = Predictor(
        Recording(),
        Preprocess.from_dict({"value_range": [0, 4095]}),
        label_set=make_label_set(3),
    )
    monkeypatch.setattr(Predictor, "from_export", lambda *_: predictor)
    sample = unlabelled(3)
    measure(Path(), [sample])
    assert len(Recording.inputs) == 2
    for x in Recording.inputs:
        np.testing.assert_array_equal(x[0].transpose(1, 2, 0), sample.image)


def test_int8_network_is_close_to_the_model_and_not_equal(int8) -> None:
    network = load_network(int8.folder, EngineOptions(precision="int8"))
    assert (network.name, network.artefact) == ("openvino", "int8")
    x = paddle.to_tensor(np.stack([_normalized(scene(7)), _normalized(scene(8))]))
    with paddle.no_grad():
        expected = int8.model(x)
    for _ in range(2):  # for any size, then for this one
        error = float(((network(x) - expected) ** 2).mean().sqrt() / expected.std())
        assert 1e-4 < error < 0.3
    self_check(network, int8.folder)


def test_fp32_never_takes_int8(int8) -> None:
    assert load_network(int8.folder).artefact == "onnx"


def test_convolutions_depthwise_ones_included_run_in_int8_without_copies(int8) -> None:
    """Of a map's way between convolutions and tokens: a transpose of it would be one."""
    core = openvino.Core()
    model = core.read_model(str(int8.folder / "model_int8.xml"))
    model.reshape([1, 3, *SIZE_HW])
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    nodes = core.compile_model(model, "CPU", settings).get_runtime_model().get_ordered_ops()
    info = [
        (node, {k: str(v.astype(str)) for k, v in node.get_rt_info().items()}) for node in nodes
    ]
    kinds = [values["primitiveType"] for _, values in info if "onvolution" in values["layerType"]]
    # embeddings, reductions, feed-forwards in their parts, head
    assert len(kinds) == 4 + 3 + 3 * sum(FFN_PARTS) + 5
    assert all(kind.lower().endswith("i8") for kind in kinds)
    if not any("avx" in kind for kind in kinds):
        pytest.skip("without AVX2 OpenVINO keeps channels in blocks, and copies maps into tokens")
    transposed = [n.output(0).shape for n, values in info if values["layerType"] == "Transpose"]
    # weights, the keys of few tokens, and, where attention is left in pieces, its heads; the
    # smallest map of many tokens has 9 x 13 x 20 values
    assert all(
        len(shape) == 2 or np.prod(shape) < 2000 or _has_heads(shape) for shape in transposed
    )


def _has_heads(shape: Sequence[int]) -> bool:
    """Tell (N, M, L, D), and the same with tokens first, from maps."""
    return any(heads in shape[1:3] and shape[3] == width for heads, width in HEADS)


@pytest.mark.skipif(not HAS_BF16, reason="this processor does not compute in bf16")
def test_rest_in_bfloat16(int8) -> None:
    x = paddle.to_tensor(_normalized(scene(7))[None])
    found = [
        load_network(int8.folder, EngineOptions(precision=name))(x)
        for name in ("int8", "int8-bf16")
    ]
    difference = float((found[0] - found[1]).abs().max())
    assert 0 < difference < float(found[0].std())


def _normalized(sample: RawSample) -> np.ndarray:
    return ((sample.image.transpose(2, 0, 1) / 255 - 0.5) / 0.25).astype(np.float32)


def test_calibration_takes_windows_where_inference_does(int8) -> None:
    network = load_network(int8.folder)
    settings = InferenceSettings(is_slide=True, crop_size_hw=(64, 96), stride_hw=(64, 96))
    inputs = CalibrationInputs(quantization(), network)
    whole = list(inputs)
    assert [x.shape for x in whole] == [(1, 3, *SIZE_HW)] * 3
    np.testing.assert_allclose(whole[0][0], _normalized(scene(0)), atol=1e-5)
    inputs.pipeline.settings = settings
    windows = list(inputs)
    assert [x.shape for x in windows] == [(1, 3, 64, 96)] * 3
    assert all(np.array_equal(a, b) for a, b in zip(windows, inputs, strict=True))


QUALITY = {"gate_images": 2, "label_agreement": 0.99, "miou_fp32": 0.7, "miou_int8": 0.69}


@pytest.fixture
def measured(monkeypatch) -> None:
    """Let every comparison give `QUALITY`."""
    monkeypatch.setattr(
        "paddleseg_segformer.export.accuracy_gate.measure", lambda *_: dict(QUALITY)
    )


def test_gate_refuses_a_loss_of_miou_unless_told_otherwise(measured, tmp_path) -> None:
    samples = Samples(scene, [3])
    with pytest.raises(
        UserError, match="mIoU 69.00 after 70.00.*allowed is a loss of 0.5"
    ) as error:
        AccuracyGate(samples).check(tmp_path)
    assert "\n" not in str(error.value)
    assert AccuracyGate(samples, max_miou_drop=1.01).check(tmp_path) == QUALITY
    assert AccuracyGate(samples, is_loss_allowed=True).check(tmp_path) == QUALITY


def test_refused_int8_leaves_nothing(int8, measured, monkeypatch, tmp_path) -> None:
    def copy(source: Path, path: Path, inputs: object) -> None:
        for suffix in (".xml", ".bin"):
            content = (int8.folder / "model_int8").with_suffix(suffix).read_bytes()
            path.with_suffix(suffix).write_bytes(content)

    monkeypatch.setattr("paddleseg_segformer.export.quantization._quantize", copy)
    arguments = {"formats": ("int8",), "is_verified": False}
    refusing, allowing = (
        quantization(samples=Samples(scene, [3]), is_loss_allowed=value) for value in (False, True)
    )
    with pytest.raises(UserError, match="INT8 is refused"):
        export_model(int8.model, tmp_path / "e", quantization=refusing, **arguments)
    assert not list(tmp_path.iterdir())
    deploy = export_model(int8.model, tmp_path / "e", quantization=allowing, **arguments)
    quality = dict(deploy.artefacts["int8"].quality)
    assert quality.pop("times_as_fast") > 0
    assert quality == {"calibration_images": 3, **QUALITY}
    assert set(deploy.artefacts) == {"int8"}
    assert not (tmp_path / "e" / "model.onnx").exists()


def test_int8_for_onnxruntime_without_openvino(int8, tmp_path) -> None:
    deploy = export_model(
        int8.model,
        tmp_path / "e",
        preprocess=Preprocess.from_transforms([NORMALIZE]),
        formats=("int8_onnx",),
        quantization=quantization(samples=Samples(scene, range(3, 5)), max_miou_drop=100),
    )
    artefact = deploy.artefacts["int8_onnx"]
    assert set(deploy.artefacts) == {"int8_onnx"} and artefact.precision == "int8"
    assert artefact.verified[0].engine.startswith("ONNX Runtime")
    assert {"calibration_images", "label_agreement", "times_as_fast"} < set(artefact.quality)
    network = load_network(tmp_path / "e", EngineOptions(precision="int8"))
    assert (network.name, network.artefact) == ("onnxruntime", "int8_onnx")
    x = paddle.to_tensor(_normalized(scene(7))[None])
    with paddle.no_grad():
        expected = int8.model(x)
    error = float(((network(x) - expected) ** 2).mean().sqrt() / expected.std())
    assert 1e-4 < error < 0.3
    nodes = onnx.load(tmp_path / "e" / "model_int8.onnx").graph.node
    assert sum(node.op_type == "QuantizeLinear" for node in nodes) > 10


def test_gate_without_labels_goes_by_agreement(int8) -> None:
    samples = Samples(unlabelled, [3])
    with pytest.raises(UserError, match="no labelled images.*expected 100.0% or more"):
        AccuracyGate(samples, min_agreement=1.0).check(int8.folder)
    quality = AccuracyGate(samples, min_agreement=0.5).check(int8.folder)
    assert set(quality) == {"gate_images", "label_agreement"}


def test_network_broken_at_a_size_is_refused(int8, monkeypatch) -> None:
    monkeypatch.setattr("paddleseg_segformer.export.quantization.MIN_AGREEMENT", 1.0)
    with pytest.raises(UserError, match="of the float32 network's labels at one of the sizes"):
        verified(int8.folder, _normalized(scene(7))[None])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "found no images to calibrate with"),
        ({"quantization": quantization(), "output_op": "argmax"}, "expected none"),
    ],
)
def test_what_cannot_be_quantised_is_refused(int8, tmp_path, arguments, message) -> None:
    with pytest.raises(UserError, match=message):
        export_model(int8.model, tmp_path / "e", formats=("int8",), **arguments)


def test_export_without_int8_names_the_remedy(int8, tmp_path) -> None:
    rest = {"onnx": int8.deploy.artefacts["onnx"]}
    dataclasses.replace(int8.deploy, artefacts=rest).save(tmp_path)
    with pytest.raises(UserError, match="OpenVINO reads int8. Export it again with --format int8"):
        load_network(tmp_path, EngineOptions(precision="int8"))
