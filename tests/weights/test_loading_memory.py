"""Loading the largest variant: memory beside the model, time beside a plain read of the file."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("safetensors")

SCRIPT = """
import json, sys, time
from pathlib import Path
from statistics import median
from paddleseg_segformer.weights import load_weights
from paddleseg_segformer.models import BACKBONES, SegFormer

def kib(field):
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(field)).split()[1])

def make(variant):
    return SegFormer(150, BACKBONES["MixVisionTransformer_" + variant](), 768)

path = Path(sys.argv[1])
make("B0")
before = kib("VmRSS")
model = make("B5")
load_weights(model, path)
peak = kib("VmHWM") - before
reads, loads = [], []
for _ in range(5):
    start = time.perf_counter()
    path.read_bytes()
    reads.append(time.perf_counter() - start)
    start = time.perf_counter()
    load_weights(model, path)
    loads.append(time.perf_counter() - start)
print(json.dumps({"peak_kib": peak, "read_s": median(reads), "load_s": median(loads)}))
"""


@pytest.mark.slow
def test_largest_variant_loads_in_the_memory_of_two_models(tmp_path):
    from paddleseg_segformer.converting import prepare, write
    from paddleseg_segformer.models import BACKBONES, SegFormer
    from paddleseg_segformer.weights import save_weights

    save_weights(
        SegFormer(150, BACKBONES["MixVisionTransformer_B5"](), 768), tmp_path / "b5.pdparams"
    )
    path = tmp_path / "b5.safetensors"
    write(prepare(tmp_path / "b5.pdparams", "nvlabs"), path)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, path], capture_output=True, text=True, check=True
    )
    measured = json.loads(done.stdout.splitlines()[-1])
    print(measured)
    assert measured["peak_kib"] * 1024 <= 2.2 * path.stat().st_size
    assert measured["load_s"] <= 2 * measured["read_s"]
