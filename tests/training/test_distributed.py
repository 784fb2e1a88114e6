"""Real launches of several processes on CPU (gloo), compared with one process."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
from paddle import nn

from paddleseg_segformer.cli import main
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.training import distributed
from paddleseg_segformer.training.distributed import check_same_in_all, lost_peers_explained
from paddleseg_segformer.weights.files.pickles import read_pickle

REPOSITORY = Path(__file__).resolve().parents[2]
NO_DROPOUT = ("model.backbone.drop_path_rate=0.0", "model.dropout_rate=0.0")
SEGMENTER = (
    "model={type: MaskSegmenter, num_classes: 3, h_embed_dim: 24, h_depth: 1, h_num_heads: 3, "
    "backbone: {type: VisionTransformer, img_size: 32, patch_size: 8, embed_dim: 24, depth: 1, "
    "num_heads: 3}}"
)
# Batch norm takes a bias before it away again: its gradient is rounding, which AdamW magnifies.
WITHOUT_GRADIENT = r"linear_c\d\.proj\.bias|backbone\.norm4\.bias|.*_batch_norm\._mean"


def launch_command(folder: Path, num_processes: int, job: list[str], *flags: str) -> list[str]:
    command = [sys.executable, "-m", "paddle.distributed.launch", "--log_dir", str(folder / "log")]
    command += ["--nproc_per_node", str(num_processes), *flags]
    return [*command, str(REPOSITORY / "tools" / f"{job[0]}.py"), *job[1:]]


def start(command: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def launch(folder: Path, num_processes: int, *arguments: str) -> tuple[int, str]:
    """Run a job in several processes; return its exit status and the first process's output."""
    process = start(launch_command(folder, num_processes, list(arguments)))
    return finish(process)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Return a launch's exit status and output; end it where it hangs."""
    try:
        output, _ = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.terminate()
        raise
    return process.returncode, output


def train_arguments(folder: Path, out: str, *flags: str) -> list[str]:
    arguments = ["train", "--config", str(folder / "tiny.yml"), "--save_dir", str(folder / out)]
    return [*arguments, "--seed", "3", "--log_iters", "1", *flags]


def losses(folder: Path, out: str) -> list[float]:
    lines = (folder / out / "log.jsonl").read_text().splitlines()
    return [value["Train/loss"] for value in map(json.loads, lines) if "Train/loss" in value]


def assert_equal_runs(folder: Path, one: str, several: str, iters: int) -> None:
    """Compare loss curves and final weights of two runs."""
    assert len(losses(folder, one)) == iters
    np.testing.assert_allclose(losses(folder, several), losses(folder, one), rtol=1e-4)
    weights = [
        read_pickle(folder / out / f"iter_{iters}" / "model.pdparams") for out in (one, several)
    ]
    for name, value in weights[0].items():
        if not re.fullmatch(WITHOUT_GRADIENT, name):
            np.testing.assert_allclose(weights[1][name], value, atol=1e-4, err_msg=name)


def ignore_one_image(folder: Path) -> None:
    """Leave one sample without any class, so that the processes' numbers of valid pixels differ."""
    cv2.imwrite(str(folder / "train2_label.png"), np.full((40, 56), 255, np.uint8))


def test_two_processes_train_as_one(folder):
    ignore_one_image(folder)
    flags = ("--iters", "20", "--do_eval", "--use_ema", "--save_interval", "10")
    opts = ("--opts", *NO_DROPOUT)
    assert main(train_arguments(folder, "one", *flags, "--batch_size", "4", *opts)) == 0
    status, output = launch(folder, 2, *train_arguments(folder, "two", *flags, *opts))
    assert status == 0, output
    assert "batch 4 (2 processes)" in output
    assert_equal_runs(folder, "one", "two", 20)
    names = [sorted(path.name for path in (folder / out).rglob("*")) for out in ("one", "two")]
    assert names[0] == names[1]  # one process writes


def test_two_processes_learn_from_a_teacher_as_one(folder):
    ignore_one_image(folder)
    wider = "model.backbone.embed_dims=[16, 16, 40, 64]"
    assert main(train_arguments(folder, "teacher", "--iters", "1", "--opts", wider)) == 0
    teacher = f"distill.teacher={folder / 'teacher' / 'iter_1'}"
    opts = ("--opts", *NO_DROPOUT, teacher, "distill.feature_coef=1.0")
    flags = ("--iters", "10")
    assert main(train_arguments(folder, "one", *flags, "--batch_size", "4", *opts)) == 0
    status, output = launch(folder, 2, *train_arguments(folder, "two", *flags, *opts))
    assert status == 0, output
    assert_equal_runs(folder, "one", "two", 10)


