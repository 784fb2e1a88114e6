"""An exported network, in each backend, against the model it was made from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor, nn

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export.checks import WITH_PREPROCESS
from paddleseg_segformer.export.epsilons import check_epsilons
from paddleseg_segformer.export.fixture import allowed_size, reference_output
from paddleseg_segformer.export.onnx_with_preprocess import verify_with_preprocess
from paddleseg_segformer.runtimes.deploy_config import DeployConfig, InputSpec, Verification
from paddleseg_segformer.runtimes.engine_network import EngineNetwork, load_network
from paddleseg_segformer.runtimes.engines import ENGINES, EngineOptions
from paddleseg_segformer.runtimes.self_check import compare_with_fixture

TOLERANCE = 1e-4  # of the largest difference, times max(1, std of the values)
MIN_AGREEMENT = 0.999  # of labels: where two classes are equally likely, rounding decides
SIZES_HW = ((64, 64), (97, 131), (29, 33))  # tried where the size is free
ANY_BATCHES = (2, 1)  # tried where the batch size is free


def verify(model: nn.Layer, folder: Path) -> dict[str, list[Verification]]:
    """Compare an export with its model: values on random inputs, labels on the fixture.

    Args:
        model: The model as it was before the export, in evaluation mode.
        folder: A complete export of it.

    Returns:
        For each artefact the comparison in every installed backend that prefers it.

    Raises:
        UserError: they differ by more than rounding.
    """
    deploy = DeployConfig.load(folder)
    op = deploy.output.op
    inputs = list(_inputs(deploy.input))
    references = [reference_output(model, x, op) for x in inputs]
    verified: dict[str, list[Verification]] = {name: [] for name in deploy.artefacts}
    for name, engine in ENGINES.items():
        if not find_spec(engine.package) or not set(engine.artefacts) & set(verified):
            continue
        network = load_network(folder, EngineOptions(name, "cpu", output_op=op))
        epsilons = check_epsilons(model, folder, network.artefact)
        pairs = [
            (reference, network(x))
            for reference, x in zip(references, inputs, strict=True)
            for _ in range(2)  # OpenVINO compiles a shape for itself when it comes up again
        ]
        verified[network.artefact].append(_compare(network, folder, inputs, pairs, epsilons))
    if WITH_PREPROCESS in verified:
        verified[WITH_PREPROCESS] = verify_with_preprocess(model, folder)
    return verified


def _compare(
    network: EngineNetwork,
    folder: Path,
    inputs: Sequence[Tensor],
    pairs: Sequence[tuple[Tensor, Tensor]],
    epsilons: dict[str, int],
) -> Verification:
    """Return how far the pairs of expected and found outputs, and the labels, are apart."""
    op, fixture = network.deploy.output.op, network.deploy.fixture
    difference, std = (None, None) if op == "argmax" else _difference(pairs, network)
    agreements = []
    if fixture:
        agreements.append(compare_with_fixture(network, folder).agreement)
    if op != "none" or not fixture:
        for pair in pairs:
            a, b = ((x if op == "argmax" else x.argmax(axis=1)).numpy() for x in pair)
            agreements.append(float((a == b).mean()))
    agreement = min(agreements)
    if not agreement >= MIN_AGREEMENT:
        raise UserError(
            f"the exported network gives {agreement:.2%} of the model's labels in "
            f"{network.description}, expected {MIN_AGREEMENT:.1%}. The export was discarded."
        )
    return Verification(
        engine=network.description,
        input_shapes=[list(x.shape) for x in inputs],
        label_agreement=agreement,
        max_abs_difference=difference,
        std=std,
        layer_norm_epsilons=epsilons,
    )


def _inputs(spec: InputSpec) -> Iterator[Tensor]:
    """Yield random inputs of several sizes, as far as the export's shape leaves them free."""
    rng = np.random.default_rng(0)
    batch, channels = spec.shape[:2]
    batches = ANY_BATCHES if batch == -1 else (batch,)
    sizes = dict.fromkeys(allowed_size(spec, size_hw) for size_hw in SIZES_HW)
    for index, size_hw in enumerate(sizes):
        count = batches[min(index, len(batches) - 1)]
        values = rng.standard_normal((count, channels, *size_hw), np.float32)
        yield paddle.to_tensor(values)


def _difference(
    pairs: Sequence[tuple[Tensor, Tensor]], network: EngineNetwork
) -> tuple[float, float]:
    """Return the largest difference over all pairs, and the smallest standard deviation.

    Raises:
        UserError: the difference is above `TOLERANCE`, or the shapes differ.
    """
    differences, stds = [], []
    for expected, found in pairs:
        if expected.shape != found.shape:
            raise UserError(
                f"the exported network gives {found.shape} in {network.description}, the model "
                f"{expected.shape}. The export was discarded."
            )
        differences.append(float((expected - found).abs().max()))
        stds.append(float(expected.std()))
    difference, std = max(differences), min(stds)
    if not np.isfinite(differences).all() or difference > TOLERANCE * max(1, std):
        raise UserError(
            f"the exported network differs from the model by {difference:.2g} (standard deviation "
            f"{std:.2g}) in {network.description}, allowed is {TOLERANCE * max(1, std):.2g}. The "
            "export was discarded."
        )
    return difference, std
