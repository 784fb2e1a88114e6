"""The benchmark's ladder: its cases, its table, what others took of the machine, the history."""

from __future__ import annotations

import pytest

from benchmarks.speed import history, machine, report
from benchmarks.speed.cases import CELLS, ENGINES, MERGED, Case, Setting, ladder_cases
from benchmarks.speed.runner import Group, Measurement

SLIDE = Setting("slide", "B0", (1024, 1024), 1, 2, 19)
MS = {  # engine, precision -> passes
    ("ours-openvino", "fp32"): [20.0, 10.0],
    ("ours-openvino", "merged"): [5.0, 9.0],
    ("ours-onnxruntime", "fp32"): [16.0, 30.0],
    ("paddleseg-openvino", "fp32"): [30.0, 34.0],
    ("paddleseg-onnxruntime", "fp32"): [48.0, 60.0],
}


def group() -> Group:
    return Group(
        SLIDE,
        [Measurement(Case(engine, SLIDE, name), ms=ms) for (engine, name), ms in MS.items()],
    )


def test_every_cell_has_exact_merged_and_int8_cases_and_others() -> None:
    found = ladder_cases(list(ENGINES), 2)
    assert [(s.task, s.variant, s.size_hw[0]) for s in found] == list(CELLS)
    for setting, cases in found.items():
        kinds = {(case.engine, case.precision) for case in cases}
        assert {("ours-openvino", name) for name in ("fp32", "int8", *MERGED)} <= kinds
        others = {case.precision for case in cases if not case.engine.startswith("ours")}
        assert others == {"fp32"}
        merged = next(case for case in cases if case.precision == "merged-int8")
        assert merged.file == "export_merged_int8"
        assert ("ours-onnxruntime", "merged") in kinds or setting.task != "slide"
    assert ladder_cases(["ours-openvino"], 1).keys() != found.keys()  # of one thread


def test_table_has_quotients_of_least_times_and_of_medians() -> None:
    lines = report.ladder([group()]).splitlines()
    assert lines[0] == "|  | best of the others | ms | fp32 | merged |"
    title = "PaddleSeg, OpenVINO"
    assert lines[1] == f"| slide  B0  1024x1024 | {title} | 30 | 3.00 (2.13) | 6.00 (4.57) |"
    assert lines[2] == f"|   ours, OpenVINO | {title} | 30 | 3.00 (2.13) | 6.00 (4.57) |"
    twin = "PaddleSeg, ONNX Runtime"
    assert lines[3] == f"|   ours, ONNX Runtime | {twin} | 48 | 3.00 (2.35) | - |"


def test_comparisons_name_engine_and_precision() -> None:
    found = report.comparisons(group())
    assert found["ours, OpenVINO, merged against PaddleSeg, OpenVINO"] == pytest.approx(32 / 7)
    assert found["ours, ONNX Runtime against PaddleSeg, ONNX Runtime"] == pytest.approx(54 / 23)


def test_shares_of_others() -> None:
    before = {"all": 100.0, "busy": 50.0, "steal": 1.0, "throttled": 2.0}
    after = {"all": 300.0, "busy": 150.0, "steal": 21.0, "throttled": 2.5}
    assert machine.disturbance(before, after, own_s=60.0) == {
        "steal": 0.1,
        "other_processes": 0.2,
        "throttled_s": 0.5,
    }
    assert machine.disturbance({}, {}, own_s=1.0) == {}


def test_counters_of_this_machine_go_forward() -> None:
    first, second = machine.counters(), machine.counters()
    assert all(second[name] >= value >= 0 for name, value in first.items())


def run(speed: float, processor: str = "P", steal: float = 0.0) -> dict:
    return {
        "processor": processor,
        "cores": 2,
        "disturbance": {"steal": steal},
        "quotients": {"network B0": {"ours against theirs": speed}},
    }


def test_regression_is_a_quotient_below_the_best_before() -> None:
    assert history.regressions([run(2.0), run(1.8)]) == []
    assert history.regressions([run(2.0), run(1.9), run(1.6)]) == [
        "network B0 ours against theirs: 1.60, before 2.00"
    ]
    assert history.regressions([run(2.0, "other"), run(1.6)]) == []
    assert history.regressions([run(9.0, steal=0.3), run(1.6)]) == []  # others disturbed it
    assert history.regressions([]) == []


def test_line_of_a_run_is_read_back(tmp_path) -> None:
    facts = {"processor": "P", "cores": 2, "disturbance": {"steal": 0.0}}
    for _ in range(2):
        history.append(tmp_path / "h.jsonl", [group()], facts)
    first, second = history.read(tmp_path / "h.jsonl")
    assert first["quotients"] == second["quotients"]
    assert first["quotients"][str(SLIDE)][
        "ours, OpenVINO against PaddleSeg, OpenVINO"
    ] == pytest.approx(32 / 15, abs=1e-3)
    assert history.regressions([first, second]) == []


@pytest.mark.skipif(not history.FILE.exists(), reason="no run has been recorded yet")
def test_last_recorded_run_has_no_regression() -> None:
    assert history.regressions(history.read(history.FILE)) == []
