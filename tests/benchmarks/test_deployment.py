"""The comparison of deployments: table, bound, and deployments that are missing or wrong."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import paddle
import pytest
from small_models import small_segformer

from benchmarks.deployment import deployments, material, matrix, report
from benchmarks.deployment.command import check
from benchmarks.deployment.deployments import DEPLOYMENTS, Deployment, chosen_deployments
from benchmarks.deployment.job import Clock, Job, Outcome, time_images
from benchmarks.deployment.material import Exports, Images, make_images
from benchmarks.deployment.matrix import Plan, Row, compare
from paddleseg_segformer.cli import TOOLS, main
from paddleseg_segformer.data.io import read_image, write_label
from paddleseg_segformer.data.labels import LABEL_SETS
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export import export_model
from paddleseg_segformer.inference.overlay import write_image
from paddleseg_segformer.runtimes.deploy_config import ARTEFACT_FILES

MACHINE = {"processor": "a processor", "cores": 2}
SIZES_HW = ((40, 56), (48, 64), (40, 56))


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    paddle.seed(0)
    folder = tmp_path_factory.mktemp("export") / "export"
    export_model(small_segformer(3), folder, is_verified=False)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for index, size_hw in enumerate(SIZES_HW):
        image = rng.integers(0, 256, (*size_hw, 3), np.uint8)
        write_image(tmp_path / "pictures" / f"{index}.bmp", image)
    return tmp_path / "pictures"


@pytest.fixture
def wrong_deployments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add those of `wrong_deployments.py`, and one that gives what it is compared with."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    labels = {"reference": {"label": "1"}, "same": {"label": "1"}, "wrong": {"label": "2"}}
    labels["turned"] = {"label": "1", "is_transposed": "yes"}
    for name, options in labels.items():
        run = "wrong_deployments:one_class"
        monkeypatch.setitem(
            DEPLOYMENTS, name, Deployment(name, "a test", run, "steps", options=options)
        )
    for name in ("absent", "broken", "deadly"):
        monkeypatch.setitem(
            DEPLOYMENTS, name, Deployment(name, "a test", f"wrong_deployments:{name}")
        )
    rough = Deployment(
        "rough", "a test", "wrong_deployments:one_class", "page", options={"label": "2"}
    )
    monkeypatch.setitem(DEPLOYMENTS, "rough", Deployment(**{**vars(rough), "is_exact": False}))


def run(export: Path, pictures: Path, tmp_path: Path, names: list[str], *flags: str) -> int:
    arguments = ["--export_dir", str(export), "--images", str(pictures), "--threads", "1"]
    arguments += ["--ways", *names, "--work_dir", str(tmp_path / "work"), "--warmup", "1"]
    return main(["compare_engines", *arguments, *flags])


def test_missing_wrong_and_broken_ways_stand_in_table_and_exit_status(
    export, pictures, wrong_deployments, tmp_path, capsys
) -> None:
    names = ["reference", "same", "wrong", "turned", "absent", "broken", "deadly", "rough"]
    names += ["cpp-paddle", "onnxruntime"]
    path = tmp_path / "report.json"
    flags = ["--json", str(path), "--cpp_dir", str(tmp_path), "--require", "rough", "absent"]
    assert run(export, pictures, tmp_path, names, *flags) == 1
    captured = capsys.readouterr()
    (error,) = captured.err.strip().splitlines()
    assert "5 of 10 deployments fell short" in error
    assert "wrong: 0.0000% of the labels agree, expected 99.99%" in error
    assert "turned: " in error and "expected (40, 56)" in error
    assert "broken: RuntimeError: the engine broke" in error
    assert "deadly: died with status 3" in error
    assert "absent: required, but a thing is not installed" in error
    assert "rough:" not in error and "cpp-paddle:" not in error
    table = captured.out[captured.out.index("| deployment") :]
    assert "- `cpp-paddle` not run: " in table and "is not built" in table
    assert "- `onnxruntime` not run: the export holds paddle, but no onnx\n" in table
    assert "- `absent` not run: a thing is not installed" in table
    assert "- `broken` failed: RuntimeError: the engine broke" in table
    found = {item["name"]: item for item in json.loads(path.read_text())["ways"]}
    assert list(found) == [name for name in DEPLOYMENTS if name in names]
    assert found["same"]["agreement"] == 1.0 and found["rough"]["agreement"] == 0.0
    assert found["rough"]["fault"] is None and found["absent"]["outcome"] is None


def test_exported_model_agrees_with_itself(export, pictures, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(DEPLOYMENTS, "again", DEPLOYMENTS["paddle"])
    path = tmp_path / "table.md"
    flags = ("--require", "all", "--markdown", str(path))
    assert run(export, pictures, tmp_path, ["paddle", "again"], *flags) == 0
    table = path.read_text()
    assert table in capsys.readouterr().out
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len(lines) == 4 and lines[2].count("100 %") == lines[3].count("100 %") == 2
    assert "Paddle Inference 3" in table and "3 images, 1 thread" in table


def test_images_become_png_files_at_equal_steps(pictures, tmp_path) -> None:
    found = make_images(tmp_path / "png", str(pictures), None, 2)
    assert [Path(source).name for source in found.sources] == ["0.bmp", "1.bmp"]
    for source, path in zip(found.sources, found.paths, strict=True):
        assert path.suffix == ".png"
        assert (read_image(path) == read_image(source)).all()
    assert material._spread([str(i) for i in range(101)], 20) == [str(i) for i in range(0, 100, 5)]
    drawn = make_images(tmp_path / "png", None, None, 1)
    assert [path.name for path in (tmp_path / "png").iterdir()] == [drawn.paths[0].name]
    assert len(np.unique(read_image(drawn.paths[0]))) > 50
    with pytest.raises(UserError, match="num_images"):
        make_images(tmp_path / "png", None, None, 0)


def test_labels_come_from_the_config_of_the_images(pictures, tmp_path) -> None:
    for index, size_hw in enumerate(SIZES_HW):
        write_label(pictures / f"{index}.png", np.full(size_hw, index, np.uint8))
    lines = [f"{index}.bmp {index}.png" for index in range(2)]
    (pictures / "val.txt").write_text("\n".join(lines))
    config = tmp_path / "config.yml"
    config.write_text(
        "model: {type: SegFormer, num_classes: 11, backbone: {type: MixVisionTransformer_B0}}\n"
        f"val_dataset: {{type: CamVid, dataset_root: {pictures}, mode: val, transforms: []}}"
    )
    found = make_images(tmp_path / "png", None, str(config), 5)
    assert found.labels is not None and found.label_set == LABEL_SETS["camvid"]
    assert [np.unique(label).tolist() for label in found.labels] == [[0], [1]]
    one = make_images(tmp_path / "png", str(pictures / "1.bmp"), str(config), 5)
    assert one.labels is not None and len(one.labels) == 1 and (one.labels[0] == 1).all()
    with pytest.raises(UserError, match="2.bmp: not an image of"):
        make_images(tmp_path / "png", str(pictures / "2.bmp"), str(config), 5)


def row(name: str, agreement: float | None, is_exact: bool = True, **values: object) -> Row:
    deployment = Deployment(name, "a test", "no:thing", is_exact=is_exact)
    outcome = None if agreement is None else Outcome(10.0, 5.0, 100.0, "engine 1")
    return Row(name, deployment, outcome, agreement=agreement, worst_agreement=agreement, **values)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("a", 1.0), row("b", 0.9999)], None),
        ([row("a", 1.0), row("b", 0.99989)], "b: 99.9890% of the labels"),
        ([row("a", 1.0), row("b", 1.0), row("c", 0.5, is_exact=False)], None),
        ([row("a", 1.0), row("b", 1.0), row("c", None, error="no memory")], "c: no memory"),
        ([row("a", 1.0), row("b", 1.0), row("c", None, False, error="no memory")], None),
        ([row("a", 1.0), row("b", 1.0), row("d", None, False, error="bad")], "d: required, but"),
        ([row("a", 1.0), row("d", None, missing="not there")], "d: required, but not there"),
        ([row("a", 1.0), row("b", None, missing="not there")], "fewer than two exact deployments"),
        ([row("a", 1.0), row("b", 1.0, is_exact=False)], "fewer than two exact deployments"),
    ],
)
def test_bound_holds_for_exact_deployments_and_required_ones(rows, message) -> None:
    if message is None:
        check(rows, {"a"})
        return
    with pytest.raises(UserError, match=message):
        check(rows, {"d"})


def test_agreement_is_over_all_pixels_and_miou_over_the_labels() -> None:
    big, small = np.zeros((10, 30), np.uint8), np.zeros((10, 10), np.uint8)
    half = small.copy()
    half[:5] = 1
    truth = [big, half]
    images = Images([Path("a"), Path("b")], ["a.jpg", "b.jpg"], truth, LABEL_SETS["camvid"])
    found = row("x", None)
    matrix._judge(found, images, [big, small], truth)
    assert found.agreement == 1 - 50 / 400
    assert (found.worst_agreement, found.worst_image) == (0.5, "b.jpg")
    assert found.miou == pytest.approx((350 / 400 + 0) / 2)
    table = report.markdown(
        [row("r", 1.0, miou=0.5), row("x", 0.999999999, miou=0.49)], images, MACHINE, 1
    )
    assert "| 49.00 (-1.00) |" in table and "| 50.00 " in table
    assert "| 99.99999 %" in table  # one pixel in 10^9 is not all of them


def test_export_that_fails_is_told_once_for_each_of_its_deployments(tmp_path, pictures) -> None:
    images = make_images(tmp_path / "png", str(pictures), None, 1)
    exports = Exports(tmp_path / "exports", str(tmp_path / "no_such_model"))
    rows = list(compare(["paddle", "openvino"], images, exports, Plan(None, "build")))
    assert [found.error for found in rows] == [rows[0].error] * 2
    assert "its export failed: " in str(rows[0].error) and "no_such_model" in str(rows[0].error)


def test_model_that_needs_windows_has_no_graph_with_preprocessing(tmp_path, pictures) -> None:
    (tmp_path / "config.yml").write_text(
        "model: {type: SegFormer, num_classes: 3, backbone: {type: MixVisionTransformer_B0}}\n"
        "val_dataset: {type: Dataset, num_classes: 3, transforms: [{type: Normalize}]}\n"
        "test_config: {is_slide: true, crop_size: [48, 32], stride: [32, 32]}\n"
    )
    images = make_images(tmp_path / "png", str(pictures), None, 1)
    exports = Exports(tmp_path / "exports", str(tmp_path))
    (found,) = compare(["onnxruntime-whole"], images, exports, Plan(None, "build"))
    assert "windows, scales and flips cannot be put into the graph" in str(found.missing)
    assert found.error is None


@pytest.mark.parametrize(
    ("names", "required", "message"),
    [
        (["opnvino"], [], "--ways: found 'opnvino'.*Did you mean 'openvino'"),
        (None, ["paddel"], "--require: found 'paddel'.*Did you mean 'paddle'"),
        (["paddle"], ["openvino"], "--require: openvino is not among --ways"),
        (["all"], [], "--ways: found 'all'"),
    ],
)
def test_wrong_names_are_told(names, required, message) -> None:
    with pytest.raises(UserError, match=message):
        chosen_deployments(names, required)


def test_ways_are_tried_in_the_tables_order() -> None:
    assert chosen_deployments(["openvino", "dygraph"], ["all"]) == (
        ["dygraph", "openvino"],
        {"dygraph", "openvino"},
    )
    assert chosen_deployments(None, []) == (list(DEPLOYMENTS), set())
    assert next(iter(DEPLOYMENTS)) == "dygraph"
    for deployment in DEPLOYMENTS.values():
        assert deployment.timer in deployments.TIMERS
        assert deployment.export in material.EXPORTS
        assert set(deployment.reads) <= set(ARTEFACT_FILES)


@pytest.mark.parametrize(("threads", "warmup", "limit_s"), [(0, 3, 1), (1, -1, 1), (1, 3, 0)])
def test_plan_refuses_numbers_that_make_no_sense(threads, warmup, limit_s) -> None:
    with pytest.raises(UserError, match="threads"):
        Plan(None, "build", "python", threads, warmup, limit_s)


def test_each_size_is_warmed_up_and_the_network_timed_within_the_whole(pictures, tmp_path) -> None:
    images = make_images(tmp_path / "png", str(pictures), None, 3)
    (tmp_path / "out").mkdir()
    folders = {"images_dir": str(images.paths[0].parent), "results": str(tmp_path / "out")}
    programs = {"cpp_dir": "", "gradio_python": ""}
    job = Job("", {}, (), "fp32", "", None, threads=1, warmup=2, **programs, **folders)
    calls = []

    def network(image: np.ndarray) -> np.ndarray:
        calls.append(image.shape[:2])
        return image[:, :, 0]

    clock = Clock(network)
    whole_ms, network_ms = time_images(job, clock, clock.take)
    assert network_ms is not None and 0 < network_ms < whole_ms
    assert calls == 3 * [SIZES_HW[0]] + 3 * [SIZES_HW[1]] + [SIZES_HW[2]]
    for index, path in enumerate(job.images):
        assert (np.load(tmp_path / "out" / f"{index}.npy") == read_image(path)[:, :, 0]).all()
    assert time_images(job, network, lambda: None)[1] is None


ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"python (?:tools/|deploy/python/|deploy/serving/)\w+\.py[^`\n#]*", PAGE)


def test_page_names_every_way() -> None:
    assert [name for name in DEPLOYMENTS if f"| `{name}`" not in PAGE] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_page_are_understood(command: str) -> None:
    _, script, *arguments = shlex.split(command)
    parser = argparse.ArgumentParser()
    job = Path(script).stem
    module, _ = TOOLS.get(job, (f"paddleseg_segformer.cli.{job}", ""))
    importlib.import_module(module).add_arguments(parser)
    assert parser.parse_args(arguments)
