"""Evaluation of a network on a data set, and its metrics."""

from paddleseg_segformer.evaluation.evaluate import evaluate
from paddleseg_segformer.evaluation.metrics import ConfusionMatrix, Metrics

__all__ = ["ConfusionMatrix", "Metrics", "evaluate"]
