"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import paddle
from paddle import nn

from paddleseg_segformer.training.trainer import Hook, Trainer


class EMA(Hook):
    """Average of the weights, with a shorter memory at first: min(decay, (1 + t) / (10 + t)).

    Batch-norm statistics are averages already and are copied.
    """

    def __init__(self, model: nn.Layer, decay: float) -> None:
        self.model = model
        self.decay = decay
        self.averages = {key: tensor.clone().detach() for key, tensor in model.state_dict().items()}

    @paddle.no_grad()
    def after_step(self, trainer: Trainer) -> None:
        """Move the averages towards the weights."""
        decay = min(self.decay, (1 + trainer.iteration) / (10 + trainer.iteration))
        for key, tensor in self.model.state_dict().items():
            if tensor.stop_gradient:
                self.averages[key].set_value(tensor)
            else:
                self.averages[key].lerp_(tensor, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages into the model within a `with` block."""
        own = self.model.state_dict()
        trained = {key: tensor.clone() for key, tensor in own.items()}
        self._write(own, self.averages)
        try:
            yield
        finally:
            self._write(own, trained)

    def state_dict(self) -> dict[str, Any]:
        """Return the averages by parameter name."""
        return self.averages

    def set_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the averages."""
        self._write(self.averages, state)

    @staticmethod
    @paddle.no_grad()
    def _write(target: Mapping[str, Any], source: Mapping[str, Any]) -> None:
        for key, tensor in target.items():
            tensor.set_value(source[key])
