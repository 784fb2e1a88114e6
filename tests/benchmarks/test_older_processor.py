"""The older processor: what libraries see of it, and that faults stay faults."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.older_processor import SOURCE, build
from paddleseg_segformer.errors import UserError

FACTS = """
import numpy, threading
features = getattr(numpy, "_core", None) or numpy.core
features = features._multiarray_umath.__cpu_features__
seen = []
threading.Thread(target=lambda: __import__("cv2") and seen.append("thread")).start()
print(features["AVX2"], any(on for name, on in features.items() if name.startswith("AVX512")))
print("avx512" in open("/proc/cpuinfo").read())
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.exists() or "cpuid_fault" not in path.read_text():
        pytest.skip("this processor's CPUID cannot be made to fault")
    return {**os.environ, "LD_PRELOAD": str(build(tmp_path_factory.mktemp("older")))}


def run(program: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_newer_instructions_are_not_seen(environment) -> None:
    done = run(FACTS, environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "False", "False"]


def test_what_is_executed_sees_the_same(environment) -> None:
    nested = f"import subprocess, sys; subprocess.check_call([sys.executable, '-c', {FACTS!r}])"
    assert run(nested, environment).stdout.split() == ["True", "False", "False"]


def test_a_fault_still_ends_the_program(environment) -> None:
    assert run("import ctypes; ctypes.string_at(0)", environment).returncode == -signal.SIGSEGV


def test_a_handler_gets_the_other_faults(environment) -> None:
    program = "import ctypes, faulthandler; faulthandler.enable(); ctypes.string_at(0)"
    done = run(program, environment)
    assert done.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in done.stderr


def test_no_compiler_is_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(UserError, match=r"no-such-compiler.*Needs Linux"):
        build(tmp_path)
    assert SOURCE.is_file()
