"""Non-finite losses and gradients, and bad samples: stop the run, or skip and count."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
import paddle
from paddle import Tensor, nn

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.training.distributed import sum_over_processes
from paddleseg_segformer.training.options import FaultPolicy

logger = logging.getLogger(__name__)


class Faults:
    """Counts faults and decides whether a step is taken; all processes of a run decide alike."""

    def __init__(self, policy: FaultPolicy | None = None) -> None:
        self.policy = policy or FaultPolicy()
        self.num_skipped_steps = 0
        self.num_replaced_samples = 0
        self._statistics: dict[str, Tensor] = {}

    def before_step(self, network: nn.Layer) -> None:
        """Save the batch-norm statistics, which a forward pass changes, if steps may be skipped."""
        if self.policy.on_nonfinite == "skip":
            self._statistics = {key: item.clone() for key, item in _untrained(network).items()}

    def check_loss(self, value: float, iteration: int, names: Sequence[str]) -> None:
        """Stop at a non-finite loss before its gradients reach the other processes.

        Raises:
            UserError: it is not finite, and such steps are not skipped.
        """
        self._stop_at(loss_problem(value), iteration, names)

    def allow_step(
        self,
        network: nn.Layer,
        problem: str,
        num_replaced: int,
        iteration: int,
        names: Sequence[str],
    ) -> bool:
        """Tell whether the weights may be updated.

        Args:
            problem: what is not finite in this process ("the loss is nan"), or an empty text.
            num_replaced: samples of this process's batch that were replaced.
            iteration: of the step, from 1.
            names: files of this process's batch.

        Raises:
            UserError: something is not finite and is not skipped, or too much was skipped.
        """
        self._stop_at(problem, iteration, names)
        num_problems = int(bool(problem))
        if "skip" in (self.policy.on_nonfinite, self.policy.on_bad_sample):
            counts = sum_over_processes(np.array([num_problems, num_replaced]))
            num_problems, num_replaced = int(counts[0]), int(counts[1])
        self.num_replaced_samples += num_replaced
        if self.num_replaced_samples > self.policy.max_skipped:
            raise UserError(
                f"iteration {iteration}: {self.num_replaced_samples} samples could not be read and "
                f"were replaced (see above), more than --max_skipped {self.policy.max_skipped}. "
                "Repair the data set: python -m paddleseg_segformer check_dataset --config CONFIG "
                "finds them all."
            )
        if not num_problems:
            return True
        self._skip(network, problem or "another process found a fault", iteration, names)
        return False

    def state_dict(self) -> dict[str, int]:
        """Return the counts."""
        return {
            "num_skipped_steps": self.num_skipped_steps,
            "num_replaced_samples": self.num_replaced_samples,
        }

    def set_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a checkpoint's counts."""
        self.num_skipped_steps = state["num_skipped_steps"]
        self.num_replaced_samples = state["num_replaced_samples"]

    def _stop_at(self, problem: str, iteration: int, names: Sequence[str]) -> None:
        if problem and self.policy.on_nonfinite == "stop":
            raise UserError(
                f"iteration {iteration}: {problem}. Lower the learning rate, clip gradients, skip "
                f"such steps (--on_nonfinite skip), or look at the batch: {', '.join(names)}"
            )

    def _skip(self, network: nn.Layer, problem: str, iteration: int, names: Sequence[str]) -> None:
        for key, item in _untrained(network).items():
            item.set_value(self._statistics[key])
        self.num_skipped_steps += 1
        limit = self.policy.max_skipped
        message = f"iteration {iteration}: {problem}; the batch: {', '.join(names)}"
        if self.num_skipped_steps > limit:
            raise UserError(
                f"{message}. {limit} steps were skipped already (--max_skipped). Lower the "
                "learning rate, or clip gradients."
            )
        logger.warning(
            "skipped the step (%d of at most %d): %s", self.num_skipped_steps, limit, message
        )


def _untrained(network: nn.Layer) -> dict[str, Tensor]:
    """Return the batch-norm statistics and frozen weights, which no optimizer changes."""
    return {key: item for key, item in network.state_dict().items() if item.stop_gradient}


def loss_problem(value: float) -> str:
    """Say what is wrong with a loss; an empty text if it is finite."""
    return "" if math.isfinite(value) else f"the loss is {value}"


def gradient_sum(network: nn.Layer) -> Tensor:
    """Return the float32 sum of all gradients, which is finite only if each of them is."""
    sums = [gradient.sum() for gradient in _gradients(network).values()]
    return paddle.add_n(sums).astype("float32") if sums else paddle.zeros([])


def gradient_problem(network: nn.Layer) -> str:
    """Say which gradients are not finite; an empty text if all are finite."""
    bad = nonfinite(_gradients(network))
    return f"the gradient of {bad} is not finite" if bad else ""


def _gradients(network: nn.Layer) -> dict[str, Tensor]:
    parameters = network.named_parameters()
    return {name: item.grad for name, item in parameters if item.grad is not None}


def nonfinite(tensors: Mapping[str, Tensor]) -> str:
    """Name the first non-finite tensor and count the others; an empty text if all are finite."""
    if not tensors or math.isfinite(float(paddle.add_n([t.sum() for t in tensors.values()]))):
        return ""
    bad = [name for name, t in tensors.items() if not math.isfinite(float(t.sum()))]
    more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    return f"{bad[0] if bad else 'all together'}{more}"
