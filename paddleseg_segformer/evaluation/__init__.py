"""Evaluation: confusion matrix, metrics, and the run over a data set."""

from paddleseg_segformer.evaluation.confusion import ConfusionMatrix
from paddleseg_segformer.evaluation.evaluate import evaluate
from paddleseg_segformer.evaluation.metrics import Metrics

__all__ = ["ConfusionMatrix", "Metrics", "evaluate"]
