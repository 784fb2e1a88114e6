"""Exported Segmenters in every engine against dygraph, with both rules for input sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
import pytest
import yaml
from paddle import nn
from small_models import small_vit

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export import export_model
from paddleseg_segformer.inference.pipeline import predict_label
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.models import LinearSegmenter, MaskSegmenter
from paddleseg_segformer.models.layers import upsample_to_input
from paddleseg_segformer.runtimes.deploy_config import DeployConfig
from paddleseg_segformer.runtimes.engine_network import load_network
from paddleseg_segformer.runtimes.engines import EngineOptions
from paddleseg_segformer.runtimes.paddle_backend import PaddleInferenceNetwork
from paddleseg_segformer.street_scenes.dataset import render_scene

SLIDE = InferenceSettings(
    is_slide=True, crop_size_hw=(72, 64), stride_hw=(40, 48), flip_horizontal=True
)
ORIGINAL = {"pad_input": True, "pos_embed_interpolation": "bilinear"}


def small_segmenter(head: str, **encoder: Any) -> nn.Layer:
    paddle.seed(2)
    backbone = small_vit(qkv_bias=True, final_norm=True, **encoder)
    model = (
        LinearSegmenter(5, backbone) if head == "linear" else MaskSegmenter(5, backbone, 16, 2, 2)
    )
    for tensor in model.parameters():
        if tensor.ndim > 1:
            tensor.set_value(paddle.randn(tensor.shape) / np.prod(tensor.shape[:-1]) ** 0.5)
    model.eval()
    return model


@pytest.mark.parametrize("encoder", [{}, ORIGINAL], ids=["floored", "padded"])
@pytest.mark.parametrize("head", ["linear", "mask"])
def test_export_gives_logits_and_labels_of_the_model(head, encoder, rounding, tmp_path) -> None:
    model = small_segmenter(head, **encoder)
    deploy = export_model(model, tmp_path / "out", settings=SLIDE)
    assert deploy.artefacts["paddle"].verified[0].label_agreement > 0.999
    num_norms = 2 * 2 + 1 + (2 * 2 + 2 if head == "mask" else 0)
    assert deploy.artefacts["paddle"].verified[0].layer_norm_epsilons == {"1e-05": num_norms}
    assert (deploy.output.stride, deploy.output.pad_multiple) == (16, 16 if encoder else 1)
    assert deploy.input.min_side_px == (1 if encoder else 16)
    network = PaddleInferenceNetwork(tmp_path / "out", EngineOptions(device="cpu"))
    for shape in ((1, 3, 64, 64), (2, 3, 33, 100), (1, 3, 97, 16)):
        x = paddle.randn(shape)
        with paddle.no_grad():
            expected = model(x).numpy()
        assert np.abs(network(x).numpy() - expected).max() <= rounding(model, x)
    image, _ = render_scene(3, (100, 150))
    preprocess = Preprocess.from_transforms([{"type": "Normalize"}])
    expected, found = (predict_label(each, image, preprocess, SLIDE) for each in (model, network))
    assert len(np.unique(expected)) > 2
    assert (found == expected).mean() > 0.999


@pytest.mark.parametrize("encoder", [{}, ORIGINAL], ids=["floored", "padded"])
@pytest.mark.parametrize("head", ["linear", "mask"])
def test_other_engines_give_the_logits_of_the_model(head, encoder, rounding, tmp_path) -> None:
    model = small_segmenter(head, **encoder)
    deploy = export_model(model, tmp_path / "out", formats=("onnx", "openvino"))
    assert deploy.input.min_side_px == (17 if encoder else 32)
    for backend in ("onnxruntime", "openvino"):
        network = load_network(tmp_path / "out", EngineOptions(backend, "cpu", threads=2))
        for shape in ((1, 3, 64, 64), (2, 3, 33, 100), (1, 3, 40, 150), (2, 3, 33, 100)):
            x = paddle.randn(shape)
            with paddle.no_grad():
                expected = model(x).numpy()
            assert np.abs(network(x).numpy() - expected).max() <= rounding(model, x)
        with pytest.raises(UserError, match="px or more per side"):
            network(paddle.randn([1, 3, 64, 16]))


@pytest.mark.parametrize("output_op", ["argmax", "softmax"])
def test_output_at_the_input_size_leaves_the_padding_out(output_op, tmp_path) -> None:
    model = small_segmenter("linear", **ORIGINAL)
    deploy = export_model(model, tmp_path / "out", output_op=output_op)
    assert (deploy.output.stride, deploy.output.pad_multiple) == (1, 1)
    network = PaddleInferenceNetwork(
        tmp_path / "out", EngineOptions(device="cpu", output_op=output_op)
    )
    x = paddle.randn([2, 3, 45, 70])
    with paddle.no_grad():
        logits = upsample_to_input(model(x), (45, 70), 16)
    found = network(x).numpy()
    if output_op == "argmax":
        assert (found == logits.argmax(axis=1).numpy()).mean() > 0.999
    else:
        expected = nn.functional.softmax(logits, axis=1).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_fixed_input_shape(tmp_path) -> None:
    model = small_segmenter("mask")
    deploy = export_model(model, tmp_path / "out", input_shape=[1, 3, 70, 64])
    assert deploy.artefacts["paddle"].verified[0].input_shapes == [[1, 3, 70, 64]]
    with pytest.raises(UserError, match="found 70x15 px, expected 16 px or more"):
        export_model(model, tmp_path / "other", input_shape=[1, 3, 70, 15])


def test_large_patches_are_verified_with_images_that_hold_one(tmp_path) -> None:
    deploy = export_model(small_segmenter("linear", patch_size=32), tmp_path / "out")
    assert deploy.artefacts["paddle"].verified[0].input_shapes[-1] == [1, 3, 32, 33]


def test_deploy_yaml_without_padding_is_read_as_before(tmp_path) -> None:
    export_model(small_segmenter("linear"), tmp_path / "out", is_verified=False)
    path = tmp_path / "out" / "deploy.yaml"
    content = yaml.safe_load(path.read_text())
    del content["output"]["pad_multiple"]
    path.write_text(yaml.safe_dump(content))
    assert DeployConfig.load(path).output.pad_multiple == 1
