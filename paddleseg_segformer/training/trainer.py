"""The training loop. Everything periodic is a hook (`hooks.py`)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import Tensor, nn

from paddleseg_segformer.contracts import pad_multiple_of
from paddleseg_segformer.cpu import return_largest_blocks
from paddleseg_segformer.data.loader import Batch
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.losses import loss_of_network
from paddleseg_segformer.models.layers import upsample_to_input
from paddleseg_segformer.models.stages import set_training
from paddleseg_segformer.training.distillation import Learners
from paddleseg_segformer.training.distributed import any_process, mean_over_processes, unwrapped
from paddleseg_segformer.training.faults import Faults, gradient_problem, gradient_sum, loss_problem

# Paddle's name, and the oldest generation of GPUs (of the compute capability) that computes in it
PRECISIONS = {"fp32": ("float32", 0), "fp16": ("float16", 7), "bf16": ("bfloat16", 8)}


class Hook:
    """Called around the training steps. Override what is needed."""

    def before_train(self, trainer: Trainer) -> None:
        """Run once, before the first step."""

    def after_step(self, trainer: Trainer) -> None:
        """Run after each optimizer step; `trainer.iteration` counts it already."""

    def after_train(self, trainer: Trainer) -> None:
        """Run once, after the last step, also when the run was asked to stop early."""

    def close(self) -> None:
        """Run once at the very end, also after an error."""


class Precision:
    """Precision of the forward pass; weights and losses stay in float32.

    Args:
        name: fp32, fp16 (with loss scaling) or bf16.
        level: O1 casts by operator, O2 casts nearly all.

    Raises:
        UserError: an unknown name, or mixed precision on a CPU or an older GPU, where Paddle would
            compute in float32.
    """

    def __init__(self, name: str = "fp32", level: str = "O1") -> None:
        if name not in PRECISIONS:
            raise UserError(f"--precision: found {name}, expected one of {', '.join(PRECISIONS)}.")
        self.enabled = name != "fp32"
        if self.enabled and paddle.get_device().startswith("cpu"):
            raise UserError(
                f"--precision {name} has no effect on CPU in Paddle. Use fp32, or a GPU."
            )
        self.dtype, generation = PRECISIONS[name]
        if self.enabled:
            _check_gpu(name, generation)
        self.level = level
        self.is_scaled = name == "fp16"  # the scaler then skips steps whose gradients overflow
        self.scaler = paddle.amp.GradScaler(enable=self.is_scaled, init_loss_scaling=2.0**15)

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context of the forward pass."""
        if not self.enabled:
            return paddle.amp.auto_cast(enable=False)
        return paddle.amp.auto_cast(enable=True, level=self.level, dtype=self.dtype)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of the loss, scaled where the precision needs it."""
        self.scaler.scale(loss).backward()

    def step(self, optimizer: Any) -> None:
        """Update the weights and clear the gradients."""
        self.scaler.step(optimizer)
        self.scaler.update()
        optimizer.clear_grad(set_to_zero=False)


def _check_gpu(precision: str, generation: int) -> None:
    """Refuse a GPU on which Paddle would only warn, and compute in float32.

    Raises:
        UserError: it is one.
    """
    cuda = paddle.device.cuda
    major, minor = cuda.get_device_capability()
    if major < generation:
        others = [name for name, (_, first) in PRECISIONS.items() if first <= major]
        raise UserError(
            f"--precision {precision}: found {cuda.get_device_name()} (compute capability {major}."
            f"{minor}), expected {generation}.0 or newer. Use {' or '.join(others)}."
        )


class Trainer:
    """Iteration-based training of one model.

    Randomness is a pure function of (seed, iteration, rank): that of the samples, and the device's
    generator, which is seeded before each step. A resumed run therefore continues bit by bit.

    Args:
        model: (N, C, H, W) float32 -> (N, K, ~H/4, ~W/4) logits; may be wrapped for data parallel.
            See `Pipeline` for its `pad_multiple`.
        schedule: the optimizer's learning-rate scheduler, stepped once per iteration.
        loss: (logits at the label's size, label (N, H, W) int64) -> scalar; smaller logits where it
            `resizes` them.
        batches: called with a number of batches to skip, returns the endless rest.
        prepare: (N, C, H, W) batch as loaded -> normalised float32 on the device.
        iters: last iteration.
        accumulation_steps: batches per optimizer step.
        rank: of this process; dropout differs between processes.
        frozen: layers of the network that stay as in evaluation; see `models.stages`.
        hooks: called in order.
        faults: decides whether non-finite steps are skipped, and counts bad samples.
        sample_names: returns the files of a batch, for messages.
        distillation: (batch as loaded, logits, label) -> scalar, added to the loss.
    """

    def __init__(
        self,
        model: nn.Layer,
        optimizer: Any,
        schedule: Any,
        loss: Callable[[Tensor, Tensor], Tensor],
        batches: Callable[[int], Generator[Batch, None, None]],
        prepare: Callable[[Tensor], Tensor],
        iters: int,
        *,
        precision: Precision | None = None,
        accumulation_steps: int = 1,
        seed: int = 0,
        rank: int = 0,
        frozen: Sequence[str] = (),
        hooks: Sequence[Hook] = (),
        faults: Faults | None = None,
        sample_names: Callable[[Batch], list[str]] = lambda batch: [],
        distillation: nn.Layer | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.schedule = schedule
        self.loss = loss
        self.batches = batches
        self.prepare = prepare
        self.iters = iters
        self.precision = precision or Precision()
        self.accumulation_steps = accumulation_steps
        self.seed = seed
        self.rank = rank
        self.frozen = frozen
        self.hooks = list(hooks)
        self.faults = faults or Faults()
        self.sample_names = sample_names
        self.distillation = distillation
        self.learners = self.network  # all that is trained
        if distillation is not None:
            self.learners = Learners(self.network, unwrapped(distillation))
        self.iteration = 0
        self.stop_requested = False
        # of the last step: lr, data_s, step_s, and of all processes together loss and images
        self.step_record: dict[str, float] = {}

    @property
    def network(self) -> nn.Layer:
        """Return the model without its data-parallel wrapper."""
        return unwrapped(self.model)

    def train(self) -> None:
        """Train from `iteration` to `iters`, or until `stop_requested`."""
        with ExitStack() as stack:
            for hook in self.hooks:
                hook.before_train(self)
                stack.callback(hook.close)
            batches = self.batches(self.iteration * self.accumulation_steps)
            stack.enter_context(closing(batches))
            self.model.train()
            set_training(self.network, self.frozen)
            first = self.iteration
            while self.iteration < self.iters and not any_process(self.stop_requested):
                self._step(batches)
                if self.iteration == first:
                    return_largest_blocks(self.network)
                self.iteration += 1
                for hook in self.hooks:
                    hook.after_step(self)
            for hook in self.hooks:
                hook.after_train(self)

    def _step(self, batches: Iterator[Batch]) -> None:
        start = time.perf_counter()
        data_s, images, num_replaced = 0.0, 0, 0
        losses: list[Tensor] = []
        names: list[str] = []
        words = np.random.SeedSequence([self.seed, self.iteration, self.rank]).generate_state(1)
        paddle.seed(int(words[0]))
        self.faults.before_step(self.network)
        for _ in range(self.accumulation_steps):
            waiting = time.perf_counter()
            batch = next(batches)
            data_s += time.perf_counter() - waiting
            names += self.sample_names(batch)
            losses.append(self._forward_backward(batch))
            images += len(batch.img)
            num_replaced += batch.num_replaced
        learning_rate = self.optimizer.get_lr()
        total_loss, problem = self._read(losses)
        if self.faults.allow_step(self.network, problem, num_replaced, self.iteration + 1, names):
            self.precision.step(self.optimizer)
        else:
            self.optimizer.clear_grad(set_to_zero=False)
        self.schedule.step()
        self.step_record = {
            "loss": mean_over_processes(total_loss),
            "lr": learning_rate,
            "data_s": data_s,
            "step_s": time.perf_counter() - start,
            "images": images * dist.get_world_size(),
        }

    def _forward_backward(self, batch: Batch) -> Tensor:
        loaded = paddle.to_tensor(batch.img)
        label = paddle.to_tensor(batch.label).astype("int64")
        with self.precision.autocast():
            logits = self.model(self.prepare(loaded))
        logits = logits.astype("float32")
        pad_multiple = pad_multiple_of(self.network)
        if self.distillation is not None:
            logits = upsample_to_input(logits, label.shape[1:], pad_multiple)
            loss = self.loss(logits, label) + self.distillation(loaded, logits, label)
        else:
            loss = loss_of_network(self.loss, logits, label, pad_multiple)
        loss = loss / self.accumulation_steps
        if loss.stop_gradient:
            raise UserError("the loss has no gradient: nothing would be trained. Choose another.")
        if dist.get_world_size() > 1:  # the backward pass spreads it to the other processes
            self.faults.check_loss(float(loss), self.iteration + 1, self.sample_names(batch))
        self.precision.backward(loss)
        return loss.detach()

    def _read(self, losses: Sequence[Tensor]) -> tuple[float, str]:
        """Return the loss of the step, and what is not finite.

        This is the only place of a step where the program waits for the device. Gradients that
        overflow by loss scaling are left to the scaler.
        """
        figures = [paddle.add_n(list(losses)).astype("float32")]
        if not self.precision.is_scaled:
            figures.append(gradient_sum(self.learners))
        total_loss, *sums = paddle.stack(figures).tolist()
        problem = loss_problem(total_loss)
        if not problem and not all(map(math.isfinite, sums)):
            problem = gradient_problem(self.learners)
        return total_loss, problem
