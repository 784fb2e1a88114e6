"""The code path of the math library in Paddle."""

from __future__ import annotations

import os
import subprocess
import sys

import paddle
import pytest
from paddle import nn

from paddleseg_segformer import cpu

AVX2 = "fpu sse2 avx avx2 fma"
AVX512 = f"{AVX2} avx512f avx512cd avx512bw avx512dq avx512vl"


def cpu_info(vendor: str, flags: str) -> str:
    name = "model name\t: Some: Processor"
    core = f"processor\t: 0\nvendor_id\t: {vendor}\n{name}\nflags\t\t: {flags}\n"
    return f"{core}power management:\n\n" * 2


@pytest.mark.parametrize(
    ("vendor", "flags", "expected"),
    [
        ("AuthenticAMD", AVX512, "7"),
        ("HygonGenuine", AVX2, "5"),
        ("AuthenticAMD", f"{AVX2} avx512f", "5"),
        ("AuthenticAMD", "fpu sse2 avx", None),
        ("GenuineIntel", AVX512, None),
    ],
)
def test_code_path_follows_vendor_and_flags(vendor, flags, expected):
    assert cpu.code_path(cpu_info(vendor, flags)) == expected


def test_processor_without_vendor_is_left_alone():
    assert cpu.code_path("processor : 0\nFeatures : fp asimd\n") is None


def test_variable_is_set_once_and_a_users_own_value_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setenv(cpu.VARIABLE, "")
    monkeypatch.delenv(cpu.VARIABLE)
    cpu.use_wide_vectors()
    assert cpu.VARIABLE not in os.environ
    (tmp_path / "cpuinfo").write_text(cpu_info("AuthenticAMD", AVX2))
    cpu.use_wide_vectors()
    assert os.environ[cpu.VARIABLE] == "5"
    (tmp_path / "cpuinfo").write_text(cpu_info("AuthenticAMD", AVX512))
    cpu.use_wide_vectors()
    assert os.environ[cpu.VARIABLE] == "5"


PRODUCTS = """
import sys
from paddleseg_segformer.cpu import use_wide_vectors
if sys.argv[1] == "wide":
    use_wide_vectors()
import numpy as np, paddle
rng = np.random.default_rng(0)
a, b = (rng.standard_normal((300, 200)).astype("float32") for _ in range(2))
found = paddle.matmul(paddle.to_tensor(a), paddle.to_tensor(b), transpose_y=True).numpy()
print(float(abs(found - a.astype("float64") @ b.T.astype("float64")).max()))
"""


@pytest.mark.parametrize("vectors", ["wide", "default"])
def test_products_are_right_on_this_processor(vectors):
    out = subprocess.run(
        [sys.executable, "-c", PRODUCTS, vectors],
        env={key: value for key, value in os.environ.items() if key != cpu.VARIABLE},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(out.stdout.split()[-1]) < 1e-4


def test_the_largest_blocks_of_a_step_are_returned_unless_it_recomputes(monkeypatch):
    options = []
    monkeypatch.setattr(cpu, "_set_options", options.append)
    held = 16 * (20 << 20)
    paddle.empty([held], "uint8")
    layer = nn.Sequential(nn.Linear(2, 2))
    cpu.return_largest_blocks(layer)
    ((name, threshold),) = options.pop().items()
    assert name == cpu.M_MMAP_THRESHOLD and threshold >= 20 << 20
    layer[0].use_recompute = True
    cpu.return_largest_blocks(layer)
    assert options == []
