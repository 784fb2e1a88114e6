"""INT8 with an accuracy check: quantised after training, or trained for it.

After training, the ranges of values are taken from images, for OpenVINO by NNCF, for ONNX Runtime
by its own tool. A model that was trained for INT8 has its own (`models.quantized`), and the export
for OpenVINO rounds the products that training rounded.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paddleseg_segformer.data.datasets import RawSample
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export.accuracy_gate import AccuracyGate
from paddleseg_segformer.inference.pipeline import Pipeline
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.runtimes.deploy_config import (
    ARTEFACT_FILES,
    INPUT_NAME,
    Artefact,
    DeployConfig,
    Verification,
)
from paddleseg_segformer.runtimes.engine_network import EngineNetwork, load_network
from paddleseg_segformer.runtimes.engines import EngineOptions
from paddleseg_segformer.runtimes.timing import least_s

if TYPE_CHECKING:
    from paddleseg_segformer.models.quantized import LearntRange

logger = logging.getLogger(__name__)

PRODUCTS = ("Convolution", "GroupConvolution", "MatMul")  # of OpenVINO's operators
INT8 = "int8"  # key of `ARTEFACT_FILES`
INT8_ENGINES = {INT8: "openvino", "int8_onnx": "onnxruntime"}  # by artefact
SIZES_HW = ((64, 64), (97, 131))  # of the corners of an image that the network is tried on
RANKING_IMAGES = 8  # that layers are ranked on
MIN_AGREEMENT = 0.8  # of their labels: a network that is broken at a size is far below


@dataclass(frozen=True)
class Samples:
    """Some samples, read when they are iterated over, as often as that is done.

    Args:
        read: Returns the sample of an index.
        indices: Which ones.
    """

    read: Callable[[int], RawSample]
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[RawSample]:
        return (self.read(index) for index in self.indices)


@dataclass(frozen=True)
class Quantization:
    """Calibration images and accuracy check of INT8.

    Args:
        calibration: Images that the ranges of values are taken from.
        gate: The accuracy check; None for no check.
        seed: For the choice of a window of each calibration image.
        max_difference: Share of the calibration images' labels that may differ from float32's:
            layers stay in float32, those that cost most first, until it holds. OpenVINO's alone.
        made: An export of the same network whose INT8 is taken over.
    """

    calibration: Samples
    gate: AccuracyGate | None = None
    seed: int = 0
    max_difference: float | None = None
    made: Path | None = None


class CalibrationInputs:
    """Inputs of the network, one for each image, prepared as inference does.

    Where inference cuts images into windows, one of them is taken at random.
    """

    def __init__(self, quantization: Quantization, network: EngineNetwork) -> None:
        self.samples, self.seed = quantization.calibration, quantization.seed
        self.network = network
        deploy = network.deploy
        self.pipeline = Pipeline(
            network,
            Preprocess.from_dict(deploy.preprocess),
            InferenceSettings.from_dict(deploy.inference),
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield (N, C, H, W) float32, N as the network wants it."""
        batch = max(self.network.deploy.input.shape[0], 1)
        for position, sample in enumerate(self.samples):
            windows = self.pipeline(sample.image)
            keys = windows.missing(0, windows.size_hw[0])
            chosen = np.random.default_rng([self.seed, position]).integers(len(keys))
            x = windows.read(keys[chosen])
            try:
                self.network.check_shape(x.shape)
            except UserError as error:
                raise UserError(f"{sample.image_path}: {error}") from None
            yield np.repeat(x, batch, axis=0)


def check_quantization(quantization: Quantization | None, output_op: str) -> None:
    """Refuse an export that INT8 cannot be made of.

    Raises:
        UserError: no calibration images, or an output other than logits.
    """
    if quantization is None or not len(quantization.calibration):
        raise UserError(
            "format int8: found no images to calibrate with. Name some with --calibration_images."
        )
    if output_op != "none":
        raise UserError(
            f"format int8: found --output_op {output_op}, expected none: calibration and the "
            "comparison of labels need logits. Export int8 for itself."
        )


