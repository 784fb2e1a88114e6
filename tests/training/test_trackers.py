"""Trackers: what a run wrote is read back by each tracker's own reader, also after a resume."""

from __future__ import annotations

import json
import os
import re
import select
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from small_runs import train, train_log

from paddleseg_segformer.components import register_component
from paddleseg_segformer.training.writers import Writer, Writers
from paddleseg_segformer.weights import open_checkpoint

fcntl = pytest.importorskip("fcntl", reason="Windows has no pseudo terminals")
pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")

REPOSITORY = Path(__file__).resolve().parents[2]


def run_and_resume(folder: Path, tracker: str) -> list[float]:
    """Train 6 iterations, then 5 and 6 again; return the losses of the run."""
    flags = ("--trackers", tracker, "--do_eval", "--save_interval", "4")
    assert train(folder, "out", *flags) == 0
    assert train(folder, "out", *flags, "--resume_model", str(folder / "out" / "iter_4")) == 0
    losses = [line["Train/loss"] for line in train_log(folder, "out")]
    assert len(losses) == 6
    return losses


def test_tensorboard_reads_the_log_back_without_repeated_iterations(folder):
    pytest.importorskip("tensorboardX")
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    losses = run_and_resume(folder, "tensorboard")
    reader = event_accumulator.EventAccumulator(str(folder / "out"))
    reader.Reload()
    points = reader.Scalars("Train/loss")
    assert [point.step for point in points] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose([point.value for point in points], losses, rtol=1e-6)
    assert [point.step for point in reader.Scalars("Evaluate/mIoU")] == [4, 6]
    assert "Evaluate/confusion" in reader.Tags()["images"]
    assert b"embedding_dim" in reader.Tensors("config/text_summary")[0].tensor_proto.string_val[0]


