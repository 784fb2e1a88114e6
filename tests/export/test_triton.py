"""Triton's model repository. The server itself is not run: its schema and the graphs are asked."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paddle import nn

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export import export_model
from paddleseg_segformer.export.triton import (
    MODELS,
    as_pbtxt,
    check_triton_formats,
    describe,
    write_triton_repository,
)
from paddleseg_segformer.runtimes.deploy_config import DeployConfig

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnx", reason="onnx is not installed")
text_format = pytest.importorskip("google.protobuf.text_format")


@pytest.fixture(scope="module")
def schema() -> Any:
    """Return the module with Triton's `ModelConfig`; loaded by path, as it needs no gRPC."""
    client = importlib.util.find_spec("tritonclient")
    if client is None or not client.submodule_search_locations:
        pytest.skip("tritonclient is not installed")
    path = Path(client.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    name = "model_config_pb2"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_model_of_a_repository_is_what_triton_s_schema_and_the_graph_say(
    schema: Any, small_model: Callable[..., nn.Layer], tmp_path: Path
) -> None:
    formats = ["onnx", "onnx_with_preprocess"]
    if importlib.util.find_spec("openvino"):
        formats.append("openvino")
    export_model(small_model(), tmp_path / "export", formats=formats, is_verified=False)
    folders = write_triton_repository(tmp_path / "export", tmp_path / "repository ü")
    assert {folder.name for folder in folders} == {MODELS[name].name for name in formats}
    for folder in folders:
        text = (folder / "config.pbtxt").read_text(encoding="utf-8")
        config = text_format.Parse(text, schema.ModelConfig())
        assert config.name == folder.name
        assert config.max_batch_size > 1
        assert config.HasField("dynamic_batching")
        taken = config.input[0]
        is_image = taken.name == "image"
        assert list(taken.dims) == ([-1, -1, 3] if is_image else [3, -1, -1])
        path = folder / "1" / ("model.xml" if config.backend == "openvino" else "model.onnx")
        shape, dtype = ((2, 40, 52, 3), np.uint8) if is_image else ((2, 3, 40, 52), np.float32)
        output = run(path, np.zeros(shape, dtype), taken.name)
        given = config.output[0]
        assert [want for want in given.dims if want != -1] == ([] if is_image else [5])
        assert len(given.dims) + 1 == output.ndim
        expected = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}[str(output.dtype)]
        assert schema.DataType.Name(given.data_type) == expected
        names = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
        assert names == DeployConfig.load(tmp_path / "export").classes
        assert (folder / "deploy.yaml").is_file()


def run(path: Path, x: np.ndarray, name: str) -> np.ndarray:
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return session.run(None, {name: x})[0]
    import openvino

    return openvino.Core().compile_model(str(path), "CPU")({name: x})[0]


def test_fixed_batch_is_part_of_the_shape(schema: Any, tmp_path: Path) -> None:
    import onnx

    shape = [2, 3, 64, 96]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in "xy"
    ]
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "graph", ends[:1], ends[1:])
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "model.onnx"))
    text = as_pbtxt(describe("onnx", [tmp_path / "model.onnx"]))
    config = text_format.Parse(text, schema.ModelConfig())
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert list(config.input[0].dims) == list(config.output[0].dims) == shape


def test_an_export_without_a_graph_for_triton_is_refused() -> None:
    with pytest.raises(UserError, match="x: holds paddle, but a Triton repository is made of onnx"):
        check_triton_formats(["paddle"], "x")


def test_text_format_quotes_text_alone(schema: Any) -> None:
    name = 'a "b" \\ ü'
    config = text_format.Parse(as_pbtxt({"name": name, "max_batch_size": 3}), schema.ModelConfig())
    assert (config.name, config.max_batch_size) == (name, 3)