def add_int8(
    folder: Path,
    deploy: DeployConfig,
    name: str,
    quantization: Quantization,
    is_verified: bool,
    ranges: Sequence[LearntRange] | None = None,
) -> DeployConfig:
    """Write INT8's files into the folder of an export that holds ONNX.

    Args:
        folder: A complete export.
        deploy: Its `deploy.yaml`.
        name: The artefact, a key of `INT8_ENGINES`.
        is_verified: Try the quantised network on several sizes.
        ranges: Those of a model that was trained for INT8; without them the images give them.

    Returns:
        `deploy` with INT8, saved in the folder.

    Raises:
        UserError: it loses more than the gate allows, or is broken at a size.
    """
    engine, source = INT8_ENGINES[name], folder / ARTEFACT_FILES["onnx"][0]
    network = load_network(folder, EngineOptions(engine, "cpu"))
    inputs = CalibrationInputs(quantization, network)
    paths = [folder / file for file in ARTEFACT_FILES[name]]
    quality: dict[str, Any] = {}
    if quantization.made:
        quality = dict(DeployConfig.load(quantization.made).artefacts[name].quality)
        for path in paths:
            shutil.copyfile(quantization.made / path.name, path)
    elif ranges is not None and name == INT8:
        logger.info("int8: by the ranges of %d products, learnt in training", len(ranges))
        _round_products(source, paths[0], ranges)
        quality["learnt_ranges"] = len(ranges)
    else:
        logger.info("%s: calibrating on %d images", name, len(inputs))
        if name != INT8:
            _quantize_for_onnxruntime(source, paths[0], inputs)
        elif quantization.max_difference is None:
            _quantize(source, paths[0], inputs)
        else:
            _quantize_in_part(source, paths[0], inputs, quantization.max_difference)
        quality["calibration_images"] = len(inputs)
    artefact = replace(Artefact.of(folder, name), precision=INT8, quality=quality)
    deploy = replace(deploy, artefacts={**deploy.artefacts, name: artefact})
    deploy.save(folder)
    x = next(iter(inputs))
    if is_verified:
        artefact = replace(artefact, verified=[verified(folder, x, engine)])
    if quantization.gate:
        quality = quality | quantization.gate.check(folder, engine)
        quantized = load_network(folder, replace(network.options, precision=INT8))
        float_s, int8_s = least_s([network, quantized], x)
        quality["times_as_fast"] = round(float_s / int8_s, 2)
        if int8_s > float_s:
            logger.warning(
                "%s: %.2f times as fast as float32 on this processor. Run it where the processor "
                "has VNNI or AMX, else in float32.",
                name, float_s / int8_s,
            )  # fmt: skip
        artefact = replace(artefact, quality=quality)
    deploy = replace(deploy, artefacts={**deploy.artefacts, name: artefact})
    deploy.save(folder)
    return deploy


def _quantize(source: Path, path: Path, inputs: CalibrationInputs) -> None:
    """Write an ONNX file as OpenVINO's `.xml` and `.bin`, its products and convolutions in INT8.

    Constants are folded first: depthwise weights stand behind a computed reshape in the graph, and
    would be quantised along another axis than their channels, which OpenVINO runs in float32.
    """
    import nncf
    import openvino

    quantized = nncf.quantize(
        _folded_constants(source), nncf.Dataset(inputs), **_nncf_options(inputs)
    )
    openvino.save_model(quantized, str(path), compress_to_fp16=False)


def _quantize_in_part(
    source: Path, path: Path, inputs: CalibrationInputs, max_difference: float
) -> None:
    """Do what `_quantize` does, but leave layers in float32.

    NNCF ranks them by how many labels of a few images they change, and takes those that change most
    back one after the other.

    Args:
        max_difference: Share of the images' labels that may differ.
    """
    import nncf
    import openvino

    model = _folded_constants(source)
    network = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    samples = [(x, network(x)[0].argmax(axis=1)) for x in inputs]

    def agreement(model: Any, items: Iterable[Any]) -> tuple[float, list[float]]:
        shares = [float((model(x)[0].argmax(axis=1) == labels).mean()) for x, labels in items]
        return float(np.mean(shares)), shares

    quantized = nncf.quantize_with_accuracy_control(
        model,
        nncf.Dataset(samples, lambda item: item[0]),
        nncf.Dataset(samples),
        agreement,
        max_drop=max_difference,
        advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
            ranking_subset_size=RANKING_IMAGES
        ),
        **_nncf_options(inputs),
    )
    openvino.save_model(quantized, str(path), compress_to_fp16=False)


def _nncf_options(inputs: CalibrationInputs) -> dict[str, Any]:
    import nncf

    nncf.set_log_level(logging.ERROR)
    return {
        "preset": nncf.QuantizationPreset.MIXED,  # activations asymmetric: they are not symmetric
        "model_type": nncf.ModelType.TRANSFORMER,  # keeps softmax and layer norm in float
        "subset_size": len(inputs),
    }