@pytest.mark.parametrize("shape", [(3, 5, 7, 9), (2, 5, 1, 1)])
def test_batch_norm_of_sums_is_batch_norm(monkeypatch, shape):
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda tensor: None)
    plain, source = nn.BatchNorm2D(5), nn.BatchNorm2D(5)
    with paddle.no_grad():
        plain.weight.set_value(paddle.rand([5]))
        plain.bias.set_value(paddle.rand([5]))
    source.set_state_dict(plain.state_dict())
    model = nn.Sequential(("part", nn.Sequential(("norm", source))))
    distributed.synchronise_batch_norm(model)
    assert isinstance(model.part.norm, distributed.SumSyncBatchNorm2D)
    assert list(model.state_dict()) == [f"part.norm.{name}" for name in plain.state_dict()]
    x = paddle.randn(shape) * 3 + 10
    ours = x.clone()
    x.stop_gradient = ours.stop_gradient = False
    factors = paddle.randn(shape)
    expected, result = plain(x), model(ours)
    (expected * factors).sum().backward()
    (result * factors).sum().backward()
    pairs = [(expected, result), (x.grad, ours.grad), (plain.weight.grad, source.weight.grad)]
    pairs += [(plain._mean, source._mean), (plain._variance, source._variance)]
    for one, other in pairs:
        np.testing.assert_allclose(other.numpy(), one.numpy(), atol=2e-5, rtol=1e-5)
    plain.eval()
    model.eval()
    np.testing.assert_allclose(model(x).numpy(), plain(x).numpy(), rtol=1e-6)


def test_lost_peer_is_one_line_and_other_errors_stay(monkeypatch):
    monkeypatch.setattr("paddle.distributed.get_world_size", lambda: 2)
    message = "another process of this run has ended"
    with pytest.raises(UserError, match=message), lost_peers_explained():
        raise RuntimeError("[/third_party/gloo/pair.cc:576] Read error")
    with pytest.raises(RuntimeError, match="out of memory"), lost_peers_explained():
        raise RuntimeError("out of memory")


def test_one_process_agrees_with_itself():
    check_same_in_all("samples", 3)
    assert not paddle.distributed.is_initialized()  # it asked nobody


@pytest.mark.slow
def test_static_training_in_several_cpu_processes_is_refused(folder):
    opts = ("--opts", "to_static_training=true")
    status, output = launch(folder, 2, *train_arguments(folder, "out", *opts))
    assert status != 0
    assert "error: to_static_training: several processes on CPU" in output


@pytest.mark.slow
def test_other_data_in_another_process_is_refused_by_all(folder):
    lines = (folder / "train.txt").read_text().splitlines(keepends=True)
    for rank, count in ((0, 7), (1, 5)):
        (folder / f"train{rank}.txt").write_text("".join(lines[:count]))
    path = f"train_dataset.train_path={folder}/train${{PADDLE_TRAINER_ID}}.txt"
    status, output = launch(folder, 2, *train_arguments(folder, "out", "--opts", path))
    assert status != 0
    message = "train_dataset, number of samples: found [7, 5] in processes 0 to 1"
    for rank in (0, 1):
        assert message in (folder / "log" / f"workerlog.{rank}").read_text(), output


@pytest.mark.slow
@pytest.mark.parametrize(
    "opts",
    [("batch_size=1",), ("batch_size=1", "model.type=SegFormerMM"), ("batch_size=1", SEGMENTER)],
)
def test_three_processes_train_as_one(folder, opts):
    ignore_one_image(folder)
    flags = ("--iters", "20", "--accumulation_steps", "2", "--opts", *NO_DROPOUT, *opts)
    status, output = launch(folder, 3, *train_arguments(folder, "three", *flags))
    assert status == 0, output
    assert main(train_arguments(folder, "one", "--batch_size", "3", *flags)) == 0
    assert len(losses(folder, "one")) == 20
    np.testing.assert_allclose(losses(folder, "three"), losses(folder, "one"), rtol=1e-4)


@pytest.mark.slow
def test_evaluation_counts_the_same_pixels_in_any_number_of_processes(folder):
    """Seven images over 1, 2 and 3 processes, and two images over 3."""
    assert main(train_arguments(folder, "run", "--iters", "3")) == 0
    weights = str(folder / "run" / "iter_3" / "model.pdparams")
    for images in ("train.txt", "val.txt"):
        reports = []
        for processes in (1, 2, 3):
            file = folder / f"{processes}.json"
            arguments = ["val", "--config", str(folder / "tiny.yml"), "--model_path", weights]
            arguments += ["--json", str(file), "--opts", f"val_dataset.val_path={folder / images}"]
            status, output = launch(folder, processes, *arguments)
            assert status == 0, output
            reports.append(json.loads(file.read_text()))
        assert reports[0]["num_images"] == {"train.txt": 7, "val.txt": 2}[images]
        assert np.sum(reports[0]["confusion"]) == reports[0]["num_images"] * 38 * 56
        assert reports[0] == reports[1] == reports[2]


