"""Non-finite steps, bad samples, full disks, read-only folders, clocks: what a run does."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import paddle
import pytest
from paddle import nn
from small_runs import assert_equal_weights, poison, train, train_log, weights

from paddleseg_segformer.cli import main
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.training.checkpoints import (
    BestModel,
    checkpoints,
    read_best,
    save_best,
    save_checkpoint,
)
from paddleseg_segformer.training.faults import (
    FaultPolicy,
    Faults,
    gradient_problem,
    loss_problem,
)
from paddleseg_segformer.training.hooks import Evaluate, RunFolder
from paddleseg_segformer.training.writers import JsonLinesWriter, VisualDLWriter, Writer, Writers

ROOT = Path(__file__).resolve().parents[2]
SKIP = ("--on_nonfinite", "skip")
STOP_S = float(os.environ.get("STOP_S", "5"))
POISON = "train2"  # of the run with seed 3: in batches 1, 5, ...


@pytest.fixture
def poisoned(folder):
    """Make one training image a float image that overflows when it is normalised."""
    poison(folder)
    return folder


def test_nan_at_an_iteration_stops_and_names_iteration_and_files(poisoned, capsys):
    assert train(poisoned, "out") == 1
    error = capsys.readouterr().err
    assert re.search(rf"error: iteration \d: the (loss|gradient of) .*{POISON}.npy", error)
    assert "--on_nonfinite skip" in error and "Traceback" not in error
    assert checkpoints(poisoned / "out") == []


def test_skipped_steps_are_counted_logged_and_leave_no_trace(poisoned, capsys):
    assert train(poisoned, "out", *SKIP, "--do_eval", "--save_interval", "3") == 0
    printed = capsys.readouterr().out
    skipped = re.findall(r"skipped the step \((\d) of at most 100\): iteration \d: (.*)", printed)
    assert [number for number, _ in skipped] == [str(i + 1) for i in range(len(skipped))]
    assert skipped and all(f"{POISON}.npy" in text for _, text in skipped)
    lines = [line for line in train_log(poisoned, "out") if "Train/num_skipped_steps" in line]
    assert lines[-1]["Train/num_skipped_steps"] == len(skipped) < len(lines)
    assert lines[0]["Train/num_skipped_steps"] == 0
    final = weights(poisoned, "out", "iter_6")
    assert all(np.isfinite(value).all() for value in final.values())  # batch norm's too
    assert read_best(poisoned / "out").miou > 0


@pytest.mark.parametrize("num_workers", ["0", "2"])
def test_resume_with_skips_is_exact_and_goes_on_counting(poisoned, num_workers):
    flags = (*SKIP, "--num_workers", num_workers, "--iters", "9", "--save_interval", "2")
    assert train(poisoned, "whole", *flags) == 0
    assert train(poisoned, "parts", *flags) == 0
    for late in ("iter_6", "iter_8", "iter_9"):
        shutil.rmtree(poisoned / "parts" / late)
    assert train(poisoned, "parts", *flags, "--resume_model", "auto") == 0
    assert_equal_weights(poisoned, "whole", "parts", "iter_9")
    counts = [train_log(poisoned, out)[-1]["Train/num_skipped_steps"] for out in ("whole", "parts")]
    assert counts[0] == counts[1] >= 2


def test_skips_are_bounded(poisoned, capsys):
    assert train(poisoned, "out", *SKIP, "--max_skipped", "1", "--iters", "30") == 1
    assert "1 steps were skipped already (--max_skipped)" in capsys.readouterr().err


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with paddle.no_grad():
        net[1].bias.set_value(paddle.to_tensor([1.0, float("nan")]))
    with pytest.raises(UserError, match=r"best_model: not saved, as the weight 1.bias is not"):
        save_best(tmp_path, BestModel(0.5, 3), net, "")
    trainer = SimpleNamespace(network=net)
    with pytest.raises(UserError, match=r"iter_3: not saved, as the weight 1.bias is not finite"):
        save_checkpoint(tmp_path / "iter_3", trainer, None, "")
    assert not list(tmp_path.iterdir())


def test_a_score_that_is_no_number_is_never_the_best(tmp_path):
    metrics = SimpleNamespace(miou=float("nan"))
    best = BestModel(0.1, 5)
    run = RunFolder(tmp_path, "", Writers([]), best)
    hook = Evaluate(None, run, 1)
    hook._keep_best(SimpleNamespace(iteration=6), metrics)
    assert best == BestModel(0.1, 5) and not list(tmp_path.iterdir())


@pytest.mark.usefixtures("windows")
def test_a_second_best_model_replaces_the_first_on_windows(tmp_path):
    for miou in (0.5, 0.6):
        save_best(tmp_path, BestModel(miou, 3), nn.Linear(2, 2), "")
    assert read_best(tmp_path) == BestModel(0.6, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["best_model"]


def test_a_skipped_step_changes_nothing_but_the_iteration():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1D(2))
    optimizer = paddle.optimizer.AdamW(0.1, parameters=net.parameters())
    before = {key: value.numpy() for key, value in net.state_dict().items()}
    faults = Faults(FaultPolicy(on_nonfinite="skip"))
    faults.before_step(net)
    loss = net(paddle.to_tensor([[1.0, float("inf")], [0.0, 1.0]])).sum()
    loss.backward()
    assert not np.isfinite(net[1]._mean.numpy()).all()
    assert not faults.allow_step(net, loss_problem(float(loss)), 0, 1, ["a"])
    optimizer.clear_grad()
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[key])
    assert faults.state_dict()["num_skipped_steps"] == 1


def test_gradient_that_is_not_finite_is_found_where_the_loss_is_finite():
    net = nn.Linear(2, 1)
    net(paddle.zeros([1, 2])).sum().backward()
    assert gradient_problem(net) == ""
    x = paddle.zeros([1, 2])
    x.stop_gradient = False
    loss = paddle.sqrt(net(x) - net.bias).sum()  # sqrt(0): finite, its gradient is not
    loss.backward()
    assert loss_problem(float(loss)) == ""
    assert re.fullmatch(
        r"the gradient of weight( and 1 more)? is not finite", gradient_problem(net)
    )


@pytest.mark.parametrize("num_workers", ["0", "2"])
def test_bad_samples_are_replaced_alike_with_any_number_of_workers(folder, capsys, num_workers):
    (folder / "train4.png").write_bytes((folder / "train4.png").read_bytes()[:200])
    flags = ("--on_bad_sample", "skip", "--save_interval", "2")
    assert train(folder, "out", *flags, "--num_workers", num_workers) == 0
    printed = capsys.readouterr().out
    assert (
        len(re.findall(r"bad sample, replaced by another: .*train4.png", printed))
        == (train_log(folder, "out")[-1]["Train/num_replaced_samples"])
    )
    assert "train4.png" in printed
    assert train(folder, "alone", *flags) == 0
    assert_equal_weights(folder, "out", "alone", "iter_6")
    resume = ("--resume_model", str(folder / "alone" / "iter_2"))
    assert train(folder, "again", *flags, *resume) == 0
    assert_equal_weights(folder, "again", "alone", "iter_6")
    assert (
        train_log(folder, "again")[-1]["Train/num_replaced_samples"]
        == (train_log(folder, "alone")[-1]["Train/num_replaced_samples"])
    )


def test_replaced_samples_are_bounded(folder, capsys):
    for index in range(6):
        (folder / f"train{index}.png").write_bytes(b"x")
    flags = ("--on_bad_sample", "skip", "--max_skipped", "2")
    assert train(folder, "out", *flags) == 1
    assert re.search(r"2 bad samples in a row|more than --max_skipped 2", capsys.readouterr().err)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", ["0", "2"])
def test_truncated_image_among_a_thousand(folder, capsys, num_workers):
    content = (folder / "train0.png").read_bytes()
    lines = []
    for index in range(1000):
        (folder / f"many{index}.png").write_bytes(content)
        lines.append(f"many{index}.png train0_label.png\n")
    (folder / "many617.png").write_bytes(content[: len(content) // 2])
    (folder / "train.txt").write_text("".join(lines))
    flags = ("--batch_size", "25", "--iters", "40", "--num_workers", num_workers)
    assert train(folder, "stop", *flags) == 1
    assert "many617.png" in capsys.readouterr().err
    assert train(folder, "skip", *flags, "--on_bad_sample", "skip") == 0
    assert train_log(folder, "skip")[-1]["Train/num_replaced_samples"] == 1
    assert "many617.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--max_skipped", "0"), "--max_skipped: found 0, expected 1 or more"),
        (("--device", "gpu"), "--device gpu: not available"),
    ],
)
def test_wrong_flag_is_one_line(folder, capsys, flags, message):
    if "gpu" in flags and paddle.device.is_compiled_with_cuda():
        pytest.skip("this Paddle has a GPU")
    assert train(folder, "out", *flags) == 1
    assert message in capsys.readouterr().err


def test_unknown_policy_is_refused():
    with pytest.raises(UserError, match="--on_nonfinite: found ignore, expected stop or skip"):
        FaultPolicy(on_nonfinite="ignore")


def test_clock_that_jumps_changes_nothing(folder, monkeypatch):
    assert train(folder, "whole") == 0
    moments = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(moments)))  # an hour back at each look
    assert train(folder, "parts", "--iters", "3") == 0
    assert train(folder, "parts", "--iters", "6", "--resume_model", "auto") == 0
    assert train_log(folder, "parts")[1]["time_s"] < train_log(folder, "parts")[0]["time_s"]
    assert len(train_log(folder, "parts")) == 6


class Disk:
    """A small file system in memory; skips the test where mounting is not allowed."""

    def __init__(self, folder: Path, size: str) -> None:
        self.folder = folder
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("mounting a tmpfs is not allowed here")

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], check=True)

    def fill(self) -> Path:
        path = self.folder / "full"
        with open(path, "wb", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                try:
                    while file.write(b"x" * size) == size:
                        pass
                except OSError:
                    continue
        return path


@pytest.fixture
def disk(tmp_path):
    made = Disk(tmp_path / "disk", "4m")
    yield made
    subprocess.run(["umount", "-l", str(made.folder)], check=True)


def test_full_disk_keeps_the_last_checkpoint_and_says_so(folder, disk, capsys):
    out = "disk/out"
    flags = ("--save_interval", "1", "--iters", "10", "--keep_checkpoint_max", "100")
    assert train(folder, "whole", "--iters", "10", "--save_interval", "10") == 0
    assert train(folder, out, *flags) == 1
    error = capsys.readouterr().err
    found = re.search(
        r"error: \S+/iter_(\d+)\S*: cannot be written \(No space left on device\).* "
        r"resume from iter_(\d+) with --resume_model auto",
        error,
    )
    assert found and int(found[1]) == int(found[2]) + 1
    assert checkpoints(folder / out)[-1].name == f"iter_{found[2]}"
    assert not list((folder / out).glob(".*"))
    disk.remount("size=40m")
    assert train(folder, out, *flags, "--resume_model", "auto") == 0
    assert_equal_weights(folder, "whole", out, "iter_10")


def test_full_disk_costs_points_of_the_logs_and_not_the_run(tmp_path, disk, caplog):
    writers: list[Writer] = [JsonLinesWriter(disk.folder)]
    if find_spec("visualdl"):
        writers.append(VisualDLWriter(disk.folder))
    for writer in writers:
        writer.scalars(1, {"Train/loss": 1.0})
    full = disk.fill()
    start = time.monotonic()
    for iteration in range(2, 400):
        for writer in writers:
            writer.scalars(iteration, {f"Train/{'x' * 300}": 1.0})
    assert time.monotonic() - start < 30
    full.unlink()
    for writer in writers:
        writer.scalars(400, {"Train/loss": float("nan"), "Train/lr": 1.0})
        writer.close()
    assert len([record for record in caplog.records if "points are being lost" in str(record)]) == 1
    lines = (disk.folder / "log.jsonl").read_text().splitlines()
    assert '"iteration": 400' in lines[-1] and "NaN" not in lines[-1]
    assert all(line.startswith("{") and line.endswith("}") for line in lines)


def test_read_only_folder_is_one_line(folder, disk, capsys):
    (disk.folder / "out").mkdir()
    disk.remount("ro")
    assert train(folder, "disk/out") == 1
    assert re.search(r"error: \S+/disk/out: not writable", capsys.readouterr().err)
    assert train(folder, "disk/new") == 1
    assert re.search(r"error: \S+/disk/new: cannot be created", capsys.readouterr().err)


def test_folder_that_becomes_read_only_keeps_its_checkpoints(folder, disk, capsys):
    assert train(folder, "disk/out", "--iters", "2") == 0
    disk.remount("ro")
    assert train(folder, "disk/out", "--resume_model", "auto") == 1
    assert re.search(r"error: \S+ ?.*(not writable|Read-only)", capsys.readouterr().err)
    assert [path.name for path in checkpoints(folder / "disk" / "out")] == ["iter_2"]


def test_log_of_a_killed_run_is_cut_to_whole_records(tmp_path):
    path = resume_cut_log(JsonLinesWriter, "log.jsonl", tmp_path)
    points = [json.loads(line) for line in path.read_text().splitlines()]
    found = [(point["iteration"], point["Train/loss"]) for point in points]
    assert found == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_visualdl_log_of_a_killed_run_is_cut_to_whole_records(tmp_path):
    visualdl = pytest.importorskip("visualdl")
    path = resume_cut_log(VisualDLWriter, "vdlrecords.run.log", tmp_path)
    points = visualdl.LogReader(file_path=str(path)).get_data("scalar", "Train/loss")
    assert [(point.id, point.value) for point in points] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def resume_cut_log(make_writer: Callable[..., Writer], name: str, folder: Path) -> Path:
    """Write four points, lose the end of the last, and write the third again after resuming."""
    writer = make_writer(folder)
    for iteration in (1, 2, 3, 4):
        writer.scalars(iteration, {"Train/loss": float(iteration)})
    writer.close()
    path = folder / name
    path.write_bytes(path.read_bytes()[:-7])
    writer = make_writer(folder, 2)
    writer.scalars(3, {"Train/loss": 30.0})
    writer.close()
    return path


def test_killed_worker_ends_training_within_seconds(folder):
    command = [sys.executable, "-W", "ignore", "-m", "paddleseg_segformer", "train"]
    flags = ["--save_dir", str(folder / "out"), "--iters", "100000", "--log_iters", "1"]
    process = subprocess.Popen(
        [*command, "--config", str(folder / "tiny.yml"), "--num_workers", "2", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    next(line for line in process.stdout if "iter 3/" in line)
    os.kill(loader_workers(process.pid)[0], signal.SIGKILL)
    start = time.monotonic()
    rest = process.stdout.read()
    assert process.wait(30) == 1 and time.monotonic() - start < 20
    assert "error: a data worker process did not start (see above) or was killed" in rest


@pytest.mark.slow
def test_stopped_workers_and_stopped_trainer_go_on_as_if_nothing_had_been(folder):
    """SIGSTOP for a while, as of a frozen container; STOP_S=60 for a minute."""
    flags = ("--iters", "60", "--save_interval", "20", "--num_workers", "2", "--do_eval")
    assert train(folder, "whole", *flags) == 0
    command = [sys.executable, "-W", "ignore", "-m", "paddleseg_segformer", "train"]
    command += ["--config", str(folder / "tiny.yml"), "--save_dir", str(folder / "out")]
    process = subprocess.Popen(
        [*command, "--seed", "3", "--log_iters", "1", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    for mark, of_workers in (("iter 3/", True), ("iter 30/", False)):
        next(line for line in process.stdout if mark in line)
        pids = loader_workers(process.pid) if of_workers else [process.pid]
        for pid in pids:  # all, for one may have nothing to do, and the run ends without it
            os.kill(pid, signal.SIGSTOP)
        time.sleep(STOP_S)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    process.stdout.read()
    assert process.wait(120) == 0
    assert_equal_weights(folder, "whole", "out", "iter_60")


def loader_workers(parent: int) -> list[int]:
    """Return the grandchildren of a process whose parent is its fork server."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    return [pid for pid, above in parents.items() if parents.get(above) == parent]