def leveldb_records(content: bytes, first_block: int) -> Iterator[bytes]:
    """Yield the records of a log in LevelDB's format: blocks of parts with a header of 7 bytes."""
    position, left, record = 0, first_block, b""
    while position + 7 <= len(content):
        if left < 7:  # the end of a block is padded
            position, left = position + left, 32768
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        record += content[position + 7 : position + 7 + length]
        position, left = position + 7 + length, left - 7 - length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_wandb_reads_the_offline_log_back(folder):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    losses = run_and_resume(folder, "wandb")
    files = sorted((folder / "out" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len({path.stem for path in files}) == 1  # one run, in parts
    found: dict[int, float] = {}
    configs = 0
    for path in files:
        for content in leveldb_records(path.read_bytes()[7:], first_block=32768 - 7):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(content)
            configs += record.HasField("config") or record.HasField("run")
            items = {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in record.history.item
            }
            if "Train/loss" in items:
                found[items["_step"]] = items["Train/loss"]
    assert configs and sorted(found) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose([found[step] for step in range(1, 7)], losses, rtol=1e-6)


def test_mlflow_reads_the_file_store_back(folder, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    losses = run_and_resume(folder, "mlflow")
    client = MlflowClient(tracking_uri=(folder / "out" / "mlruns").as_uri())
    [experiment] = [item for item in client.search_experiments() if item.name != "Default"]
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "out"
    points = client.get_metric_history(run.info.run_id, "Train/loss")
    assert sorted(point.step for point in points) == [1, 2, 3, 4, 5, 5, 6, 6]
    for point in points:
        assert point.value == pytest.approx(losses[point.step - 1], rel=1e-6)
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"config.yml", "Evaluate"} <= artifacts


def test_own_tracker_is_named_in_the_config_and_gets_all(folder, capsys):
    seen: list[tuple[int, str]] = []

    @register_component("tracker", "own_tracker")
    class Own(Writer):
        def __init__(self, save_dir: Path, start: int | None = None) -> None:
            assert save_dir.name == "out" and start is None

        def scalars(self, iteration, values):
            seen.extend((iteration, tag) for tag in values)
            raise RuntimeError("its server is gone")

    assert train(folder, "out", "--opts", "trackers=[own_tracker]", "iters=2") == 0
    assert {(1, "Train/loss"), (2, "Train/loss"), (2, "Evaluate/mIoU")} <= set(seen)
    printed = capsys.readouterr().out
    assert printed.count("Own: points are being lost (its server is gone)") == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [("tensorbord", "unknown tracker type 'tensorbord'. Did you mean 'tensorboard'?"),
     ("wandb", "wandb is not installed. Run: pip install wandb")],
)  # fmt: skip
def test_unknown_and_missing_trackers_are_told_first(folder, capsys, monkeypatch, name, said):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert train(folder, "out", "--trackers", name) == 1
    assert said in capsys.readouterr().err
    assert train(folder, "out", "--opts", f"trackers=[{name}]") == 1
    assert said in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_writers_go_on_when_one_fails(caplog):
    class Broken(Writer):
        def scalars(self, iteration, values):
            raise OSError("no space")

    got = []

    class Good(Writer):
        def scalars(self, iteration, values):
            got.append(iteration)

    writers = Writers([Broken(), Good()])
    writers.scalars(1, {})
    writers.scalars(2, {})
    assert got == [1, 2] and caplog.text.count("points are being lost") == 1


def on_a_terminal(folder: Path, *flags: str, keys: str) -> tuple[int, str]:
    """Train on a pseudo terminal; return status and screen.

    Args:
        keys: The first is pressed once the bar moves, the second once the first was heard.
    """
    marks = [rb"train:.* [1-9]\d+/100000", b"once more to stop at once"]
    out = ["--save_dir", str(folder / "out"), "--iters", "100000", "--seed", "1"]
    command = [sys.executable, "-m", "paddleseg_segformer", "train", *out, *flags]
    main_end, other_end = pty.openpty()
    fcntl.ioctl(other_end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        [*command, "--config", str(folder / "tiny.yml")],
        stdin=other_end, stdout=other_end, stderr=other_end,
        env=environment, preexec_fn=take_terminal,
    )  # fmt: skip
    os.close(other_end)
    screen, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([main_end], [], [], 1)[0]:
            continue
        try:
            piece = os.read(main_end, 4096)
        except OSError:  # the terminal is closed
            break
        screen += piece
        if keys and re.search(marks[0], screen):
            time.sleep(1)  # until a step that takes long has begun
            os.write(main_end, keys[0].encode())
            keys, marks = keys[1:], marks[1:]
    if process.poll() is None and keys:
        process.kill()
    status = process.wait(timeout=60)
    os.close(main_end)
    return status, screen.decode(errors="replace")


def take_terminal() -> None:
    """Make the pseudo terminal the process's own, so that its keys become signals."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_terminal_shows_a_bar_the_file_lines_and_ctrl_c_leaves_a_model(folder):
    status, screen = on_a_terminal(folder, "--log_iters", "2", keys="\x03")
    assert status == 0, screen
    assert "SIGINT: stopping after this step; once more to stop at once" in screen
    [iteration] = re.findall(r"stopped at iter (\d+); continue with --resume_model", screen)
    assert "iter 2/100000" not in screen and "loss " in screen
    lines = (folder / "out" / "log.txt").read_text()
    assert re.search(r"iter 2/100000  epoch 0\.\d+  loss \d", lines)
    assert "stopped at iter" in lines and "\x1b" not in lines
    assert open_checkpoint(folder / "out" / f"iter_{iteration}").describe()


@pytest.mark.slow
def test_second_ctrl_c_ends_at_once(folder):
    (folder / "slow_hook.py").write_text(
        textwrap.dedent(
            """
            import time
            from paddleseg_segformer import register_component
            from paddleseg_segformer.training.trainer import Hook

            @register_component("hook")
            class Slow(Hook):
                def after_step(self, trainer):
                    time.sleep(0.2 if trainer.iteration <= 10 else 60)
            """
        )
    )
    flags = ("--import", str(folder / "slow_hook.py"), "--opts", "hooks=[{type: Slow}]")
    start = time.monotonic()
    status, screen = on_a_terminal(folder, *flags, keys="\x03\x03")
    assert status in (130, -2), screen  # by KeyboardInterrupt, or by the signal itself
    assert time.monotonic() - start < 55
