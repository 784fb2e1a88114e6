"""Paddle Inference as a network, with a graph of one convolution and one bilinear resize."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import inference, nn
from small_models import IS_PADDLE_2

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export import export_model
from paddleseg_segformer.inference.pipeline import Pipeline
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.models import LinearSegmenter, MaskSegmenter, VisionTransformer
from paddleseg_segformer.runtimes import paddle_backend
from paddleseg_segformer.runtimes.deploy_config import Artefact, DeployConfig, ModelFile
from paddleseg_segformer.runtimes.engines import EngineOptions
from paddleseg_segformer.runtimes.paddle_backend import PaddleInferenceNetwork
from paddleseg_segformer.runtimes.paddle_options import (
    CPU_OPTIONS,
    FAILING_RESIZE,
    ONEDNN,
    PLAIN,
    SOME_ONEDNN,
    set_up_tensorrt,
    tensorrt_shapes,
)

NUM_CLASSES = 5
# of the largest logit: in whatever order, a sum of a kernel's 7 x 7 x 3 products rounds by no more
ROUNDING = 7 * 7 * 3 * np.finfo(np.float32).eps


@pytest.fixture(scope="module")
def dynamic(export_tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Layer, Path]:
    return export_tiny(tmp_path_factory.mktemp("backend") / "森", [-1, 3, -1, -1])


@pytest.fixture(scope="module")
def fixed(export_tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Layer, Path]:
    return export_tiny(tmp_path_factory.mktemp("backend") / "fixed", [2, 3, 32, 48])


def assert_same(network: Callable, exported: Callable, shape: list[int]) -> paddle.Tensor:
    x = paddle.randn(shape)
    with paddle.no_grad():
        expected = network(x)
    found = exported(x)
    assert isinstance(found, paddle.Tensor)
    largest = float(expected.abs().max())
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=ROUNDING * largest)
    return found


def test_any_size_and_batch(dynamic) -> None:
    network, folder = dynamic
    exported = PaddleInferenceNetwork(folder, EngineOptions(device="cpu", threads=1))
    first = assert_same(network, exported, [1, 3, 37, 51])
    kept = first.numpy().copy()
    assert_same(network, exported, [3, 3, 16, 64])
    assert_same(network, exported, [1, 3, 37, 51])
    np.testing.assert_array_equal(first.numpy(), kept)  # results do not share the engine's memory


def test_deploy_yaml_itself_may_be_named(dynamic) -> None:
    network, folder = dynamic
    exported = PaddleInferenceNetwork(folder / "deploy.yaml", EngineOptions())
    assert exported.device == paddle.get_device()
    assert_same(network, exported, [1, 3, 32, 32])


def test_pipeline_with_windows_scales_and_flips(dynamic) -> None:
    network, folder = dynamic
    settings = InferenceSettings(
        is_slide=True,
        crop_size_hw=(32, 48),
        stride_hw=(20, 30),
        scales=(0.75, 1.0),
        flip_horizontal=True,
    )
    preprocess = Preprocess.from_transforms([{"type": "Normalize"}])
    image = np.random.default_rng(0).integers(0, 256, (77, 90, 3), dtype=np.uint8)
    expected = Pipeline(network, preprocess, settings)(image).labels()
    exported = PaddleInferenceNetwork(folder, EngineOptions(device="cpu"))
    found = Pipeline(exported, preprocess, settings)(image).labels()
    assert len(np.unique(expected)) == NUM_CLASSES
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_fixed_batch_takes_any_number_of_images(fixed, batch) -> None:
    network, folder = fixed
    assert_same(
        network, PaddleInferenceNetwork(folder, EngineOptions(device="cpu")), [batch, 3, 32, 48]
    )


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([1, 4, 32, 48], "found 4 channels, but the model was exported for 3"),
        ([1, 3, 33, 48], "found 33 px high, but the model was exported for 32"),
        ([1, 3, 32, 47], "found 47 px wide, but the model was exported for 48"),
    ],
)
def test_other_shapes_than_the_exported_one_are_refused(fixed, shape, message) -> None:
    exported = PaddleInferenceNetwork(fixed[1], EngineOptions(device="cpu"))
    with pytest.raises(UserError, match=message):
        exported(paddle.zeros(shape))


def test_image_below_the_smallest_size_is_refused(dynamic) -> None:
    exported = PaddleInferenceNetwork(dynamic[1], EngineOptions(device="cpu"))
    with pytest.raises(UserError, match="image of 15x64 px: the network needs 16 px or more"):
        exported(paddle.zeros([1, 3, 15, 64]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "tpu"}, "device 'tpu': not available; this Paddle offers cpu"),
        ({"device": "cpu", "precision": "fp16"}, "fp16 is for GPUs"),
        (
            {"device": "cpu", "precision": "int4"},
            "found 'int4', but Paddle Inference offers fp32 and fp16",
        ),
        ({"device": "cpu", "threads": 0}, "threads: found 0"),
        ({"output_op": "argmax"}, "exported with --output_op none, but argmax is needed"),
    ],
)
def test_wrong_arguments_are_refused(dynamic, arguments, message) -> None:
    with pytest.raises(UserError, match=message):
        PaddleInferenceNetwork(dynamic[1], EngineOptions(**arguments))


@pytest.mark.skipif(paddle.is_compiled_with_cuda(), reason="this Paddle has a GPU")
def test_gpu_is_refused_where_paddle_has_none(dynamic) -> None:
    with pytest.raises(UserError, match="'gpu': not available; .* install paddlepaddle-gpu"):
        PaddleInferenceNetwork(dynamic[1], EngineOptions(device="gpu"))


def test_engine_without_memory_optimisation_is_the_fall_back(dynamic, monkeypatch, caplog) -> None:
    config_class = inference.Config

    def fail(config: object) -> None:
        raise ValueError("first line\n  memory_optimize_pass not found")

    monkeypatch.setattr(config_class, "enable_memory_optim", fail)
    with caplog.at_level(logging.WARNING, logger=paddle_backend.__name__):
        exported = PaddleInferenceNetwork(dynamic[1], EngineOptions(device="cpu"))
    assert caplog.messages == [
        "Paddle Inference without memory optimisation: memory_optimize_pass not found"
    ]
    assert_same(dynamic[0], exported, [1, 3, 32, 32])


def test_damaged_export_is_refused(export_tiny, tmp_path) -> None:
    _, folder = export_tiny(tmp_path / "damaged", [-1, 3, -1, -1])
    weights = folder / "model.pdiparams"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(UserError, match="model.pdiparams: the file is damaged or was replaced"):
        PaddleInferenceNetwork(folder, EngineOptions())


def load(folder: object, caplog: pytest.LogCaptureFixture) -> PaddleInferenceNetwork:
    with caplog.at_level(logging.WARNING, logger=paddle_backend.__name__):
        return PaddleInferenceNetwork(folder, EngineOptions(device="cpu"))


@pytest.mark.parametrize("shape", [[1, 3, 16, 16], [2, 3, 97, 131], [1, 3, 33, 200]])
def test_fast_options_give_what_the_plain_ones_give(dynamic, caplog, monkeypatch, shape) -> None:
    fast = load(dynamic[1], caplog)
    assert fast.option == (SOME_ONEDNN if paddle.__version__ in FAILING_RESIZE else ONEDNN)
    assert caplog.messages == []
    monkeypatch.setattr(paddle_backend, "CPU_OPTIONS", {PLAIN: CPU_OPTIONS[PLAIN]})
    plain = load(dynamic[1], caplog)
    assert plain.option == PLAIN
    x = paddle.randn(shape)
    expected = plain(x).numpy()
    assert np.abs(fast(x).numpy() - expected).max() <= 1e-4 * expected.std()


ONE_PATCH_HW = ((16, 16), (16, 97), (97, 16), (128, 16), (5, 9), (1, 1), (15, 100))


@pytest.mark.parametrize("head", ["linear", "mask"])
def test_padded_segmenter_is_right_where_its_grid_is_one_patch_high_or_wide(
    head, tmp_path, caplog
) -> None:
    """With oneDNN, Paddle before 3.3 resizes position embeddings wrongly to one row or column."""
    backbone = VisionTransformer(
        img_size=64,
        embed_dim=24,
        depth=1,
        num_heads=3,
        pad_input=True,
        pos_embed_interpolation="bilinear",
    )
    model = (
        LinearSegmenter(NUM_CLASSES, backbone)
        if head == "linear"
        else MaskSegmenter(NUM_CLASSES, backbone, 16, 1, 2)
    )
    for tensor in model.parameters():
        if tensor.ndim > 1:
            tensor.set_value(paddle.randn(tensor.shape) / np.prod(tensor.shape[:-1]) ** 0.5)
    export_model(model, tmp_path / "out", is_verified=False)
    network = load(tmp_path / "out", caplog)
    assert network.option == SOME_ONEDNN  # the faster ones of 3.3 fail, those before it are wrong
    for hw in (*ONE_PATCH_HW, (64, 64), (33, 100)):
        x = paddle.randn([2, 3, *hw])
        with paddle.no_grad():
            expected = model(x).numpy()
        np.testing.assert_allclose(network(x).numpy(), expected, atol=1e-4 * expected.std())


def test_options_that_fail_or_are_wrong_are_told_in_one_line(dynamic, caplog, monkeypatch) -> None:
    class Wrong(paddle_backend.Runner):
        def __init__(self, config: Any) -> None:
            self.is_wrong = config.mkldnn_enabled()
            super().__init__(config)

        def __call__(self, x: np.ndarray) -> np.ndarray:  # for the smallest images, as 3.2.2 once
            return super().__call__(x) + 0.01 * (self.is_wrong and x.shape[2] < 32)

    def fail(config: object) -> None:
        raise NotImplementedError("a stack\n(Unimplemented) no such kernel")

    options = {"broken": fail, SOME_ONEDNN: CPU_OPTIONS[SOME_ONEDNN], PLAIN: CPU_OPTIONS[PLAIN]}
    monkeypatch.setattr(paddle_backend, "CPU_OPTIONS", options)
    monkeypatch.setattr(paddle_backend, "Runner", Wrong)
    network = load(dynamic[1], caplog)
    assert network.option == PLAIN
    assert caplog.messages == [
        f"Paddle Inference {paddle.__version__} falls back to no oneDNN: broken fails "
        "((Unimplemented) no such kernel); oneDNN without its placement pass gives other outputs"
    ]
    assert_same(dynamic[0], network, [1, 3, 16, 16])


@pytest.mark.skipif(paddle.__version__ not in FAILING_RESIZE, reason="Paddle that has the fault")
def test_known_failure_is_still_there(dynamic, caplog, monkeypatch) -> None:
    """Once this fails, the version needs no exception any more."""
    monkeypatch.setattr(paddle_backend, "is_known_to_fail", lambda option, program: False)
    assert load(dynamic[1], caplog).option == SOME_ONEDNN
    assert "oneDNN fails ((Unimplemented) ConvertPirAttribute2" in caplog.messages[0]


def test_outputs_are_compared_strictly() -> None:
    logits = np.linspace(-3, 3, 60, dtype=np.float32).reshape(1, 3, 4, 5)
    assert paddle_backend._is_same(logits, logits + 1e-5)
    assert not paddle_backend._is_same(logits, logits + 1e-3)
    assert not paddle_backend._is_same(logits, logits * np.nan)
    assert not paddle_backend._is_same(logits, logits[:, :, :, :4])
    ids = np.arange(2000, dtype=np.int32)
    assert paddle_backend._is_same(ids, np.where(ids < 2, 9, ids))
    assert not paddle_backend._is_same(ids, np.where(ids < 3, 9, ids))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "cpu"}, "use_trt: TensorRT runs in Paddle Inference on a GPU, found Paddle"),
        ({"device": "gpu"}, "'gpu': not available; .* install paddlepaddle-gpu"),
    ],
)
@pytest.mark.skipif(paddle.is_compiled_with_cuda(), reason="this Paddle has a GPU")
def test_tensorrt_is_refused_where_it_cannot_run(dynamic, arguments, message) -> None:
    with pytest.raises(UserError, match=message):
        PaddleInferenceNetwork(dynamic[1], EngineOptions(use_trt=True, **arguments))


@pytest.mark.skipif(
    inference.get_trt_compile_version() != (0, 0, 0), reason="this Paddle has TensorRT"
)
def test_paddle_without_tensorrt_is_one_line(dynamic) -> None:
    deploy = DeployConfig.load(dynamic[1])
    files = [ModelFile("model.pdmodel", ""), deploy.artefacts["paddle"].files[1]]
    old = dataclasses.replace(deploy, artefacts={"paddle": Artefact(files)})
    with pytest.raises(UserError, match="use_trt: this Paddle was built without TensorRT"):
        set_up_tensorrt(inference.Config(), old, inference.PrecisionType.Half)


@pytest.mark.skipif(IS_PADDLE_2, reason="Paddle 2 writes no such program")
def test_program_of_paddle_3_is_refused_by_paddle_2(dynamic, monkeypatch) -> None:
    monkeypatch.setattr(paddle, "__version__", "2.6.2")
    with pytest.raises(UserError, match=r"model.json: a program of Paddle 3, found Paddle 2.6.2"):
        PaddleInferenceNetwork(dynamic[1], EngineOptions(device="cpu"))


@pytest.mark.skipif(IS_PADDLE_2, reason="Paddle 2 writes no such program")
def test_tensorrt_is_refused_for_programs_of_paddle_3(dynamic) -> None:
    deploy = DeployConfig.load(dynamic[1])
    with pytest.raises(UserError, match="use_trt: found model.json, but .* of Paddle 2"):
        set_up_tensorrt(inference.Config(), deploy, inference.PrecisionType.Half)


def test_tensorrt_shapes_of_free_windowed_and_fixed_inputs(dynamic, fixed) -> None:
    settings = InferenceSettings(is_slide=True, crop_size_hw=(64, 96), window_batch=3)
    deploy = DeployConfig.load(dynamic[1])
    sliding = dataclasses.replace(deploy, inference=settings.to_dict())
    assert tensorrt_shapes(deploy) == ([1, 3, 16, 16], [1, 3, 512, 512], [4, 3, 2048, 2048])
    assert tensorrt_shapes(sliding) == ([1, 3, 16, 16], [1, 3, 64, 96], [3, 3, 64, 96])
    shape = DeployConfig.load(fixed[1]).input.shape
    assert tensorrt_shapes(DeployConfig.load(fixed[1])) == (shape, shape, shape)
