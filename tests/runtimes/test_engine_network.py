"""ONNX Runtime and OpenVINO as networks, and the choice of an engine, with a tiny graph."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddle import nn

from paddleseg_segformer.dependencies import MissingDependency
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import sha256
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.runtimes import engine_network, openvino_backend
from paddleseg_segformer.runtimes.deploy_config import DeployConfig
from paddleseg_segformer.runtimes.engine_network import load_network, network_class
from paddleseg_segformer.runtimes.engines import ENGINES, EngineOptions
from paddleseg_segformer.runtimes.openvino_backend import OpenVINONetwork

ROOT = Path(__file__).resolve().parents[2]
OTHERS = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def dynamic(export_tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Layer, Path]:
    folder = tmp_path_factory.mktemp("engines") / "森"
    return export_tiny(folder, [-1, 3, -1, -1], ("paddle", "onnx"))


@pytest.fixture(scope="module")
def fixed(export_tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Layer, Path]:
    return export_tiny(tmp_path_factory.mktemp("engines") / "fixed", [2, 3, 32, 48], ("onnx",))


def expected_of(network: nn.Layer, x: paddle.Tensor) -> np.ndarray:
    with paddle.no_grad():
        return network(x).numpy()


@pytest.mark.parametrize("backend", ["paddle", *OTHERS])
@pytest.mark.parametrize("kind", [np.ndarray, paddle.Tensor])
def test_any_size_and_batch(dynamic, backend, kind) -> None:
    network, folder = dynamic
    engine = load_network(folder, EngineOptions(backend, "cpu"))
    kept = []
    for shape in ([1, 3, 37, 51], [3, 3, 16, 64], [1, 3, 37, 51], [1, 3, 37, 51]):
        x = paddle.randn(shape)
        found, expected = engine(x.numpy() if kind is np.ndarray else x), expected_of(network, x)
        assert isinstance(found, kind)
        kept.append((found, expected))
    for found, expected in kept:  # results do not share the engine's memory
        np.testing.assert_allclose(np.asarray(found), expected, atol=1e-5)


@pytest.mark.parametrize("backend", OTHERS)
def test_arrays_of_any_layout_are_taken(dynamic, backend) -> None:
    engine = load_network(dynamic[1], EngineOptions(backend, "cpu"))
    x = np.random.rand(1, 3, 37, 51).astype(np.float32)
    turned = np.ascontiguousarray(x[..., ::-1])[..., ::-1]
    np.testing.assert_array_equal(engine(turned), engine(x))


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_fixed_batch_takes_any_number_of_images(fixed, backend, batch) -> None:
    network, folder = fixed
    x = paddle.randn([batch, 3, 32, 48])
    found = load_network(folder, EngineOptions(backend, "cpu"))(x).numpy()
    np.testing.assert_allclose(found, expected_of(network, x), atol=1e-5)


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "gpu:0"}, "device 'gpu:0': .* runs on the CPU here"),
        ({"precision": "fp16"}, "found 'fp16', but .* offers fp32"),
        ({"threads": 0}, "threads: found 0"),
        ({"threads": 2, "streams": 3}, "streams: found 3, expected 1 to 2, the number of threads"),
        ({"streams": -1}, "streams: found -1, expected 1 to 1"),
        ({"output_op": "argmax"}, "exported with --output_op none, but argmax is needed"),
    ],
)
def test_wrong_arguments_are_refused(dynamic, backend, arguments, message) -> None:
    with pytest.raises(UserError, match=message):
        load_network(dynamic[1], EngineOptions(backend, **{"device": "cpu", **arguments}))


def test_unknown_backend_is_refused(dynamic) -> None:
    with pytest.raises(UserError, match="found 'openvin', expected auto, .* mean 'openvino'"):
        load_network(dynamic[1], EngineOptions("openvin"))


def test_engine_that_reads_nothing_of_the_export_is_refused(fixed) -> None:
    message = "holds onnx, but Paddle Inference reads paddle. Export it again with --format paddle"
    with pytest.raises(UserError, match=message):
        load_network(fixed[1], EngineOptions("paddle"))


@pytest.mark.parametrize("backend", OTHERS)
def test_missing_engine_is_one_line(dynamic, backend, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, backend, None)  # so that importing it fails
    with pytest.raises(MissingDependency) as failure:
        load_network(dynamic[1], EngineOptions(backend, "cpu"))
    assert str(failure.value) == (f"{backend} is not installed. Run: pip install {backend}")


@pytest.mark.parametrize(
    ("installed", "arguments", "expected"),
    [
        (("openvino", "onnxruntime", "paddle"), {}, "openvino"),
        (("onnxruntime", "paddle"), {}, "onnxruntime"),
        (("paddle",), {}, "paddle"),
        (("openvino", "onnxruntime", "paddle"), {"precision": "fp16"}, "paddle"),
        (("openvino", "onnxruntime", "paddle"), {"device": "gpu"}, "paddle"),
    ],
)
def test_auto_takes_the_fastest_that_is_there(
    dynamic, monkeypatch, installed, arguments, expected
) -> None:
    chosen = []
    monkeypatch.setattr(engine_network, "find_spec", lambda name: name in installed or None)
    monkeypatch.setattr(
        engine_network, "network_class", lambda name: lambda *arguments: chosen.append(name)
    )
    load_network(dynamic[1], EngineOptions(**{"device": "cpu", **arguments}))
    assert chosen == [expected]


def test_without_a_device_a_gpu_of_paddle_comes_first_and_engines_without_it_take_the_cpu(
    dynamic, fixed, monkeypatch
) -> None:
    chosen = []
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    assert load_network(dynamic[1], EngineOptions("onnxruntime")).device == "cpu"
    assert load_network(fixed[1]).name in OTHERS  # it holds nothing for Paddle
    monkeypatch.setattr(
        engine_network, "network_class", lambda name: lambda *arguments: chosen.append(name)
    )
    load_network(dynamic[1])
    assert chosen == ["paddle"]


@pytest.mark.parametrize(("is_for_gpu", "expected"), [(False, "cpu"), (True, "gpu:0")])
def test_device_of_paddle_is_asked_for_where_it_may_be_a_gpu(
    monkeypatch, is_for_gpu, expected
) -> None:
    """Otherwise Paddle is not imported."""
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(engine_network, "_is_installed", lambda name: is_for_gpu)
    assert engine_network.paddle_device() == "gpu:0"  # it is imported here already
    modules = {name: module for name, module in sys.modules.items() if name != "paddle"}
    monkeypatch.setattr(engine_network, "sys", SimpleNamespace(modules=modules))
    assert engine_network.paddle_device() == expected


@pytest.mark.parametrize(
    ("formats", "message"),
    [
        (
            ("paddle",),
            r"holds paddle, but no engine that reads it is installed. Run for Paddle Inference pip "
            r"install .*paddlepaddle.*paddlepaddle-gpu.*; or export it with --format onnx",
        ),
        (
            ("onnx",),
            "holds onnx, but no engine that reads it is installed. Run for OpenVINO pip install "
            "openvino.*, or for ONNX Runtime pip install onnxruntime",
        ),
    ],
)
def test_no_engine_for_what_was_exported_is_one_line(
    dynamic, tmp_path, monkeypatch, formats, message
) -> None:
    deploy = DeployConfig.load(dynamic[1])
    artefacts = {name: deploy.artefacts[name] for name in formats}
    dataclasses.replace(deploy, artefacts=artefacts).save(tmp_path)
    monkeypatch.setattr(engine_network, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=message) as failure:
        load_network(tmp_path, EngineOptions(device="cpu"))
    assert "\n" not in str(failure.value)


def test_openvinos_converter_is_imported_when_it_is_called() -> None:
    code = (
        "import sys; from paddleseg_segformer.runtimes.openvino_backend import import_openvino\n"
        "openvino = import_openvino()\n"
        "assert 'openvino.tools.ovc' not in sys.modules\n"
        "try: openvino.convert_model(b'')\n"
        "except Exception: pass\n"
        "from openvino.tools.ovc import convert_model\n"
        "assert openvino.convert_model is convert_model"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_auto_passes_over_engines_that_cannot_read_the_export(export_tiny, tmp_path) -> None:
    _, folder = export_tiny(tmp_path / "paddle", [-1, 3, -1, -1])
    assert load_network(folder, EngineOptions(device="cpu")).name == "paddle"


def test_predictor_names_its_engine(dynamic) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    labels = []
    for backend in ("auto", *ENGINES):
        predictor = Predictor.from_export(dynamic[1], "cpu", backend=backend)
        expected = network_class("openvino" if backend == "auto" else backend)
        assert isinstance(predictor.pipeline.network, expected)
        labels.append(predictor(image).label)
    assert len(np.unique(labels[0])) > 1
    for label in labels[1:]:
        np.testing.assert_array_equal(label, labels[0])


@pytest.mark.parametrize("backend", OTHERS)
def test_damaged_missing_and_unreadable_files_are_one_line(export_tiny, tmp_path, backend) -> None:
    _, folder = export_tiny(tmp_path / "export", [-1, 3, -1, -1], ("onnx",))
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="model.onnx: the file is damaged or was replaced"):
        load_network(folder, EngineOptions(backend, "cpu"))
    deploy = (folder / "deploy.yaml").read_text()
    old = DeployConfig.load(folder, check_files=False).artefacts["onnx"].files[0].sha256
    (folder / "deploy.yaml").write_text(deploy.replace(old, sha256(path)))
    with pytest.raises(UserError, match="model.onnx: .* cannot load it") as failure:
        load_network(folder, EngineOptions(backend, "cpu"))
    assert "\n" not in str(failure.value)
    path.unlink()
    with pytest.raises(UserError, match="model.onnx: no such file, but deploy.yaml names it"):
        load_network(folder, EngineOptions(backend, "cpu"))


def test_files_of_other_engines_need_not_be_there(export_tiny, tmp_path) -> None:
    _, folder = export_tiny(tmp_path / "export", [-1, 3, -1, -1], ("paddle", "onnx"))
    (folder / "model.pdiparams").unlink()
    assert (
        load_network(folder, EngineOptions("onnxruntime", "cpu"))(paddle.zeros([1, 3, 16, 16])).ndim
        == 4
    )


def test_openvino_compiles_shapes_that_come_again_and_keeps_few(dynamic, monkeypatch) -> None:
    monkeypatch.setattr(openvino_backend, "MAX_COMPILED", 2)
    monkeypatch.setattr(openvino_backend, "MAX_SEEN", 8)
    monkeypatch.setattr(openvino_backend, "STALE_CALLS", 5)
    network, folder = dynamic
    engine = load_network(folder, EngineOptions("openvino", "cpu"))
    assert isinstance(engine, OpenVINONetwork)

    def run(side: int) -> list[int]:
        x = paddle.randn([1, 3, 16, side])
        np.testing.assert_allclose(engine(x).numpy(), expected_of(network, x), atol=1e-5)
        return sorted(shape[3] for shape in engine._compiled)

    assert run(16) == []
    assert run(16) == [16]
    assert run(20) == [16]
    assert run(20) == run(20) == [16, 20]
    assert run(24) == run(24) == [16, 20]  # no room, and those that have one were in use lately
    assert run(24) == [20, 24]  # 16 has not been
    for side in range(30, 50):
        run(side)
    assert len(engine._last_calls) == 8


@pytest.mark.parametrize("backend", OTHERS)
def test_calls_from_several_threads_give_the_same_bits(dynamic, backend) -> None:
    plain = load_network(dynamic[1], EngineOptions(backend, "cpu"))
    engine = load_network(dynamic[1], EngineOptions(backend, "cpu", threads=3, streams=3))
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(1, 3, side, 51)).astype(np.float32) for side in (37, 64) * 20]
    for network in (plain, engine):  # OpenVINO has a network for each size from the second time on
        for x in inputs[:4]:
            network(x)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(engine, inputs))
    for x, output in zip(inputs, found, strict=True):
        np.testing.assert_array_equal(output, plain(x))


def test_streams_of_paddle_inference_are_refused(dynamic) -> None:
    with pytest.raises(UserError, match="streams: found 2, but Paddle Inference runs one"):
        load_network(dynamic[1], EngineOptions("paddle", "cpu", threads=2, streams=2))


def test_no_more_calls_than_streams_run_at_the_same_time(dynamic, monkeypatch) -> None:
    engine = load_network(dynamic[1], EngineOptions("onnxruntime", "cpu", threads=2, streams=2))
    running: list[int] = []
    most: list[int] = []

    def slow(self: object, x: np.ndarray) -> np.ndarray:
        running.append(1)
        most.append(len(running))
        time.sleep(0.02)
        running.pop()
        return x

    monkeypatch.setattr(type(engine), "_run", slow)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(engine, [np.zeros((1, 3, 32, 32), np.float32)] * 12))
    assert max(most) == 2


def test_number_of_streams_follows_threads_and_engine(dynamic) -> None:
    def streams(backend: str, threads: int) -> int:
        options = EngineOptions(backend, "cpu", threads=threads, streams=0)
        return load_network(dynamic[1], options).options.streams

    assert [streams("openvino", threads) for threads in (1, 3, 9)] == [1, 3, 4]
    assert [streams("paddle", 2), streams("onnxruntime", 2)] == [1, 2]


@pytest.mark.parametrize("backend", OTHERS)
def test_streams_can_be_changed(dynamic, backend) -> None:
    predictor = Predictor.from_export(dynamic[1], "cpu", 2, backend=backend, streams=2)
    engine, x = predictor.pipeline.network, np.ones((1, 3, 37, 51), np.float32)
    expected = engine(x)
    assert predictor.num_callers == 2
    engine.use_streams(1)
    assert predictor.num_callers == 1
    np.testing.assert_allclose(engine(x), expected, atol=1e-5)


def test_openvino_computes_in_float32_unless_asked(dynamic) -> None:
    x = paddle.randn([1, 3, 64, 64])
    exact = load_network(dynamic[1], EngineOptions("openvino", "cpu"))
    expected = expected_of(dynamic[0], x)
    assert np.abs(exact(x).numpy() - expected).max() < 1e-5 * expected.std()
    capabilities = exact._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in capabilities:
        with pytest.raises(UserError, match="does not compute in bf16"):
            load_network(dynamic[1], EngineOptions("openvino", "cpu", precision="bf16"))
        return
    rounded = load_network(dynamic[1], EngineOptions("openvino", "cpu", precision="bf16"))(
        x
    ).numpy()
    assert 1e-4 < np.abs(rounded - expected).max() / expected.std() < 0.1


def test_parsing_flags_imports_no_engine() -> None:
    code = (
        "import sys; import paddleseg_segformer.runtimes.engines\n"
        "assert not {'paddle', 'onnxruntime', 'openvino'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("backend", ["paddle", *OTHERS])
def test_failure_of_an_engine_is_one_line(dynamic, backend, monkeypatch) -> None:
    engine = load_network(dynamic[1], EngineOptions(backend, "cpu"))

    def fail(self: object, x: np.ndarray) -> np.ndarray:
        raise RuntimeError("a stack\n  of lines\n(Out of memory) cannot allocate 7 GB\n")

    monkeypatch.setattr(type(engine), "_run", fail)
    with pytest.raises(UserError) as caught:
        engine(paddle.zeros([1, 3, 37, 51]))
    assert str(caught.value) == (
        f"{engine.description} failed on an input of 37x51 px (height x width): (Out of memory) "
        "cannot allocate 7 GB"
    )


def test_longest_side_can_be_set(dynamic) -> None:
    engine = load_network(dynamic[1], EngineOptions("onnxruntime", "cpu"))
    x = paddle.zeros([1, 3, 32, 8193])
    with pytest.raises(UserError, match=r"image of 32x8193 px .*: more than 8192 px at once"):
        engine(x)
    longer = EngineOptions("onnxruntime", "cpu", max_side_px=8193)
    assert load_network(dynamic[1], longer)(x).shape[3] == 2049


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("backend", ["paddle", "openvino"])
def test_weights_that_are_not_finite_are_refused(export_tiny, tmp_path, backend, value) -> None:
    """Both engines drop NaN on the way: a map would come that looks right."""
    network, folder = export_tiny(tmp_path / "export", [-1, 3, -1, -1], ("paddle", "onnx"))
    path = folder / ("model.pdiparams" if backend == "paddle" else "model.onnx")
    was = sha256(path)
    weight = network.conv.weight.numpy()
    spoilt = weight.copy()
    spoilt[1, 2, 3, 4] = value
    content = path.read_bytes()
    assert content.count(weight.tobytes()) == 1
    path.write_bytes(content.replace(weight.tobytes(), spoilt.tobytes()))
    deploy = folder / "deploy.yaml"
    deploy.write_text(deploy.read_text().replace(was, sha256(path)))
    with pytest.raises(UserError, match=rf"{path.name}: its weights '.*' are not finite"):
        load_network(folder, EngineOptions(backend, "cpu"))


def test_paddles_weights_that_cannot_be_read_are_one_line(export_tiny, tmp_path) -> None:
    _, folder = export_tiny(tmp_path / "export", [-1, 3, -1, -1])
    path = folder / "model.pdiparams"
    was = sha256(path)
    path.write_bytes(b"\xff" * 40 + path.read_bytes()[40:])
    deploy = folder / "deploy.yaml"
    deploy.write_text(deploy.read_text().replace(was, sha256(path)))
    with pytest.raises(UserError, match="cannot load the network") as failure:
        load_network(folder, EngineOptions("paddle", "cpu"))
    assert "\n" not in str(failure.value)
