"""The folder of an export: written beside its destination, verified, and only then put in place."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import paddle
from paddle import nn

import paddleseg_segformer
from paddleseg_segformer.contracts import input_of, pad_multiple_of
from paddleseg_segformer.data.labels import LabelSet, generic_label_set
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export.checks import (
    CONVERTERS,
    WITH_PREPROCESS,
    check_formats,
    check_save_dir,
)
from paddleseg_segformer.export.fixture import write_fixture
from paddleseg_segformer.export.onnx_graph import save_onnx, save_openvino
from paddleseg_segformer.export.onnx_with_preprocess import (
    check_expressible,
    save_with_preprocess,
)
from paddleseg_segformer.export.quantization import (
    INT8,
    INT8_ENGINES,
    Quantization,
    add_int8,
    check_quantization,
)
from paddleseg_segformer.export.static_graph import full_input_shape, save_static_graph
from paddleseg_segformer.export.verify import verify
from paddleseg_segformer.files import atomic_folder
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.models.folding import check_exportable
from paddleseg_segformer.models.quantized import in_float, learnt_ranges
from paddleseg_segformer.runtimes.deploy_config import (
    ARTEFACT_FILES,
    Artefact,
    DeployConfig,
    InputSpec,
    OutputSpec,
)

OUTPUT_DTYPES = {"none": "float32", "argmax": "int32", "softmax": "float32"}


def export_model(
    model: nn.Layer,
    save_dir: str | os.PathLike[str],
    *,
    preprocess: Preprocess | None = None,
    settings: InferenceSettings | None = None,
    label_set: LabelSet | None = None,
    output_op: str = "none",
    input_shape: Sequence[int] | None = None,
    is_verified: bool = True,
    formats: Sequence[str] = ("paddle",),
    quantization: Quantization | None = None,
    is_standard_onnx: bool = False,
    finish: Callable[[Path, DeployConfig], DeployConfig] | None = None,
) -> DeployConfig:
    """Write the network's files, a fixture and `deploy.yaml`; all of them, or nothing.

    Args:
        model: SegFormer, SegFormerMM, a Segmenter or another `contracts.SegmentationModel`; it is
            put into evaluation mode.
        save_dir: The export's own folder. An earlier export in it is replaced.
        preprocess, settings: How images are to be treated; by default not changed, as a whole.
        label_set: Names and colours; by default numbered classes.
        output_op: The graph's output: "none" (logits as the model gives them), "argmax" or
            "softmax" (both at the input's size).
        input_shape: (N, C, H, W), -1 for any size; by default only C is fixed.
        is_verified: Compare the export with the model in each installed backend that reads it.
        formats: What to write, keys of `ARTEFACT_FILES`.
        quantization: What "int8" is made with.
        is_standard_onnx: Write ONNX with its own operators alone; by default attention is one
            operator of ONNX Runtime's, which OpenVINO knows too.
        finish: Called with the complete folder and its `deploy.yaml` before the folder is put in
            place: it may write more files, and returns the final content.

    Returns:
        The content of `deploy.yaml`.

    Raises:
        UserError: the model, the shape or `save_dir` does not fit, the comparison failed, or INT8
            loses too much.
        MissingDependency: a package that a format needs is not installed.
    """
    save_dir = Path(save_dir).resolve()
    check_save_dir(save_dir)
    check_formats(formats)
    check_exportable(model)
    int8_formats = [name for name in INT8_ENGINES if name in formats]
    if int8_formats:
        check_quantization(quantization, output_op)
    preprocess, settings = preprocess or Preprocess(), settings or InferenceSettings()
    if settings.align_corners and output_op != "none":
        raise UserError(
            f"output_op {output_op}: the graph resizes logits with half-pixel centres, these "
            "weights with aligned corners (test_config.align_corners). Take --output_op none."
        )
    if settings.temperatures and output_op == "softmax":
        raise UserError(
            "output_op softmax: the graph's probabilities are not calibrated, but "
            "test_config.temperatures is set. Take --output_op none, or set it to null."
        )
    if WITH_PREPROCESS in formats:
        check_expressible(preprocess, settings, output_op, full_input_shape(model, input_shape))
    ranges = learnt_ranges(model) if INT8 in formats else None
    with in_float(model), atomic_folder(save_dir) as folder:
        wanted = {*formats, "onnx"} - set(int8_formats) if int8_formats else set(formats)
        made = [name for name in ARTEFACT_FILES if name in wanted]  # INT8 is made of ONNX, below
        _save_artefacts(model, folder, made, output_op, input_shape, preprocess, is_standard_onnx)
        label_set = label_set or generic_label_set(model.num_classes)
        deploy = DeployConfig(
            made_with=_made_with(formats),
            artefacts={name: Artefact.of(folder, name) for name in made},
            input=InputSpec(full_input_shape(model, input_shape), _min_side_px(model, formats)),
            output=_output(model, output_op),
            preprocess=_explicit(preprocess),
            inference=settings.to_dict(),
            classes=list(label_set.classes),
            palette=[list(color) for color in label_set.palette],
            ignore_index=label_set.ignore_index,
        )
        deploy = replace(deploy, fixture=write_fixture(model, deploy, folder))
        deploy.save(folder)
        if is_verified:
            verified = verify(model, folder)
            artefacts = {
                name: replace(artefact, verified=verified[name])
                for name, artefact in deploy.artefacts.items()
            }
            deploy = replace(deploy, artefacts=artefacts)
            deploy.save(folder)
        if quantization and int8_formats:
            for name in int8_formats:
                deploy = add_int8(folder, deploy, name, quantization, is_verified, ranges)
            deploy = _without_others(folder, deploy, formats)
        if finish:
            deploy = finish(folder, deploy)
            deploy.save(folder)
    return deploy


def _without_others(folder: Path, deploy: DeployConfig, formats: Sequence[str]) -> DeployConfig:
    """Remove the artefacts that were not asked for."""
    kept = {name: deploy.artefacts[name] for name in ARTEFACT_FILES if name in formats}
    for name in set(deploy.artefacts) - set(kept):
        for file in ARTEFACT_FILES[name]:
            (folder / file).unlink()
    deploy = replace(deploy, artefacts=kept)
    deploy.save(folder)
    return deploy


def _min_side_px(model: nn.Layer, formats: Sequence[str]) -> int:
    """Return the smallest side of images that all backends of these formats take."""
    backbone = input_of(model)
    if set(formats) == {"paddle"}:
        return backbone.min_input_px
    return backbone.min_portable_px or backbone.min_input_px


def _save_artefacts(
    model: nn.Layer,
    folder: Path,
    formats: Sequence[str],
    output_op: str,
    input_shape: Sequence[int] | None,
    preprocess: Preprocess,
    is_standard_onnx: bool,
) -> None:
    """Write the network in each format; they are made from one another, in the table's order."""
    paths = {name: [folder / file for file in files] for name, files in ARTEFACT_FILES.items()}
    if set(formats) & {"onnx", "openvino", WITH_PREPROCESS}:
        save_static_graph(model, folder, output_op, input_shape, is_for_onnx=True)
        save_onnx(paths["paddle"], paths["onnx"][0], output_op, is_standard_onnx)
    if "openvino" in formats:
        save_openvino(paths["onnx"][0], paths["openvino"][0])
    if WITH_PREPROCESS in formats:
        save_with_preprocess(
            paths["onnx"][0],
            paths[WITH_PREPROCESS][0],
            preprocess.normalize,
            num_classes=model.num_classes,
            pad_multiple=pad_multiple_of(model),
        )
    if "paddle" in formats:
        save_static_graph(model, folder, output_op, input_shape)
    for name in set(ARTEFACT_FILES) - set(formats):
        for path in paths[name]:
            path.unlink(missing_ok=True)


def _made_with(formats: Sequence[str]) -> dict[str, str]:
    """Return the versions of what made the artefacts."""
    versions = {
        "paddleseg_segformer": paddleseg_segformer.__version__,
        "paddlepaddle": paddle.__version__,
    }
    converters = dict.fromkeys(name for format in formats for name in CONVERTERS[format])
    return versions | {name: metadata.version(name) for name in converters}


def _output(model: nn.Layer, output_op: str) -> OutputSpec:
    dtype = OUTPUT_DTYPES[output_op]
    if output_op != "none":
        return OutputSpec(output_op, 1, model.num_classes, dtype)
    _check_stride(model)
    return OutputSpec(
        output_op, model.logits_stride, model.num_classes, dtype, pad_multiple_of(model)
    )


def _check_stride(model: nn.Layer) -> None:
    """Refuse a model whose `logits_stride` is not what it does."""
    backbone, stride = input_of(model), model.logits_stride
    side = max(8 * stride, backbone.min_input_px) + 1  # not a multiple of it
    with paddle.no_grad():
        found = model(paddle.zeros([1, backbone.in_channels, side, side])).shape[2]
    if found not in (side // stride, -(-side // stride)):
        raise UserError(
            f"model {type(model).__name__}: gives {found} logits for {side} px, expected one for "
            f"each {stride} px: its logits_stride, or a SegFormer's backbone whose first map has a "
            "fourth of the image's sides."
        )


def _explicit(preprocess: Preprocess) -> dict[str, Any]:
    """Return `preprocess.to_dict()` with the defaults written out, for readers that lack them."""
    components = [*preprocess.size_rules, preprocess.normalize]
    sections = []
    for section, component in zip(preprocess.sections, components, strict=False):
        parameters = inspect.signature(type(component)).parameters.values()
        arguments = {item.name: section.get(item.name, item.default) for item in parameters}
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in arguments.items()}
        sections.append({"type": section["type"], **plain})
    return preprocess.to_dict() | {"transforms": sections}
