from __future__ import annotations

import cv2
import numpy as np
import paddle
import pytest
from paddle import nn
from PIL import Image

from paddleseg_segformer.data.labels import LABEL_SETS
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.overlay import write_image
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings
from paddleseg_segformer.predictor import Predictor, label_set_of

pytestmark = pytest.mark.check


class BrightestChannel(nn.Layer):
    """Class 0, 1 or 2 where red, green or blue is largest."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return nn.functional.avg_pool2d(x, 4, ceil_mode=True) * 4


@pytest.fixture
def predictor() -> Predictor:
    preprocess = Preprocess.from_transforms([{"type": "Normalize"}])
    return Predictor(BrightestChannel(), preprocess)


@pytest.fixture
def image() -> np.ndarray:
    """Return a red, a green and a blue stripe, RGB."""
    return np.repeat(np.eye(3, dtype=np.uint8)[None] * 200 + 20, 16, axis=1).repeat(32, axis=0)


STRIPES = np.repeat([0, 1, 2], 16)


def test_array_path_and_bgr_agree(predictor, image, tmp_path) -> None:
    path = tmp_path / "Bäume 森.png"
    write_image(path, image)
    for given, bgr in ((image, False), (image[:, :, ::-1], True), (path, False), (str(path), True)):
        prediction = predictor(given, bgr=bgr)
        assert (prediction.label == STRIPES).all()
        np.testing.assert_array_equal(prediction.image, image)


def test_batch_of_images(predictor, image) -> None:
    first, second = predictor([image, image[:, ::-1]])
    assert (first.label == STRIPES).all()
    assert (second.label == STRIPES[::-1]).all()
    assert predictor([]) == []


def test_maps_of_a_prediction(predictor, image) -> None:
    prediction = predictor(image)
    probabilities = prediction.probabilities
    assert probabilities.shape == (3, 32, 48)
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-6)
    np.testing.assert_allclose(prediction.confidence, probabilities.max(0), atol=1e-6)
    entropy = -(probabilities * np.log(probabilities)).sum(0)
    np.testing.assert_allclose(prediction.entropy, entropy, atol=1e-5)
    assert prediction.overlay(0).shape == image.shape
    np.testing.assert_array_equal(prediction.overlay(0), image)
    np.testing.assert_array_equal(prediction.overlay(1), prediction.colors)


def test_saved_label_holds_ids_and_shows_colors(predictor, image, tmp_path) -> None:
    predictor.label_set = LABEL_SETS["cityscapes"]
    predictor(image).save(tmp_path / "a" / "label.png")
    saved = Image.open(tmp_path / "a" / "label.png")
    assert saved.mode == "P"
    assert (np.asarray(saved) == STRIPES).all()
    shown = np.asarray(saved.convert("RGB"))
    np.testing.assert_array_equal(shown[0, 0], LABEL_SETS["cityscapes"].palette[0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((4, 4, 4), np.uint8), "found 4 channels"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"shape \(1, 4, 4, 3\)"),
        (np.zeros((4, 4, 3), bool), "found bool values"),
        ("missing.png", "missing.png"),
        (None, "found NoneType"),
    ],
)
def test_wrong_images_are_refused(predictor, wrong, message) -> None:
    with pytest.raises(UserError, match=message):
        predictor(wrong)


def test_grey_array_is_repeated(predictor) -> None:
    assert predictor(np.full((32, 32), 90, np.uint8)).label.shape == (32, 32)


def ranged(declared: object) -> Predictor:
    plain = {"transforms": [{"type": "Normalize"}], "value_range": declared}
    return Predictor(BrightestChannel(), Preprocess.from_dict(plain))


@pytest.mark.parametrize("bgr", [False, True])
@pytest.mark.parametrize(
    ("declared", "dtype", "factor", "offset"),
    [
        ([0, 4095], np.uint16, 4095 / 255, 0),
        ([-1000, 1550], np.int16, 10, -1000),
        ("dtype", np.uint16, 257, 0),
        ("dtype", np.float64, 1 / 255, 0),
        ("dtype", np.uint8, 1, 0),
    ],
)
def test_arrays_are_mapped_by_the_value_range(image, bgr, declared, dtype, factor, offset) -> None:
    array = (image.astype(np.float64) * factor + offset).astype(dtype)
    prediction = ranged(declared)(array[:, :, ::-1] if bgr else array, bgr=bgr)
    np.testing.assert_allclose(prediction.image, image, atol=0.1)
    assert (prediction.label == STRIPES).all()
    np.testing.assert_array_equal(prediction.overlay(0), image)


def test_files_are_mapped_by_the_value_range(image, tmp_path) -> None:
    stored = image.astype(np.uint16) * 16
    cv2.imwrite(str(tmp_path / "a.png"), stored[:, :, ::-1])
    predictor = ranged([0, 4080])
    [read] = predictor.predict_read([predictor.read(tmp_path / "a.png")])
    for prediction in (read, predictor(tmp_path / "a.png"), predictor(stored)):
        np.testing.assert_allclose(prediction.image, image, atol=1e-4)
        assert (prediction.label == STRIPES).all()


def test_arrays_without_a_range_are_refused(image) -> None:
    with pytest.raises(UserError, match="^image: found int64 values in 20..220; value_range: dt"):
        ranged("dtype")(image.astype(np.int64))
    with pytest.raises(UserError, match="found uint16 values, expected uint8"):
        Predictor(BrightestChannel(), Preprocess())(image.astype(np.uint16))


def test_layer_is_put_into_evaluation_mode() -> None:
    network = BrightestChannel()
    assert network.training
    Predictor(network, Preprocess())
    assert not network.training


def test_overrides() -> None:
    settings = InferenceSettings().replace({"scales": [0.5, 1.0], "flip_vertical": True})
    assert settings == InferenceSettings(scales=(0.5, 1.0), flip_vertical=True)
    with pytest.raises(
        UserError, match="unknown key 'flip_horizntal'. Did you mean 'flip_horizontal'"
    ):
        settings.replace({"flip_horizntal": True})


def test_label_set_of_a_config_section() -> None:
    assert label_set_of({"type": "Cityscapes"}, 19) is LABEL_SETS["cityscapes"]
    assert label_set_of({"type": "Cityscapes"}, 7).classes[6] == "class_6"
    assert label_set_of({"type": "Dataset", "ignore_index": 9}, 2).ignore_index == 9
    section = {"type": "Dataset", "classes": ["a", "b"], "palette": [[1, 2, 3], [4, 5, 6]]}
    assert label_set_of(section, 2).classes == ("a", "b")
    assert label_set_of(section, 2).palette == ((1, 2, 3), (4, 5, 6))
    assert label_set_of(None, 3).classes == ("class_0", "class_1", "class_2")
    with pytest.raises(UserError, match="classes: found 2 entries for 3 classes"):
        label_set_of(section, 3)
