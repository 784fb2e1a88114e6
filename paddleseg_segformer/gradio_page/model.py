"""The model of the page, with the time of each step of a prediction."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.arrays import Array, Network
from paddleseg_segformer.predictor import Prediction, Predictor
from paddleseg_segformer.runtimes.deploy_config import FILE_NAME
from paddleseg_segformer.runtimes.engine_network import EngineNetwork


class TimedNetwork:
    """A network that counts the seconds spent in it."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.seconds = 0.0

    def __call__(self, x: Array) -> Array:
        start = time.perf_counter()
        logits = self.network(x)
        if not isinstance(logits, np.ndarray) and not logits.place.is_cpu_place():
            import paddle

            paddle.device.synchronize()
        self.seconds += time.perf_counter() - start
        return logits

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)


class TimedPrediction(NamedTuple):
    """A prediction and its time."""

    prediction: Prediction
    ms: dict[str, float]  # of each step; `total` is their sum


class DemoModel:
    """A predictor that says how long it takes.

    Args:
        predictor: Its network is put into a `TimedNetwork`.
        name: For the page.
        backend: Name and version of what runs the network, for the page.
    """

    def __init__(self, predictor: Predictor, name: str, backend: str) -> None:
        self.network = TimedNetwork(predictor.pipeline.network)
        predictor.pipeline.network = self.network
        self.predictor = predictor
        self.name = name
        self.backend = backend

    def __call__(self, path: str | os.PathLike[str]) -> TimedPrediction:
        """Predict an image file.

        Raises:
            UserError: it cannot be read or predicted.
        """
        self.network.seconds = 0.0
        start = time.perf_counter()
        image = self.predictor.read(path)
        read = time.perf_counter() - start
        [prediction] = self.predictor.predict_read([image])
        prediction.label  # noqa: B018  computed here, where its time is measured
        total = time.perf_counter() - start
        network = self.network.seconds
        seconds = {"read": read, "network": network, "labels": total - read - network}
        ms = {step: 1000 * value for step, value in {**seconds, "total": total}.items()}
        return TimedPrediction(prediction, ms)


def load(path: str, backend: str | None, device: str | None, threads: int) -> DemoModel:
    """Load an export, or weights with their config.

    Args:
        path: Folder of an export, or as of `Predictor.from_pretrained`.
        backend: Of an export, one of `BACKENDS`.
        device: cpu, gpu or gpu:1; by default Paddle's current one.
        threads: CPU threads of an export.

    Raises:
        UserError: neither of them, or a backend where there is no choice of one.
        MissingDependency: the backend is not installed.
    """
    folder = Path(path)
    name = folder.resolve().name
    if folder.name == FILE_NAME or (folder / FILE_NAME).is_file():
        predictor = Predictor.from_export(folder, device, threads, backend=backend or "auto")
        network = predictor.pipeline.network
        assert isinstance(network, EngineNetwork)
        return DemoModel(predictor, name, network.description)
    if backend:
        raise UserError(f"--backend: {path} is no export, and weights run in Paddle. Leave it out.")
    predictor = Predictor.from_pretrained(path, device=device)
    import paddle

    return DemoModel(predictor, name, f"Paddle {paddle.__version__}, {paddle.get_device()}")
