"""The speed ladder: forms built and measured for real, the gate, and what is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import paddle
import pytest
from onnx import numpy_helper
from small_models import small_segformer, small_vit

from paddleseg_segformer.data.datasets import RawSample
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export import Quantization, Samples, check_save_dir, export_model
from paddleseg_segformer.export.speed_gate import Bound, Scores, SpeedGate
from paddleseg_segformer.export.speed_ladder import (
    ANY_LOSS,
    SPEEDS,
    Form,
    Rung,
    SpeedLadder,
    merge_of,
    merged,
)
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.models import LinearSegmenter
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.runtimes.deploy_config import DeployConfig
from paddleseg_segformer.street_scenes.dataset import render_scene

pytest.importorskip("matplotlib")
openvino = pytest.importorskip("openvino")
NORMALIZE = {"type": "Normalize", "mean": [0.5] * 3, "std": [0.25] * 3}


def scene(index: int) -> RawSample:
    """Return a drawn image with labels of five classes: drawn ids modulo five."""
    image, label = render_scene([5, index], (72, 104))
    return RawSample(image, np.where(label == 255, 255, label % 5), f"scene {index}", None)


def ladder_of(model, folder: Path, bound: Bound | None, quantization=None) -> SpeedLadder:
    preprocess = Preprocess.from_transforms([NORMALIZE])
    export = partial(export_model, model, preprocess=preprocess, is_verified=False)
    samples = Samples(scene, range(2))
    return SpeedLadder(model, export, samples, bound, quantization, folder, threads=1)


@pytest.fixture(scope="module", autouse=True)
def quickly() -> Iterator[None]:
    """Measure for a moment only, and take no second step: times of so small networks say little."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("paddleseg_segformer.runtimes.timing.ENOUGH_S", 0.01)
        patch.setattr("paddleseg_segformer.export.speed_ladder.MIN_GAIN", 100)
        yield


@pytest.fixture(scope="module")
def climbed(spread_out, tmp_path_factory) -> SimpleNamespace:
    """Return a ladder of a narrow SegFormer, climbed without a bound, and what it wrote."""
    paddle.seed(3)
    model = spread_out(small_segformer())
    folder = tmp_path_factory.mktemp("ladder")
    ladder = ladder_of(model, folder / "forms", ANY_LOSS)
    best = ladder.climb()
    chosen = next(rung for rung in ladder.rungs if rung.form.merge == (2, 1, 1, 1))
    deploy = ladder.write(chosen, ["paddle"], folder / "out")
    return SimpleNamespace(
        model=model, ladder=ladder, best=best, chosen=chosen, folder=folder, deploy=deploy
    )


def test_each_stage_is_tried_and_the_fastest_is_best(climbed) -> None:
    tried = [rung.form.merge for rung in climbed.ladder.rungs]
    assert tried[0] == (1, 1, 1, 1)
    assert {(2, 1, 1, 1), (1, 2, 1, 1), (1, 1, 2, 1), (1, 1, 1, 2)} <= set(tried)
    assert climbed.best.speed == max(rung.speed for rung in climbed.ladder.rungs)
    assert merge_of(climbed.model) == (1, 1, 1, 1)  # as before


def test_scores_are_those_of_a_merged_model(climbed) -> None:
    """Against the model itself in Paddle, labels compared and IoU counted by hand."""
    preprocess = Preprocess.from_transforms([NORMALIZE])
    maps = {}
    for merge in ((1, 1, 1, 1), (2, 1, 1, 1)):
        with merged(climbed.model, merge):
            predictor = Predictor(climbed.model, preprocess)
            maps[merge] = np.stack([predictor(scene(index).image).label for index in range(2)])
    exact, other = maps.values()
    assert climbed.chosen.scores.agreement == pytest.approx((exact == other).mean(), abs=1e-3)
    assert climbed.chosen.scores.agreement < 1
    labels = np.stack([scene(index).label for index in range(2)])
    seen = labels != 255
    iou = [
        ((labels == i) & (other == i)).sum() / (((labels == i) | (other == i)) & seen).sum()
        for i in range(5)
    ]
    np.testing.assert_allclose(climbed.chosen.scores.iou, iou, atol=2e-3)


def test_export_is_of_the_chosen_form_with_table_and_picture(climbed) -> None:
    out = climbed.folder / "out"
    deploy = DeployConfig.load(out)
    assert deploy == climbed.deploy and set(deploy.artefacts) == {"paddle", "onnx"}
    assert deploy.made_with["speed"] == "queries merged in stage 1"
    written = onnx.load(out / "model.onnx")
    assert any(node.op_type == "AveragePool" for node in written.graph.node)
    content = json.loads((out / "speed.json").read_text())
    assert content["chosen"] == "queries merged in stage 1"
    forms = {item["form"]: item for item in content["forms"]}
    found = forms["queries merged in stage 1"]
    assert found["scores"]["label_agreement"] == pytest.approx(
        climbed.chosen.scores.agreement, abs=1e-6
    )
    assert set(found["losses"]) == {"miou", "class_iou", "boundary_iou"}
    assert (out / "speed.png").read_bytes().startswith(b"\x89PNG")
    lines = climbed.ladder.table().splitlines()
    assert len(lines) == len(climbed.ladder.rungs) + 1 and lines[1].endswith("exact")


