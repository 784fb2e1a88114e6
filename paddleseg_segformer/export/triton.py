"""A model repository for NVIDIA's Triton Inference Server, made of an export."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import atomic_folder, make_folder, write_text
from paddleseg_segformer.runtimes.deploy_config import FILE_NAME, DeployConfig, deploy_path

MAX_BATCH = 8
MAX_DELAY_US = 5000  # that an input waits for others of its shape
LABELS = "labels.txt"
DTYPES = {"float32": "TYPE_FP32", "int32": "TYPE_INT32", "uint8": "TYPE_UINT8"}


class TritonModel(NamedTuple):
    """How an artefact becomes a model of the repository."""

    name: str
    backend: str
    files: tuple[str, ...]  # the backend's names for the artefact's files
    kind: str  # of the instance: where it runs


MODELS = {  # by artefact
    "onnx": TritonModel("segmentation_onnx", "onnxruntime", ("model.onnx",), "KIND_AUTO"),
    "openvino": TritonModel(
        "segmentation_openvino", "openvino", ("model.xml", "model.bin"), "KIND_CPU"
    ),
    "onnx_with_preprocess": TritonModel(
        "segmentation_labels", "onnxruntime", ("model.onnx",), "KIND_AUTO"
    ),
}


def write_triton_repository(
    export: str | os.PathLike[str], repository: str | os.PathLike[str]
) -> list[Path]:
    """Write a model for each artefact of an export that Triton has a backend for.

    Each gets `config.pbtxt`, the class names in `labels.txt`, the export's `deploy.yaml`, by which
    clients prepare images and resize logits, and the artefact as version 1.

    Args:
        export: The folder of an export, or the path of its `deploy.yaml`.
        repository: A folder; models of other names in it are left alone.

    Returns:
        The folders of the models.

    Raises:
        UserError: no complete export, or nothing in it that Triton runs.
    """
    source = deploy_path(export).parent
    deploy = DeployConfig.load(export, check_files=False)
    check_triton_formats(list(deploy.artefacts), str(source))
    make_folder(repository)
    folders = []
    for artefact, model in MODELS.items():
        if artefact not in deploy.artefacts:
            continue
        destination = Path(repository) / model.name
        paths = deploy.check_files(source, [artefact])
        with atomic_folder(destination) as folder:
            (folder / "1").mkdir()
            for name, path in zip(model.files, paths, strict=True):
                shutil.copyfile(path, folder / "1" / name)
            shutil.copyfile(deploy_path(export), folder / FILE_NAME)
            write_text(folder / LABELS, "".join(f"{name}\n" for name in deploy.classes))
            write_text(folder / "config.pbtxt", as_pbtxt(describe(artefact, paths)))
        folders.append(destination)
    return folders


def check_triton_formats(formats: Sequence[str], source: str) -> None:
    """Refuse formats none of which Triton runs.

    Raises:
        UserError: none of them is ONNX or OpenVINO.
    """
    if not set(formats) & set(MODELS):
        raise UserError(
            f"{source}: holds {' and '.join(formats)}, but a Triton repository is made of "
            f"{' or '.join(MODELS)}. Export with --format {' '.join(list(MODELS)[:2])}."
        )


def describe(artefact: str, paths: Sequence[Path]) -> dict[str, Any]:
    """Return the configuration of an artefact's model as plain data.

    Args:
        artefact: Key of `MODELS`.
        paths: The artefact's files.
    """
    model = MODELS[artefact]
    read = _read_onnx if paths[0].suffix == ".onnx" else _read_openvino
    inputs, outputs = read(paths[0])
    is_free = all(dims[0] == -1 for *_, dims in (*inputs, *outputs))
    config: dict[str, Any] = {
        "name": model.name,
        "backend": model.backend,
        "max_batch_size": MAX_BATCH if is_free else 0,
    }
    for key, tensors in (("input", inputs), ("output", outputs)):
        config[key] = [
            {"name": name, "data_type": Word(DTYPES[dtype]), "dims": dims[int(is_free) :]}
            for name, dtype, dims in tensors
        ]
    if is_free:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": MAX_DELAY_US}
    config["instance_group"] = [{"count": 1, "kind": Word(model.kind)}]
    return config


class Word(str):
    """A value that stands without quotes: one of an enumeration."""


Tensor = tuple[str, str, list[int]]  # name, dtype and sides, -1 for any


def _read_onnx(path: Path) -> tuple[list[Tensor], list[Tensor]]:
    import onnx

    def tensor(value: Any) -> Tensor:
        kind = value.type.tensor_type
        dims = [size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim]
        return value.name, str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)), dims

    graph = onnx.load(str(path)).graph
    return [tensor(value) for value in graph.input], [tensor(value) for value in graph.output]


def _read_openvino(path: Path) -> tuple[list[Tensor], list[Tensor]]:
    import openvino

    def tensor(port: Any) -> Tensor:
        dims = [size.get_length() if size.is_static else -1 for size in port.partial_shape]
        return port.get_any_name(), str(np.dtype(port.element_type.to_dtype())), dims

    model = openvino.Core().read_model(str(path))
    return [tensor(port) for port in model.inputs], [tensor(port) for port in model.outputs]


def as_pbtxt(config: Mapping[str, Any], indent: str = "") -> str:
    """Return plain data in protocol buffers' text format."""
    lines = []
    for key, value in config.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines += [f"{key} {{\n{as_pbtxt(item, '  ')}}}" for item in value]
        elif isinstance(value, dict):
            lines.append(f"{key} {{\n{as_pbtxt(value, '  ')}}}")
        else:
            is_bare = isinstance(value, (Word, list)) or not isinstance(value, str)
            lines.append(f"{key}: {value if is_bare else json.dumps(value)}")
    return "".join(f"{indent}{line}\n" for line in lines)
