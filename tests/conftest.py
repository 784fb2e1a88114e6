"""Shared set-up of all tests: one thread per process, the same seeds for every test."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before paddle: threads of xdist's workers contend

import logging
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest

from paddleseg_segformer.processor import use_wide_vectors

use_wide_vectors()  # as the programs do: one code path in all processes of a test


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Give every test the same random numbers, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    if "paddle" in sys.modules:
        sys.modules["paddle"].seed(0)


@pytest.fixture(autouse=True)
def no_log_set_up(caplog: pytest.LogCaptureFixture) -> None:
    """Undo what command lines and libraries set in earlier tests: `caplog` hears the package."""
    package = logging.getLogger("paddleseg_segformer")
    package.handlers.clear()
    package.propagate = True
    package.setLevel(logging.NOTSET)
    caplog.handler.setLevel(logging.NOTSET)  # `nncf.set_log_level` raises it too


@contextmanager
def _zeros() -> Iterator[None]:
    import paddle

    set_initializer = paddle.nn.initializer.set_global_initializer
    constant = paddle.nn.initializer.Constant(0.0)
    set_initializer(constant, constant)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paddle, "normal", lambda mean, std, shape: paddle.zeros(shape))
        patch.setattr(paddle, "uniform", lambda shape, *other: paddle.zeros(shape))
        yield
    set_initializer(None)


@pytest.fixture(scope="session")
def zero_weights() -> Callable[[], AbstractContextManager[None]]:
    """Return a context that builds models of zeros: drawing B5's 80 million numbers takes seconds.

    For tests of sizes and counts.
    """
    return _zeros
