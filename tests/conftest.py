"""Shared set-up of all tests: one thread per process, the same seeds for every test."""

from __future__ import annotations

import os

from instruction_sets import hold_onednn, variables

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before paddle: threads of xdist's workers contend
os.environ.update(variables(os.environ.get("TEST_ISA", "")))  # before NumPy too

import copy
import errno
import logging
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

with suppress(ImportError):  # Windows
    import fcntl as _fcntl

from paddleseg_segformer import components, files
from paddleseg_segformer.cpu import CPU_INFO, use_wide_vectors

hold_onednn(os.environ.get("TEST_ISA", ""))
use_wide_vectors()  # as the programs do: one code path in all processes of a test


def pytest_report_header() -> str:
    """Name the processor, and what the libraries of numbers are held to."""
    lines = CPU_INFO.read_text(encoding="utf-8").splitlines() if CPU_INFO.is_file() else []
    model = next((line for line in lines if line.startswith("model name")), ": not known")
    held_to = os.environ.get("TEST_ISA") or "nothing (TEST_ISA is not set)"
    return f"processor:{model.partition(':')[2]}, held to {held_to}"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no file for `-m "check and not slow"` that has no such test: it takes long."""
    if not config.option.markexpr.startswith("check") or collection_path.suffix != ".py":
        return None
    return "mark.check" not in collection_path.read_text(encoding="utf-8") or None


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
def no_noted_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the modules that configs of earlier tests have noted: messages name them."""
    monkeypatch.setattr(components, "_noted", set())


@pytest.fixture(autouse=True)
def no_log_set_up(caplog: pytest.LogCaptureFixture) -> None:
    """Undo what command lines and libraries set in earlier tests: `caplog` hears the package."""
    package = logging.getLogger("paddleseg_segformer")
    package.handlers.clear()
    package.propagate = True
    package.setLevel(logging.NOTSET)
    caplog.handler.setLevel(logging.NOTSET)  # `nncf.set_log_level` raises it too


@contextmanager
def _drawn_as_zeros() -> Iterator[None]:
    from paddle import nn

    from paddleseg_segformer.models import init

    zeros = nn.initializer.Constant(0.0)
    nn.initializer.set_global_initializer(zeros, zeros)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_normal", "_uniform"):
            patch.setattr(init, name, lambda *args, **kwargs: None)
        yield
    nn.initializer.set_global_initializer(None)


@pytest.fixture(scope="session")
def drawn_as_zeros() -> Callable[[], AbstractContextManager[None]]:
    """Return a context in which models are built of zeros, ten times faster."""
    return _drawn_as_zeros


@pytest.fixture
def zero_weights() -> Iterator[None]:
    """Build models of zeros: for tests of shapes, names and counts."""
    with _drawn_as_zeros():
        yield


class _WindowsOs:
    """`os` with what Windows refuses: to open folders, and to sync what was opened for reading."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return os.open(path, flags, mode)

    def fsync(self, handle: int) -> None:
        flags = Path(f"/proc/self/fdinfo/{handle}").read_text().split("flags:")[1].split()[0]
        if int(flags, 8) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        os.fsync(handle)


class _Msvcrt:
    """The module, by the locks of this system: as there, one handle excludes every other."""

    LK_NBLCK = 2

    def locking(self, handle: int, mode: int, size: int) -> None:
        assert mode == self.LK_NBLCK and size == 1
        try:
            _fcntl.flock(handle, _fcntl.LOCK_EX | _fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the files' modules meet what Windows refuses; open files keep their names there."""
    if sys.platform != "linux":
        pytest.skip("finds open files in /proc")

    def is_open(path: Any) -> bool:
        handles = [Path(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
        return os.path.exists(path) and any(
            os.path.exists(item) and os.path.samefile(item, path) for item in handles
        )

    def unless_open(function: Callable[..., None]) -> Callable[..., None]:
        def called(path: Any, other: Any, **options: Any) -> None:
            if is_open(path) or is_open(other):
                raise PermissionError(errno.EACCES, "used by another process", path)
            function(path, other, **options)

        return called

    from paddleseg_segformer.weights.files import download

    monkeypatch.setattr(files, "IS_WINDOWS", True)
    for module in (files, download):
        monkeypatch.setattr(module, "os", _WindowsOs())
    monkeypatch.setattr(files, "REPLACE_WAIT_S", 0.001)
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", _Msvcrt())
    for name in ("replace", "rename"):
        monkeypatch.setattr(os, name, unless_open(getattr(os, name)))

    def no_library(name: str | None, **options: Any) -> None:
        raise TypeError("bad argument type for built-in operation")

    monkeypatch.setattr(files.ctypes, "CDLL", no_library)
