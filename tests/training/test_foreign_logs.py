"""Logs of the shapes that PaddleSeg and mmsegmentation publish, against what they say by hand."""

from __future__ import annotations

import json
import logging

import pytest

from paddleseg_segformer.cli import main
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.training.foreign_logs import read_foreign_logs

PADDLESEG = """\
2022-01-04 19:24:30 [INFO]\t
------------Environment Information-------------
Paddle compiled with cuda: True
2022-01-04 19:24:33 [INFO]\t[TRAIN] epoch: 1, iter: 10/100, loss: 2.7599, lr: 0.000050, \
batch_cost: 0.2763, reader_cost: 0.02104, ips: 28.9558 samples/sec | ETA 07:40:25
2022-01-04 19:24:33 [INFO]\tStart evaluating (total_samples: 40, total_iters: 40)...
40/40 [==============================] - 6s 30ms/step - batch_cost: 0.0290 - reader cost: 8.5e-0
2022-01-04 19:24:35 [INFO]\t[EVAL] #Images: 40 mIoU: 0.4759 Acc: 0.9517 Kappa: -0.0010 Dice: 0.4876
2022-01-04 19:24:35 [INFO]\t[EVAL] Class IoU:
[0.9517 0.1251
 nan    0.5   ]
2022-01-04 19:24:35 [INFO]\t[EVAL] Class Precision:
[0.9517 0.    ]
2022-01-04 19:24:36 [INFO]\t[EVAL] The model with the best validation mIoU (0.4759) was saved at \
iter 15.
\x1b[32m[2026/07/20 11:08:59] INFO: [TRAIN] epoch: 1, iter: 20/100, loss: nan, lr: 0.004445, \
batch_cost: 0.1866, reader_cost: 0.06624, ips: 21.4352 samples/sec, max_mem_reserved: 3988 MB, \
max_mem_allocated: 3542 MB | ETA 07:13:51\x1b[0m
"""

MMCV = """\
2020-12-18 19:36:37,584 - mmseg - INFO - workflow: [('train', 1)], max: 40000 iters
2020-12-18 19:36:37,584 - mmseg - INFO - Iter [50/40000]\tlr: 9.755e-03, eta: 1 day, 4:23:27, \
time: 0.402, data_time: 0.003, memory: 19873, decode.loss_ce: 0.1186, decode.acc_seg: 81.4285, \
loss: 0.1652
2020-12-18 19:36:57,692 - mmseg - INFO - Iter [100/40000]\tlr: 9.744e-03, eta: 4:22:59, \
time: 0.402, data_time: 0.003, memory: 19873, decode.loss_ce: 0.1091, loss: 0.1519
2020-12-18 19:36:57,692 - mmseg - INFO - Saving checkpoint at 120 iterations
2020-12-18 19:37:57,692 - mmseg - INFO - per class results:
2020-12-18 19:37:57,692 - mmseg - INFO -
+---------------+-------+-------+
|     Class     |  IoU  |  Acc  |
+---------------+-------+-------+
|      road     | 97.45 | 98.61 |
| traffic light |  0.0  |  nan  |
+---------------+-------+-------+
2020-12-18 19:37:57,692 - mmseg - INFO - Summary:
2020-12-18 19:37:57,692 - mmseg - INFO -
+-------+-------+-------+
|  aAcc |  mIoU |  mAcc |
+-------+-------+-------+
| 92.82 | 53.26 | 59.06 |
+-------+-------+-------+
2020-12-18 19:37:57,700 - mmseg - INFO - Iter(val) [500]\taAcc: 0.9282, mIoU: 0.5326, \
mAcc: 0.5906, IoU.road: 0.9745, IoU.traffic light: 0.0, Acc.road: 0.9861, Acc.traffic light: nan
2020-12-18 19:38:57,692 - mmseg - INFO - Iter [150/40000]\tlr: 9.744e-03, time: 0.4, \
data_time: 0.003, memory: 19873, decode.loss_ce: 0.1, loss: 0.15
"""

