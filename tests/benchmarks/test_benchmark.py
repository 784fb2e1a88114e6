"""The benchmark: a tiny run of two engines, its figures, and what it does with a broken case."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from benchmarks.processes import Worker, WorkerFailed
from benchmarks.speed import report
from benchmarks.speed.cases import (
    ENGINES,
    TASKS,
    Case,
    Setting,
    all_cases,
)
from benchmarks.speed.command import installed_engines
from benchmarks.speed.files import Files
from benchmarks.speed.runner import (
    Group,
    Measurement,
    Plan,
    resized,
)
from benchmarks.speed.worker import BENCHMARK
from paddleseg_segformer.analysis.complexity import activation_bytes, build_published, count_macs
from paddleseg_segformer.cli import main
from paddleseg_segformer.errors import UserError

SETTING = Setting("network", "B0", (64, 64), 1, 1, 19)


def run_tiny(work_dir: Path, engines: list[str], *flags: str) -> int:
    arguments = ["--engines", *engines, "--sizes", "64", "--repeats", "2", "--warmup", "1"]
    arguments += ["--threads", "1", "--base", "ours", "--work_dir", str(work_dir), *flags]
    return main(["benchmark", *arguments])


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    engines = ["ours", "ours-inference"]
    assert run_tiny(folder / "work", engines, "--json", str(folder / "report.json")) == 0
    return folder


def test_json_of_a_run_has_every_figure(tiny_run):
    found = json.loads((tiny_run / "report.json").read_text())
    assert found["base"] == "ours" and found["machine"]["cores"] >= 1
    assert found["machine"]["versions"]["numpy"] == np.__version__
    assert found["tasks"] == {"network": TASKS["network"]}
    assert [case["engine"] for case in found["cases"]] == ["ours", "ours-inference"]
    for case in found["cases"]:
        assert case["error"] is None and len(case["ms"]) == 2
        assert 0 < case["min_ms"] <= case["quartiles_ms"][0] <= case["median_ms"]
        assert case["median_cpu_ms"] > 0 and case["load_s"] > 0
        assert case["peak_mib"] > case["beyond_empty_mib"] > 0
        assert case["machine_gflop_s"] > 0 and case["machine_copy_gb_s"] > 0
        assert case["times_floor"] == pytest.approx(case["median_ms"] / case["floor_ms"])
        assert case["label_agreement"] >= 0.9995
        assert case["max_logit_difference"] < 1e-3
    ours, exported = found["cases"]
    assert ours["speed_vs_base"] == 1.0 and ours["max_logit_difference"] == 0.0
    assert exported["max_logit_difference"] > 0.0  # another engine: other rounding


def test_weights_of_a_run_give_many_labels(tiny_run):
    from benchmarks.speed.files import build_model, normalized
    from benchmarks.speed.subject import labels_of_logits

    files = Files(tiny_run / "work", "B0", 19)
    image = np.load(files.images_path((256, 256), 1))[:, :128, :128]
    import paddle

    with paddle.no_grad():
        logits = build_model(files)(paddle.to_tensor(normalized(image))).numpy()
    assert len(np.unique(labels_of_logits(logits, (128, 128)))) > 5
    assert 1 < logits.std() < 20


@pytest.mark.parametrize("engine", ["ours", "ours-inference"])
def test_files_are_read_and_label_maps_written(tiny_run, engine):
    setting = Setting("files", "B0", (64, 96), 2, 1, 19)
    files = Files(tiny_run / "work", "B0", 19)
    scene = np.load(files.images_path((256, 256), 1))[0]
    np.save(files.images_path((64, 96), 2), np.stack([scene[:64, :96], scene[64:128, 96:192]]))
    build = import_module(f"{BENCHMARK}.{ENGINES[engine].module}").build
    from_files = build(Case(engine, setting), files)
    from_arrays = build(Case(engine, replace(setting, task="end_to_end")), files)
    found = from_files.labels(from_files.run())
    np.testing.assert_array_equal(found, from_arrays.labels(from_arrays.run()))
    assert len(list(files.root.glob(f"pictures/{engine}-fp32/results/*/*.png"))) == 2


def test_broken_case_is_named_and_ends_the_run_only_where_nothing_is_left(tiny_run, capfd):
    work = tiny_run / "broken"
    shutil.copytree(tiny_run / "work", work)
    program = next(work.glob("*/export/model.json"))
    program.write_text("{")
    assert run_tiny(work, ["ours-inference"]) == 1
    captured = capfd.readouterr()
    assert "ours, Paddle Inference: failed: " in captured.out
    assert "no case could be measured" in captured.err


def test_worker_that_dies_says_how(tmp_path):
    worker = Worker(
        f"{BENCHMARK}.worker", {"case": {"engine": "no such engine"}}, 1, tmp_path / "log", 60.0
    )
    with pytest.raises(WorkerFailed, match="died with status 1"):
        worker.ask("load")
    worker.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"engines": ["our"]}, "engine: found 'our'.*ours"),
        ({"tasks": ["training"]}, "task: found 'training'.*train"),
        ({"variants": ["B6"]}, "variant"),
        ({"precisions": ["int4"]}, "precision"),
        ({"sizes_hw": [(32, 64)]}, "64 px"),
        ({"batches": [0]}, "1 or more"),
        ({"engines": ["transformers"], "tasks": ["train"]}, "none of these engines"),
    ],
)
def test_wrong_settings_are_named(change, message):
    settings = {
        "engines": ["ours"],
        "tasks": ["network"],
        "variants": ["B0"],
        "sizes_hw": [(64, 64)],
        "batches": [1],
        "threads": [1],
        "precisions": ["fp32"],
        "num_classes": 19,
    }
    with pytest.raises(UserError, match=message):
        all_cases(**{**settings, **change})


def test_every_engine_is_offered_for_what_it_can_do_only():
    sizes = [(64, 64), (128, 64)]
    cases = all_cases(list(ENGINES), list(TASKS), ["B0"], sizes, [1], [1, 2], ["fp32", "bf16"], 19)
    assert len(cases) == len(TASKS) * 2 * 2
    for setting, members in cases.items():
        assert len(set(members)) == len(members)
        for case in members:
            assert setting.task in ENGINES[case.engine].tasks
            assert case.precision in ENGINES[case.engine].precisions
            assert Case.from_dict(json.loads(json.dumps(case.to_dict()))) == case


def test_int8_is_offered_for_our_openvino_only_and_loads_its_own_export():
    precisions = ["fp32", "int8", "int8-bf16"]
    (cases,) = all_cases(
        list(ENGINES), ["end_to_end"], ["B0"], [(64, 64)], [1], [1], precisions, 19
    ).values()
    found = {case.precision: case for case in cases if "int8" in case.precision}
    assert {case.engine for case in found.values()} == {"ours-openvino"}
    assert {precision: case.file for precision, case in found.items()} == {
        "int8": "export_int8",
        "int8-bf16": "export_int8",
    }
    assert found["int8"].title == "ours, OpenVINO, int8"


def test_speed_is_taken_pass_by_pass_and_the_floor_from_the_fastest_product():
    base = Measurement(Case("paddleseg", SETTING), ms=[10.0, 40.0, 12.0])
    ours = Measurement(Case("ours", SETTING), ms=[5.0, 10.0, 6.0])
    group = Group(SETTING, [ours, base], gflop_s=[50.0, 100.0], copy_gb_s=[1.0, 2.0])
    assert report.speed(ours, base) == 2.0
    macs = count_macs(build_published("B0", 19), (64, 64)).total()
    assert report.floor_ms(group) == pytest.approx(1e3 * 2 * macs / 100e9)
    slide = Setting("slide", "B0", (64, 64), 1, 1, 19)
    assert slide.image_hw == (64, 128) and slide.stride_hw == (48, 48) and slide.num_passes == 3
    assert report.gmacs(slide) == pytest.approx(3 * report.gmacs(SETTING))
    train = Setting("train", "B0", (64, 64), 4, 1, 19)
    assert report.gmacs(train) == pytest.approx(12 * report.gmacs(SETTING))


def test_our_best_engine_is_compared_with_the_best_of_the_others_and_each_with_its_twin():
    times = {
        Case("ours", SETTING): [8.0, 8.0],
        Case("ours-openvino", SETTING): [2.0, 3.0],
        Case("ours-openvino", SETTING, "bf16"): [1.0, 1.0],
        Case("paddleseg", SETTING): [16.0, 16.0],
        Case("transformers", SETTING): [6.0, 6.0],
    }
    group = Group(SETTING, [Measurement(case, ms, ms) for case, ms in times.items()], [1.0], [1.0])
    found = report.comparisons(group)
    assert found == {
        "ours, OpenVINO against transformers, eager": 2.4,
        "ours, OpenVINO, bf16 against transformers, eager": 6.0,
        "ours, dygraph against PaddleSeg, dygraph": 2.0,
    }
    assert "2.40 times: ours, OpenVINO against" in report.table(group, "paddleseg")


def test_traffic_is_that_of_the_activations():
    group = Group(SETTING, [], gflop_s=[1.0], copy_gb_s=[1.0, 2.0])
    expected = sum(activation_bytes(build_published("B0", 19), (64, 64)).values())
    assert report.traffic_ms(group) == pytest.approx(1e3 * expected / 2e9)
    train = Group(Setting("train", "B0", (64, 64), 4, 1, 19), [], copy_gb_s=[1.0])
    assert report.traffic_ms(train) is None


def test_failed_case_stands_below_the_table():
    failed = Measurement(Case("ours-openvino", SETTING), error="out of memory")
    group = Group(SETTING, [failed], gflop_s=[1.0], copy_gb_s=[1.0])
    assert "ours, OpenVINO: failed: out of memory" in report.table(group, "paddleseg")


def test_resized_equals_interpolation():
    import paddle
    import paddle.nn.functional as F

    x = np.random.default_rng(0).standard_normal((7, 9)).astype(np.float32)
    expected = F.interpolate(
        paddle.to_tensor(x)[None, None], size=[28, 35], mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(resized(x, (28, 35)), expected.numpy()[0, 0], atol=1e-5)


def test_plan_refuses_no_passes(tmp_path):
    with pytest.raises(UserError, match="repeats"):
        Plan(tmp_path, repeats=0)


@pytest.mark.slow
def test_int8_case_runs_and_is_close_to_float32(tmp_path):
    pytest.importorskip("nncf")
    path = tmp_path / "report.json"
    flags = ["--precisions", "fp32", "int8", "--json", str(path)]
    assert run_tiny(tmp_path / "work", ["ours", "ours-openvino"], *flags) == 0
    cases = {case["precision"]: case for case in json.loads(path.read_text())["cases"]}
    assert cases["int8"]["error"] is None
    # random weights, at a size far from that of calibration
    assert 0.4 < cases["int8"]["label_agreement"] < 1


@pytest.mark.slow
def test_all_installed_engines_agree_in_all_tasks(tmp_path):
    path = tmp_path / "report.json"
    tasks = ["--tasks", *TASKS]
    assert run_tiny(tmp_path / "work", installed_engines(), *tasks, "--json", str(path)) == 0
    cases = json.loads(path.read_text())["cases"]
    assert {case["task"] for case in cases} == set(TASKS)
    for case in cases:
        assert case["error"] is None, case
        if "merged" in case["engine"]:  # which is not exact, with random weights least of all
            assert case["label_agreement"] > 0.5, case
            continue
        assert case["label_agreement"] >= 0.999, case
        difference = case["max_logit_difference"]
        assert difference is None or (math.isfinite(difference) and difference < 1e-3)


@pytest.mark.parametrize("engine", ["ours", "paddle"])
def test_tail_alone_gives_the_labels_of_resized_logits(tmp_path, engine):
    setting = Setting("tail", "B0", (64, 96), 2, 1, 5)
    files = Files(tmp_path, "B0", 5)
    logits = np.random.default_rng(0).normal(size=(2, 5, 16, 24)).astype(np.float32)
    files.folder.mkdir()
    np.save(files.logits_path(setting.image_hw, 2), logits)
    subject = import_module(f"{BENCHMARK}.{ENGINES[engine].module}").build(
        Case(engine, setting), files
    )
    labels = subject.labels(subject.run())
    expected = [
        np.argmax([resized(one, setting.image_hw) for one in each], axis=0) for each in logits
    ]
    assert labels.shape == (2, 64, 96) and (labels == np.stack(expected)).mean() > 0.999
    assert report.gmacs(setting) == pytest.approx(2 * 2 * 5 * 64 * 96 / 1e9)
