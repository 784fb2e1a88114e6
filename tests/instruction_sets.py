"""`TEST_ISA=avx2` or `sse4`: the tests run on this processor as they would on an older one.

Each library chooses its code by what the processor offers, and a sum in another order has other
last bits. The variables are read when a library loads, so they are set before any of them, and
subprocesses inherit them. Who obeys what was found by the bits and times of products, convolutions
and elementary functions on a processor with AVX-512:

| variable | who obeys |
|-|-|
| ONEDNN_MAX_CPU_ISA | oneDNN in Paddle Inference, torch and OpenVINO, whose own kernels follow it |
| MKL_ENABLE_INSTRUCTIONS | MKL in Paddle and torch, on Intel's processors |
| MKL_DEBUG_CPU_TYPE | MKL in Paddle (of 2019), on AMD's too; `processor.py` leaves it as it is |
| OPENBLAS_CORETYPE | products of NumPy and SciPy |
| NPY_DISABLE_CPU_FEATURES | functions of NumPy, which ignores the names of its other releases |
| ATEN_CPU_CAPABILITY | torch's own kernels |
| OPENCV_CPU_DISABLE | OpenCV |

No switch have ONNX Runtime and the products in OpenVINO (both are MLAS), and what Paddle compiles
itself (exp, mean, layer_norm): they use what the processor has.
"""

from __future__ import annotations

import sys

_NUMPY_AVX512 = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR X86_V4"
VARIABLES = {
    "avx2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "MKL_DEBUG_CPU_TYPE": "5",
        "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": _NUMPY_AVX512,
        "ATEN_CPU_CAPABILITY": "avx2",
        "OPENCV_CPU_DISABLE": "AVX512-SKX",
    },
    "sse4": {
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "MKL_DEBUG_CPU_TYPE": "3",
        "OPENBLAS_CORETYPE": "Nehalem",
        "NPY_DISABLE_CPU_FEATURES": f"{_NUMPY_AVX512} AVX2 FMA3 X86_V3",
        "ATEN_CPU_CAPABILITY": "default",
        "OPENCV_CPU_DISABLE": "AVX512-SKX,AVX2,AVX,FP16",
    },
}
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