@pytest.mark.slow
def test_bad_sample_of_one_process_ends_all(folder):
    (folder / "train4.png").write_bytes(b"not an image")
    start_s = time.perf_counter()
    status, output = launch(folder, 2, *train_arguments(folder, "out", "--iters", "1000"))
    assert status != 0
    assert time.perf_counter() - start_s < 60
    logs = "".join(file.read_text() for file in (folder / "log").glob("workerlog.*"))
    assert "train4.png: cannot be decoded" in logs
    assert re.search(r"another process of this run has ended|Container failed|error: ", output)
    assert not list((folder / "out").glob("iter_*"))


def worker_pids(folder: Path, launcher: int) -> list[int]:
    """Return the process ids of the ranks, in their order."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    ranks = {}
    for pid in map(int, children):
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        for variable in variables:
            if variable.startswith(b"PADDLE_TRAINER_ID="):
                ranks[int(variable.partition(b"=")[2])] = pid
    return [ranks[rank] for rank in sorted(ranks)]


def signal_one_rank(folder: Path, rank: int, number: int) -> tuple[int, str, float]:
    """Start a long run, signal one rank after some steps; return status, output and seconds."""
    arguments = train_arguments(folder, "out", "--iters", "100000", "--save_interval", "100000")
    process = start(launch_command(folder, 2, arguments))
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "iter 5/" in line:
            os.kill(worker_pids(folder, process.pid)[rank], number)
            break
    start_s = time.perf_counter()
    status, rest = finish(process)
    return status, "".join(lines) + rest, time.perf_counter() - start_s


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_killed_process_ends_all_within_seconds(folder, rank):
    status, output, seconds = signal_one_rank(folder, rank, signal.SIGKILL)
    assert status != 0, output
    assert seconds < 30
    assert not list((folder / "out").glob("iter_*"))


@pytest.mark.slow
def test_sigterm_to_one_process_stops_all_after_the_same_step(folder):
    status, output, _ = signal_one_rank(folder, 1, signal.SIGTERM)
    assert status == 0, output
    stopped = re.search(r"stopped at iter (\d+)", output)
    assert stopped and (folder / "out" / f"iter_{stopped[1]}" / "model.pdopt").is_file()


@pytest.mark.slow
def test_resume_in_several_processes(folder):
    """In as many: the same weights, dropout included. In another number: said, same samples."""
    flags = ("--iters", "6", "--save_interval", "3", "--use_ema", "--do_eval")
    resume = ("--resume_model", str(folder / "whole" / "iter_3"))
    for out, more in (("whole", ()), ("parts", resume)):
        status, output = launch(folder, 2, *train_arguments(folder, out, *flags, *more))
        assert status == 0, output
    whole, parts = (
        read_pickle(folder / out / "iter_6" / "model.pdparams") for out in ("whole", "parts")
    )
    for name, value in whole.items():
        np.testing.assert_array_equal(parts[name], value, err_msg=name)


@pytest.mark.slow
def test_resume_in_another_number_of_processes(folder, capsys):
    flags = ("--iters", "6", "--save_interval", "3")
    opts = ("--opts", *NO_DROPOUT)
    status, output = launch(folder, 2, *train_arguments(folder, "two", *flags, *opts))
    assert status == 0, output
    resume = ("--resume_model", str(folder / "two" / "iter_3"), "--batch_size", "4")
    assert main(train_arguments(folder, "one", *flags, *resume, *opts)) == 0
    assert "saved by 2 processes, this run has 1" in capsys.readouterr().out
    np.testing.assert_allclose(losses(folder, "one"), losses(folder, "two")[3:], rtol=1e-4)


@pytest.mark.slow
def test_two_nodes_train_as_one_process(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ("--iters", "20", "--opts", *NO_DROPOUT)
    nodes = []
    for rank in range(2):
        cluster = ("--nnodes", "2", "--rank", str(rank), "--master", f"127.0.0.1:{port}")
        (folder / f"node{rank}").mkdir()
        job = train_arguments(folder, "nodes", *flags)
        nodes.append(start(launch_command(folder / f"node{rank}", 1, job, *cluster)))
    for status, output in map(finish, nodes):
        assert status == 0, output
    assert main(train_arguments(folder, "one", "--batch_size", "4", *flags)) == 0
    assert_equal_runs(folder, "one", "nodes", 20)
