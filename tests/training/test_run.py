"""Whole small runs through the real command: logs, evaluation, checkpoints, resume, faults."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
from small_runs import assert_equal_weights, log, train, train_log, weights

from paddleseg_segformer import cpu as memory
from paddleseg_segformer.cli import main
from paddleseg_segformer.config import load_config
from paddleseg_segformer.config.building import build_training
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.training.options import RunOptions
from paddleseg_segformer.training.run import make_trainer
from paddleseg_segformer.training.trainer import Precision


@pytest.mark.check
def test_training_learns_evaluates_and_writes_what_users_look_for(folder, capsys):
    flags = ("--iters", "60", "--do_eval", "--use_ema", "--save_interval", "20")
    assert train(folder, "out", *flags, "--keep_checkpoint_max", "2") == 0
    printed = capsys.readouterr().out
    assert re.search(r"iter 60/60 .* loss .* lr .* images/s .* ETA 0:00:00", printed)
    names = sorted(path.name for path in (folder / "out").iterdir())
    assert names == ["best_model", "config.yml", "iter_40", "iter_60", "log.jsonl", "log.txt"]
    losses = [line["Train/loss"] for line in train_log(folder, "out")]
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.75 * np.mean(losses[:10])
    scores = [line["Evaluate/mIoU"] for line in log(folder, "out") if "Evaluate/mIoU" in line]
    assert len(scores) == 3 and scores[-1] > 0.5
    assert sorted(path.name for path in (folder / "out" / "best_model").iterdir()) == [
        "config.yml",
        "manifest.json",
        "model.pdparams",
    ]


@pytest.mark.parametrize("flags", [("--do_eval",), ()], ids=["do_eval", "without"])
def test_time_limit_ends_a_run_whole_and_a_resumed_run_goes_on(folder, flags):
    assert train(folder, "out", *flags, "--iters", "6", "--max_minutes", "1e-6") == 0
    lines = log(folder, "out")
    assert [line["iteration"] for line in lines if "Train/loss" in line] == [1]
    assert [line["iteration"] for line in lines if "Evaluate/mIoU" in line] == [1]
    assert (folder / "out" / "best_model").is_dir() and (folder / "out" / "iter_1").is_dir()
    assert train(folder, "out", *flags, "--iters", "6", "--resume_model", "auto") == 0
    assert train(folder, "whole", *flags, "--iters", "6") == 0
    assert_equal_weights(folder, "out", "whole", "iter_6")


def test_config_of_the_same_meaning_keeps_its_comments(folder):
    assert train(folder, "out", "--iters", "1") == 0
    config = folder / "out" / "config.yml"
    commented = f"# why\n{config.read_text()}"
    config.write_text(commented)
    assert train(folder, "out", "--iters", "1", "--resume_model", "auto") == 0
    assert config.read_text() == commented
    assert train(folder, "out", "--iters", "2", "--resume_model", "auto") == 0
    assert "# why" not in config.read_text() and "iters: 2" in config.read_text()


def test_missing_visualdl_is_told_before_anything_is_read(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "visualdl", None)
    data = "train_dataset.dataset_root=nowhere"
    assert train(folder, "out", "--use_vdl", "--opts", data) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: visualdl is not installed. Run: pip install")
    assert not (folder / "out").exists()


def test_visualdl_reads_the_log_back(folder):
    visualdl = pytest.importorskip("visualdl")
    flags = ("--use_vdl", "--do_eval", "--save_interval", "3")
    assert train(folder, "out", *flags, "--iters", "3") == 0
    assert train(folder, "out", *flags, "--resume_model", str(folder / "out" / "iter_3")) == 0
    reader = visualdl.LogReader(file_path=str(folder / "out" / "vdlrecords.run.log"))
    tags = reader.get_tags()
    assert {
        "Train/loss",
        "Train/lr",
        "Train/images_per_s",
        "Train/data_s",
        "Train/compute_s",
    } <= set(tags["scalar"])
    assert {"Evaluate/mIoU", "Evaluate/accuracy"} <= set(tags["scalar"])
    assert any(tag.startswith("Evaluate/IoU/") for tag in tags["scalar"])
    assert {"Evaluate/confusion", "Evaluate/sample_0"} <= set(tags["image"])
    points = reader.get_data("scalar", "Train/loss")
    expected = [line["Train/loss"] for line in train_log(folder, "out")]
    assert [point.id for point in points] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose([point.value for point in points], expected, rtol=1e-6)
    name = "backbone.block1.0.mlp.fc1.weight"
    histograms = reader.get_data("histogram", f"Weights/{name}")
    assert [item.id for item in histograms] == [3, 6]
    saved = weights(folder, "out", "iter_6")[name]
    counts, edges = np.histogram(saved, bins=50)
    np.testing.assert_array_equal(histograms[-1].histogram.hist, counts)
    np.testing.assert_allclose(histograms[-1].histogram.bin_edges, edges, rtol=1e-6)
    assert (folder / "out" / "vdlgraph.run.log").is_file()


def test_visualdl_changes_nothing_of_a_run(folder):
    pytest.importorskip("visualdl")
    assert train(folder, "plain", "--do_eval", "--save_interval", "2", "--iters", "4") == 0
    flags = ("--use_vdl", "--do_eval", "--save_interval", "2", "--iters", "4")
    assert train(folder, "logged", *flags) == 0
    assert (folder / "logged" / "vdlgraph.run.log").is_file()
    assert_equal_weights(folder, "plain", "logged", "iter_4")


def test_visualdls_server_shows_hyper_parameters_curves_and_the_report(folder):
    """What its pages ask for, of two runs, one of them resumed."""
    pytest.importorskip("visualdl")
    pytest.importorskip("matplotlib")
    from visualdl.server.api import Api

    flags = ("--use_vdl", "--do_eval", "--save_interval", "3")
    for out, rate in (("a", "0.01"), ("b", "0.02")):
        opts = ("--opts", f"lr_scheduler.learning_rate={rate}", "val_dataset.num_classes=3")
        assert train(folder, out, *flags, *opts) == 0
    assert train(folder, "a", *flags, "--resume_model", str(folder / "a" / "iter_3")) == 0
    run = str(folder / "a")
    assert main(["report", run, "--num_shown", "1"]) == 0
    assert main(["report", run, "--num_shown", "1"]) == 0  # the link is written once
    api = Api(str(folder), None, 0)

    def answer(function, *arguments):
        return json.loads(function(*arguments)[0])["data"]

    listed = {Path(item["name"]).name: item for item in answer(api.hparam_list)}
    rates = {name: item["hparams"]["lr_scheduler.learning_rate"] for name, item in listed.items()}
    assert rates == pytest.approx({"a": 0.01, "b": 0.02})
    assert listed["a"]["hparams"]["model.backbone.type"] == "MixVisionTransformer_B0"
    scored = [line["Evaluate/mIoU"] for line in log(folder, "b") if "Evaluate/mIoU" in line]
    assert listed["b"]["metrics"]["Evaluate/mIoU"] == pytest.approx(scored[-1])
    curves = answer(api.pr_curves_pr_curve, "b", "Evaluate/class_1")
    assert [curve[1] for curve in curves] == [3, 6]
    _, _, precision, recall, positives, *_ = curves[-1]
    assert max(recall) == 1 and 0 < max(precision) <= 1
    found = np.array(positives) / np.maximum(np.array(positives) + curves[-1][5], 1)
    np.testing.assert_allclose(precision, found, atol=1e-6)
    labels = [cv2.imread(str(folder / f"val{i}_label.png"), -1) for i in range(2)]
    assert max(positives) == sum((label == 1).sum() for label in labels)
    address = (folder / "a" / "report" / "report.html").as_uri()
    record = (folder / "a" / "vdlrecords.run.log").read_bytes()
    assert record.count(address.encode()) == 1
    assert api.text_text("a", "report", 0)[0] == f"report of the best model: {address}"


@pytest.mark.check
@pytest.mark.parametrize("num_workers", ["0", "2"])
def test_resumed_run_has_the_uninterrupted_runs_weights(folder, num_workers):
    flags = ("--num_workers", num_workers, "--use_ema", "--do_eval", "--save_interval", "2")
    assert train(folder, "whole", *flags) == 0
    assert train(folder, "parts", *flags, "--opts", "iters=6") == 0
    for late in ("iter_6", "best_model"):
        for file in (folder / "parts" / late).iterdir():
            file.unlink()
    resume = ("--resume_model", str(folder / "parts" / "iter_2"))
    assert train(folder, "parts", *flags, *resume) == 0
    for checkpoint in ("iter_6", "best_model"):
        assert_equal_weights(folder, "whole", "parts", checkpoint)


def test_resume_without_a_seed_takes_the_checkpoints(folder):
    assert train(folder, "whole", "--save_interval", "3") == 0
    command = ["train", "--config", str(folder / "tiny.yml"), "--save_dir", str(folder / "parts")]
    assert main([*command, "--resume_model", str(folder / "whole" / "iter_3")]) == 0
    whole, parts = weights(folder, "whole", "iter_6"), weights(folder, "parts", "iter_6")
    assert all((whole[name] == parts[name]).all() for name in whole)


def test_two_runs_with_one_seed_are_equal_and_with_another_are_not(folder):
    assert train(folder, "a") == train(folder, "b") == train(folder, "c", "--seed", "4") == 0
    a, b, c = (weights(folder, out, "iter_6") for out in "abc")
    assert all((a[name] == b[name]).all() for name in a)
    assert any((a[name] != c[name]).any() for name in a)


def test_accumulation_sees_the_samples_of_a_larger_batch(folder):
    assert train(folder, "big", "--batch_size", "4", "--iters", "1") == 0
    assert train(folder, "small", "--accumulation_steps", "2", "--iters", "1") == 0
    big, small = (log(folder, out)[0]["Train/loss"] for out in ("big", "small"))
    assert small == pytest.approx(big, rel=0.1)  # batch norm sees smaller batches


def test_batch_larger_than_the_data_set_trains(folder):
    assert train(folder, "out", "--batch_size", "9", "--iters", "2") == 0


def test_static_training_equals_dygraph_also_when_resumed(folder):
    options = ("--opts", "model.backbone.drop_path_rate=0.0", "model.dropout_rate=0.0")
    static = ("--to_static_training", *options)
    assert train(folder, "dynamic", "--iters", "2", *options) == 0
    assert train(folder, "static", "--iters", "1", *static) == 0
    resumed = ("--resume_model", "auto", "--iters", "2")
    assert train(folder, "static", *resumed, *static) == 0
    config = (folder / "static" / "config.yml").read_text()
    assert "to_static_training: true" in config
    losses = [
        [line["Train/loss"] for line in train_log(folder, out)] for out in ("dynamic", "static")
    ]
    assert len(losses[0]) == 2
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_sigterm_saves_and_says_how_to_go_on(folder):
    command = [
        sys.executable,
        "-m",
        "paddleseg_segformer",
        "train",
        "--config",
        str(folder / "tiny.yml"),
    ]
    command += ["--save_dir", str(folder / "out"), "--log_iters", "1", "--num_workers", "1"]
    repository = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    with subprocess.Popen(
        [*command, "--iters", "100000"], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        deadline = time.time() + 120
        for line in process.stdout:
            assert time.time() < deadline
            if "iter 3/" in line:
                process.send_signal(signal.SIGTERM)
                break
        rest = process.stdout.read()
    assert process.returncode == 0
    found = re.search(r"stopped at iter (\d+); continue with --resume_model (\S+)", rest)
    assert found and (Path(found[2]) / "model.pdopt").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--learning_rate", "1e30", "--iters", "20"), "is not finite. Lower the learning rate"),
        (("--resume_model", "nowhere"), "expected a folder such as output/iter_1000"),
        (("--save_interval", "0"), "--save_interval: found 0, expected 1 or more"),
        (("--precision", "bf16", "--device", "cpu"), "no effect on CPU"),
        (("--device", "gpu:7"), "--device gpu:7: not available"),
        (("--opts", "train_dataset.train_path=nowhere.txt"), "nowhere.txt"),
        (("--opts", "model.num_classes=4"), "model.num_classes is 4"),
        (("--opts", "val_dataset=null"), None),
    ],
)
def test_fault_is_one_line_and_status_1(folder, capsys, flags, message):
    status = train(folder, "out", *flags)
    error = capsys.readouterr().err
    if message is None:
        assert status == 0
        return
    assert status == 1
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]
    assert "Traceback" not in error


def test_non_finite_gradients_name_the_files_and_save_nothing(folder, capsys):
    flags = ("--learning_rate", "1e30", "--iters", "20", "--save_interval", "1000")
    assert train(folder, "out", *flags) == 1
    found = re.search(
        r"iteration \d+: the gradient of \S+ and \d+ more is not finite.*train\d\.png",
        capsys.readouterr().err,
    )
    assert found
    assert not list((folder / "out").glob("iter_*"))


def test_save_dir_that_is_a_file_is_kept(folder, capsys):
    (folder / "out").write_text("precious")
    assert train(folder, "out") == 1
    assert "expected a folder, found a file" in capsys.readouterr().err
    assert (folder / "out").read_text() == "precious"


@pytest.mark.parametrize("num_workers", ["0", "2"])
def test_bad_sample_ends_the_run_and_is_named(folder, capsys, num_workers):
    (folder / "train4.png").write_bytes(b"not an image")
    start = time.time()
    assert train(folder, "out", "--num_workers", num_workers) == 1
    assert "train4.png" in capsys.readouterr().err
    assert time.time() - start < 60


def test_checkpoint_of_another_model_is_refused_by_name(folder, capsys):
    assert train(folder, "out") == 0
    flags = ("--resume_model", str(folder / "out" / "iter_6"), "--iters", "8")
    assert train(folder, "out", *flags, "--opts", "model.embedding_dim=32") == 1
    assert re.search(r"iter_6: .*model.embedding_dim: 16 -> 32", capsys.readouterr().err)


def test_damaged_checkpoint_is_named(folder, capsys):
    assert train(folder, "out") == 0
    for name in ("model.pdopt", "model.pdparams"):
        file = folder / "out" / "iter_6" / name
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        assert train(folder, "again", "--resume_model", str(file.parent), "--iters", "8") == 1
        assert name in capsys.readouterr().err
        file.write_bytes(content)


@pytest.mark.parametrize(
    ("flags", "choice"),
    [([], "keep_freed_memory"), (["model.backbone.use_recompute=True"], "return_large_blocks")],
)
def test_recompute_goes_with_returning_memory(folder, monkeypatch, flags, choice):
    called = []
    for name in ("keep_freed_memory", "return_large_blocks"):
        monkeypatch.setattr(memory, name, partial(called.append, name))
    opts = ["--opts", *flags] if flags else []
    assert train(folder, f"out_{choice}", "--iters", "1", *opts) == 0
    assert called == [choice]


def test_precision_names_are_checked():
    with pytest.raises(UserError, match="found fp8"):
        Precision("fp8")
    assert paddle.get_device() == "cpu" and not Precision("fp32").enabled


@pytest.mark.parametrize(
    ("name", "capability", "message"),
    [
        ("bf16", (7, 5), r"bf16: found T4 \(compute capability 7.5\), .* Use fp32 or fp16"),
        ("fp16", (6, 1), r"fp16: found T4 .* 6.1\), expected 7.0 or newer. Use fp32\."),
        ("fp16", (7, 0), None),
        ("bf16", (8, 0), None),
    ],
)
def test_precision_that_the_gpu_lacks_is_refused(name, capability, message, monkeypatch):
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(paddle.device.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(paddle.device.cuda, "get_device_name", lambda: "T4")
    if message is None:
        assert Precision(name).enabled
    else:
        with pytest.raises(UserError, match=message):
            Precision(name)


def test_run_without_do_eval_ends_with_a_score_and_the_next_command(folder, capsys):
    assert train(folder, "out") == 0
    *_, before, last = lines = capsys.readouterr().out.splitlines()
    assert sum("without --do_eval the model is evaluated once" in line for line in lines) == 1
    assert before.startswith("best mIoU ")
    best = folder / "out" / "best_model"
    score, command = re.fullmatch(
        rf".*  model: {best} \(mIoU ([\d.]+)\); next: python -m paddleseg_segformer (.*) IMAGES",
        last,
    ).groups()
    a, b = (weights(folder, "out", name) for name in ("iter_6", "best_model"))
    assert all((a[name] == b[name]).all() for name in a)
    assert [line["iteration"] for line in log(folder, "out") if "Evaluate/mIoU" in line] == [6]

    report = folder / "report.json"
    val = ["val", "--model_path", str(best), "--json", str(report)]
    assert main(val) == 0
    assert json.loads(report.read_text())["mIoU"] == pytest.approx(float(score), abs=6e-5)
    images = [str(folder / "val0.png"), "--save_dir", str(folder / "pictures")]
    assert main([*command.split(), *images]) == 0

    assert train(folder, "out", "--resume_model", "auto") == 0  # has its score: not again
    assert len([line for line in log(folder, "out") if "Evaluate/mIoU" in line]) == 1


@pytest.mark.parametrize("fault", ["no data", "bad image", "no val_dataset"])
def test_score_that_cannot_be_had_does_not_undo_a_run(folder, capsys, fault):
    opts = []
    if fault == "bad image":
        (folder / "val1.png").write_bytes(b"no image")
    else:
        value = "val_dataset=null" if fault == "no val_dataset" else "val_dataset.val_path=nowhere"
        opts = ["--opts", value]
    assert train(folder, "out", "--iters", "2", *opts) == 0
    printed = capsys.readouterr().out
    assert ("this run ends without a score: " in printed) == (fault != "no val_dataset")
    model = folder / "out" / "iter_2"
    assert f"  model: {model}; next: python -m" in printed.splitlines()[-1]
    assert (model / "model.pdparams").is_file()


def test_batches_reach_the_device_as_bytes(folder):
    config = replace(load_config(folder / "tiny.yml"), iters=2)
    parts = build_training(config)
    trainer = make_trainer(config, RunOptions(), parts, 0, 0, 1)
    prepare, seen = trainer.prepare, []

    def noted(x):
        seen.append((x.dtype, prepare(x).dtype))
        return prepare(x)

    trainer.prepare = noted
    trainer.train()
    assert seen == [(paddle.uint8, paddle.float32)] * 2
    assert all(parameter.grad is None for parameter in parts.model.parameters())  # freed
