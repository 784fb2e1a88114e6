"""Exports in Paddle Inference against dygraph, and the folder that holds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn
from small_models import IS_PADDLE_2

from paddleseg_segformer.data.labels import LABEL_SETS
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export import export_model, folder, verify
from paddleseg_segformer.inference.pipeline import Pipeline
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.runtimes.deploy_config import ARTEFACT_FILES, DeployConfig
from paddleseg_segformer.runtimes.engines import EngineOptions
from paddleseg_segformer.runtimes.paddle_backend import PaddleInferenceNetwork
from paddleseg_segformer.street_scenes.dataset import render_scene


@pytest.fixture
def graphless(monkeypatch) -> None:
    """Let exports write empty files, where a test is about what surrounds them."""

    def write(model: nn.Layer, path: Path, *arguments: object) -> None:
        for name in ARTEFACT_FILES["paddle"]:
            (path / name).write_bytes(b"")

    monkeypatch.setattr(folder, "save_static_graph", write)
    monkeypatch.setattr(folder, "verify", lambda model, path: {"paddle": []})


@pytest.fixture(scope="module")
def network(exported) -> PaddleInferenceNetwork:
    return PaddleInferenceNetwork(exported.folder, EngineOptions(device="cpu", threads=1))


@pytest.mark.check
@pytest.mark.parametrize(
    "shape", [(1, 64, 64), (1, 97, 131), (1, 29, 29), (3, 33, 48), (1, 160, 32)]
)
def test_export_gives_the_logits_of_the_model(exported, network, rounding, shape) -> None:
    batch, height, width = shape
    x = paddle.randn([batch, 3, height, width])
    with paddle.no_grad():
        expected = exported.model(x).numpy()
    found = network(x).numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= rounding(exported.model, x)


@pytest.mark.parametrize(
    "settings",
    [
        InferenceSettings(),
        InferenceSettings(
            is_slide=True, crop_size_hw=(64, 64), stride_hw=(40, 48), flip_horizontal=True
        ),
    ],
    ids=["whole", "slide and flip"],
)
def test_pipeline_gives_the_labels_of_the_model(exported, network, settings) -> None:
    image, _ = render_scene(3, (100, 150))
    preprocess = Preprocess.from_dict(exported.deploy.preprocess)
    logits = Pipeline(exported.model, preprocess, settings)(image)
    expected = logits.labels()
    found = Pipeline(network, preprocess, settings)(image).labels()
    assert len(np.unique(expected)) > 4
    differs = found != expected
    assert differs.mean() < 1e-3
    top_two = np.sort(logits.probabilities(), axis=0)[-2:]
    assert (top_two[1] - top_two[0])[differs].max(
        initial=0
    ) < 1e-4  # two classes are equally likely


@pytest.mark.check
def test_predictor_reads_the_export(exported) -> None:
    image, _ = render_scene(4, (64, 96))
    predictor = Predictor.from_export(exported.folder, device="cpu")
    assert predictor.settings.window_batch == 3
    assert predictor.label_set.classes == LABEL_SETS["cityscapes"].classes
    reference = Predictor(exported.model, Preprocess.from_dict(exported.deploy.preprocess))
    assert (predictor(image).label == reference(image).label).mean() > 0.999


@pytest.mark.check
def test_deploy_yaml_says_what_was_exported_and_verified(exported) -> None:
    deploy = DeployConfig.load(exported.folder)
    assert deploy == exported.deploy
    assert sorted(path.name for path in exported.folder.iterdir()) == [
        "deploy.yaml",
        "fixture.png",
        "fixture_labels.png",
        *(
            ["model.pdiparams", "model.pdmodel"]
            if IS_PADDLE_2
            else ["model.json", "model.pdiparams"]
        ),
    ]
    assert not list(exported.folder.parent.glob(".*"))
    assert deploy.input.shape == [-1, 3, -1, -1]
    assert (deploy.output.op, deploy.output.stride, deploy.output.num_classes) == ("none", 4, 19)
    assert deploy.made_with["paddlepaddle"] == paddle.__version__
    [verified] = deploy.artefacts["paddle"].verified
    assert verified.engine == f"Paddle Inference {paddle.__version__}, cpu"
    assert verified.input_shapes == [[2, 3, 64, 64], [1, 3, 97, 131], [1, 3, 29, 33]]
    assert 0 < verified.max_abs_difference < 1e-4 * verified.std
    assert verified.label_agreement == 1
    assert verified.layer_norm_epsilons == {"1e-05": 7, "1e-06": 12}


def test_defaults_of_the_preprocessing_are_written_out(small_model, tmp_path, graphless) -> None:
    preprocess = Preprocess.from_transforms(
        [{"type": "ResizeByShort", "short_size": 64}, {"type": "Normalize"}]
    )
    deploy = export_model(small_model(), tmp_path / "out", preprocess=preprocess)
    assert deploy.preprocess["transforms"] == [
        {"type": "ResizeByShort", "short_size": 64, "max_size": 1e10},
        {"type": "Normalize", "mean": [0.5], "std": [0.5]},
    ]
    assert DeployConfig.load(tmp_path / "out").preprocess == deploy.preprocess


@pytest.mark.parametrize(
    ("output_op", "input_shape"), [("argmax", None), ("softmax", [1, 3, 45, 64])]
)
def test_output_at_the_input_size(small_model, tmp_path, output_op, input_shape) -> None:
    model = small_model("SegFormerMM")
    deploy = export_model(model, tmp_path / "out", output_op=output_op, input_shape=input_shape)
    assert deploy.artefacts["paddle"].verified[0].label_agreement == 1
    assert deploy.input.shape == (input_shape or [-1, 3, -1, -1])
    network = PaddleInferenceNetwork(
        tmp_path / "out", EngineOptions(device="cpu", output_op=output_op)
    )
    x = paddle.randn([3, 3, 45, 64])  # with a fixed batch of 1: in three parts
    with paddle.no_grad():
        logits = F.interpolate(model(x), size=[45, 64], mode="bilinear")
    found = network(x).numpy()
    if output_op == "argmax":
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, logits.argmax(axis=1).numpy())
    else:
        np.testing.assert_allclose(found, F.softmax(logits, axis=1).numpy(), atol=1e-5)
        network = PaddleInferenceNetwork(tmp_path / "out", EngineOptions(device="cpu"))
        found, expected = network(x).numpy(), F.log_softmax(logits, axis=1).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4)  # in the place of logits
        return
    with pytest.raises(UserError, match=f"exported with --output_op {output_op}, but none is"):
        PaddleInferenceNetwork(tmp_path / "out", EngineOptions())


def test_failed_verification_leaves_nothing(small_model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(verify, "TOLERANCE", 0.0)
    with pytest.raises(UserError, match="differs from the model by .* The export was discarded"):
        export_model(small_model(), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_verification_notices_another_model(exported) -> None:
    other = type(exported.model)(19, exported.model.backbone, embedding_dim=64)
    other.set_state_dict(exported.model.state_dict())
    other.eval()
    assert verify.verify(other, exported.folder)["paddle"][0].label_agreement == 1
    other.linear_pred.bias.set_value(other.linear_pred.bias + 0.01)
    with pytest.raises(UserError, match="differs from the model by 0.01 "):
        verify.verify(other, exported.folder)


def test_verification_reads_the_epsilons_of_the_saved_graph(exported, monkeypatch) -> None:
    norm = exported.model.backbone.norm1
    monkeypatch.setattr(norm, "_epsilon", 1e-5)
    with pytest.raises(UserError, match=r"epsilons of the saved graph are .*'1e-06': 12"):
        verify.verify(exported.model, exported.folder)


def test_new_export_replaces_the_old_one(small_model, tmp_path, graphless) -> None:
    save_dir = tmp_path / "out"
    export_model(small_model(num_classes=3), save_dir)
    export_model(small_model(num_classes=4), save_dir)
    assert DeployConfig.load(save_dir).output.num_classes == 4
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_folder_with_other_files_is_left_alone(small_model, tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds other files \(notes.txt\)"):
        export_model(small_model(), tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_file_as_save_dir_is_refused(small_model, tmp_path) -> None:
    path = tmp_path / "model"
    path.write_text("mine")
    with pytest.raises(UserError, match="model: expected a folder, found a file"):
        export_model(small_model(), path)
    assert path.read_text() == "mine"


def test_model_of_another_kind_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="model Linear cannot be exported"):
        export_model(nn.Linear(2, 2), tmp_path / "out")
    assert not list(tmp_path.iterdir())
