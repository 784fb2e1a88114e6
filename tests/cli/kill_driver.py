"""Kills a command at random moments again and again: `kill_driver.py FOLDER JOB 100`.

The commands run in forked processes of this one, which has imported the package but run nothing of
it, so that a start costs little. After each SIGKILL what is at the destination has to be whole or
absent; what an uninterrupted run leaves at the end has to be what one left before all kills, with
nothing beside it. Prints a line of JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

import numpy as np  # noqa: E402
import paddle  # noqa: E402
from PIL import Image  # noqa: E402

from paddleseg_segformer.cli import main  # noqa: E402
from paddleseg_segformer.runtimes.deploy_config import DeployConfig  # noqa: E402
from paddleseg_segformer.weights.weight_file import open_checkpoint  # noqa: E402

MODEL = """model:
  type: SegFormer
  num_classes: 3
  embedding_dim: 8
  backbone: {type: MixVisionTransformer_B0, embed_dims: [4, 8, 10, 16], depths: [1, 1, 1, 1]}
"""
NUM_IMAGES = 12


def write_inputs(folder: Path) -> None:
    """Write a model folder, images and labels; in a process of its own, for it runs Paddle."""
    from paddleseg_segformer.config import load_config
    from paddleseg_segformer.config.building import build_model
    from paddleseg_segformer.weights import save_weights

    config = "batch_size: 2\niters: 2\n" + MODEL + DATASETS.format(root=folder / "data")
    (folder / "tiny.yml").write_text(config, encoding="utf-8")
    for part in ("images", "labels"):
        (folder / "data" / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"{i:02}.png" for i in range(NUM_IMAGES)]
    for name in names:
        label = np.repeat(np.repeat(rng.integers(0, 3, (6, 8), np.uint8), 8, 0), 8, 1)
        image = np.stack([label * 80, label * 60, 255 - label * 100], 2)
        noisy = image + rng.integers(0, 16, image.shape, np.uint8)
        Image.fromarray(noisy).save(folder / "data" / "images" / name)
        Image.fromarray(label).save(folder / "data" / "labels" / name)
    lines = [f"images/{name} labels/{name}\n" for name in names]
    (folder / "data" / "all.txt").write_text("".join(lines), encoding="utf-8")
    paddle.seed(0)
    (folder / "model").mkdir()
    (folder / "model" / "config.yml").write_text(config, encoding="utf-8")
    save_weights(build_model(load_config(folder / "tiny.yml")), folder / "model" / "model.pdparams")


DATASETS = """train_dataset: &data
  type: Dataset
  dataset_root: {root}
  train_path: {root}/all.txt
  num_classes: 3
  mode: train
  transforms: [{{type: Normalize}}]
val_dataset:
  type: Dataset
  dataset_root: {root}
  val_path: {root}/all.txt
  num_classes: 3
  mode: val
  transforms: [{{type: Normalize}}]
