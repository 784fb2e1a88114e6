"""A network that can be held up, and a service around it that is called without a port."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import paddle
import paddle.nn.functional as F

from paddleseg_segformer.data.labels import make_label_set
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.serving.app import make_app
from paddleseg_segformer.serving.service import Service
from paddleseg_segformer.serving.settings import ServingSettings

CLASSES = ("red", "green", "blue")


class ColourNetwork:
    """The class is the strongest colour; while `gate` is closed, it waits."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, x: paddle.Tensor) -> paddle.Tensor:
        self.batches.append(list(x.shape))
        self.entered.set()
        assert self.gate.wait(30)
        return F.avg_pool2d(x, 4, ceil_mode=True)


class Bench:
    """A service around a `ColourNetwork`, and its application, called without a port."""

    def __init__(
        self,
        transforms: list[dict[str, Any]] | None = None,
        value_range: Any = None,
        **limits: Any,
    ) -> None:
        self.network = ColourNetwork()
        limits = {"max_wait_ms": 0.0, **limits}
        self.service = Service(
            lambda: Predictor(
                self.network,
                Preprocess.from_dict({"transforms": transforms, "value_range": value_range}),
                InferenceSettings(window_batch=8),
                make_label_set(3, CLASSES, [[255, 0, 0], [0, 255, 0], [0, 0, 255]]),
            ),
            settings=ServingSettings(**limits),
        )
        self.predictor = self.service.start()
        self.service.batcher.checked.result(10)
        self.app = make_app(self.service)

    def run(self, talk: Callable[[httpx.AsyncClient], Coroutine[Any, Any, Any]]) -> Any:
        """Return what `talk` returns, called with a client of the application."""

        async def main() -> Any:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost"
            ) as client:
                return await asyncio.wait_for(talk(client), 30)

        return asyncio.run(main())

    def get(self, path: str) -> httpx.Response:
        return self.run(lambda client: client.get(path))

    def post(self, content: bytes, query: str = "", **headers: str) -> httpx.Response:
        headers = {"Content-Type": "image/png"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        url = f"/predict{query}"
        return self.run(lambda client: client.post(url, content=content, headers=headers))

    def metric(self, name: str, **labels: str) -> float:
        name = f"paddleseg_segformer_{name}"
        return self.service.metrics.registry.get_sample_value(name, labels) or 0.0
