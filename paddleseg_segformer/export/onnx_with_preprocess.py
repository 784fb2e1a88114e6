"""The ONNX model with normalisation and labels inside: an 8-bit image in, class ids out."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from paddle import nn

from paddleseg_segformer.data.normalize import Normalize
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export.checks import WITH_PREPROCESS
from paddleseg_segformer.export.epsilons import check_epsilons
from paddleseg_segformer.export.fixture import allowed_size, scene_image
from paddleseg_segformer.inference.pipeline import predict_label
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.runtimes.deploy_config import (
    ARTEFACT_FILES,
    DeployConfig,
    Verification,
)

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

IMAGE, LABELS = "image", "labels"  # names of input and output
MIN_AGREEMENT = 0.999  # as of the other artefacts
SIZES_HW = ((97, 131), (64, 200))  # tried where the size is free


def check_expressible(
    preprocess: Preprocess, settings: InferenceSettings, output_op: str, shape: Sequence[int]
) -> None:
    """Refuse what such a model cannot do as the pipeline does it.

    Libraries round differently when they resize 8-bit images, and no ONNX operator equals them.

    Raises:
        UserError: a range of other values than 8 bits, size rules, windows, scales or flips, or an
            output other than logits.
    """
    rules = ", ".join(type(rule).__name__ for rule in preprocess.size_rules)
    remedy = "leave --with_preprocess out, or "
    if preprocess.value_range and not preprocess.value_range.keeps_uint8:
        raise UserError(
            f"with_preprocess: value_range {preprocess.value_range.declared} cannot be put into "
            "the graph, which takes images of 8 bits; leave --with_preprocess out."
        )
    if rules:
        raise UserError(
            f"with_preprocess: {rules} cannot be put into the graph; {remedy}export with "
            "transforms that are Normalize alone and resize images beforehand."
        )
    if settings.is_slide or settings.num_views > 1 or settings.scales != (1.0,):
        raise UserError(
            "with_preprocess: windows, scales and flips cannot be put into the graph; "
            f"{remedy}switch them off (test_config.is_slide and test_config.aug_eval)."
        )
    if settings.align_corners:
        raise UserError(
            "with_preprocess: the graph resizes logits with half-pixel centres, these weights with "
            "aligned corners (test_config.align_corners); leave --with_preprocess out."
        )
    if output_op != "none":
        raise UserError(
            f"with_preprocess: found --output_op {output_op}, expected none: labels are made from "
            "logits."
        )
    if shape[0] not in (-1, 1):
        raise UserError(
            f"with_preprocess: found a batch of {shape[0]} in --input_shape, expected 1 or -1."
        )


def save_with_preprocess(
    source: Path,
    path: Path,
    normalize: Normalize | None,
    *,
    num_classes: int,
    pad_multiple: int = 1,
) -> None:
    """Write an ONNX model of logits with what surrounds it in the pipeline.

    Input `image`: (N, H, W, C) uint8, RGB. Output `labels`: (N, H, W) uint8, or int32 for more than
    256 classes; of equal logits the lowest id is taken.

    Args:
        source: The network, (N, C, H, W) float32 -> logits.
        path: The file to write.
        normalize: Constants; None where the network takes 0..255.
        num_classes: K.
        pad_multiple: See `upsample_to_input`.
    """
    import onnx

    model = onnx.load(str(source))
    graph = model.graph
    x, logits = graph.input[0], graph.output[0].name
    nodes, constants = _before(x.name, normalize)
    after, more = _after(x.name, logits, num_classes, pad_multiple)
    body = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *body, *after])
    graph.initializer.extend([*constants, *more])
    _replace_ends(model, num_classes)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def _before(x: str, normalize: Normalize | None) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return nodes from the image to the network's input, by the operations of `on_device`."""
    from onnx import TensorProto
    from onnx.helper import make_node

    last = "image_float" if normalize else x
    nodes = [
        make_node("Transpose", [IMAGE], ["image_planes"], perm=[0, 3, 1, 2]),
        make_node("Cast", ["image_planes"], [last], to=TensorProto.FLOAT),
    ]
    if normalize is None:
        return nodes, []
    nodes += [
        make_node("Sub", [last, "image_offset"], ["image_centred"]),
        make_node("Mul", ["image_centred", "image_scale"], [x]),
    ]
    offset, scale = (value.reshape(1, -1, 1, 1) for value in normalize.offset_and_scale)
    return nodes, [_constant("image_offset", offset), _constant("image_scale", scale)]