"""


def whole_export(out: Path) -> None:
    """Compare an export with its checksums."""
    DeployConfig.load(out, check_files=True)


def whole_weights(out: Path) -> None:
    """Read every array of a model folder."""
    for key in (state := open_checkpoint(out).state):
        assert state[key].size


def whole_images(out: Path) -> None:
    """Decode every image of a folder of results; other files are not looked at."""
    for path in out.rglob("*.png"):
        if not any(part.startswith(".") for part in path.relative_to(out).parts):
            with Image.open(path) as image:
                image.load()


def whole_report(out: Path) -> None:
    """See that the page, once it is there, is whole, and all images."""
    if (page := out / "report.html").exists():
        assert page.read_text(encoding="utf-8").rstrip().endswith("</html>")
    whole_images(out)


def whole_fit(out: Path) -> None:
    """See that what a run left so far is whole."""
    for name in ("best_model", "export"):
        for found in out.rglob(name):
            whole_export(found) if name == "export" else whole_weights(found)


# job -> its command for (inputs, destination), what is checked after a kill, and of the command
# that is started after it
JOBS: dict[str, tuple[Callable[[Path, Path], list[object]], Callable[[Path], None], list[str]]] = {
    "export": (
        lambda i, o: [
            "export",
            "--model_path",
            i / "model",
            "--save_dir",
            o,
            "--format",
            "paddle,onnx",
        ],
        whole_export,
        [],
    ),
    "convert": (
        lambda i, o: ["convert_weights", i / "model", o, "--to", "hf"],
        whole_weights,
        [],
    ),
    "predict": (
        lambda i, o: [
            *("predict", "--model_path", i / "model", "--image_path", i / "data" / "images"),
            *("--save_dir", o),
        ],
        whole_images,
        [],
    ),
    "report": (
        lambda i, o: [
            *("val", "--model_path", i / "model", "--config", i / "tiny.yml", "--report", o),
        ],
        whole_report,
        [],
    ),
    "fit": (
        lambda i, o: [
            *("fit", i / "data", "--model", i / "tiny.yml", "--iters", "12", "--out", o),
            *("--export", "paddle"),
        ],
        whole_fit,
        ["--resume"],
    ),
}


def in_child(arguments: list[str], log: Path, seconds: float | None = None) -> int | None:
    """Run a command in a forked process; kill it after some seconds.

    Returns:
        Its status, or None: it was killed.
    """
    if not (child := os.fork()):
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = 1
        try:
            status = main(arguments) if arguments else 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        finally:
            os._exit(status)
    end = None if seconds is None else time.monotonic() + seconds
    while end is None or time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.killpg(child, signal.SIGKILL) if os.getpgid(child) == child else os.kill(child, 9)
    os.waitpid(child, 0)
    return None


def contents(out: Path) -> dict[str, str]:
    """Return the checksum of each file that is the same in every run."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.suffix in (".png", ".pdparams", ".onnx", ".safetensors")
    }


def run(folder: Path, job: str, kills: int, seed: int) -> dict[str, object]:
    """Kill a job so many times; return what was seen.

    Raises:
        AssertionError: something was lost, half written or left behind.
    """
    inputs, results = folder / "inputs", folder / "results"
    inputs.mkdir(parents=True)
    results.mkdir()
    if not (child := os.fork()):
        try:
            write_inputs(inputs)
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, "the inputs cannot be written"
    command, check, again = JOBS[job]
    log, whole, out = folder / "log", results / "whole", results / "out"

    def arguments(destination: Path, *more: str) -> list[str]:
        return [*map(str, command(inputs, destination)), *more]

    begin = time.monotonic()
    assert in_child(arguments(whole), log) == 0, log.read_text()
    duration = time.monotonic() - begin
    rng = random.Random(seed)
    report = {"job": job, "kills": 0, "ended": 0, "nothing yet": 0, "whole": 0}
    while report["kills"] < kills:
        more = again if out.exists() else []
        status = in_child(arguments(out, *more), log, rng.uniform(0, 1.05 * duration))
        if status is None:
            report["kills"] += 1
        else:
            assert status == 0, log.read_text()
            report["ended"] += 1
        report["whole" if out.exists() else "nothing yet"] += 1
        if out.exists():
            check(out)
        if out.exists() and rng.random() < 0.4:  # else the next one replaces it or goes on
            shutil.rmtree(out)
    assert in_child(arguments(out, *(again if out.exists() else [])), log) == 0, log.read_text()
    check(out)
    if job != "fit":  # which chooses by the machine's speed how often it evaluates
        assert contents(out) == contents(whole), "not what an uninterrupted run leaves"
    # what was written at the moment of a kill is removed by the first writer a minute later
    hidden = [path for path in results.rglob(".*") if time.time() - path.stat().st_mtime > 60]
    assert not hidden, hidden
    left = sorted(path.name for path in results.iterdir() if not path.name.startswith("."))
    assert left == ["out", "whole"], left
    return {**report, "seconds of a whole run": round(duration, 2)}


if __name__ == "__main__":
    place, name, count, *rest = sys.argv[1:]
    print(json.dumps(run(Path(place), name, int(count), int(rest[0]) if rest else 0)))
