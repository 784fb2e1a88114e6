"""The ONNX model that takes an 8-bit image and gives labels, against the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import paddle
import pytest
from paddle import nn
from small_models import IS_PADDLE_2, small_vit

from paddleseg_segformer.cli import main
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export import export_model, onnx_with_preprocess
from paddleseg_segformer.inference.pipeline import predict_label
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.models import LinearSegmenter
from paddleseg_segformer.runtimes.deploy_config import DeployConfig
from paddleseg_segformer.street_scenes.dataset import render_scene

pytestmark = pytest.mark.skipif(IS_PADDLE_2, reason="ONNX is made with Paddle 3")

FORMAT = "onnx_with_preprocess"
FILE = "model_with_preprocess.onnx"
NORMALIZE = {"type": "Normalize", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}


def padded_segmenter(spread_out) -> nn.Layer:
    """Return a Segmenter whose logits stand for the padded image."""
    return spread_out(LinearSegmenter(7, small_vit(depth=1, pad_input=True)))


def labels_of(path: Path, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    [labels] = session.run(["labels"], {"image": image[None]})
    return labels


@pytest.fixture(params=["SegFormer", "padded Segmenter"])
def model(request, small_model, spread_out) -> nn.Layer:
    paddle.seed(2)
    return small_model() if request.param == "SegFormer" else padded_segmenter(spread_out)


def test_labels_equal_the_pipelines(model, tmp_path) -> None:
    preprocess = Preprocess.from_transforms([NORMALIZE])
    deploy = export_model(model, tmp_path / "out", preprocess=preprocess, formats=[FORMAT])
    artefact = deploy.artefacts[FORMAT]
    assert [file.name for file in artefact.files] == [FILE]
    assert [item.engine.split(" ")[0] for item in artefact.verified] == ["OpenVINO", "ONNX"]
    assert min(item.label_agreement for item in artefact.verified) > 0.999
    proto = onnx.load(tmp_path / "out" / FILE)
    assert proto.opset_import[0].version == 17
    for index, size_hw in enumerate([(70, 111), (133, 64)]):
        image = render_scene(index, size_hw)[0]
        expected = predict_label(model, image, preprocess, InferenceSettings())
        found = labels_of(tmp_path / "out" / FILE, image)
        assert (found.dtype, found.shape) == (np.uint8, (1, *size_hw))
        assert len(np.unique(expected)) > 1
        assert (found[0] != expected).mean() <= 1e-3


def test_normalisation_has_the_bits_of_the_pipelines(small_model, tmp_path) -> None:
    preprocess = Preprocess.from_transforms([NORMALIZE])
    export_model(
        small_model(), tmp_path / "out", preprocess=preprocess, formats=[FORMAT], is_verified=False
    )
    proto = onnx.load(tmp_path / "out" / FILE)
    [name] = [node.output[0] for node in proto.graph.node if node.input[0] == "image_centred"]
    proto.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    image = np.arange(256, dtype=np.uint8).repeat(12).reshape(32, 32, 3)
    [found] = session.run([name], {"image": image[None]})
    expected = preprocess.normalize.apply(image).transpose(2, 0, 1)[None]
    np.testing.assert_array_equal(found, expected)


def test_many_classes_and_no_normalisation(small_model, tmp_path) -> None:
    model = small_model(num_classes=300)
    export_model(model, tmp_path / "out", formats=[FORMAT], is_verified=False)
    image = render_scene(1, (64, 80))[0]
    found = labels_of(tmp_path / "out" / FILE, image)
    assert found.dtype == np.int32
    assert (
        found[0] == predict_label(model, image, Preprocess(), InferenceSettings())
    ).mean() > 0.999


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"preprocess": Preprocess.from_transforms([{"type": "ResizeByLong", "long_size": 64}])},
            "ResizeByLong cannot be put into the graph",
        ),
        (
            {"preprocess": Preprocess.from_dict({"value_range": [0, 4095]})},
            r"value_range \[0, 4095\] cannot be put into the graph",
        ),
        (
            {"settings": InferenceSettings(is_slide=True, crop_size_hw=(64, 64))},
            "windows, scales and flips cannot be put into the graph",
        ),
        ({"settings": InferenceSettings(flip_horizontal=True)}, "windows, scales and flips"),
        ({"settings": InferenceSettings(scales=(0.5,))}, "windows, scales and flips"),
        ({"settings": InferenceSettings(align_corners=True)}, "aligned corners"),
        ({"output_op": "argmax"}, "found --output_op argmax, expected none"),
        ({"input_shape": [2, 3, 64, 64]}, "found a batch of 2"),
    ],
)
def test_what_it_cannot_do_is_refused(small_model, tmp_path, arguments, message) -> None:
    with pytest.raises(UserError, match=f"^with_preprocess: .*{message}"):
        export_model(small_model(), tmp_path / "out", formats=[FORMAT], **arguments)
    assert not list(tmp_path.iterdir())


def test_wrong_labels_discard_the_export(small_model, tmp_path, monkeypatch) -> None:
    def shifted(*arguments: Any) -> np.ndarray:
        return np.roll(predict_label(*arguments), 1, axis=1)

    monkeypatch.setattr(onnx_with_preprocess, "predict_label", shifted)
    with pytest.raises(UserError, match=rf"{FILE} gives .* expected 99.9%"):
        export_model(small_model(), tmp_path / "out", formats=[FORMAT])
    assert not list(tmp_path.iterdir())


def test_flag_of_the_command_line(tmp_path, monkeypatch) -> None:
    calls: list[list[str]] = []

    def record(model: nn.Layer, save_dir: Path, *, formats: list[str], **others: object) -> None:
        calls.append(formats)
        raise UserError("far enough")

    monkeypatch.setattr("paddleseg_segformer.export.export_model", record)
    flags = ["--config", "segformer_b0_camvid_480x360", "--save_dir", str(tmp_path / "out")]
    assert main(["export", *flags, "--with_preprocess"]) == 1
    assert calls == [["paddle", FORMAT]]


def test_fixed_input_shape(small_model, tmp_path) -> None:
    deploy = export_model(
        small_model(), tmp_path / "out", formats=[FORMAT], input_shape=[1, 3, 48, 96]
    )
    assert DeployConfig.load(tmp_path / "out") == deploy
    assert labels_of(tmp_path / "out" / FILE, render_scene(2, (64, 96))[0][:48]).shape == (
        1,
        48,
        96,
    )
