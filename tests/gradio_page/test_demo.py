"""The demo without Gradio: pictures, classes, times, loading; mistakes in one line."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import paddle
import pytest

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.gradio_page.__main__ import main
from paddleseg_segformer.gradio_page.model import DemoModel, load
from paddleseg_segformer.gradio_page.pictures import (
    draw,
    example_images,
    present_classes,
    swatches,
    timings_table,
)
from paddleseg_segformer.inference.overlay import write_image
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.predictor import Predictor

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def network(x: paddle.Tensor) -> paddle.Tensor:
    """Return logits of three classes; the last one never wins."""
    level = x.mean(axis=1, keepdim=True)
    logits = paddle.concat([level, 255 - level, paddle.zeros_like(level) - 1], axis=1)
    return paddle.nn.functional.avg_pool2d(logits, 4)


@pytest.fixture
def model() -> DemoModel:
    return DemoModel(Predictor(network, Preprocess()), "name", "engine")


@pytest.fixture
def path(tmp_path):
    write_image(tmp_path / "image.png", IMAGE)
    return tmp_path / "image.png"


def test_times_of_the_steps_add_up(model, path) -> None:
    prediction, ms = model(path)
    assert list(ms) == ["read", "network", "labels", "total"]
    assert min(ms.values()) > 0
    assert ms["total"] == pytest.approx(ms["read"] + ms["network"] + ms["labels"])
    np.testing.assert_array_equal(prediction.label, Predictor(network, Preprocess())(IMAGE).label)


def test_files_are_read_with_the_value_range(tmp_path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), IMAGE[:, :, ::-1].astype(np.uint16) * 16)
    preprocess = Preprocess.from_dict({"value_range": [0, 4080]})
    prediction, _ = DemoModel(Predictor(network, preprocess), "name", "engine")(tmp_path / "a.png")
    np.testing.assert_allclose(prediction.image, IMAGE, atol=1e-4)


def test_timed_network_keeps_the_networks_attributes() -> None:
    class Padding:
        pad_multiple = 16

        def __call__(self, x: paddle.Tensor) -> paddle.Tensor:
            return network(x)

    model = DemoModel(Predictor(Padding(), Preprocess()), "name", "engine")
    assert model.network.pad_multiple == 16
    with pytest.raises(AttributeError):
        _ = model.network.no_such_attribute


def test_present_classes_are_sorted_by_share(model, path) -> None:
    label = model(path).prediction.label
    found = present_classes(label, model.predictor.label_set)
    counts = np.bincount(label.ravel(), minlength=3)
    assert [item.class_id for item in found] == sorted((0, 1), key=lambda index: -counts[index])
    assert [item.share for item in found] == [counts[item.class_id] / label.size for item in found]
    assert found[0].title == f"class_{found[0].class_id}  {found[0].share:.1%}"
    assert f"rgb{found[1].color}" in swatches(found, "classes").split("nth-of-type(2)")[1]


def test_pictures_follow_view_classes_and_opacity(model, path) -> None:
    prediction = model(path).prediction
    np.testing.assert_array_equal(draw(prediction, "Overlay", [], 60), IMAGE)
    np.testing.assert_array_equal(draw(prediction, "Overlay", [0, 1], 100), prediction.colors)
    np.testing.assert_array_equal(
        draw(prediction, "Overlay", [0, 1], 60), prediction.overlay(alpha=0.6)
    )
    one = draw(prediction, "Overlay", [1], 100)
    is_one = prediction.label == 1
    np.testing.assert_array_equal(one[is_one], prediction.colors[is_one])
    np.testing.assert_array_equal(one[~is_one], IMAGE[~is_one])


def test_confidence_grows_brighter(model, path) -> None:
    prediction = model(path).prediction
    prediction.__dict__["confidence"] = np.repeat(
        np.linspace(0, 1, 48, dtype=np.float32)[None], 32, axis=0
    )
    row = draw(prediction, "Confidence", [], 100)[0].astype(int) @ [299, 587, 114]
    assert (np.diff(row) > -2000).all()
    assert row[-1] - row[0] > 150_000


def test_timings_table_names_backend_and_size() -> None:
    table = timings_table({"read": 1.4, "total": 20.6}, (360, 480), "OpenVINO")
    assert "<dt>total</dt><dd>21 ms</dd>" in table
    assert "360 x 480 px" in table
    assert "OpenVINO" in table


def test_bad_image_is_named_in_one_line(model, tmp_path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("no image")
    with pytest.raises(UserError, match=r"notes\.png") as error:
        model(path)
    assert "\n" not in str(error.value)


def test_backend_needs_an_export(tmp_path) -> None:
    with pytest.raises(UserError, match=f"--backend: {tmp_path} is no export"):
        load(str(tmp_path), "openvino", None, 1)


def test_examples_come_from_a_folder_or_are_drawn(path) -> None:
    assert example_images(path.parent) == [path]
    drawn = example_images(None)
    assert len({item.read_bytes() for item in drawn}) == len(drawn) > 1
    with pytest.raises(UserError):
        example_images(path.parent / "no such folder")


def test_mistakes_end_with_one_line(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["--model", str(tmp_path / "model")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: gradio is not installed. Run: pip install")
    assert error.count("\n") == 1
