"""Mixed precision as one object: what to compute in, how to scale the loss, how to step."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import paddle
from paddle import Tensor

from paddleseg_segformer.errors import UserError

PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


class Precision:
    """Precision of the forward pass; weights and losses stay in float32.

    Args:
        name: fp32, fp16 (with loss scaling) or bf16.
        level: O1 casts by operator, O2 casts nearly all.

    Raises:
        UserError: an unknown name, or mixed precision on a device where Paddle ignores it in
            silence.
    """

    def __init__(self, name: str = "fp32", level: str = "O1") -> None:
        if name not in PRECISIONS:
            raise UserError(f"--precision: found {name}, expected one of {', '.join(PRECISIONS)}.")
        self.enabled = name != "fp32"
        if self.enabled and paddle.get_device().startswith("cpu"):
            raise UserError(
                f"--precision {name} has no effect on CPU in Paddle. Use fp32, or a GPU."
            )
        self.dtype = PRECISIONS[name]
        self.level = level
        self.is_scaled = name == "fp16"  # steps whose gradients overflow are then part of the plan
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
        optimizer.clear_grad()
