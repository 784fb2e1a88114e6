"""An export checks itself: the fixture, its labels, and engines that do not give them."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
import paddle
import pytest
import yaml
from small_models import small_segformer

from paddleseg_segformer import export
from paddleseg_segformer.cli import main
from paddleseg_segformer.data.io import read_image, read_label
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export import export_model
from paddleseg_segformer.inference.pipeline import predict_label
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.models import SegFormer
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.runtimes.deploy_config import ARTEFACT_FILES, DeployConfig
from paddleseg_segformer.runtimes.engine_network import load_network
from paddleseg_segformer.runtimes.engines import ENGINES, EngineOptions
from paddleseg_segformer.runtimes.self_check import self_check

INFER = Path(__file__).resolve().parents[2] / "deploy" / "python" / "infer.py"
RULES = [{"type": "ResizeByShort", "short_size": 80}, {"type": "Normalize"}]
SETTINGS = InferenceSettings(is_slide=True, crop_size_hw=(64, 72), stride_hw=(40, 48))


def make_model(num_classes: int = 5, in_channels: int = 3) -> SegFormer:
    paddle.seed(5)
    model = small_segformer(num_classes, in_channels=in_channels)
    for tensor in model.parameters():
        tensor.set_value(2 * tensor + 0.1 * paddle.randn(tensor.shape))
    model.eval()
    return model


@pytest.fixture
def graphless(monkeypatch) -> None:
    """Let exports write empty files instead of a network, where a test is about the fixture."""

    def write(model: SegFormer, path: Path, *arguments: object) -> None:
        for name in ARTEFACT_FILES["paddle"]:
            (path / name).write_bytes(b"")

    monkeypatch.setattr(export.folder, "save_static_graph", write)
    monkeypatch.setattr(export.folder, "verify", lambda model, path: {"paddle": []})


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[SegFormer, Path]:
    """Return a model and its export, with a size rule and windows."""
    model, folder = make_model(), tmp_path_factory.mktemp("self_check") / "out"
    preprocess = Preprocess.from_transforms(RULES)
    options = {"preprocess": preprocess, "settings": SETTINGS, "is_verified": False}
    export_model(model, folder, formats=("paddle", "onnx"), **options)
    return model, folder


def test_fixture_holds_the_models_labels(exported) -> None:
    model, folder = exported
    fixture = DeployConfig.load(folder).fixture
    image = read_image(folder / fixture.image.name)
    labels = read_label(folder / fixture.labels.name)
    assert image.shape == (97, 131, 3)
    assert len(np.unique(labels)) > 1
    expected = predict_label(model, image, Preprocess.from_transforms(RULES), SETTINGS)
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize(("kind", "backend"), [("network", "onnxruntime"), ("predictor", "paddle")])
def test_engine_agrees(exported, kind, backend) -> None:
    _, folder = exported
    if kind == "predictor":  # its own settings do not matter
        made: object = Predictor.from_export(folder, "cpu", backend=backend, is_slide=False)
    else:
        made = load_network(folder, EngineOptions(backend, "cpu"))
    check = self_check(made, folder / "deploy.yaml")
    assert (check.num_pixels, check.min_agreement) == (97 * 131, 0.999)
    assert check.agreement > 0.999
    versions = {"paddle": paddle.__version__, "onnxruntime": onnxruntime.__version__}
    assert check.line.startswith(f"{ENGINES[backend].title} {versions[backend]}, cpu: 127")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda network, x: network(x[:, ::-1]),
        lambda network, x: network(x + 0.2),
        lambda network, x: paddle.roll(network(x), 1, axis=3),
    ],
    ids=["channels", "normalisation", "shift"],
)
def test_wrong_network_fails(exported, wrong) -> None:
    _, folder = exported
    network = load_network(folder, EngineOptions("onnxruntime", "cpu"))
    with pytest.raises(UserError, match=r"deploy.yaml: self-check failed; .* needed are 99.9%"):
        self_check(lambda x: wrong(network, x), folder)


def test_reduced_precision_has_a_bound_of_its_own(exported) -> None:
    network = load_network(exported[1], EngineOptions("onnxruntime", "cpu"))
    network.options = dataclasses.replace(network.options, precision="bf16")
    assert self_check(network, exported[1]).min_agreement == 0.9


def test_predictor_checks_itself_when_asked(exported, monkeypatch) -> None:
    _, folder = exported
    Predictor.from_export(folder, "cpu", backend="onnxruntime", self_check=True)
    run = "paddleseg_segformer.runtimes.onnxruntime_backend.ONNXRuntimeNetwork._run"
    shape = (1, 5, 20, 20)
    monkeypatch.setattr(run, lambda self, x: np.ones((len(x), *shape[1:]), np.float32))
    Predictor.from_export(folder, "cpu", backend="onnxruntime")
    with pytest.raises(UserError, match="self-check failed"):
        Predictor.from_export(folder, "cpu", backend="onnxruntime", self_check=True)


@pytest.mark.parametrize("in_channels", [1, 2, 4])
def test_images_of_other_channels(tmp_path, graphless, in_channels) -> None:
    model = make_model(in_channels=in_channels)
    deploy = export_model(model, tmp_path / "out")
    name = deploy.fixture.image.name
    assert name == ("fixture.png" if in_channels == 1 else "fixture.tif")
    assert read_image(tmp_path / "out" / name, in_channels).shape == (97, 131, in_channels)
    assert self_check(model, tmp_path / "out").num_different == 0


def test_more_than_256_classes(tmp_path, graphless) -> None:
    model = make_model(300)
    deploy = export_model(model, tmp_path / "out")
    assert read_label(tmp_path / "out" / deploy.fixture.labels.name).max() > 255
    assert self_check(model, tmp_path / "out").num_different == 0


@pytest.mark.parametrize("output_op", ["argmax"])
def test_other_outputs(tmp_path, output_op) -> None:
    folder = tmp_path / "out"
    preprocess = Preprocess.from_transforms(RULES)
    options = {"preprocess": preprocess, "is_verified": False}
    export_model(make_model(), folder, output_op=output_op, **options)
    labels = read_label(folder / "fixture_labels.png")
    assert labels.shape == (80, 108)  # of the network's input
    check = self_check(
        load_network(folder, EngineOptions("paddle", "cpu", output_op=output_op)), folder
    )
    assert check.num_pixels == labels.size


def test_fixed_input_shape(tmp_path, graphless) -> None:
    deploy = export_model(make_model(), tmp_path / "out", input_shape=[2, 3, 48, 96])
    assert read_label(tmp_path / "out" / deploy.fixture.labels.name).shape == (48, 96)


def test_settings_that_no_image_fits_leave_no_fixture(tmp_path, graphless, caplog) -> None:
    preprocess = Preprocess.from_transforms([{"type": "Resize", "target_size": [20, 20]}])
    model = make_model()
    deploy = export_model(model, tmp_path / "out", preprocess=preprocess)
    assert deploy.fixture is None
    assert "no fixture to check backends with: " in caplog.text
    with pytest.raises(UserError, match="names no fixture to check an engine with"):
        self_check(model, tmp_path / "out")


@pytest.mark.parametrize("name", ["fixture.png", "fixture_labels.png"])
def test_damaged_and_missing_fixtures(exported, tmp_path, name) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in exported[1].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    network = load_network(folder, EngineOptions("onnxruntime", "cpu"))
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])
    with pytest.raises(UserError, match=f"{name}: the file is damaged or was replaced"):
        self_check(network, folder)
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}: no such file"):
        self_check(network, folder)


def run_infer(*flags: object) -> int:
    spec = importlib.util.spec_from_file_location("infer", INFER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main([str(flag) for flag in flags])


@pytest.mark.parametrize("program", ["infer", "predict"])
def test_command_lines(exported, tmp_path, capsys, program) -> None:
    _, folder = exported

    def run(*flags: object) -> int:
        if program == "infer":
            return run_infer("--config", folder, *flags)
        arguments = ["predict", "--export_dir", folder, "--device", "cpu", *flags]
        return main([str(argument) for argument in arguments])

    assert run("--backend", "onnxruntime", "--self_check") == 0
    assert "12707 labels of the fixture are the model's (" in capsys.readouterr().out
    path = folder / "deploy.yaml"
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    content["preprocess"]["transforms"][1]["mean"] = [0.1]
    try:
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        assert run("--backend", "onnxruntime", "--self_check", "--image_path", folder) == 1
    finally:
        path.write_text(text, encoding="utf-8")
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "self-check failed; ONNX Runtime" in line
    assert run("--backend", "onnxruntime") == 1
    assert "image" in capsys.readouterr().err