MMCV_JSON = """\
{"env_info": "sys.platform: linux", "seed": 0, "exp_name": "segformer_mit-b0.py"}
{"mode": "train", "epoch": 1, "iter": 50, "lr": 0.0, "memory": 8407, "data_time": 0.003, \
"decode.loss_ce": 0.2, "loss": 0.2, "time": 0.358}
{"mode": "train", "epoch": 1, "iter": 100, "lr": 1e-05, "memory": 8407, "data_time": 0.003, \
"decode.loss_ce": 0.1, "loss": 0.1, "time": 0.358}
{"mode": "val", "epoch": 1, "iter": 500, "lr": 1e-05, "aAcc": 0.8577, "mIoU": 0.303, \
"mAcc": 0.3452, "IoU.road": 0.475, "Acc.road": 0.999}
{"mode": "val", "epoch": 2, "iter": 150, "lr": 1e-05, "mIoU": 0.31, "mAcc": 0.3452, "aAcc": 0.86}
"""

MMENGINE = """\
06/03 14:14:49 - mmengine - INFO - Iter(train) [ 50/160000]  base_lr: 5.4511e-05 lr: 5.4511e-06  \
eta: 6:48:42  time: 0.1667  data_time: 0.0044  memory: 4749  grad_norm: 3.3  loss: 0.9094  \
decode.loss_ce: 0.6152  decode.acc_seg: 66.1648
06/03 14:14:49 - mmengine - INFO - Saving checkpoint at 50 iterations
06/03 14:16:25 - mmengine - INFO - Iter(val) [ 50/2000]    eta: 0:14:06  time: 1.0836  \
data_time: 0.0013  memory: 75471
08/12 11:51:12 - mmengine - INFO - per class results:
08/12 11:51:12 - mmengine - INFO -
+----------+--------+-------+-------+
|  Class   | Fscore |  IoU  |  Acc  |
+----------+--------+-------+-------+
|   road   | 91.46  | 76.84 | 87.05 |
| sidewalk | 81.14  |  0.0  |  0.0  |
+----------+--------+-------+-------+
06/18 10:17:41 - mmengine - INFO - Iter(val) [2000/2000]    aAcc: 95.8700  mIoU: 66.4600  \
mAcc: 72.6600  data_time: 0.0103  time: 0.0317
"""

MMENGINE_JSON = """\
{"lr": 1e-06, "data_time": 0.5, "loss": 2.5, "decode.loss_ce": 2.5, "time": 0.75, "iter": 50, \
"memory": 4321, "step": 50}
{"aAcc": 77.91, "mIoU": 37.85, "mAcc": 50.3, "data_time": 0.002, "time": 0.02, "step": 50}
"""


def read(tmp_path, text: str, name: str = "train.log", encoding: str = "utf-8"):
    (tmp_path / name).write_text(text, encoding=encoding)
    return [(point.iteration, point.values) for point in read_foreign_logs([tmp_path / name])]


def test_paddleseg(tmp_path) -> None:
    first, scores, second = read(tmp_path, PADDLESEG)
    assert first == (10, {
        "Train/loss": 2.7599, "Train/lr": 5e-5, "Train/data_s": 0.02104,
        "Train/compute_s": pytest.approx(0.25526), "Train/images_per_s": 28.9558,
    })  # fmt: skip
    assert scores == (15, {  # of which the line on the best model tells
        "Evaluate/mIoU": 0.4759, "Evaluate/accuracy": 0.9517, "Evaluate/Kappa": -0.001,
        "Evaluate/Dice": 0.4876, "Evaluate/IoU/0": 0.9517, "Evaluate/IoU/1": 0.1251,
        "Evaluate/IoU/3": 0.5,
    })  # fmt: skip
    assert second[0] == 20 and "Train/loss" not in second[1]
    assert second[1]["Train/lr"] == 0.004445 and second[1]["Train/max_mem_reserved"] == 3988


