"""The C++ programs, run once on all images."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

from benchmarks.deployment.job import Job, NotHere, Outcome

STEPS = ("preprocess", "network", "upsample+argmax")


def run(job: Job) -> Outcome:
    """Predict all images; options: `engine`, paddle or openvino."""
    program = Path(job.cpp_dir) / f"segment_{job.options['engine']}"
    if not program.is_file():
        raise NotHere(f"{program} is not built; see deploy/cpp/README.md")
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--config", job.export_dir, "--image_path", job.images_dir]
        flags += ["--save_dir", folder, "--threads", str(job.threads), "--warmup", str(job.warmup)]
        text, peak_mib = _run([str(program), *flags])
        _keep_labels(job, Path(folder) / "pseudo_color_prediction")
    medians = [_median_ms(text, step) for step in STEPS]
    found = re.search(r"^(.*), cpu, \d+ threads; median", text, re.MULTILINE)
    engine = found[1] if found else program.name
    return Outcome(sum(medians), medians[STEPS.index("network")], peak_mib, engine)


def _run(command: list[str]) -> tuple[str, float]:
    """Return what a program printed, and the most memory it held.

    This process has to be small: the system counts the memory of the parent, at the start of the
    child, as the child's.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)  # else Popen waits for it again
        for file in (output, errors):
            file.seek(0)
        if process.returncode:
            lines = errors.read().strip().splitlines() or [f"exit status {process.returncode}"]
            raise RuntimeError(lines[-1])
        return output.read(), usage.ru_maxrss / 2**10


def _median_ms(text: str, step: str) -> float:
    found = re.search(rf"^{re.escape(step)}\s+([\d.]+)$", text, re.MULTILINE)
    if not found:
        raise RuntimeError(f"no time of {step!r} in what the program printed")
    return float(found[1])


def _keep_labels(job: Job, folder: Path) -> None:
    from paddleseg_segformer.data.io import read_label

    for index, image in enumerate(job.images):
        job.save(index, read_label(folder / Path(image).name))
