"""How to run a training, checked before Paddle is imported."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.training.writers import check_trackers

CHOICES = ("stop", "skip")


@dataclass(frozen=True)
class FaultPolicy:
    """How a run handles faults.

    Args:
        on_nonfinite: stop, or skip the step: weights, optimizer and batch-norm statistics stay as
            they were; the iteration counts.
        on_bad_sample: stop, or replace a sample that cannot be read by another one.
        max_skipped: steps, and samples, that may be skipped; one more stops the run.
    """

    on_nonfinite: str = "stop"
    on_bad_sample: str = "stop"
    max_skipped: int = 100

    def __post_init__(self) -> None:
        for name in ("on_nonfinite", "on_bad_sample"):
            if getattr(self, name) not in CHOICES:
                expected = " or ".join(CHOICES)
                raise UserError(f"--{name}: found {getattr(self, name)}, expected {expected}.")
        if self.max_skipped < 1:
            raise UserError(f"--max_skipped: found {self.max_skipped}, expected 1 or more.")

    @property
    def max_replaced(self) -> int:
        """Return how many bad samples may be replaced."""
        return self.max_skipped if self.on_bad_sample == "skip" else 0


@dataclass(frozen=True)
class RunOptions:
    """How to run, apart from what the config says."""

    save_dir: str = "output"
    num_workers: int = 0
    do_eval: bool = False
    use_vdl: bool = False
    trackers: Sequence[str] | None = None  # beside those of the config
    use_ema: bool = False
    resume_model: str | None = None
    save_interval: int = 1000  # steps
    keep_checkpoint_max: int = 5
    log_iters: int = 10  # steps
    seed: int | None = None  # None: the checkpoint's on resume, else a random one
    precision: str = "fp32"
    amp_level: str = "O1"
    early_stop_intervals: int | None = None
    max_minutes: float | None = None  # of the loop, evaluations included
    on_nonfinite: str = "stop"  # or skip: the step
    on_bad_sample: str = "stop"  # or skip: another sample replaces it
    max_skipped: int = 100  # steps, and samples

    def __post_init__(self) -> None:
        for name in ("save_interval", "keep_checkpoint_max", "log_iters"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name}: found {getattr(self, name)}, expected 1 or more.")
        if self.early_stop_intervals is not None and self.early_stop_intervals < 1:
            raise UserError(
                f"--early_stop_intervals: found {self.early_stop_intervals}, expected 1 or more."
            )
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise UserError(f"--max_minutes: found {self.max_minutes:g}, expected more than 0.")
        if self.num_workers < 0:
            raise UserError(f"--num_workers: found {self.num_workers}, expected 0 or more.")
        if self.resume_model not in (None, "auto") and not os.path.isdir(str(self.resume_model)):
            raise UserError(
                f"--resume_model {self.resume_model}: expected a folder such as output/iter_1000, "
                "or auto."
            )
        self.fault_policy()
        check_trackers(self.all_trackers())

    def all_trackers(self, of_config: Sequence[str] = ()) -> list[str]:
        """Return the names of all trackers, each once."""
        use_vdl = ["visualdl"] if self.use_vdl else []
        return list(dict.fromkeys([*of_config, *(self.trackers or ()), *use_vdl]))

    def fault_policy(self) -> FaultPolicy:
        """Return how faults are handled."""
        return FaultPolicy(self.on_nonfinite, self.on_bad_sample, self.max_skipped)
