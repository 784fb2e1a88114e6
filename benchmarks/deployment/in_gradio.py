"""The Gradio demo, through its client."""

from __future__ import annotations

import resource
import subprocess
from pathlib import Path
from statistics import median

from benchmarks.deployment.gradio_client import gradio_labels
from benchmarks.deployment.job import Job, NotHere, Outcome

HAS_GRADIO = "import sys, importlib.util as u; sys.exit(not u.find_spec('gradio'))"


def run(job: Job) -> Outcome:
    """Send all images to the demo; times are its own, in whole ms."""
    if subprocess.run([job.gradio_python, "-c", HAS_GRADIO], check=False).returncode:
        raise NotHere(
            f"gradio is not installed for {Path(job.gradio_python).name}. Run: "
            "pip install '.[demo]' (it bounds Pillow: best in an environment of its own, which "
            "--gradio_python names)"
        )
    warmup = [job.images[0]] * job.warmup
    results = gradio_labels(job.export_dir, [*warmup, *job.images], python=job.gradio_python)
    results = results[job.warmup :]
    for index, result in enumerate(results):
        job.save(index, result.label)
    ms, network_ms = (median(item.ms[step] for item in results) for step in ("total", "network"))
    # of the server, which has ended by now: this process's largest child
    peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
    return Outcome(ms, network_ms, peak_mib, "Gradio, --backend auto")
