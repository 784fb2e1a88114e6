"""Damaged files through the C++ readers under sanitizers: `python tests/fuzz/cpp.py 1800`.

Builds `read_images` with AddressSanitizer and UndefinedBehaviorSanitizer into --build, then for
some seconds damages the sound files of `guided_targets.py` and what is in `corpus/`, and has
them read, a round of files by a process. A finding is anything but an answer for each file; it ends
the run, and the files of its round stay in --build.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
ROUND = 200  # files that one process reads
TIMEOUT_S = 300
# OpenCV's own allocators keep memory until the end
OPTIONS = {"ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=0:max_allocation_size_mb=4096"}


def build(folder: Path) -> Path:
    """Build the program; return its path."""
    source = HERE.parents[1] / "deploy" / "cpp"
    flags = ["-DSEGMENT_PADDLE=OFF", "-DSEGMENT_OPENVINO=OFF"]
    flags += ["-DSEGMENT_TESTS=ON", "-DSEGMENT_SANITIZE=ON"]
    subprocess.run(["cmake", "-S", source, "-B", folder, *flags], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", folder], check=True, capture_output=True)
    return folder / "read_images"


def seeds() -> tuple[list[bytes], list[bytes]]:
    """Return image files and `deploy.yaml` files."""
    from guided_targets import deploy_seeds, image_seeds

    images, deploys = list(image_seeds().values()), list(deploy_seeds().values())
    for found, name in ((images, "images"), (deploys, "deploy")):
        found += [path.read_bytes() for path in sorted((HERE / "corpus" / name).glob("*"))]
    return [content[1:] for content in images if len(content) > 1], deploys


def run(program: Path, seconds: float, keep: Path, first: int = 0) -> dict[str, int]:
    """Read damaged files for some seconds; a round follows from its number.

    Returns:
        How many files were read and refused, and the number of the round after the last one.

    Raises:
        AssertionError: the program ended, or did not answer for each file; they are in `keep`.
    """
    from mutations import mutate_bytes, mutate_text

    images, deploys = seeds()
    counts = {"read": 0, "refused": 0, "next": first}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        rng = random.Random(counts["next"])
        folder = keep / f"round-{counts['next']}"
        folder.mkdir(parents=True)
        lines = []
        for number in range(ROUND):
            channels = rng.choice((-1, 0, 1, 3, 4))
            path = folder / f"{number}.{'yaml' if channels < 0 else 'png'}"
            if channels < 0:
                text = mutate_text(rng, rng.choice(deploys).decode("utf-8", "replace"))
                path.write_text(text, encoding="utf-8", errors="replace")
            else:
                path.write_bytes(mutate_bytes(rng, rng.choice(images), images))
            lines.append(f"{channels} {path}\n")
        (folder / "list").write_text("".join(lines))
        done = subprocess.run(
            [program, folder / "list", folder],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            env=os.environ | OPTIONS,
        )
        answers = done.stdout.splitlines()
        assert done.returncode == 0, f"{folder}: after {len(answers)} files: {done.stderr[-3000:]}"
        assert len(answers) == ROUND, f"{folder}: {len(answers)} answers"
        refused = sum(line.startswith("refused: ") for line in answers)
        counts["refused"] += refused
        counts["read"] += ROUND - refused
        counts["next"] += 1
        shutil.rmtree(folder)
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--build", type=Path, required=True, help="folder of the program")
    parser.add_argument("--first", type=int, default=0, help="number of the first round")
    args = parser.parse_args()
    sys.path[:0] = [str(HERE), str(HERE.parents[1])]
    print(run(build(args.build), args.seconds, args.build / "rounds", args.first))