def _after(
    x: str, logits: str, num_classes: int, pad_multiple: int
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Return nodes from the logits to labels at the image's size."""
    from onnx.helper import make_node

    constants = {"axis_0": [0], "axis_2": [2], "axis_3": [3], "axis_4": [4]}
    nodes = [
        make_node("Shape", [x], ["input_shape"]),
        make_node("Shape", [logits], ["logits_shape"]),
        make_node("Slice", ["input_shape", "axis_2", "axis_4"], ["input_hw"]),
        make_node("Slice", ["logits_shape", "axis_0", "axis_2"], ["logits_nk"]),
    ]
    sides, full = "input_hw", "full_logits"
    if pad_multiple > 1:  # rounded up to a multiple
        sides, full = "padded_hw", "padded_logits"
        constants |= {"multiple": [pad_multiple], "multiple_less_1": [pad_multiple - 1]}
        nodes += [
            make_node("Add", ["input_hw", "multiple_less_1"], ["raised_hw"]),
            make_node("Div", ["raised_hw", "multiple"], ["num_multiples"]),
            make_node("Mul", ["num_multiples", "multiple"], [sides]),
        ]
    nodes += [
        make_node("Concat", ["logits_nk", sides], ["full_shape"], axis=0),
        make_node("Resize", [logits, "", "", "full_shape"], [full], mode="linear"),
    ]
    if pad_multiple > 1:
        constants |= {"axes_hw": [2, 3], "starts": [0, 0]}
        nodes.append(make_node("Slice", [full, "starts", "input_hw", "axes_hw"], ["full_logits"]))
    nodes += [
        make_node("ArgMax", ["full_logits"], ["labels_int64"], axis=1, keepdims=0),
        make_node("Cast", ["labels_int64"], [LABELS], to=_label_type(num_classes)),
    ]
    used = {name for node in nodes for name in node.input}
    return nodes, [
        _constant(name, np.array(value, np.int64))
        for name, value in constants.items()
        if name in used
    ]


def _constant(name: str, value: np.ndarray) -> TensorProto:
    from onnx import numpy_helper

    return numpy_helper.from_array(value, name)


def _label_type(num_classes: int) -> int:
    from onnx import TensorProto

    return int(TensorProto.UINT8 if num_classes <= 256 else TensorProto.INT32)


def _replace_ends(model: ModelProto, num_classes: int) -> None:
    """Declare image and labels as the graph's input and output, of the sizes the network takes."""
    from onnx import TensorProto
    from onnx.helper import make_tensor_value_info

    graph = model.graph
    axes = graph.input[0].type.tensor_type.shape.dim
    batch, channels, *sides = (axis.dim_param or axis.dim_value for axis in axes)
    image = make_tensor_value_info(IMAGE, TensorProto.UINT8, [batch, *sides, channels])
    labels = make_tensor_value_info(LABELS, _label_type(num_classes), [batch, *sides])
    graph.input[0].CopyFrom(image)
    graph.output[0].CopyFrom(labels)


def verify_with_preprocess(model: nn.Layer, folder: Path) -> list[Verification]:
    """Compare the labels with those of the model in the pipeline, in each installed backend.

    Args:
        model: The model as it was before the export, in evaluation mode.
        folder: A complete export of it.

    Raises:
        UserError: they differ by more than rounding.
    """
    deploy = DeployConfig.load(folder)
    preprocess = Preprocess.from_dict(deploy.preprocess)
    settings = InferenceSettings.from_dict(deploy.inference)
    sizes = dict.fromkeys(allowed_size(deploy.input, size_hw) for size_hw in SIZES_HW)
    images = [scene_image(size_hw, deploy.input.num_channels) for size_hw in sizes]
    path = folder / ARTEFACT_FILES[WITH_PREPROCESS][0]
    expected = [predict_label(model, image, preprocess, settings) for image in images]
    epsilons = check_epsilons(model, folder, WITH_PREPROCESS)
    verified = []
    for package, run in (("openvino", _run_openvino), ("onnxruntime", _run_onnxruntime)):
        if not find_spec(package):
            continue
        engine, found = run(path, images)
        pairs = zip(expected, found, strict=True)
        agreement = min(float((labels == other[0]).mean()) for labels, other in pairs)
        if not agreement >= MIN_AGREEMENT:
            raise UserError(
                f"{path.name} gives {agreement:.2%} of the model's labels in {engine}, expected "
                f"{MIN_AGREEMENT:.1%}. The export was discarded."
            )
        shapes = [[1, *image.shape] for image in images]
        verified.append(Verification(engine, shapes, agreement, layer_norm_epsilons=epsilons))
    return verified


def _run_openvino(path: Path, images: Sequence[np.ndarray]) -> tuple[str, list[np.ndarray]]:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    network = openvino.Core().compile_model(str(path), "CPU", settings)
    version = openvino.__version__.partition("-")[0]
    return f"OpenVINO {version}, cpu", [network([image[None]])[0].copy() for image in images]


def _run_onnxruntime(path: Path, images: Sequence[np.ndarray]) -> tuple[str, list[np.ndarray]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = [session.run(None, {IMAGE: image[None]})[0] for image in images]
    return f"ONNX Runtime {onnxruntime.__version__}, cpu", found