def test_mmcv_text(tmp_path) -> None:
    points = read(tmp_path, MMCV)
    assert [step for step, _ in points] == [50, 100, 120, 150]
    assert points[0][1] == {
        "Train/lr": 9.755e-3, "Train/data_s": 0.003, "Train/compute_s": pytest.approx(0.399),
        "Train/memory": 19873, "Train/decode.loss_ce": 0.1186, "Train/decode.acc_seg": 81.4285,
        "Train/loss": 0.1652,
    }  # fmt: skip
    assert points[2][1] == {
        "Evaluate/accuracy": 0.9282, "Evaluate/mIoU": 0.5326, "Evaluate/mAcc": 0.5906,
        "Evaluate/IoU/road": 0.9745, "Evaluate/IoU/traffic light": 0.0,
    }  # fmt: skip


def test_mmcv_json_numbers_evaluations_by_their_batches_or_by_the_iteration(tmp_path) -> None:
    points = read(tmp_path, MMCV_JSON, "a.log.json")
    assert [step for step, _ in points] == [50, 100, 100, 150]
    assert points[2][1]["Evaluate/IoU/road"] == 0.475 and points[3][1]["Evaluate/mIoU"] == 0.31
    assert "Evaluate/lr" not in points[2][1]


def test_mmengine_text_and_json(tmp_path) -> None:
    points = read(tmp_path, MMENGINE)
    assert [step for step, _ in points] == [50, 50]
    assert points[0][1]["Train/lr"] == 5.4511e-6 and points[0][1]["Train/loss"] == 0.9094
    assert points[1][1] == {
        "Evaluate/accuracy": pytest.approx(0.9587), "Evaluate/mIoU": pytest.approx(0.6646),
        "Evaluate/mAcc": pytest.approx(0.7266), "Evaluate/IoU/road": pytest.approx(0.7684),
        "Evaluate/IoU/sidewalk": 0.0,
    }  # fmt: skip
    points = read(tmp_path, MMENGINE_JSON, "scalars.json")
    assert points[0] == (50, {
        "Train/lr": 1e-6, "Train/data_s": 0.5, "Train/compute_s": 0.25, "Train/loss": 2.5,
        "Train/decode.loss_ce": 2.5, "Train/memory": 4321,
    })  # fmt: skip
    assert points[1] == (50, {
        "Evaluate/accuracy": pytest.approx(0.7791), "Evaluate/mIoU": pytest.approx(0.3785),
        "Evaluate/mAcc": pytest.approx(0.503),
    })  # fmt: skip


def steps(*numbers: int) -> str:
    return "".join(f"x - Iter [{i}/400]\tlr: 1e-3, time: 0.4, loss: {i}.5\n" for i in numbers)


def test_a_run_that_went_on_replaces_what_it_repeats(tmp_path, caplog) -> None:
    with caplog.at_level(logging.INFO):
        points = read(tmp_path, steps(10, 20, 30, 40) + steps(30, 40, 50))
    assert [step for step, _ in points] == [10, 20, 30, 40, 50]
    assert "continued from a checkpoint, times: 1" in caplog.text
    for name, numbers in (("a.log", (10, 20, 30)), ("b.log", (20, 30))):
        (tmp_path / name).write_text(steps(*numbers))
    parts = read_foreign_logs([tmp_path / "a.log", tmp_path / "b.log"])
    assert [point.iteration for point in parts] == [10, 20, 30]