def test_earlier_ladder_export_is_replaced(climbed) -> None:
    check_save_dir(climbed.folder / "out")


def test_gate_refuses_a_form_that_was_spoilt_on_purpose(climbed, spread_out, tmp_path) -> None:
    """Its classifier's first class gets a bias that wins nearly everywhere: fast, and wrong."""
    ladder = ladder_of(climbed.model, tmp_path / "forms", SPEEDS["fastest"])
    form = Form((1, 1, 2, 1))
    folder = ladder._made(form)
    model = onnx.load(folder / "model.onnx")
    for item in model.graph.initializer:
        if tuple(item.dims) == (5,):  # of the classifier's part that holds it
            bias = numpy_helper.to_array(item).copy()
            bias[0] += 100
            item.CopyFrom(numpy_helper.from_array(bias, item.name))
    onnx.save(model, folder / "model.onnx")
    deploy = DeployConfig.load(folder, check_files=False)
    artefact = type(deploy.artefacts["onnx"]).of(folder, "onnx")
    DeployConfig(**{**vars(deploy), "artefacts": {"onnx": artefact}}).save(folder)
    spoilt = ladder._measure(form)
    assert spoilt.scores.agreement < 0.6
    assert spoilt.faults and "equal labels" in spoilt.faults[-1]
    assert ladder.best is not spoilt
    faster_than_all = Rung(spoilt.form, folder, spoilt.scores, 1e-3, 1e3, spoilt.faults)
    ladder.rungs.append(faster_than_all)
    assert ladder.best.form != spoilt.form
    assert ladder.allowed_by(faster_than_all) == "none"


def scores(agreement: float, iou: list[float]) -> Scores:
    return Scores(agreement, np.array(iou), np.array(iou))


def test_bounds_are_on_the_mean_on_each_class_and_on_the_labels() -> None:
    bound = Bound(miou=1.0, class_iou=2.5, boundary_iou=1.0, agreement=0.9)
    exact = scores(1.0, [0.5, 0.7, np.nan])
    assert not bound.faults(scores(0.95, [0.49, 0.69, np.nan]), exact)
    (fault,) = bound.faults(scores(0.95, [0.47, 0.75, np.nan]), exact)  # better in the mean
    assert fault == "class_iou loses 3.00, allowed are 2.5"
    assert len(bound.faults(scores(0.95, [0.48, 0.68, np.nan]), exact)) == 2
    assert bound.faults(scores(0.89, [0.5, 0.7, np.nan]), exact)
    assert not bound.faults(Scores(0.91), Scores(1.0))


def test_gate_without_labels_goes_by_equal_labels_alone(climbed) -> None:
    predictor = Predictor.from_export(climbed.folder / "out", "cpu")
    unlabelled = [scene(0)._replace(label=None)]
    gate = SpeedGate(unlabelled, predictor)
    assert gate.exact == Scores(1.0)
    with pytest.raises(UserError, match="found no images"):
        SpeedGate([], predictor)


def test_int8_of_the_ladder_is_what_is_written(climbed, tmp_path) -> None:
    pytest.importorskip("nncf")
    quantization = Quantization(Samples(scene, range(2, 4)))
    ladder = ladder_of(climbed.model, tmp_path / "forms", ANY_LOSS, quantization)
    rung = ladder._measure(Form((1, 1, 1, 1), "int8"))
    assert 0.7 < rung.scores.agreement < 1
    deploy = ladder.write(rung, [], tmp_path / "out")
    assert deploy.precision == "int8" and set(deploy.artefacts) == {"onnx", "int8"}
    made, written = (
        (folder / "model_int8.bin").read_bytes() for folder in (rung.folder, tmp_path / "out")
    )
    assert made == written
    predictor = Predictor.from_export(tmp_path / "out", "cpu")
    assert predictor.pipeline.network.options.precision == "int8"
    assert (
        Predictor.from_export(tmp_path / "out", "cpu", precision="fp32").pipeline.network.artefact
        == "onnx"
    )


@pytest.mark.slow
def test_int8_in_part_keeps_more_labels(climbed, tmp_path) -> None:
    pytest.importorskip("nncf")
    quantization = Quantization(Samples(scene, range(2, 6)))
    ladder = ladder_of(climbed.model, tmp_path / "forms", ANY_LOSS, quantization)
    whole = ladder._measure(Form((1, 1, 1, 1), "int8"))
    part = ladder._measure(Form((1, 1, 1, 1), "int8", has_float_layers=True))
    assert whole.scores.agreement < part.scores.agreement < 1


def test_model_without_stages_to_merge_has_its_exact_form(tmp_path) -> None:
    model = LinearSegmenter(5, small_vit())
    ladder = ladder_of(model, tmp_path / "forms", SPEEDS["fast"])
    assert ladder.climb().form == Form(())
    assert [rung.form.precision for rung in ladder.rungs if rung.form.precision == "fp32"] == [
        "fp32"
    ]


def test_exact_measures_nothing_else(climbed, tmp_path) -> None:
    ladder = ladder_of(climbed.model, tmp_path / "forms", SPEEDS["exact"])
    assert ladder.climb() is ladder.rungs[0] and len(ladder.rungs) == 1