def test_image_that_was_made_half_readable_is_still_named_in_evaluation(folder, capsys):
    content = (folder / "val1.png").read_bytes()
    assert cv2.imdecode(np.frombuffer(content, np.uint8), 1) is not None
    (folder / "val1.png").write_bytes(content[: len(content) // 2])
    assert train(folder, "out", "--do_eval", "--save_interval", "2") == 1
    assert "val1.png" in capsys.readouterr().err


@pytest.mark.parametrize("job", ["convert_weights", "export"])
def test_full_disk_leaves_no_half_model(folder, disk, capsys, job):
    assert train(folder, "whole", "--iters", "1") == 0
    weights, out = folder / "whole" / "iter_1" / "model.pdparams", disk.folder / "out"
    flags = {
        "convert_weights": [weights.parent, out, "--to", "hf"],
        "export": ["--model_path", weights, "--config", weights.parent / "config.yml"],
    }[job]
    if job == "export":
        flags += ["--save_dir", out, "--format", "paddle", "onnx"]
    full = disk.fill()
    for kilobytes in (0, 8, 64, 100):
        os.truncate(full, os.path.getsize(full) - 1024 * kilobytes)
        assert main([job, *map(str, flags)]) == 1
        error = capsys.readouterr().err
        assert re.search(r"^error: \S*out\S*: cannot be written \(No space left on device", error)
        assert error.count("\n") == 1
        assert sorted(os.listdir(disk.folder)) in (["full"], ["full", "out"])
        assert not list(disk.folder.glob("out/*"))
    full.unlink()
    assert main([job, *map(str, flags)]) == 0
