"""Shared set-up of all tests: one thread per process, the same seeds for every test."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before paddle: threads of xdist's workers contend

import copy
import logging
import random
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from paddleseg_segformer import components
from paddleseg_segformer.cpu import use_wide_vectors

use_wide_vectors()  # as the programs do: one code path in all processes of a test


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Give every test the same random numbers, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    if "paddle" in sys.modules:
        sys.modules["paddle"].seed(0)


@pytest.fixture
def own_components(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what a test registers and imports as users do."""
    for name in ("_registered", "_imported", "_noted"):
        monkeypatch.setattr(components, name, copy.deepcopy(getattr(components, name)))
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:  # users' modules are called my_...
        if name.startswith("my_"):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def no_log_set_up(caplog: pytest.LogCaptureFixture) -> None:
    """Undo what command lines and libraries set in earlier tests: `caplog` hears the package."""
    package = logging.getLogger("paddleseg_segformer")
    package.handlers.clear()
    package.propagate = True
    package.setLevel(logging.NOTSET)
    caplog.handler.setLevel(logging.NOTSET)  # `nncf.set_log_level` raises it too