def test_epochs_become_iterations_where_the_log_says_how_many_one_has(tmp_path) -> None:
    text = (
        "x - Epoch [1][50/60]\tlr: 1e-3, loss: 2.0\nx - Epoch [2][50/60]\tlr: 1e-3, loss: 1.0\n"
        "x - Epoch(val) [2][17]\tmIoU: 0.5, aAcc: 0.75\n"
    )
    assert [step for step, _ in read(tmp_path, text)] == [50, 110, 110]
    records = [
        {"mode": "train", "epoch": epoch, "iter": number, "loss": 1.0}
        for epoch, number in ((1, 50), (2, 10))
    ]
    with pytest.raises(UserError, match=r"line 2: iterations begin anew in each epoch"):
        read(tmp_path, "\n".join(map(json.dumps, records)), "epochs.log.json")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_encodings_and_line_ends_of_windows(tmp_path, encoding) -> None:
    text = steps(10, 20).replace("\n", "\r\n")
    (tmp_path / "train.log").write_bytes(text.encode(encoding))
    assert [point.iteration for point in read_foreign_logs([tmp_path / "train.log"])] == [10, 20]


@pytest.mark.parametrize(
    ("damaged", "line"),
    [
        ("x - Iter [30/400]\tlr: 1e-3, lo\n", 3),
        ("x - Iter [30/400]\tlr: 1e-3, loss: 1.2", 3),  # it may have said 1.23
        ('{"mode": "train", "iter": 30, "lo', 3),
        ("\n[1]\n" + "{" * 9 + "\n", 5),
        ("x - mmseg - INFO - Iter(val) [500]\taAcc: 92.8, mIoU: 53.26\n", 3),  # no shares
    ],
)
def test_damaged_lines_are_left_out_with_one_warning(tmp_path, caplog, damaged, line) -> None:
    points = read(tmp_path, steps(10, 20) + damaged)
    assert [step for step, _ in points] == [10, 20]
    [record] = caplog.records
    assert f"damaged: 1, the first is line {line}" in record.getMessage()


def test_an_evaluation_before_the_first_step_is_of_no_iteration(tmp_path, caplog) -> None:
    points = read(tmp_path, MMCV.partition("Saving")[2].partition("\n")[2])
    assert [step for step, _ in points] == [150]
    assert "damaged: 1" in caplog.text


def test_job_writes_a_run_that_other_jobs_and_visualdl_read(tmp_path, capsys) -> None:
    log_reader = pytest.importorskip("visualdl").LogReader
    (tmp_path / "train.log").write_text(MMCV)
    out = tmp_path / "runs" / "b0"
    job = ["import_log", str(tmp_path / "train.log"), "--save_dir", str(out)]
    assert main(job) == 0
    assert "4 points of iterations 50 to 150, 1 evaluations, best mIoU 0.5326" in (
        capsys.readouterr().out
    )
    from paddleseg_segformer.report.curves import read_curves

    curves = read_curves(out)
    assert curves["Train/loss"] == [(50, 0.1652), (100, 0.1519), (150, 0.15)]
    assert curves["Evaluate/IoU/road"] == [(120, 0.9745)]
    [record] = out.glob("vdlrecords.*")
    reader = log_reader(file_path=str(record))
    found = reader.get_data("scalar", "Train/loss")
    assert [item.id for item in found] == [50, 100, 150]
    assert [item.value for item in found] == pytest.approx([0.1652, 0.1519, 0.15])
    assert main(job) == 1  # nothing is overwritten
    assert "holds the log of a run (log.jsonl)" in capsys.readouterr().err
    assert main([*job[:-1], str(tmp_path / "plain"), "--trackers"]) == 0
    assert [path.name for path in (tmp_path / "plain").iterdir()] == ["log.jsonl"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nowhere.log"], "nowhere.log: expected a training log, found nothing. Name PaddleSeg's"),
        (["."], ".: expected a training log, found a folder"),
        (["other.txt"], "other.txt: found no step and no score of a training run"),
        (["good.log", "--trackers", "vdl"], "unknown tracker type 'vdl'"),
    ],
)
def test_bad_input_is_one_line(flags, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.log").write_text(MMCV)
    (tmp_path / "other.txt").write_text('hello\n{"iteration": 3}\n| a | b |\n')
    assert main(["import_log", *flags, "--save_dir", "out"]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert not (tmp_path / "out").exists()
