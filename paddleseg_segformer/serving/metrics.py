"""What the service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

STEPS = {
    "upload": "reading the body",
    "decode": "file to pixels, with the wait for a thread",
    "queue": "waiting for the network",
    "network": "pixels to label map: size rules, network and resizing, of the whole batch",
    "encode": "label map to the answer, with the wait for a thread",
    "total": "all of it",
}
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BATCH_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
PREFIX = "paddleseg_segformer"


class Metrics:
    """Counters and histograms of one service, in a registry of their own.

    Args:
        num_waiting: Returns the number of images that wait for the network.
    """

    def __init__(self, num_waiting: Callable[[], int]) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            f"{PREFIX}_requests", "Answered requests.", ["path", "status"], registry=registry
        )
        steps = "; ".join(f"{name}: {meaning}" for name, meaning in STEPS.items())
        self.seconds = Histogram(
            f"{PREFIX}_step_seconds",
            f"Seconds of each step of a prediction: {steps}.",
            ["step"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            f"{PREFIX}_batch_size",
            "Images predicted together.",
            buckets=BATCH_SIZES,
            registry=registry,
        )
        self.pixels = Counter(f"{PREFIX}_pixels", "Pixels of answered images.", registry=registry)
        self.in_flight = Gauge(
            f"{PREFIX}_requests_in_flight", "Predictions in progress.", registry=registry
        )
        self.queue_length = Gauge(
            f"{PREFIX}_queue_length", "Images that wait for the network.", registry=registry
        )
        self.queue_length.set_function(num_waiting)
        for step in STEPS:
            self.seconds.labels(step)  # so that it is there before the first request
