"""Targets that go wrong, to see that `run_cases.py` notices."""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

Case = Callable[[random.Random], None]


def crash(folder: Path) -> Case:
    """End the interpreter, as a fault in a decoder would."""
    return lambda rng: os.kill(os.getpid(), signal.SIGSEGV)


def hang(folder: Path) -> Case:
    """Never end."""
    faulthandler.dump_traceback_later = partial(_with_seconds, faulthandler.dump_traceback_later, 1)
    return lambda rng: time.sleep(1000)


def _with_seconds(original: Callable[..., None], seconds: float, _: float, exit: bool) -> None:
    original(seconds, exit=exit)


def error(folder: Path) -> Case:
    """Fail otherwise than with a `UserError`."""
    return lambda rng: print({}[rng])


TARGETS: dict[str, Callable[[Path], Case]] = {"crash": crash, "hang": hang, "error": error}
