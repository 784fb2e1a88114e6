"""An engine against the labels that an export holds for its fixture image."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from paddleseg_segformer.data.io import read_image, read_label
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.arrays import Network, arrays_on, device_of, run
from paddleseg_segformer.inference.pipeline import Pipeline
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.runtimes.deploy_config import DeployConfig, deploy_path
from paddleseg_segformer.runtimes.engines import EngineOptions

# of labels in fp16, bf16 or int8, which move borders between classes; a broken network is far below
REDUCED_AGREEMENT = 0.9


class SelfCheck(NamedTuple):
    """How many of the fixture's labels an engine gives."""

    engine: str
    num_different: int
    num_pixels: int
    min_agreement: float

    @property
    def agreement(self) -> float:
        """Return the share of equal labels."""
        return 1 - self.num_different / self.num_pixels

    @property
    def line(self) -> str:
        """Return the result in one line."""
        return (
            f"{self.engine}: {self.num_pixels - self.num_different} of {self.num_pixels} labels of "
            f"the fixture are the model's ({self.agreement:.2%}, needed are "
            f"{self.min_agreement:.1%})"
        )


def self_check(network: Network, folder: str | os.PathLike[str]) -> SelfCheck:
    """Run an export's fixture through a network; for programs to call once when they start.

    The image is predicted as `deploy.yaml` says, whatever settings the caller uses:
    size rules, normalisation, windows, resizing to the image's size.

    Args:
        network: What `load_network` returned, a callable around it, or a predictor that holds it.
        folder: The export it was loaded from, or the path of its `deploy.yaml`.

    Returns:
        How well it agrees; `line` says it.

    Raises:
        UserError: it does not agree, the export has no fixture (one made before format 3), or the
            fixture's files are missing or damaged.
    """
    check = compare_with_fixture(network, folder)
    if check.agreement < check.min_agreement:
        raise UserError(
            f"{deploy_path(folder)}: self-check failed; {check.line}. Use another --backend or "
            "version of the engine, or export again."
        )
    return check


def compare_with_fixture(network: Network, folder: str | os.PathLike[str]) -> SelfCheck:
    """Return how well a network agrees with the fixture; see `self_check`.

    Raises:
        UserError: the export has no fixture, or its files are missing or damaged.
    """
    path = deploy_path(folder)
    deploy = DeployConfig.load(path, check_files=False)
    if deploy.fixture is None:
        raise UserError(f"{path}: names no fixture to check an engine with. Export again.")
    files = (deploy.fixture.image, deploy.fixture.labels)
    image_path, labels_path = (deploy.check_file(path.parent, file) for file in files)
    image = read_image(image_path, deploy.input.num_channels)
    expected = read_label(labels_path)
    pipeline = getattr(network, "pipeline", None)
    network = pipeline.network if pipeline else network
    found = fixture_labels(network, deploy, image)
    if found.shape != expected.shape:
        raise UserError(
            f"{labels_path}: {expected.shape} labels, found {found.shape}. Export again."
        )
    is_full = getattr(network, "options", EngineOptions()).precision == "fp32"
    return SelfCheck(
        getattr(network, "description", type(network).__name__),
        int((found != expected).sum()),
        expected.size,
        deploy.fixture.min_agreement if is_full else REDUCED_AGREEMENT,
    )


def fixture_labels(network: Network, deploy: DeployConfig, image: np.ndarray) -> np.ndarray:
    """Return the labels of an image (H, W, C) as `deploy.yaml` says.

    Returns:
        At the image's size where the network gives logits, else at the network's input size.
    """
    preprocess = Preprocess.from_dict(deploy.preprocess)
    if deploy.output.op == "none":
        settings = InferenceSettings.from_dict(deploy.inference)
        return Pipeline(network, preprocess, settings)(image).labels()
    resized, _ = preprocess.resize(image)
    arrays = arrays_on(device_of(network))
    output = run(network, arrays.concat([arrays.image(resized, preprocess.normalize)]))
    labels = output if deploy.output.op == "argmax" else output.argmax(axis=1)
    return (labels if isinstance(labels, np.ndarray) else labels.numpy())[0]