def _quantize_for_onnxruntime(source: Path, path: Path, inputs: CalibrationInputs) -> None:
    """Write an ONNX file with its products and convolutions in INT8, as QDQ, for ONNX Runtime."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.inputs = iter(inputs)

        def get_next(self) -> dict[str, np.ndarray] | None:
            x = next(self.inputs, None)
            return None if x is None else {INPUT_NAME: x}

    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it logs there, line by line
    try:
        quantize_static(
            str(source),
            str(path),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.getLogger().setLevel(level)


def _folded_constants(source: Path) -> Any:
    """Return an ONNX file as OpenVINO's model, what is constant computed."""
    import openvino
    from openvino.passes import ConstantFolding, Manager

    model = openvino.Core().read_model(str(source))
    passes = Manager()
    passes.register_pass(ConstantFolding())
    passes.run_passes(model)
    return model


def _round_products(source: Path, path: Path, ranges: Sequence[LearntRange]) -> None:
    """Write an ONNX file as OpenVINO's `.xml` and `.bin`, its products rounded as in training.

    A product is known by its weight.

    Raises:
        UserError: the graph does not have the products of the model.
    """
    import openvino
    from openvino._offline_transformations import compress_quantize_weights_transformation

    model = _folded_constants(source)
    waiting = Counter(item.weight.tobytes() for item in ranges)
    by_weight = {item.weight.tobytes(): item for item in ranges}
    inputs: dict[tuple[Any, float, float], Any] = {}  # several products have one
    for node in model.get_ordered_ops():
        if node.get_type_name() not in PRODUCTS:
            continue
        constant = node.input_value(1).get_node()
        if constant.get_type_name() != "Constant":
            continue
        values = constant.get_data()
        found = by_weight.get(np.ascontiguousarray(values, np.float32).tobytes())
        if found is None:
            continue
        waiting[found.weight.tobytes()] -= 1
        # a depthwise weight has an axis for its groups here, of one channel each
        bound = found.bound.reshape([*found.bound.shape, *[1] * (values.ndim - found.bound.ndim)])
        node.input(1).replace_source_output(_rounded(constant.output(0), -bound, bound, 255))
        x = node.input_value(0)
        key = (x.get_node().get_friendly_name(), x.get_index()), found.low, found.high
        if key not in inputs:
            inputs[key] = _rounded(x, found.low, found.high, 256)
        node.input(0).replace_source_output(inputs[key])
    if any(waiting.values()):
        raise UserError(
            f"int8: {sum(count != 0 for count in waiting.values())} of the model's {len(ranges)} "
            "products were not found in the graph as often as in the model. Train it a little "
            "longer, so that no two weights are equal."
        )
    compress_quantize_weights_transformation(model)  # weights of 8 bits in the file, as NNCF does
    openvino.save_model(model, str(path), compress_to_fp16=False)


def _rounded(x: Any, low: Any, high: Any, levels: int) -> Any:
    """Return the output of a node that rounds to `levels` values from low to high."""
    from openvino import opset13 as ops

    ends = [np.asarray(end, np.float32) for end in (low, high)]
    return ops.fake_quantize(x, *ends, *ends, levels).output(0)


def verified(folder: Path, x: np.ndarray, engine: str = "openvino") -> Verification:
    """Compare INT8's labels with float32's at several sizes.

    Args:
        folder: An export that holds both for the engine.
        x: An input (N, C, H, W), float32; its corners are tried too.
        engine: A key of `ENGINES`.

    Raises:
        UserError: fewer than `MIN_AGREEMENT` are equal at one of the sizes.
    """
    import paddle

    before, after = (
        load_network(folder, EngineOptions(engine, "cpu", 1, name)) for name in ("fp32", INT8)
    )
    is_free = all(side == -1 for side in after.deploy.input.shape[2:])
    smallest = after.deploy.input.min_side_px
    sizes_hw = [x.shape[2:], *(SIZES_HW if is_free and min(x.shape[2:]) >= 131 else ())]
    agreements, shapes = [], []
    for height, width in sizes_hw:
        part = paddle.to_tensor(x[:, :, : max(height, smallest), : max(width, smallest)])
        expected = before(part).argmax(axis=1).numpy()
        for _ in range(2):  # the network for any size, then the one for this size
            agreements.append(float((after(part).argmax(axis=1).numpy() == expected).mean()))
        shapes.append(list(part.shape))
    if not min(agreements) >= MIN_AGREEMENT:
        raise UserError(
            f"the INT8 network gives {min(agreements):.2%} of the float32 network's labels at one "
            f"of the sizes tried, expected {MIN_AGREEMENT:.0%}. The export was discarded."
        )
    return Verification(f"{after.description}, {INT8}", shapes, min(agreements))
