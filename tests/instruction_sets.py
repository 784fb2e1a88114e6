"""`TEST_ISA=avx2` or `sse4`: the tests run on this processor as they would on an older one.

Each library chooses its code by what the processor offers, and a sum in another order has other
last bits. The variables are read when a library loads, so they are set before any of them, and
subprocesses inherit them. Who obeys what was found by the bits and times of products, convolutions
and elementary functions on a processor with AVX-512:

| held by | who obeys |
|-|-|
| MKL_ENABLE_INSTRUCTIONS | MKL in Paddle and torch, on Intel's processors |
| MKL_DEBUG_CPU_TYPE | MKL in Paddle (of 2019), on AMD's too; `processor.py` leaves it as it is |
| OPENBLAS_CORETYPE | products of NumPy and SciPy |
| NPY_DISABLE_CPU_FEATURES | functions of NumPy, which ignores the names of its other releases |
| ATEN_CPU_CAPABILITY | torch's own kernels |
| OPENCV_CPU_DISABLE | OpenCV |
| a call of oneDNN | Paddle Inference with oneDNN, in the tests' own process |

The variable of oneDNN (ONEDNN_MAX_CPU_ISA) would hold Paddle Inference in subprocesses and torch's
convolutions as well, but OpenVINO obeys it by half: its convolutions do and its other kernels do
not, and together they crash or give zeros. No switch have ONNX Runtime and the products in OpenVINO
(both are MLAS), and what Paddle compiles itself (exp, mean, layer_norm). All these use what the
processor has. Where CPUID can be made to fault, `benchmarks/older_processor.py` holds all of them.
"""

from __future__ import annotations

import ctypes
import sys
from importlib.util import find_spec
from pathlib import Path

_NUMPY_AVX512 = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR X86_V4"
VARIABLES = {
    "avx2": {
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "MKL_DEBUG_CPU_TYPE": "5",
        "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": _NUMPY_AVX512,
        "ATEN_CPU_CAPABILITY": "avx2",
        "OPENCV_CPU_DISABLE": "AVX512-SKX",
    },
    "sse4": {
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "MKL_DEBUG_CPU_TYPE": "3",
        "OPENBLAS_CORETYPE": "Nehalem",
        "NPY_DISABLE_CPU_FEATURES": f"{_NUMPY_AVX512} AVX2 FMA3 X86_V3",
        "ATEN_CPU_CAPABILITY": "default",
        "OPENCV_CPU_DISABLE": "AVX512-SKX,AVX2,AVX,FP16",
    },
}
ONEDNN_ISA = {"avx2": 0x7, "sse4": 0x1}  # of dnnl_cpu_isa_t
LISTENERS = ("numpy", "paddle", "torch", "cv2", "openvino")


def variables(name: str) -> dict[str, str]:
    """Return what holds this process and those it starts to an instruction set."""
    if not name:
        return {}
    if name not in VARIABLES:
        raise SystemExit(f"TEST_ISA={name}: expected {' or '.join(VARIABLES)}, or none.")
    early = [library for library in LISTENERS if library in sys.modules]
    if early:
        raise SystemExit(f"TEST_ISA={name}: {', '.join(early)} was loaded before the tests.")
    return VARIABLES[name]


def hold_onednn(name: str) -> None:
    """Hold Paddle's oneDNN in this process, before its first use."""
    if not name or find_spec("paddle") is None:
        return
    import paddle

    (path,) = (Path(paddle.__file__).parent / "libs").glob("libdnnl.so*")
    assert ctypes.CDLL(str(path)).dnnl_set_max_cpu_isa(ONEDNN_ISA[name]) == 0
